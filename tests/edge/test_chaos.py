"""Everything goes wrong, by seed; and the checks that this rests on find what they are there to find.

`CUEBOOK_CHAOS_S` says for how long (`make chaos`: ten minutes), `CUEBOOK_CHAOS_SEED` in which order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge.state import State
from tests.edge.chaos import AGE_MAX_S, BARS_S, Fault, Report, _judge_gap, run
from tests.edge.drive import POLICY, Drive, Tick
from tests.edge.soundness import faults, gaps
from tests.edge.witness import chunk_of

SECONDS = float(os.environ.get("CUEBOOK_CHAOS_S", "45"))
SEED = int(os.environ.get("CUEBOOK_CHAOS_SEED", "7"))
SLACK = float(os.environ.get("CUEBOOK_CHAOS_SLACK", "3"))  # tests share their machine; the bars are for a quiet one


@pytest.mark.slow
@pytest.mark.timeout(1.2 * SECONDS + 180)
def test_whatever_goes_wrong_nothing_unsound_is_sent_and_robots_act_again_in_time():
    report = run(SECONDS, SEED, SLACK)
    assert not report.errors, report.errors[:5]
    assert not report.unsound, (len(report.unsound), report.unsound[:5])
    assert not report.too_long, report.too_long[:5]
    # and it was no calm sea
    assert sum(report.faults.values()) >= SECONDS / 10 and report.outages
    assert 0.3 * report.ticks < report.acted < report.ticks


# --- the checks themselves --------------------------------------------------------------------------------------------

DT_S = 1 / 30


class Idle:
    """An engine that does nothing; ticks are written by the test."""

    state = State.STREAMING


def driven(number: int = 5, **change: object) -> Drive:
    """A robot that did everything right, but for what is changed about its last tick."""
    drive = Drive(Idle())
    drive.seen_s = [100.0 + DT_S * i for i in range(number)]
    rows = chunk_of(np.array([0, 0, 1, 0], np.float32), 7, 9, 0, number)
    for i, seen_s in enumerate(drive.seen_s):
        drive.ticks.append(Tick(i, seen_s, seen_s, seen_s, 0, i, rows[i], POLICY, 9, i, "STREAMING"))
    drive.ticks[-1] = replace(drive.ticks[-1], **change)
    return drive


def row(tick: int = 0, episode: int = 0, robot: int = 1, step: int = 0, session: int = 9, fault: int = 0, at: int = 4):
    return chunk_of(np.array([tick, episode, robot, step], np.float32), 7, session, fault, at + 1)[at]


def spoilt() -> np.ndarray:
    made = row()
    made[3] += 1
    return made


def test_the_check_is_silent_when_all_is_well():
    assert faults(driven()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: {"action": row(robot=666)}, "made for robot 666"),
        (lambda: {"action": row(episode=1)}, "of episode 1 in 0"),
        (lambda: {"action": row(step=1)}, "a row for step 5 executed at 4"),
        (lambda: {"action": row(at=3)}, "a row for step 3 executed at 4"),
        (lambda: {"action": row(session=8)}, "of session 8"),
        (lambda: {"action": row(fault=1)}, "prefix"),
        (lambda: {"action": row(tick=90)}, "still to come"),
        (lambda: {"began_s": 100.0 + AGE_MAX_S + 0.5}, "2.000 s old"),
        (lambda: {"row": 2}, "row 4, the engine says 2"),
        (lambda: {"action": spoilt()}, "foreign"),
        (lambda: {"action": np.full(9, 0.5, np.float32)}, "foreign"),
        (lambda: {"action": np.full(9, np.nan, np.float32)}, "foreign"),
    ],
)
def test_the_check_finds_what_should_not_have_been_sent(change: Callable[[], dict[str, object]], says: str):
    found = faults(driven(**change()), AGE_MAX_S)
    assert len(found) >= 1 and says in " ".join(found), found


def idle_from(drive: Drive, first: int, to: int) -> Drive:
    for i in range(first, to):
        drive.ticks[i] = replace(drive.ticks[i], action=None, source="")
    return drive


def test_gaps_are_found_after_the_first_action():
    drive = idle_from(idle_from(driven(40), 0, 3), 10, 16)
    (gap,) = gaps(drive.ticks)
    assert gap.ticks == 6 and gap.from_s == drive.ticks[10].due_s and gap.to_s == drive.ticks[16].began_s


@pytest.mark.parametrize(
    ("from_s", "to_s", "kind", "unexplained"),
    [
        (0.0, 100.4, "server killed", False),  # over while the gap goes on, and in time
        (0.0, 99.0, "reset", True),  # long over when the gap began
        (200.0, 201.0, "router killed", True),  # began after the gap
        (100.3, 100.4, "garbage", True),  # garbage is no excuse for a gap that goes on after it
    ],
)
def test_an_outage_needs_a_cause_that_was_there_and_an_end_in_time(from_s, to_s, kind, unexplained):
    (gap,) = gaps(idle_from(driven(60), 10, 32).ticks)  # from 100.33 to 101.07
    report = Report(1.0)
    _judge_gap("robot-1", gap, [Fault(kind, from_s=from_s, to_s=to_s)], report, 1.0)
    assert bool(report.too_long) is unexplained, report
    assert kind in BARS_S
