"""The queue: its arithmetic, and that no row is ever played at another step than its own."""

from __future__ import annotations

import sys
import threading
import timeit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge.action_queue import HISTORY_STEPS, ActionQueue, Chunk, Merged, Mode, Origin
from tests.edge.queue_oracle import Oracle

NEVER = float("inf")
BOTH = pytest.mark.parametrize("mode", list(Mode))


def origin(seq: int = 1, observed_s: float = 0.0) -> Origin:
    return Origin("session", seq, 0, "task", observed_s, observed_s + 0.1, 1.0, 2.0)


def chunk(first_step: int, rows: int, seq: int = 1, observed_s: float = 0.0, model: bool = True) -> Chunk:
    """Every row says for which step it is meant, and which request it answers."""
    steps = np.arange(first_step, first_step + rows, dtype=np.float32)
    robot = np.stack([steps, np.full(rows, seq, np.float32)], 1)
    return Chunk(robot, robot + 0.5 if model else None, first_step, origin(seq, observed_s))


def play(queue: ActionQueue, rows: int) -> list[tuple[int, int]]:
    """Execute rows; each is meant for its step. (step, request) of each."""
    played = []
    for _ in range(rows):
        row, dropped = queue.pop(0.0, NEVER)
        assert row is not None and not dropped
        assert row.action.tolist() == [row.step, row.origin.seq_id]
        played.append((row.step, int(row.action[1])))
    return played


def filled(mode: Mode, rows: int, executed: int) -> ActionQueue:
    queue = ActionQueue(mode)
    queue.merge(chunk(0, rows, seq=1))
    play(queue, executed)
    return queue


# --- arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "rows", "executed", "observed", "length", "merged", "left"),
    [
        # 50 rows, 5 steps passed since the observation: 45 are left of the new one
        (Mode.REPLACE, 50, 25, 20, 50, Merged(taken=45, late=5, replaced=25, overlap=0), 45),
        (Mode.REPLACE, 50, 25, 25, 50, Merged(taken=50, late=0, replaced=25, overlap=0), 50),
        # as long as the chunk is, or longer: nothing of it can be played, what is queued stays
        (Mode.REPLACE, 50, 25, 20, 5, Merged(taken=0, late=5, replaced=0, overlap=0), 25),
        (Mode.REPLACE, 50, 25, 10, 5, Merged(taken=0, late=5, replaced=0, overlap=0), 25),
        (Mode.REPLACE, 50, 25, 20, 6, Merged(taken=1, late=5, replaced=25, overlap=0), 1),
        # an empty queue: only what was really executed since the observation is late
        (Mode.REPLACE, 10, 10, 10, 10, Merged(taken=10, late=0, replaced=0, overlap=0), 10),
        (Mode.REPLACE, 10, 10, 7, 10, Merged(taken=7, late=3, replaced=0, overlap=0), 7),
        # append keeps the 7 left of 10, and takes what the new one has after them
        (Mode.APPEND, 10, 3, 3, 10, Merged(taken=3, late=0, replaced=0, overlap=7), 10),
        (Mode.APPEND, 10, 3, 1, 10, Merged(taken=1, late=2, replaced=0, overlap=7), 8),
        (Mode.APPEND, 10, 3, 0, 10, Merged(taken=0, late=3, replaced=0, overlap=7), 7),
        (Mode.APPEND, 10, 3, 3, 4, Merged(taken=0, late=0, replaced=0, overlap=4), 7),
        (Mode.APPEND, 10, 10, 10, 10, Merged(taken=10, late=0, replaced=0, overlap=0), 10),
        (Mode.APPEND, 10, 10, 4, 10, Merged(taken=4, late=6, replaced=0, overlap=0), 4),
        (Mode.APPEND, 10, 10, 0, 10, Merged(taken=0, late=10, replaced=0, overlap=0), 0),
    ],
)
def test_a_chunk_is_taken_from_this_step_on(mode, rows, executed, observed, length, merged, left):
    queue = filled(mode, rows, executed)
    assert queue.merge(chunk(observed, length, seq=2)) == merged
    assert queue.left() == left
    assert merged.all_late == (merged.late == length)
    assert [step for step, _ in play(queue, left)] == list(range(executed, executed + left))
    assert queue.pop(0.0, NEVER) == (None, 0) and queue.step == executed + left


