"""The state machine: every pair of state and event, one owner, and a clock that pauses cost nothing of."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.state import TABLE, ActiveClock, Event, Machine, State

# state:       merged       late          starved       link_lost    handshake  offline contract worker stop
EXPECTED = """
CONNECTING   | STREAMING    CONNECTING   CONNECTING   RECONNECTING CONNECTING DEAD    DEAD     DEAD   STOPPED
STREAMING    | STREAMING    DEGRADED     STALLED      RECONNECTING CONNECTING DEAD    DEAD     DEAD   STOPPED
DEGRADED     | STREAMING    DEGRADED     STALLED      RECONNECTING CONNECTING DEAD    DEAD     DEAD   STOPPED
STALLED      | STREAMING    STALLED      STALLED      RECONNECTING CONNECTING DEAD    DEAD     DEAD   STOPPED
RECONNECTING | RECONNECTING RECONNECTING RECONNECTING RECONNECTING CONNECTING DEAD    DEAD     DEAD   STOPPED
DEAD         | DEAD         DEAD         DEAD         DEAD         DEAD       DEAD    DEAD     DEAD   DEAD
STOPPED      | STOPPED      STOPPED      STOPPED      STOPPED      STOPPED    STOPPED STOPPED  STOPPED STOPPED
"""
COLUMNS = (
    Event.MERGED, Event.LATE, Event.STARVED, Event.LINK_LOST, Event.HANDSHAKE_DONE, Event.OFFLINE_TOO_LONG,
    Event.CONTRACT_BROKEN, Event.WORKER_FAILED, Event.STOP,
)  # fmt: skip
PAIRS = [
    (State(line.split("|")[0].strip()), event, State(to))
    for line in EXPECTED.strip().splitlines()
    for event, to in zip(COLUMNS, line.split("|")[1].split(), strict=True)
]
# the shortest way to each state
WAYS = {
    State.CONNECTING: (),
    State.STREAMING: (Event.MERGED,),
    State.DEGRADED: (Event.MERGED, Event.LATE),
    State.STALLED: (Event.MERGED, Event.STARVED),
    State.RECONNECTING: (Event.LINK_LOST,),
    State.DEAD: (Event.WORKER_FAILED,),
    State.STOPPED: (Event.STOP,),
}


class Heard(list):
    """Notes changes."""

    def __call__(self, *change) -> None:
        self.append(change)


@pytest.mark.parametrize(("state", "event", "to"), PAIRS, ids=lambda value: value.name)
def test_every_pair_leads_where_it_should_and_changes_are_told(state, event, to):
    heard = Heard()
    machine = Machine(heard)
    for step in WAYS[state]:
        machine.fire(step)
    assert machine.state is state
    heard.clear()
    assert machine.fire(event, "because") is to is machine.state
    assert heard == ([] if to is state else [(state, to, event, "because")])


def test_no_pair_is_forgotten():
    assert set(TABLE) == {(state, event) for state in State for event in Event}
    assert {(state, event): to for state, event, to in PAIRS} == TABLE


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_the_end_is_never_left_and_streaming_needs_a_chunk_of_this_session(events):
    machine = Machine(lambda *_: None)
    merged = False  # since the session began
    ended = None
    for event in events:
        before, now = machine.state, machine.fire(event)
        if before is not State.RECONNECTING and event is Event.MERGED:
            merged = True
        if event in (Event.LINK_LOST, Event.HANDSHAKE_DONE):
            merged = False
        if now is State.STREAMING:
            assert merged
        if ended:
            assert now is ended
        if now in (State.DEAD, State.STOPPED):
            ended = now


def test_changes_are_logged_with_their_cause_and_others_are_not(caplog):
    caplog.set_level(logging.INFO, logger="edge.state")
    machine = Machine(lambda *_: None)
    machine.fire(Event.MERGED)
    machine.fire(Event.MERGED, "again")
    machine.fire(Event.LINK_LOST, "token of server a-1 gone")
    machine.fire(Event.OFFLINE_TOO_LONG, "60 s")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "CONNECTING -> STREAMING (merged)"),
        ("WARNING", "STREAMING -> RECONNECTING (link lost: token of server a-1 gone)"),
        ("ERROR", "RECONNECTING -> DEAD (offline too long: 60 s)"),
    ]


def test_only_the_thread_that_fired_first_may_fire():
    fired, done = threading.Event(), threading.Event()
    machine = Machine(lambda *_: fired.set())

    def own() -> None:
        machine.fire(Event.MERGED)
        done.wait(10.0)  # alive, or its number might be given to another thread

    owner = threading.Thread(target=own)
    owner.start()
    try:
        assert fired.wait(10.0)
        with pytest.raises(RuntimeError, match="want all events from the thread that fired the first, got STOP"):
            machine.fire(Event.STOP)
        assert machine.state is State.STREAMING
    finally:
        done.set()
        owner.join(10.0)


# --- the clock ---------------------------------------------------------------------------------------------------


class Fake:
    """A clock that is set."""

    at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


def test_a_pause_costs_nothing():
    fake = Fake()
    clock = ActiveClock(fake)
    began_s = clock.now_s()
    fake.at_s += 2
    clock.pause()
    fake.at_s += 3600
    assert clock.now_s() - began_s == 2
    clock.pause()  # twice is once
    fake.at_s += 3600
    clock.resume()
    clock.resume()
    fake.at_s += 1
    assert clock.now_s() - began_s == 3
    clock.pause()
    clock.resume()
    assert clock.now_s() - began_s == 3


@given(st.lists(st.tuples(st.sampled_from(["pause", "resume", "wait"]), st.integers(0, 1000)), max_size=40))
def test_only_time_that_was_not_paused_counts(steps):
    fake = Fake()
    clock = ActiveClock(fake)
    began_s, active_s, paused = clock.now_s(), 0, False
    for what, seconds in steps:
        if what == "wait":
            fake.at_s += seconds
            active_s += 0 if paused else seconds
        else:
            getattr(clock, what)()
            paused = what == "pause"
        assert clock.now_s() - began_s == pytest.approx(active_s)
