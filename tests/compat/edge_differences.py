"""Where lerobot 0.6.1 and this project play the same chunks otherwise, on purpose; each case asserts both sides.

    python tests/compat/edge_differences.py        # prints the table; run by a Python that has lerobot

Before the table: where both must agree, they do, over random runs, and so does the bench's re-creation of lerobot's
queue. Numbers are those of the known weaknesses that this project mends. What differs between whole engines is in
check_edge_rtc.py.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from lerobot.policies.rtc import ActionQueue as TheirQueue
from lerobot.policies.rtc import LatencyTracker, RTCConfig
from lerobot.utils.action_interpolator import ActionInterpolator

from bench.edge.reference_queue import ReferenceLatency, ReferenceQueue
from edge.action_queue import ActionQueue, Chunk, Merged, Mode, Origin
from edge.latency import LatencyWindow
from edge.rollout.interpolator import Interpolator
from edge.timers import Timing, delay_steps

DIM, HORIZON = 2, 4
DT_S = 1 / 30
AGE_MAX_S = 1e9
RUNS = 100


class Case(NamedTuple):
    number: str
    lerobot: str
    cuebook: str
    check: Callable[[], None]


CASES: list[Case] = []


def difference(number: int, *, lerobot: str, cuebook: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A row of the table, and the function that asserts both of its sides."""

    def add(check: Callable[[], None]) -> Callable[[], None]:
        CASES.append(Case(str(number), lerobot, cuebook, check))
        return check

    return add


class Pair:
    """lerobot's queue and ours, given the same chunks. Row j of chunk n is n + j / 100 in robot space."""

    def __init__(self, rtc: bool) -> None:
        self.theirs = TheirQueue(RTCConfig(enabled=rtc))
        self.ours = ActionQueue(Mode.REPLACE if rtc else Mode.APPEND)
        self.chunks = 0

    def merge(self, rows: int, delay: int, first_step: int) -> Merged:
        """`delay`: ticks that the answer took, by which lerobot trims; `first_step`: of its observation."""
        robot, model = chunk(self.chunks, rows)
        self.chunks += 1
        self.theirs.merge(torch.from_numpy(model), torch.from_numpy(robot), delay)
        return self.ours.merge(Chunk(robot, model, first_step, Origin("s", self.chunks, 0, "", 0.0, 0.0, 0.0, 0.0)))

    def tick(self) -> tuple[float | None, float | None]:
        """The first joint of what each executes."""
        theirs, (ours, _) = self.theirs.get(), self.ours.pop(0.0, AGE_MAX_S)
        return None if theirs is None else float(theirs[0]), None if ours is None else float(ours.action[0])

    def run(self, ticks: int) -> tuple[list[float | None], list[float | None]]:
        """So many ticks."""
        pairs = [self.tick() for _ in range(ticks)]
        return [theirs for theirs, _ in pairs], [ours for _, ours in pairs]