@BOTH
def test_nothing_is_trimmed_of_the_first_chunk_however_late_it_comes(mode):
    queue = ActionQueue(mode)
    for _ in range(40):
        assert queue.pop(0.0, NEVER) == (None, 0)
    assert queue.step == 0
    assert queue.merge(chunk(0, 10)) == Merged(taken=10, late=0, replaced=0, overlap=0)


@BOTH
def test_holding_does_not_move_the_step(mode):
    queue = filled(mode, 5, 5)
    for _ in range(30):
        assert queue.pop(0.0, NEVER) == (None, 0)
    assert queue.merge(chunk(5, 10, seq=2)).taken == 10
    assert play(queue, 10) == [(step, 2) for step in range(5, 15)]


def test_append_plays_what_is_queued_first_and_the_new_one_at_its_own_steps():
    queue = filled(Mode.APPEND, 10, 3)
    queue.merge(chunk(3, 10, seq=2))
    assert play(queue, 10) == [(step, 1) for step in range(3, 10)] + [(step, 2) for step in range(10, 13)]


def test_replace_plays_the_new_one_at_once():
    queue = filled(Mode.REPLACE, 10, 3)
    queue.merge(chunk(2, 10, seq=2))
    assert play(queue, 9) == [(step, 2) for step in range(3, 12)]


def test_an_answer_that_was_overtaken_does_not_replace_a_newer_one():
    queue = filled(Mode.REPLACE, 20, 10)
    queue.merge(chunk(8, 20, seq=3))
    assert queue.merge(chunk(5, 20, seq=2)) == Merged(taken=0, late=5, replaced=0, overlap=15)
    assert play(queue, 18) == [(step, 3) for step in range(10, 28)]


@BOTH
def test_the_same_answer_twice_changes_nothing(mode):
    queue = filled(mode, 10, 4)
    queue.merge(chunk(3, 10, seq=2))
    before = queue.left()
    queue.merge(chunk(3, 10, seq=2))
    assert queue.left() == before
    assert [step for step, _ in play(queue, before)] == list(range(4, 4 + before))


@BOTH
def test_a_chunk_of_a_step_that_was_never_reached_is_refused_and_loses_nothing(mode):
    queue = filled(mode, 10, 4)
    with pytest.raises(ValueError, match="want a chunk of step 4 or before, got one of step 5"):
        queue.merge(chunk(5, 10))
    assert queue.left() == 6


def test_a_row_says_where_it_comes_from_and_belongs_to_the_caller():
    queue, source = ActionQueue(Mode.REPLACE), chunk(0, 5, seq=7)
    queue.merge(source)
    play(queue, 2)
    row, _ = queue.pop(0.0, NEVER)
    assert (row.step, row.row, row.origin) == (2, 2, source.origin)
    assert row.action.dtype == np.float32
    row.action[:] = -1
    assert source.robot[2].tolist() == [2, 7]


# --- staleness ---------------------------------------------------------------------------------------------------


@BOTH
def test_rows_that_are_too_old_are_dropped_and_counted_and_the_step_stands(mode):
    queue = filled(mode, 10, 4)
    assert queue.pop(3.0, 3.0)[0].step == 4  # as old as allowed
    assert queue.pop(3.001, 3.0) == (None, 5)
    assert queue.step == 5 and queue.left() == 0
    assert queue.pop(3.001, 3.0) == (None, 0)
    assert queue.merge(chunk(5, 10, seq=2, observed_s=3.0)).taken == 10
    assert queue.pop(3.1, 3.0)[0].origin.seq_id == 2


