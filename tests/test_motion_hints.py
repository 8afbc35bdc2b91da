"""Motion hints: facts that the joints prove, in the window's time, and boundaries that move to them within limits."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.answers.motion_segments import AFTER_S
from tasks.dataset.generate import generate, truth_path
from tasks.dataset.layout import open_dataset
from tasks.dataset.signals import Gripper, MotionEvent, Signals, read_signals
from tasks.motion_hints import FACTS_MAX, boundary_times, facts, rests_of, snap
from tasks.segments import Span, settle
from tests.answerers import make_episode

EPISODE = make_episode(10.0)
TIMES = np.array(EPISODE.times)


def signals(changes: dict[str, list[tuple[float, str]]], rests: list[tuple[float, float]] = ()) -> Signals:  # type: ignore[assignment]
    """Grippers by side with their changes, and stretches in which the arm rests; its speed is even otherwise."""
    grippers, events = [], []
    for side, of_side in changes.items():
        closed = np.zeros(len(TIMES))
        for t, kind in of_side:
            closed[t - 1e-6 <= TIMES] = float(kind == "close")
            events.append(MotionEvent(EPISODE.snap(t), kind, side))
        grippers.append(Gripper(f"{side} gripper".strip(), side, closed, TIMES))
    moving = np.ones(len(TIMES), bool)
    for a, b in rests:
        moving[np.searchsorted(TIMES, a - 1e-6) : np.searchsorted(TIMES, b - 1e-6)] = False
    for row in np.flatnonzero(np.diff(moving.astype(int))) + 1:
        events.append(MotionEvent(EPISODE.times[row], "move" if moving[row] else "rest"))
    ordered = tuple(sorted(events, key=lambda e: e.time_s))
    return Signals(tuple(grippers), ordered, moving, moving.astype(float))


# ---------------------------------------------------------------- facts


def test_facts_say_what_changed_and_when() -> None:
    recorded = signals({"": [(1.2, "close"), (6.0, "open")]}, rests=[(4.0, 5.1), (9.0, 11.0)])
    assert facts(recorded, EPISODE, 0.0, 10.0) == [
        "0.00 s: the gripper is open",
        "1.20 s: the gripper closes",
        "4.00-5.10 s: the arm rests",
        "6.00 s: the gripper opens",
        "9.00-10.00 s: the arm rests",
    ]


def test_facts_of_a_window_count_from_its_start_and_end_with_it() -> None:
    recorded = signals({"": [(1.2, "close"), (6.0, "open"), (8.0, "close")]}, rests=[(2.0, 4.0), (6.5, 9.0)])
    assert facts(recorded, EPISODE, 3.0, 7.5) == [
        "0.00 s: the gripper is closed",
        "0.00-1.00 s: the arm rests",
        "3.00 s: the gripper opens",
        "3.50-4.50 s: the arm rests",
    ]


def test_grippers_are_named() -> None:
    recorded = signals({"left": [(1.0, "close")], "right": [(2.0, "close")]})
    assert facts(recorded, EPISODE, 0.5, 9.0)[2:] == [
        "0.50 s: the left gripper closes",
        "1.50 s: the right gripper closes",
    ]


def test_what_cannot_be_known_is_not_told() -> None:
    mute = Gripper("gripper", "", np.full(len(TIMES), np.nan), TIMES)
    nothing = Signals((mute,), (), np.zeros(len(TIMES), bool), None)
    assert facts(nothing, EPISODE, 0.0, 10.0) == [] and boundary_times(nothing, EPISODE) == []
    still = Signals((), (), np.zeros(len(TIMES), bool), np.zeros(len(TIMES)))
    assert facts(still, EPISODE, 0.0, 10.0) == []


def test_facts_are_few_and_gripper_changes_come_before_rests() -> None:
    many = [(round(0.1 + 0.2 * i, 1), "close" if i % 2 == 0 else "open") for i in range(FACTS_MAX + 5)]
    told = facts(signals({"": many}, rests=[(8.0, 9.5)]), EPISODE, 0.0, 10.0)
    assert len(told) == FACTS_MAX and not any("rests" in line for line in told)
    few = facts(signals({"": [(1.0, "close")]}, rests=[(2.0, 2.3), (8.0, 9.5)]), EPISODE, 0.0, 10.0)
    assert [line for line in few if "rests" in line] == ["8.00-9.50 s: the arm rests"]


# ---------------------------------------------------------------- boundaries


def test_a_change_is_over_when_its_stroke_is_and_a_rest_when_it_begins() -> None:
    recorded = signals({"": [(2.0, "close"), (5.0, "open")]}, rests=[(0.0, 0.5), (1.8, 2.4), (8.0, 9.0)])
    assert np.allclose(rests_of(recorded, EPISODE), [(0.0, 0.5), (1.8, 2.4), (8.0, 9.0)])
    # the rest at the start ends nothing, and that from 1.8 s on is the middle of a grasp
    assert boundary_times(recorded, EPISODE) == pytest.approx([2.0 + AFTER_S, 5.0 + AFTER_S, 8.0], abs=0.11)


def spans(*starts: float, end: float = 10.0) -> list[Span]:
    return [Span(f"s{i}", a, b) for i, (a, b) in enumerate(zip(starts, [*starts[1:], end], strict=True))]


def snapped(before: list[Span], times: list[float], reach_s: float = 1.0, min_s: float = 1.0) -> list[float]:
    return [s.start for s in snap(before, times, reach_s, min_s, 0.0, 10.0)]


def test_a_boundary_moves_to_the_nearest_time_within_reach() -> None:
    assert snapped(spans(0, 3, 6), [2.5, 3.2, 7.5]) == [0, 3.2, 6]
    assert snapped(spans(0, 3, 6), [], 1.0) == [0, 3, 6] and snap([], [1.0], 1.0, 1.0, 0.0, 10.0) == []


def test_the_start_of_the_episode_is_no_boundary() -> None:
    assert snapped(spans(0.4, 5), [0.5, 4.6]) == [0.0, 4.6]


def test_one_time_takes_one_boundary_the_closest() -> None:
    assert snapped(spans(0, 3, 4.2), [3.7], min_s=0.1) == [0, 3, 3.7]


def test_boundaries_never_change_places_nor_make_a_span_too_short() -> None:
    assert snapped(spans(0, 3, 4), [3.4], min_s=1.0) == [0, 3, 4]  # either move would leave less than a second
    assert snapped(spans(0, 3, 4), [3.4], min_s=0.5) == [0, 3.4, 4]
    assert snapped(spans(0, 3, 3.2), [3.1, 3.4], min_s=1.0) == [0, 3, 3.4]  # a short one may grow


@given(
    starts=st.lists(st.floats(0.1, 9.9), max_size=8),
    times=st.lists(st.floats(0, 10), max_size=8),
    reach=st.floats(0, 5),
    min_s=st.floats(0, 3),
)
def test_snapping_keeps_its_promises(starts, times, reach, min_s) -> None:
    before = spans(0.0, *sorted(starts))
    after = snap(before, times, reach, min_s, 0.0, 10.0)
    assert [s.text for s in after] == [s.text for s in before]
    assert after[0].start == 0.0 and after[-1].end == 10.0
    assert all(a.end == b.start and a.start <= a.end for a, b in pairwise(after))
    moved = [(b.start, a.start) for b, a in zip(before, after, strict=True) if a.start != b.start]
    assert all(abs(old - new) <= reach and new in times for old, new in moved)
    assert len({new for _, new in moved}) == len(moved)
    for old, new in zip(before, after, strict=True):
        assert new.length_s >= min(min_s, old.length_s) - 1e-5
    assert settle(after, EPISODE, 0.0)


def test_on_recorded_motion_snapping_brings_boundaries_to_the_truth(tmp_path: Path) -> None:
    root = generate(tmp_path / "tabletop", episodes=3, seconds=14, fps=10, size=(64, 48), noise=0)
    truth = json.loads(truth_path(root).read_text())["episodes"]
    dataset = open_dataset(root)
    boundaries = 0
    for episode in dataset.episodes():
        subtasks = truth[episode.episode_index]["subtasks"]
        off = [0.7 if i % 2 else -0.7 for i in range(len(subtasks))]  # a model that misses each boundary
        said = [Span(s["text"], max(0.0, s["start"] + d), s["end"]) for s, d in zip(subtasks, off, strict=True)]
        times = boundary_times(read_signals(dataset, episode), episode)
        after = snap(said, times, 1.2, 1.0, episode.start_s, episode.end_s)
        for s, true in zip(after[1:], subtasks[1:], strict=True):
            assert abs(s.start - true["start"]) <= 0.35
            boundaries += 1
    assert boundaries >= 7