def chunk(number: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Robot space and model space."""
    robot = np.repeat(number + np.arange(rows, dtype=np.float32)[:, None] / 100, DIM, axis=1)
    return robot, -robot


def played(number: int, *rows: int) -> list[float]:
    """Rows of a chunk, as they are executed."""
    return [float(np.float32(number) + np.float32(row) / np.float32(100)) for row in rows]


# --- where both agree ----------------------------------------------------------------------------------------------


def same_runs() -> None:
    """While every tick executes a row, RTC plays the same rows and continues the same tails, whatever the delays."""
    for seed in range(RUNS):
        draw = np.random.default_rng(seed)
        pair = Pair(rtc=True)
        pair.merge(int(draw.integers(1, 30)), 0, 0)
        for _ in range(8):
            left = pair.ours.left()
            assert left == pair.theirs.qsize()
            theirs, ours = pair.run(int(draw.integers(0, left + 1)))
            assert theirs == ours and None not in ours
            same_tails(pair)
            step, left = pair.ours.step, pair.ours.left()
            delay = int(draw.integers(0, left + 1))
            theirs, ours = pair.run(delay)
            assert theirs == ours
            merged = pair.merge(delay + int(draw.integers(1, 30)), delay, step)
            assert merged.late == delay and merged.replaced == left - delay


def same_tails(pair: Pair) -> None:
    tail = pair.ours.snapshot(pair.ours.step, HORIZON)
    assert tail.left == pair.theirs.qsize()
    for ours, theirs in (
        (tail.prefix_model, pair.theirs.get_left_over()),
        (tail.prefix_robot, pair.theirs.get_processed_left_over()),
    ):
        expected = np.asarray(theirs)[:HORIZON]
        assert ours is None if not len(expected) else np.array_equal(ours, expected)


def same_interpolation() -> None:
    """As many commands for each action, to float32's last places."""
    for multiplier in range(1, 6):
        theirs, ours = ActionInterpolator(multiplier), Interpolator(multiplier)
        draw = np.random.default_rng(multiplier)
        for _ in range(50):
            assert theirs.needs_new_action() == ours.needs_action
            if ours.needs_action:
                action = draw.normal(size=DIM).astype(np.float32)
                theirs.add(torch.from_numpy(action))
                ours.add(action)
            command = ours.next()
            assert command is not None
            np.testing.assert_allclose(theirs.get().numpy(), command[0], rtol=1e-5, atol=1e-6)


def same_as_the_benchs_reference() -> None:
    """The bench's queue and latencies are lerobot's, call by call."""
    for seed in range(RUNS):
        draw, rtc = np.random.default_rng(seed), bool(seed % 2)
        theirs, replica = TheirQueue(RTCConfig(enabled=rtc)), ReferenceQueue(rtc)
        tracker, latency = LatencyTracker(), ReferenceLatency()
        for number in range(40):
            kind = draw.integers(0, 10)
            if kind == 0:
                theirs.clear()
                replica.clear()
            elif kind < 4:
                robot, model = chunk(number, int(draw.integers(0, 12)))
                delay = int(draw.integers(-2, 15))
                theirs.merge(torch.from_numpy(model), torch.from_numpy(robot), delay)
                replica.merge(model, robot, delay)
            else:
                _same(theirs.get(), replica.get())
            assert (theirs.qsize(), theirs.get_action_index()) == (replica.qsize(), replica.get_action_index())
            _same(theirs.get_left_over(), replica.get_left_over())
            _same(theirs.get_processed_left_over(), replica.get_processed_left_over())
            sample = float(draw.normal(0.2, 0.2))
            tracker.add(sample)
            latency.add(sample)
            assert tracker.max() == latency.max()
            for q in (0.0, 0.5, 0.95, 1.0):
                assert tracker.percentile(q) == latency.percentile(q)


def _same(theirs: torch.Tensor | None, ours: np.ndarray | None) -> None:
    assert (theirs is None) == (ours is None)
    assert theirs is None or np.array_equal(theirs.numpy(), ours)


# --- the table -----------------------------------------------------------------------------------------------------


@difference(1, lerobot="trims a first chunk by the ticks it took, though nothing moved", cuebook="plays it from row 0")
def idle() -> None:
    pair = Pair(rtc=True)
    assert pair.run(3) == ([None] * 3, [None] * 3)
    assert pair.merge(5, 3, 0) == Merged(taken=5, late=0, replaced=0, overlap=0)
    assert pair.run(5) == (played(0, 3, 4) + [None] * 3, played(0, 0, 1, 2, 3, 4))


@difference(
    2, lerobot="an answer that takes as long as a chunk lasts is trimmed to nothing", cuebook="its reachable tail"
)
def longer_than_a_chunk() -> None:
    pair = Pair(rtc=True)
    pair.merge(4, 0, 0)
    pair.run(2)
    assert pair.run(6) == (played(0, 2, 3) + [None] * 4, played(0, 2, 3) + [None] * 4)
    assert pair.merge(4, 6, 2).taken == 2  # two of its four rows were executed meanwhile
    assert pair.run(3) == ([None] * 3, [*played(1, 2, 3), None])


@difference(
    2, lerobot="says nothing where no row is left to play, and goes on STREAMING", cuebook="reports it: all_late"
)
def all_late() -> None:
    pair = Pair(rtc=True)
    pair.merge(8, 0, 0)
    pair.run(8)
    assert pair.merge(4, 8, 0).all_late
    assert pair.tick() == (None, None)


@difference(3, lerobot="trims by the wall clock, across a pause", cuebook="by rows that were executed")
def paused() -> None:
    pair = Pair(rtc=True)
    pair.merge(6, 0, 0)
    pair.run(2)  # asked here; then the loop stands still for three ticks
    pair.merge(6, 3, 2)
    assert pair.run(2) == (played(1, 3, 4), played(1, 0, 1))


@difference(
    3, lerobot="a control loop at half its rate skips a row at each chunk", cuebook="rows and steps stay together"
)
def slow_loop() -> None:
    pair = Pair(rtc=True)
    pair.merge(10, 0, 0)
    pair.run(2)
    pair.run(2)  # in four periods of the clock
    pair.merge(10, 4, 2)
    assert pair.tick() == (played(1, 4)[0], played(1, 2)[0])


@difference(
    4, lerobot="appends whole chunks: rows for now are played when the rest is over", cuebook="skips the overlap"
)
def append() -> None:
    pair = Pair(rtc=False)
    pair.merge(6, 0, 0)
    pair.run(2)
    assert pair.merge(6, 0, 2) == Merged(taken=2, late=0, replaced=0, overlap=4)
    late, right = pair.run(10)
    assert late == played(0, 2, 3, 4, 5) + played(1, 0, 1, 2, 3, 4, 5)
    assert right == played(0, 2, 3, 4, 5) + played(1, 4, 5) + [None] * 4


@difference(4, lerobot="so a policy that is asked early runs further behind each time", cuebook="never late")
def falling_behind() -> None:
    pair, late_by = Pair(rtc=False), []
    pair.merge(10, 0, 0)
    for number in range(1, 6):
        pair.run(5)
        left = pair.theirs.qsize()
        pair.merge(10, 0, pair.ours.step)
        late_by.append(left)
        assert pair.ours.left() <= 10, number
    assert late_by == [5, 10, 15, 20, 25]


@difference(5, lerobot="the delay is that of the slowest answer ever", cuebook="what 19 of 20 answers lately took")
def outlier() -> None:
    tracker, window, timing = LatencyTracker(), LatencyWindow(), Timing(DT_S, 0.5, 1.0, 5.0)
    for second in range(120):
        seconds = 5.0 if second == 10 else 0.1
        tracker.add(seconds)
        window.add(seconds, float(second))
    assert int(np.ceil(tracker.max() / DT_S)) == 150
    assert delay_steps(timing, window, 120.0) == 3


@difference(8, lerobot="index and tails by three calls; a row may go between", cuebook="one snapshot")
def snapshot() -> None:
    pair = Pair(rtc=True)
    pair.merge(6, 0, 0)
    index = pair.theirs.get_action_index()
    model = pair.theirs.get_left_over()
    pair.theirs.get()  # the control thread
    robot = pair.theirs.get_processed_left_over()
    assert index == 0 and len(model) == 6 and len(robot) == 5
    tail = pair.ours.snapshot(0, 6)
    assert len(tail.prefix_model) == len(tail.prefix_robot) == 6 and np.array_equal(
        tail.prefix_model, -tail.prefix_robot
    )


@difference(9, lerobot="rows have no age of their own", cuebook="rows of an old observation are dropped, counted")
def stale() -> None:
    pair = Pair(rtc=False)
    pair.merge(3, 0, 0)
    assert float(pair.theirs.get()[0]) == 0.0
    assert pair.ours.pop(AGE_MAX_S * 2, AGE_MAX_S) == (None, 3)


def main() -> int:
    logging.disable(logging.WARNING)
    for agreement in (same_runs, same_interpolation, same_as_the_benchs_reference):
        agreement()
        print(f"same | {agreement.__name__}", flush=True)
    for case in CASES:
        case.check()
        print(f"{case.number:>4} | {case.lerobot:<78} | {case.cuebook}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
