"""Pictures made to fit: nothing of the episode is left out while what is printed on it can be read."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.answers import budget
from tasks.answers.byte_cache import ByteCache
from tasks.answers.question import Picture
from tasks.dataset.frames import Shot
from tasks.sheets import contact_sheets

COLOURS = ("red", "lime", "blue", "yellow", "white", "cyan", "magenta", "orange", "gray", "navy", "teal", "maroon")


def flat(i: int, caption: str = "", size: tuple[int, int] = (80, 60)) -> Picture:
    """A picture of one colour, so that its place in another can be found."""
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS[i]).save(out, "JPEG", quality=95)
    return Picture(out.getvalue(), *size, caption)


def seen(picture: Picture) -> list[str]:
    """The colours of a picture, from top to bottom."""
    image = Image.open(io.BytesIO(picture.jpeg))
    assert image.size == (picture.width, picture.height)
    column = np.asarray(image)[:, image.width // 2].astype(int)
    known = np.array([Image.new("RGB", (1, 1), c).getpixel((0, 0)) for c in COLOURS])
    names = [COLOURS[i] for i in np.abs(column[:, None] - known[None]).sum(2).argmin(1)]
    runs = [n for i, n in enumerate(names) if names[i : i + 5].count(n) >= 4]
    return [n for i, n in enumerate(runs) if i == 0 or n != runs[i - 1]]


def all_seen(pictures: tuple[Picture, ...]) -> list[str]:
    return [c for p in pictures for c in seen(p)]


def test_what_fits_is_left_alone():
    pictures = (flat(0, "a"), flat(1))
    assert budget.fit(pictures, 2, 80 * 60) is not None
    assert all(a is b for a, b in zip(budget.fit(pictures, 2, 80 * 60), pictures, strict=True))
    assert budget.fit(pictures, None, None) is pictures
    assert budget.fit((), 1, 4096) == ()


@pytest.mark.parametrize(("given", "limit"), [(3, 2), (6, 2), (8, 2), (12, 3), (4, 1), (5, 4)])
def test_too_many_pictures_are_put_together_and_none_is_lost(given, limit):
    pictures = tuple(flat(i) for i in range(given))
    fitted = budget.fit(pictures, limit, None)
    assert len(fitted) <= limit
    assert all_seen(fitted) == list(COLOURS[:given])


def test_more_than_can_be_put_together_are_thinned_evenly_with_both_ends():
    fitted = budget.fit(tuple(flat(i) for i in range(12)), 1, None)
    assert len(fitted) == 1
    assert seen(fitted[0]) == [COLOURS[i] for i in (0, 4, 7, 11)]


def test_pictures_of_one_caption_are_put_together_first():
    left, right = [flat(0, "left"), flat(1), flat(2)], [flat(3, "right"), flat(4), flat(5)]
    fitted = budget.fit((*left, *right), 4, None)
    assert [p.caption for p in fitted] == ["left", "", "right", ""]
    assert all_seen(fitted) == list(COLOURS[:6])
    fitted = budget.fit((*left, *right), 2, None)
    assert [(p.caption, seen(p)) for p in fitted] == [("left", list(COLOURS[:3])), ("right", list(COLOURS[3:6]))]


def test_captions_are_told_when_pictures_of_several_become_one():
    fitted = budget.fit((flat(0, "before"), flat(1, "now"), flat(2, "after")), 1, None)
    assert len(fitted) == 1 and seen(fitted[0]) == list(COLOURS[:3])
    positions = [fitted[0].caption.index(word) for word in ("3 parts", "before", "now", "after")]
    assert positions == sorted(positions)


def test_pictures_that_must_stay_as_they_are_are_thinned_and_keep_their_captions():
    pictures = (flat(0, "one"), flat(1, "two"), flat(2), flat(3), flat(4))
    fitted = budget.fit(pictures, 3, 4096, scale=False)
    assert [(p.jpeg, p.caption) for p in fitted] == [
        (pictures[0].jpeg, "one"),
        (pictures[2].jpeg, "two"),  # the picture it stood before is gone
        (pictures[4].jpeg, ""),
    ]
    assert len(budget.fit(pictures, 1, None, scale=False)) == 1


TINY = [flat(i, size=(16, 12)) for i in range(12)]


@given(st.lists(st.sampled_from(["", "", "left", "right"]), min_size=1, max_size=12), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_any_pictures_fit_any_limit_and_keep_what_is_said_about_them(captions, limit):
    pictures = tuple(replace(TINY[i], caption=c) for i, c in enumerate(captions))
    fitted = budget.fit(pictures, limit, None)
    assert 1 <= len(fitted) <= limit
    assert sum(p.pages if isinstance(p, budget.Reduced) else 1 for p in fitted) == min(len(pictures), 4 * limit)
    told = " ".join(p.caption for p in fitted)
    if len(pictures) <= 4 * limit:
        assert sum(told.count(word) for word in ("left", "right")) == sum(c != "" for c in captions)
    bare = budget.fit(pictures, limit, 100, scale=False)
    assert {p.jpeg for p in bare} <= {p.jpeg for p in pictures} and len(bare) == min(limit, len(pictures))


def test_large_pictures_are_scaled_once():
    large = flat(0, "c", (400, 300))
    fitted = budget.fit((large, flat(1)), None, 10_000)
    assert fitted[0].width * fitted[0].height <= 10_000 and fitted[0].caption == "c"
    assert abs(fitted[0].width / fitted[0].height - 4 / 3) < 0.02
    assert seen(fitted[0]) == ["red"]
    assert budget.fit((large,), None, 10_000)[0].jpeg is fitted[0].jpeg


def test_no_more_are_put_together_than_can_be_read_below_the_pixel_limit():
    pictures = tuple(flat(i, size=(160, 120)) for i in range(8))
    fitted = budget.fit(pictures, 2, 160 * 120 // 2)  # two of half their size fit
    assert all(p.width * p.height <= 160 * 120 // 2 for p in fitted)
    assert [len(seen(p)) for p in fitted] == [2, 2]
    assert all_seen(fitted)[0] == COLOURS[0] and all_seen(fitted)[-1] == COLOURS[7]


def test_each_step_down_halves_pictures_and_pixels_until_times_could_not_be_read():
    pictures: tuple[Picture, ...] | None = tuple(flat(i, size=(160, 120)) for i in range(12))
    steps = []
    while pictures is not None:
        steps.append((len(pictures), sum(p.width * p.height for p in pictures) / (160 * 120), len(all_seen(pictures))))
        pictures = budget.smaller(pictures)
    counts, pixels, shown = zip(*steps, strict=True)
    assert counts == (12, 6, 3, 2)
    assert pixels[1] == pytest.approx(6, rel=0.05) and pixels[2] == pytest.approx(3, rel=0.05)
    assert shown[:3] == (12, 12, 12)  # and only then is anything left out


def test_one_picture_is_only_scaled_and_then_given_up():
    once = budget.smaller((flat(0, "c", (160, 120)),))
    twice = budget.smaller(once)
    assert [p.width for p in (*once, *twice)] == [113, 79] and twice[0].caption == "c"
    assert budget.smaller(twice) is None
    assert budget.smaller(()) is None


def test_pictures_of_one_caption_are_put_together_before_those_of_several():
    less = budget.smaller((flat(0, "before"), flat(1, "now"), flat(2)))
    assert [(p.caption, seen(p)) for p in less] == [("before", ["red"]), ("now", ["lime", "blue"])]
    (least,) = budget.smaller(less)
    assert seen(least) == ["red", "lime", "blue"]
    assert least.caption == "2 parts in one picture, from top to bottom: part 1: before; part 2: now"
    assert budget.smaller((least,)) is None


def test_without_scaling_smaller_keeps_fewer():
    pictures = tuple(flat(i) for i in range(9))
    less = budget.smaller(pictures, scale=False)
    assert less == pictures[::2]
    assert budget.smaller(pictures[:1], scale=False) is None


def test_pictures_that_cannot_be_read_here_are_thinned():
    odd = tuple(Picture(b"\xff\xd8" + bytes([i]) * 9, 16, 16) for i in range(9))
    assert budget.smaller(odd) == odd[::2]
    assert budget.fit(odd, 3, None) == odd[::4]
    assert budget.fit(odd[:1], None, 100)[0] is odd[0]


def test_the_cache_is_bounded(monkeypatch):
    one = budget.fit((flat(0, size=(200, 200)),), None, 20_000)[0]
    small = ByteCache(3 * len(one.jpeg))
    monkeypatch.setattr(budget, "_cache", small)
    for i in range(8):
        budget.fit((flat(i, size=(200, 200)),), None, 20_000)
    assert len(one.jpeg) // 2 < small.bytes <= 3 * len(one.jpeg)


def test_the_time_on_a_sheet_keeps_its_contrast_down_to_the_smallest_scale():
    rgb = np.full((168, 224, 3), 128, np.uint8)
    sheet = contact_sheets([Shot(i / 2, rgb) for i in range(20)], columns=5, per_sheet=20, quality=84)[0]
    (least,) = budget.smaller(budget.smaller((sheet,)))
    badge = np.asarray(Image.open(io.BytesIO(least.jpeg)).convert("L"))[:12, :34].astype(int)
    assert badge.max() - badge.min() > 150