def test_when_the_rows_before_turn_stale_the_chunk_behind_them_steps_in_at_this_step():
    queue = filled(Mode.APPEND, 10, 3)
    queue.merge(chunk(3, 10, seq=2, observed_s=2.0))  # overlaps with the 7 that are queued
    row, dropped = queue.pop(4.0, 3.0)
    assert dropped == 0  # each step that they were for has a row in the chunk behind
    assert (row.step, row.row, row.origin.seq_id, row.action.tolist()) == (3, 0, 2, [3, 2])
    assert queue.left() == 9


@BOTH
def test_rows_last_until_they_are_played_or_too_old(mode):
    queue = filled(mode, 10, 4)  # observed at 0
    assert queue.fresh_s(0.5, 0.1, 3.0) == pytest.approx(0.6)
    assert queue.fresh_s(2.8, 0.1, 3.0) == pytest.approx(0.2)
    assert queue.fresh_s(3.5, 0.1, 3.0) == 0.0
    queue.clear()
    assert queue.fresh_s(0.0, 0.1, 3.0) == 0.0


# --- one moment --------------------------------------------------------------------------------------------------


@BOTH
def test_a_prefix_begins_at_the_step_of_the_observation(mode):
    queue = filled(mode, 10, 6)
    shot = queue.snapshot(from_step=4, rows_max=4)
    assert (shot.step, shot.left) == (6, 4)
    assert shot.prefix_robot[:, 0].tolist() == [4, 5, 6, 7]  # two executed since, two queued
    assert shot.prefix_model[:, 0].tolist() == [4.5, 5.5, 6.5, 7.5]
    assert queue.snapshot(6, 100).prefix_robot[:, 0].tolist() == [6, 7, 8, 9]
    assert queue.snapshot(8, 100).prefix_robot[:, 0].tolist() == [8, 9]


def test_a_prefix_runs_over_the_seams_of_chunks():
    queue = filled(Mode.APPEND, 6, 3)
    queue.merge(chunk(3, 6, seq=2))
    assert queue.snapshot(1, 100).prefix_robot.tolist() == [[s, 1] for s in range(1, 6)] + [[s, 2] for s in range(6, 9)]
    queue = filled(Mode.REPLACE, 6, 3)
    queue.merge(chunk(2, 6, seq=2))
    assert queue.snapshot(1, 100).prefix_robot.tolist() == [[1, 1], [2, 1]] + [[s, 2] for s in range(3, 8)]


@BOTH
@pytest.mark.parametrize(("from_step", "rows_max"), [(10, 4), (50, 4), (3, 0), (3, -1), (-1, 4)])
def test_where_there_are_no_rows_there_is_no_prefix(mode, from_step, rows_max):
    queue = filled(mode, 10, 6)
    shot = queue.snapshot(from_step, rows_max)
    assert shot.prefix_robot is None and shot.prefix_model is None and shot.left == 4


def test_a_prefix_has_rows_in_model_space_for_all_of_it_or_not_at_all():
    queue = filled(Mode.APPEND, 4, 2)
    queue.merge(chunk(2, 6, seq=2, model=False))
    assert queue.snapshot(2, 2).prefix_model.shape == (2, 2)
    shot = queue.snapshot(2, 4)
    assert shot.prefix_model is None and shot.prefix_robot.shape == (4, 2)


@BOTH
def test_clearing_drops_all_and_goes_on_counting(mode):
    queue = filled(mode, 10, 4)
    assert queue.clear() == 6 and queue.clear() == 0
    assert queue.step == 4 and queue.left() == 0
    assert queue.pop(0.0, NEVER) == (None, 0)
    assert queue.merge(chunk(4, 10, seq=2)).taken == 10
    assert queue.snapshot(3, 4).prefix_robot is None  # the episode before is no part of this one
    assert queue.snapshot(4, 2).prefix_robot[:, 1].tolist() == [2, 2]


