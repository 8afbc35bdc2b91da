"""What must hold of every tick of a control loop, whatever the network and the server did meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.edge.drive import Drive, Tick
from tests.edge.witness import Witness, read

SHOWN_MAX = 5


def faults(drive: Drive, age_max_s: float = 3.0) -> list[str]:
    """Everything that was sent and should not have been: foreign, stale, of another episode, at the wrong step."""
    found = []
    for tick in drive.ticks:
        if tick.acts:
            found += [f"tick {tick.number}: {fault}" for fault in _faults(tick, drive, age_max_s)]
    return found


def _faults(tick: Tick, drive: Drive, age_max_s: float) -> list[str]:
    assert tick.action is not None
    try:
        said = read(tick.action)
    except AssertionError as err:
        return [f"foreign: {err}"]
    found = []
    if said.robot != drive.robot:
        found.append(f"made for robot {said.robot}, not {drive.robot}")
    if said.episode != tick.episode:
        found.append(f"of episode {said.episode} in {tick.episode}")
    if said.step != tick.executed:
        found.append(f"a row for step {said.step} executed at {tick.executed}")
    if said.tick > tick.number:
        found.append(f"of tick {said.tick}, which is still to come")
    elif (age_s := tick.began_s - drive.seen_s[said.tick]) > age_max_s:
        found.append(f"{age_s:.3f} s old")
    if tick.session not in (-1, said.session):
        found.append(f"of session {said.session:x}, the engine says {tick.session:x}")
    if tick.row not in (-1, said.row):
        found.append(f"row {said.row}, the engine says {tick.row}")
    if said.prefix_fault:
        found.append("its request had a prefix of another step or episode")
    return found


def assert_sound(drive: Drive, age_max_s: float = 3.0) -> None:
    """No exception, and nothing sent that should not have been."""
    assert drive.error is None, drive.error
    wrong = faults(drive, age_max_s)
    assert not wrong, f"{len(wrong)} of {len(drive.ticks)} ticks: {wrong[:SHOWN_MAX]}"


def wrong_steps(ticks: Sequence[Tick]) -> list[int]:
    """By how many control steps each row of the policy was executed late (negative: early); only wrong ones."""
    off = [tick.executed - read(tick.action).step for tick in ticks if tick.acts and tick.action is not None]
    return [steps for steps in off if steps]


def witnesses(ticks: Sequence[Tick]) -> list[Witness]:
    """What the rows that were executed say."""
    return [read(tick.action) for tick in ticks if tick.acts and tick.action is not None]


@dataclass(frozen=True)
class Gap:
    """A time without actions of the policy."""

    from_s: float  # when the first tick without one was due
    to_s: float  # when the first tick with one began
    ticks: int


def gaps(ticks: Sequence[Tick], end_s: float | None = None) -> list[Gap]:
    """All gaps after the first action; the last one may still go on, until `end_s`."""
    found: list[Gap] = []
    began: Tick | None = None
    count, acted = 0, False
    for tick in ticks:
        if tick.acts:
            if began is not None:
                found.append(Gap(began.due_s, tick.began_s, count))
            began, count, acted = None, 0, True
        elif acted:
            began = began or tick
            count += 1
    if began is not None:
        found.append(Gap(began.due_s, end_s if end_s is not None else ticks[-1].ended_s, count))
    return found
