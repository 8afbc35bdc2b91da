"""Coordinates: which model counts how, and that what is stored is where the model pointed, or nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.coordinates import OUTSIDE_SHARE_MAX, Rejected, Scale, family_of, in_pixels, model_convention, side_multiple
from tasks.episode_view import view_of
from tasks.language.rows import Row
from tasks.settings import AnnotateSettings
from tests.answerers import FRONT, make_episode

OWN, SHOWN = (640, 480), (322, 252)
CONVENTIONS = st.sampled_from(["pixel", "norm1000", "norm1"])
STORED = st.sampled_from(["pixel", "norm1000"])


def settings(model_id: str, **vqa: object) -> AnnotateSettings:
    return AnnotateSettings.model_validate({"vlm": {"model_id": model_id}, "vqa": vqa})


def full(convention: str, size: tuple[int, int]) -> tuple[float, float]:
    return {"pixel": size, "norm1000": (1000, 1000), "norm1": (1, 1)}[convention]


# ---------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("model_id", "convention", "multiple"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "pixel", 28),
        ("qwen2.5vl:7b", "pixel", 28),
        ("/models/Qwen2_5-VL-3B", "pixel", 28),
        ("Qwen/Qwen2-VL-7B-Instruct", "norm1000", 1),
        ("Qwen/Qwen-VL-Chat", "norm1000", 1),
        ("Qwen/Qwen3-VL-8B-Instruct", "norm1000", 1),
        ("Qwen/Qwen3.6-27B", "norm1000", 1),
        ("OpenGVLab/InternVL3_5-8B", "norm1000", 1),
        ("gemini-2.5-flash", "norm1000", 1),
        ("google/gemma-3-12b-it", "norm1000", 1),
        ("zai-org/GLM-4.5V", "norm1000", 1),
        ("zai-org/GLM-4.1V-9B-Thinking", "norm1000", 1),
        ("moonshotai/Kimi-VL-A3B-Instruct", "norm1", 1),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "pixel", 1),
        ("/hub/models--Qwen--Qwen2.5-VL-7B-Instruct/snapshots/0a1b2c/", "pixel", 28),
        ("/home/gemini/projects/lab/models/llava-1.6", "pixel", 1),
    ],
)
def test_a_model_counts_as_its_family_was_taught(model_id: str, convention: str, multiple: int) -> None:
    assert (family_of(model_id).convention, family_of(model_id).side_multiple) == (convention, multiple)
    assert model_convention(settings(model_id)) == convention
    assert side_multiple(settings(model_id)) == multiple


def test_what_the_settings_say_wins() -> None:
    assert model_convention(settings("Qwen/Qwen3.6-27B", coordinates="norm1")) == "norm1"
    asked_for_shares = settings("Qwen/Qwen2.5-VL-7B-Instruct", coordinates="norm1000")
    assert side_multiple(asked_for_shares) == 1


# ---------------------------------------------------------------- numbers


@given(
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    convention=CONVENTIONS,
    stored=STORED,
    own=st.tuples(st.integers(32, 2000), st.integers(32, 2000)),
)
def test_a_box_is_stored_where_the_model_saw_it(corners, convention, stored, own) -> None:
    (x0, x1), (y0, y1) = sorted(corners[0::2]), sorted(corners[1::2])
    said = [v * full(convention, SHOWN)[i % 2] for i, v in enumerate((x0, y0, x1, y1))]
    try:
        box = Scale(convention, SHOWN, own, stored).box(said)
    except Rejected:
        looks_like_shares = convention != "norm1" and all(0 <= v <= 1 for v in said)
        thin = (x1 - x0) * own[0] < 1.001 or (y1 - y0) * own[1] < 1.001
        assert thin or looks_like_shares or (stored == "norm1000" and min(x1 - x0, y1 - y0) < 0.002)
        return
    unit = full("pixel" if stored == "pixel" else "norm1000", own)
    step = 0.1 if stored == "pixel" else 1
    for i, (value, share) in enumerate(zip(box, (x0, y0, x1, y1), strict=True)):
        assert value == pytest.approx(share * unit[i % 2], abs=step * 0.51)


@given(
    box=st.lists(st.floats(-2000, 2000), min_size=4, max_size=4),
    convention=CONVENTIONS,
    stored=STORED,
)
def test_a_stored_box_lies_in_order_inside_the_frame(box, convention, stored) -> None:
    try:
        x0, y0, x1, y1 = Scale(convention, SHOWN, OWN, stored).box(box)
    except Rejected:
        return
    width, height = OWN if stored == "pixel" else (1000, 1000)
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert stored == "pixel" or all(isinstance(v, int) for v in (x0, y0, x1, y1))


@given(
    outside=st.floats(OUTSIDE_SHARE_MAX + 0.001, 5),
    below=st.booleans(),
    axis=st.integers(0, 1),
    convention=CONVENTIONS,
    stored=STORED,
)
def test_what_lies_outside_is_rejected(outside, below, axis, convention, stored) -> None:
    point = [0.5, 0.5]
    point[axis] = -outside if below else 1 + outside
    said = [v * f for v, f in zip(point, full(convention, SHOWN), strict=True)]
    with pytest.raises(Rejected, match=f"vqa.coordinates={convention}"):
        Scale(convention, SHOWN, OWN, stored).point(said)


@given(
    shares=st.lists(st.floats(0, 1), min_size=2, max_size=2), own=st.tuples(st.integers(2, 4000), st.integers(2, 4000))
)
def test_thousandths_come_back_as_the_pixels_they_were(shares, own) -> None:
    stored = Scale("norm1", SHOWN, own, "norm1000")
    answer = {"type": "keypoint", "label": "lid", "point": stored.point(shares), **stored.stamp()}
    read = in_pixels(json.loads(json.dumps(answer)))
    for value, share, side in zip(read["point"], shares, own, strict=True):
        assert abs(value - share * side) <= side / 2000 + 0.051
    assert "coordinates" not in read and read["image_size"] == list(own)


def test_boxes_are_put_in_order_and_clamped_when_just_outside() -> None:
    scale = Scale("pixel", OWN, OWN)
    assert scale.box([30, 40, 1, 2]) == [1, 2, 30, 40]
    assert scale.box([-12.8, 0, 652.8, 489.6]) == [0, 0, 640, 480]


@pytest.mark.parametrize(
    "box", [[-20, 0, 10, 10], [0, 0, 700, 10], [0, 0, 10, 500], [5, 5, 5, 9], [5, 9, 8, 9], [5, 5, 5.4, 90]]
)
def test_boxes_that_cannot_be_true_are_rejected(box: list[float]) -> None:
    with pytest.raises(Rejected):
        Scale("pixel", OWN, OWN).box(box)


@pytest.mark.parametrize("convention", ["pixel", "norm1000"])
def test_shares_from_a_model_that_should_count_otherwise_are_rejected(convention) -> None:
    scale = Scale(convention, OWN, OWN)
    for reject in (lambda: scale.box([0.2, 0.3, 0.6, 0.9]), lambda: scale.point([0.5, 0.25])):
        with pytest.raises(Rejected, match="got shares"):
            reject()
    assert scale.point([0, 1]) == [0, 1 if convention == "pixel" else 0.5]


def test_without_a_known_size_nothing_is_stored() -> None:
    with pytest.raises(Rejected, match="want the size"):
        Scale("norm1000", (0, 0), (0, 0)).point([5, 5])


def test_rows_say_what_their_numbers_mean() -> None:
    assert Scale("norm1", SHOWN, OWN).stamp() == {"image_size": [640, 480]}
    assert Scale("norm1", SHOWN, OWN, "norm1000").stamp() == {"image_size": [640, 480], "coordinates": "norm1000"}


# ---------------------------------------------------------------- readers


def test_a_reader_sees_pixels_whatever_the_row_counts() -> None:
    box = {"label": "cup", "bbox_format": "xyxy", "bbox": [100, 500, 250, 1000]}
    answer = {"type": "bbox", "detections": [box], "image_size": [640, 480], "coordinates": "norm1000"}
    rows = [Row("user", "Where?", "vqa", 0.0, FRONT), Row("assistant", json.dumps(answer), "vqa", 0.0, FRONT)]
    (shown,) = view_of(make_episode(), rows, {FRONT: OWN}).vqa
    assert shown.answer["detections"] == [{**box, "bbox": [64.0, 240.0, 160.0, 480.0]}]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "cup",
        [1],
        {"label": "cups", "count": 2},
        {"point": [5, 6], "image_size": [640, 480]},
        {"point": [5, 6], "coordinates": "norm1000"},
        {"point": "5, 6", "coordinates": "norm1000", "image_size": [640, 480]},
        {"detections": [7], "coordinates": "norm1000", "image_size": [640, 480]},
        {"detections": None, "coordinates": "norm1000", "image_size": [640, 480]},
        {"point": [5, 6], "coordinates": "norm1000", "image_size": "640x480"},
    ],
    ids=str,
)
def test_what_is_no_such_answer_stays_as_it_is(answer) -> None:
    assert in_pixels(answer) == answer