def test_what_was_executed_long_ago_is_forgotten():
    queue = ActionQueue(Mode.APPEND)
    for first in range(0, HISTORY_STEPS * 3, 2):
        queue.merge(chunk(first, 2))
        play(queue, 2)
    assert len(queue._played) <= HISTORY_STEPS
    queue.merge(chunk(queue.step, 2))
    assert queue.snapshot(queue.step - HISTORY_STEPS + 1, 1).prefix_robot is not None
    assert queue.snapshot(queue.step - HISTORY_STEPS - 2, 1).prefix_robot is None


def test_the_mode_changes_while_nothing_is_queued():
    queue = filled(Mode.REPLACE, 3, 1)
    with pytest.raises(RuntimeError, match="want an empty queue to change its mode, got 2 rows"):
        queue.mode = Mode.APPEND
    queue.mode = Mode.REPLACE  # no change
    queue.clear()
    queue.mode = Mode.APPEND
    assert queue.mode is Mode.APPEND
    queue.merge(chunk(1, 3))
    assert queue.merge(chunk(1, 5)) == Merged(taken=2, late=0, replaced=0, overlap=3)


# --- whatever the network does -----------------------------------------------------------------------------------


class Network(RuleBasedStateMachine):
    """A robot, a server and a network that loses, delays, duplicates and reorders, beside the oracle."""

    @initialize(mode=st.sampled_from(Mode), age_max_s=st.sampled_from([1.5, 4.0, NEVER]))
    def begin(self, mode, age_max_s):
        self.queue, self.oracle = ActionQueue(mode), Oracle(mode)
        self.age_max_s, self.now_s, self.seq = age_max_s, 0.0, 0
        self.seen = [(0, 0.0)]  # step and moment of observations that may still be sent
        self.flying: list[Chunk] = []

    @rule(ticks=st.integers(1, 6))
    def control(self, ticks):
        for _ in range(ticks):
            self.now_s += 0.1
            self.seen = [*self.seen[-3:], (self.queue.step, self.now_s)]
            row, dropped = self.queue.pop(self.now_s, self.age_max_s)
            wanted, wanted_dropped = self.oracle.pop(self.now_s, self.age_max_s)
            assert dropped == wanted_dropped and (row is None) == (wanted is None)
            if row is None:
                continue
            action, step, index, source = wanted
            assert (row.step, row.row, row.origin) == (step, index, source)
            assert row.action.tolist() == action.tolist()
            assert row.action[0] == row.step, "a row was executed at another step than its own"
            assert self.now_s - row.origin.observed_s <= self.age_max_s, "a stale row was executed"

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0]))
    def pause(self, seconds):
        self.now_s += seconds

    @rule(rows=st.integers(1, 14), back=st.integers(0, 3), model=st.booleans())
    def ask(self, rows, back, model):
        self.seq += 1
        first, observed_s = self.seen[max(-len(self.seen), -1 - back)]
        self.flying.append(chunk(first, rows, self.seq, observed_s, model))

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 20), again=st.booleans())
    def deliver(self, which, again):
        arrived = self.flying[which % len(self.flying)]
        if not again:
            self.flying.remove(arrived)
        merged = self.queue.merge(arrived)
        assert (merged.taken, merged.late, merged.replaced, merged.overlap) == self.oracle.merge(arrived)
        assert merged.taken + merged.late + merged.overlap == len(arrived.robot)

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 20))
    def lose(self, which):
        self.flying.pop(which % len(self.flying))

    @rule(forget=st.booleans())
    def reset(self, forget):
        """What flies may still arrive: the engine refuses it, the queue must be right without."""
        assert self.queue.clear() == self.oracle.clear()
        if forget:
            self.seen = [(self.queue.step, self.now_s)]
            self.flying.clear()

    @rule(mode=st.sampled_from(Mode))
    def reconnect(self, mode):
        self.flying.clear()
        if not self.queue.left():
            self.queue.mode = self.oracle.mode = mode

    @invariant()
    def agree(self):
        if not hasattr(self, "queue"):
            return
        assert (self.queue.step, self.queue.left()) == (self.oracle.step, len(self.oracle.plan()))
        for from_step in (self.queue.step, self.queue.step - 2, self.queue.step - 9, self.queue.step + 2):
            for rows_max in (1, 5, 100):
                shot = self.queue.snapshot(from_step, rows_max)
                assert (shot.step, shot.left) == (self.queue.step, self.queue.left())
                robot, model = self.oracle.prefix(from_step, rows_max)
                if self.oracle.reaches(from_step):
                    assert _lists(shot.prefix_robot) == _lists(robot)
                    assert _lists(shot.prefix_model) == _lists(model)


