"""Windows, cleaning, joining, and the promise that every frame has exactly one subtask."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dataset.episode import Episode
from tasks.language.rows import Row
from tasks.segments import (
    Span,
    clean,
    even_times,
    join_windows,
    limit_count,
    limit_length,
    normalise_label,
    sample_times,
    settle,
    similar,
    spans_of,
    windows,
)
from tests.answerers import make_episode

# ---------------------------------------------------------------- sampling and windows


def test_a_short_episode_is_one_window() -> None:
    assert windows(0.0, 29.5, 2.0, 60, 2.0) == [(0.0, 29.5)]


def test_just_over_the_limit_makes_equal_windows_instead_of_a_tiny_tail() -> None:
    found = windows(0.0, 30.2, 2.0, 60, 2.0)
    assert [round(b - a, 6) for a, b in found] == [16.1, 16.1]
    assert found[1][0] == pytest.approx(14.1) and found[-1][1] == 30.2


@given(
    start=st.floats(0, 50),
    duration=st.floats(0, 2000),
    fps=st.floats(0.2, 30),
    frames_max=st.integers(2, 200),
    overlap=st.floats(0, 30),
)
def test_windows_cover_the_episode_in_equal_overlapping_parts(start, duration, fps, frames_max, overlap) -> None:
    end = start + duration
    found = windows(start, end, fps, frames_max, overlap)
    assert found[0][0] == start and found[-1][1] == end
    lengths = [b - a for a, b in found]
    assert max(lengths) - min(lengths) <= 1e-6 * (1 + end)
    assert all(round(length * fps) + 1 <= frames_max for length in lengths)
    for (a, b), (c, d) in pairwise(found):
        assert a < c <= b + 1e-6 and b < d  # neighbours touch or overlap, and each goes on
    if len(found) > 1 and overlap:
        assert found[0][1] - found[1][0] == pytest.approx(
            min(overlap, (frames_max - 1) / fps / 2), abs=1e-5 * (1 + end)
        )


def test_sampling_is_even_and_bounded() -> None:
    times = make_episode(20.0, 30.0).times
    shown = sample_times(times, 0.0, 20.0, 2.0, 60)
    assert len(shown) == 41 and shown[:2] == [0.0, 0.5] and shown[-1] == 20.0
    assert len(sample_times(times, 0.0, 20.0, 10.0, 60)) == 60


def test_sampling_faster_than_the_video_shows_each_frame_once() -> None:
    times = make_episode(2.0, 5.0).times
    assert sample_times(times, 0.0, 2.0, 30.0, 60) == times


def test_sampling_no_time_gives_the_middle() -> None:
    assert sample_times([0.0, 1.0, 2.0, 3.0], 1.2, 1.4, 2.0, 60) == [pytest.approx(1.3)]
    assert even_times(2.0, 2.0, 5) == [2.0] and even_times(1.0, 3.0, 1) == [1.0]


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("  Pick up   the\ncup. ", "pick up the cup"),
        ('"Place the cup"', "place the cup"),
        ("“Place the cup.”", "place the cup"),
        ("2. Open the drawer", "open the drawer"),
        ("- wipe the table;", "wipe the table"),
        ("USB cable: plug it in", "USB cable: plug it in"),
        ("A cup is lifted", "a cup is lifted"),
        ("X-ray the bag", "X-ray the bag"),
        ('put the block on the field marked "B"', 'put the block on the field marked "B"'),
        ("None", ""),
        ("n/a.", ""),
        ("...", ""),
        ("   ", ""),
    ],
)
def test_labels_are_normalised(said: str, kept: str) -> None:
    assert normalise_label(said) == kept
    assert normalise_label(kept) == kept


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_label(text)
    assert normalise_label(once) == once


# ---------------------------------------------------------------- cleaning


def test_cleaning_drops_clamps_swaps_and_sorts() -> None:
    raw = [
        ("put it down", 9.0, 5.0),
        ("pick it up", -1.0, 4.0),
        ("None", 1.0, 2.0),
        ("lost", math.nan, 3.0),
        ("endless", 2.0, math.inf),
        ("after the end", 14.0, 16.0),
        ("wipe", 8.5, 99.0),
    ]
    assert clean(raw, 0.0, 10.0) == [
        Span("pick it up", 0.0, 4.0),
        Span("put it down", 5.0, 9.0),
        Span("wipe", 8.5, 10.0),
    ]


def test_equal_labels_merge_only_where_they_touch() -> None:
    raw = [("wipe", 0.0, 2.0), ("wipe", 2.4, 4.0), ("wipe", 6.0, 8.0)]
    assert clean(raw, 0.0, 10.0, touch_s=0.5) == [Span("wipe", 0.0, 4.0), Span("wipe", 6.0, 8.0)]


def test_too_many_segments_lose_the_shortest() -> None:
    spans = [Span("a", 0, 4), Span("b", 4, 5), Span("c", 5, 7), Span("d", 7, 10)]
    assert limit_count(spans, 3) == [Span("a", 0, 4), Span("c", 4, 7), Span("d", 7, 10)]
    assert limit_count(spans, 4) == spans
    assert len(limit_count(spans, 1)) == 1


def test_a_short_segment_goes_to_the_neighbour_with_its_label() -> None:
    spans = [Span("a", 0, 9), Span("a", 9, 10), Span("b", 10, 12)]
    assert limit_length(spans, 1.5) == [Span("a", 0, 10), Span("b", 10, 12)]


def test_one_segment_stays_however_short() -> None:
    assert limit_length([Span("a", 0, 0.1)], 5.0) == [Span("a", 0, 0.1)]


# ---------------------------------------------------------------- joining windows


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("pick up the red cube", "pick up the cube", True),
        ("grasp the cube", "pick up the cube", True),
        ("place the cube in the box", "put the cube in the box", True),
        ("pick up the red cube", "pick up the blue cube", False),
        ("open the drawer", "close the drawer", False),
        ("put the red cube in the left box", "put the red cube in the right box", False),
    ],
)
def test_similar_labels(a: str, b: str, same: bool) -> None:
    assert similar(a, b) is same and similar(b, a) is same


BOUNDS = [(0.0, 16.0), (14.0, 30.0)]


def test_an_event_across_the_seam_is_one_segment() -> None:
    left = [Span("pick up the cup", 0, 8), Span("put the cup on the shelf", 8, 16)]
    right = [Span("place the cup on the shelf", 14, 20), Span("close the door", 20, 30)]
    assert join_windows([left, right], BOUNDS, 0.5) == [
        Span("pick up the cup", 0, 8),
        Span("put the cup on the shelf", 8, 20),
        Span("close the door", 20, 30),
    ]


def test_a_boundary_that_both_windows_see_is_counted_once() -> None:
    left = [Span("pick up the cup", 0, 14.8), Span("put the cup on the shelf", 14.8, 16)]
    right = [Span("pick up the cup", 14, 15.2), Span("put the cup on the shelf", 15.2, 30)]
    joined = join_windows([left, right], BOUNDS, 0.5)
    assert [s.text for s in joined] == ["pick up the cup", "put the cup on the shelf"]
    assert 14.8 <= joined[1].start <= 15.2


def test_windows_that_disagree_are_cut_in_the_middle_of_the_overlap() -> None:
    left = [Span("pick up the cup", 0, 10), Span("wipe the table", 10, 16)]
    right = [Span("turn the knob", 14, 22), Span("close the door", 22, 30)]
    assert join_windows([left, right], BOUNDS, 0.5) == [
        Span("pick up the cup", 0, 10),
        Span("wipe the table", 10, 16),
        Span("turn the knob", 15, 22),
        Span("close the door", 22, 30),
    ]


def test_what_lies_beyond_the_middle_belongs_to_the_other_window() -> None:
    left = [Span("pick up the cup", 0, 15.5), Span("wipe the table", 15.5, 16)]
    right = [Span("open the door", 14, 14.5), Span("turn the knob", 15.6, 30)]
    joined = join_windows([left, right], BOUNDS, 0.5)
    assert [s.text for s in joined] == ["pick up the cup", "open the door", "turn the knob"]


def test_the_same_action_done_twice_stays_two() -> None:
    left = [Span("press the button", 0, 12.0)]
    right = [Span("press the button", 20.0, 30.0)]
    assert join_windows([left, right], BOUNDS, 0.5) == [*left, *right]


def test_a_window_without_events_leaves_the_others_alone() -> None:
    spans = [Span("pick up the cup", 1, 9)]
    assert join_windows([spans, []], BOUNDS, 0.5) == spans
    assert join_windows([[], spans], BOUNDS, 0.5) == spans


SPANS = st.lists(
    st.builds(
        lambda text, start, length: Span(text, start, start + length),
        st.sampled_from(["pick up the cup", "pick up the red cup", "put the cup down", "wipe", "open the door"]),
        st.floats(0, 16),
        st.floats(0, 9),
    ),
    max_size=6,
)


@given(a=SPANS, b=SPANS, c=SPANS)
def test_joining_keeps_order_and_invents_nothing(a, b, c) -> None:
    bounds = [(0.0, 16.0), (14.0, 30.0), (28.0, 44.0)]
    parts = [
        clean([(s.text, s.start + lo, s.end + lo) for s in part], lo, hi)
        for part, (lo, hi) in zip((a, b, c), bounds, strict=True)
    ]
    joined = join_windows(parts, bounds, 0.5)
    assert all(x.start <= y.start for x, y in pairwise(joined))
    assert {s.text for s in joined} <= {s.text for part in parts for s in part}
    assert bool(joined) == any(parts)
    assert all(s.start <= s.end for s in joined)


# ---------------------------------------------------------------- one span per frame


def episode_of(stamps: list[float]) -> Episode:
    times = np.array(stamps, np.float32)
    return Episode(0, "", times, np.arange(len(times)), Path("x"), 0, 0, 10.0)


STAMPS = st.lists(st.integers(1, 30), min_size=0, max_size=60).map(
    lambda steps: [float(x) / 20 for x in np.cumsum([0, *steps])]
)
RAW = st.lists(
    st.tuples(
        st.sampled_from(["pick up", "put", "wipe", "None", "  Pour. "]),
        st.floats(-5, 60),
        st.floats(-5, 60),
    ),
    max_size=12,
)


@given(stamps=STAMPS, raw=RAW, min_s=st.sampled_from([0.0, 0.5, 1.5]))
def test_every_frame_has_exactly_one_subtask(stamps, raw, min_s) -> None:
    episode = episode_of(stamps)
    cleaned = clean(raw, episode.start_s, episode.end_s)
    spans = settle(cleaned, episode, min_s)
    assert bool(spans) == bool(cleaned)
    if not spans:
        return
    starts = [s.start for s in spans]
    assert starts[0] == episode.start_s and spans[-1].end == episode.end_s
    assert len(set(starts)) == len(starts) and set(starts) <= set(episode.times)
    assert all(a.end == b.start for a, b in pairwise(spans))
    for t in episode.times:
        running = [s for s in spans if s.start <= t < s.end] or [s for s in spans[-1:] if s.start <= t <= s.end]
        assert len(running) == 1
    if len(spans) > 1:
        assert min(s.length_s for s in spans) >= min_s - 1e-6
    assert settle(spans, episode, min_s) == spans


@given(raw=RAW)
def test_order_is_kept(raw) -> None:
    episode = make_episode(60.0, 5.0)
    numbered = [Span(f"step {i}", *sorted((max(a, 0.0), max(b, 0.0)))) for i, (_, a, b) in enumerate(raw)]
    in_order = [s.text for s in sorted(numbered, key=lambda s: s.start)]
    settled = [s.text for s in settle(numbered, episode, 0.0)]
    assert settled == in_order[: len(settled)]


@given(raw=RAW)
def test_cleaning_twice_changes_nothing(raw) -> None:
    once = clean(raw, 0.0, 40.0, 0.5)
    assert clean([(s.text, s.start, s.end) for s in once], 0.0, 40.0, 0.5) == once


def test_segments_on_one_frame_move_to_the_next_free_one(caplog: pytest.LogCaptureFixture) -> None:
    episode = episode_of([0.0, 1.0, 2.0])
    spans = [Span(name, 1.1, 2.0) for name in "abcd"]
    assert settle(spans, episode, 0.0) == [Span("a", 0.0, 1.0), Span("b", 1.0, 2.0), Span("c", 2.0, 2.0)]
    assert "'d'" in caplog.text


def test_spans_from_rows_reach_to_the_end_of_the_episode() -> None:
    rows = [
        Row("assistant", "put it down", "subtask", 4.0),
        Row("assistant", "1. pick it up", "plan", 0.0),
        Row("assistant", "pick it up", "subtask", 0.0),
    ]
    assert spans_of(rows, 9.0) == [Span("pick it up", 0.0, 4.0), Span("put it down", 4.0, 9.0)]
    assert spans_of(rows, 3.0)[-1].end == 4.0
    assert spans_of([], 3.0) == []