def _lists(rows) -> list | None:
    return None if rows is None else [row.tolist() for row in rows]


Network.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWhateverTheNetworkDoes = Network.TestCase


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(Mode),
    rows=st.integers(4, 30),
    fates=st.lists(st.integers(0, 12) | st.none(), min_size=1, max_size=30),
    trigger=st.integers(1, 10),
)
def test_in_a_closed_loop_every_step_is_played_once_and_in_order(mode, rows, fates, trigger):
    """One request at a time; each answer takes some ticks, or is lost (None: asked again after 12)."""
    queue, executed, flying, due, seq = ActionQueue(mode), [], None, 0, 0
    waiting = iter(fates)
    for tick in range(300):
        if flying is not None and tick >= due:
            if flying[1]:
                queue.merge(flying[0])
            flying = None
        if flying is None and queue.left() <= trigger:
            fate = next(waiting, 1)
            seq += 1
            flying, due = (chunk(queue.step, rows, seq), fate is not None), tick + (12 if fate is None else fate)
        row, _ = queue.pop(0.0, NEVER)
        if row is not None:
            assert row.action[0] == row.step
            executed.append(row.step)
    assert executed == list(range(len(executed)))
    assert len(executed) >= 50, "a robot whose answers come at all must move"


@BOTH
def test_control_thread_and_worker_at_once(mode):
    """Rows played, prefixes and counts belong together whatever the threads do between each other."""
    queue, stop, wrong = ActionQueue(mode), threading.Event(), []
    steps_wanted, interval_s = 4000, sys.getswitchinterval()

    def worker() -> None:
        seq = 0
        while not stop.is_set():
            seq += 1
            seen = queue.step
            shot = queue.snapshot(seen, 5)
            if shot.prefix_robot is not None:
                steps = shot.prefix_robot[:, 0].tolist()
                if steps != list(range(seen, seen + len(steps))) or seen + len(steps) > shot.step + shot.left:
                    wrong.append((seen, shot))
            queue.merge(chunk(seen, 8, seq))

    thread = threading.Thread(target=worker)
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        played = []
        deadline = threading.Event()
        timer = threading.Timer(30.0, deadline.set)
        timer.start()
        while len(played) < steps_wanted and not deadline.is_set():
            row, _ = queue.pop(0.0, NEVER)
            if row is not None:
                played.append((row.step, int(row.action[0])))
        timer.cancel()
    finally:
        stop.set()
        thread.join(10.0)
        sys.setswitchinterval(interval_s)
    assert not thread.is_alive() and not wrong
    assert played == [(step, step) for step in range(steps_wanted)]


@BOTH
@pytest.mark.parametrize("shape", [(50, 7), (100, 30)])
def test_the_control_thread_spends_microseconds_on_it(mode, shape):
    """The fastest of several rounds: what the code costs, whatever else the machine does."""
    robot = np.zeros(shape, np.float32)
    queue = ActionQueue(mode)

    def round_() -> None:
        queue.merge(Chunk(robot, robot, queue.step, origin()))
        for _ in range(shape[0]):
            queue.pop(0.0, 3.0)

    per_pop_us = min(timeit.repeat(round_, number=5, repeat=15)) / 5 / shape[0] * 1e6
    assert per_pop_us < 30
