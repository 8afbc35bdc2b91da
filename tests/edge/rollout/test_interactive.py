"""A session by line: who says what when, and where the lines come from."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

from edge.rollout import handover, home
from edge.rollout.control import Ending, Phase, Tick
from edge.rollout.lines import LINE_BYTES_MAX, Lines
from edge.rollout.loop import Rollout
from edge.rollout.settings import RolloutSettings
from edge.rollout.strategies import make_strategy
from tests.edge.fakes import FakeEngine, FakeKeys, FakeRecorder, FakeRobot, Log

WAIT_S = 10.0


@pytest.fixture(autouse=True)
def short_ways(monkeypatch):
    monkeypatch.setattr(home, "HOME_S", 0.06)
    monkeypatch.setattr(handover, "BETWEEN_S", 0.06)


class Session:
    """A session in which lines are said at given ticks."""

    def __init__(self, said: dict, *, record: bool = True, **robot) -> None:
        self.log = Log()
        self.robot = FakeRobot(self.log, **robot)
        self.engine = FakeEngine(self.log, [(i, i) for i in range(1000)])
        self.recorder = FakeRecorder(self.log) if record else None
        self.ticks: list[Tick] = []
        self.rollout = Rollout(
            self.robot, self.engine, self.recorder, RolloutSettings(fps=300, duration=20), keys=FakeKeys(said),
            strategy=make_strategy("interactive", {}), on_tick=self.ticks.append,
        )  # fmt: skip
        self.summary = self.rollout.run()
        assert not self.summary.failed and self.robot.safe

    def phases(self) -> str:
        return "".join("p" if t.phase is Phase.POLICY else "." for t in self.ticks)


def test_the_policy_drives_between_start_and_stop_and_each_time_is_an_episode():
    run = Session({4: "start", 9: "stop", 14: "start fold it", 24: "stop", 29: "quit"})
    assert run.phases() == "....." + "ppppp" + "....." + "p" * 10 + "....."
    assert [len(e) for e in run.recorder.episodes] == [5, 10] and run.recorder.tasks == ["pick", "fold it"]
    assert run.recorder.episodes[1][0].action[0] == 0  # begins anew
    assert run.summary.ending is Ending.KEY


def test_nothing_is_sent_before_the_first_start_and_the_engine_is_not_asked():
    run = Session({9: "quit"}, record=False)
    assert "robot.send" not in run.log.names() and "engine.resume" not in run.log.names()


def test_stopped_means_that_it_stands_still_and_nobody_is_asked():
    run = Session({0: "start", 9: "stop", 19: "quit"}, record=False)
    names = [name for name, _ in run.log.calls]
    stopped = names.index("robot.stop")
    assert names.index("engine.pause") < stopped and "engine.get_action" not in names[stopped:]


def test_a_task_changes_while_it_drives():
    run = Session({0: "start", 4: "task put it down", 9: "quit"})
    (episode,) = run.recorder.episodes
    tasks = [frame.dispatched.task for frame in episode]
    assert tasks == ["pick"] * 4 + ["put it down"] * 5


def test_reset_brings_it_back_to_where_it_stood():
    run = Session({0: "start", 9: "reset", 19: "quit"})
    assert np.allclose(run.ticks[-1].action, 0, atol=1e-6) and len(run.recorder.episodes) == 1


def test_a_robot_that_is_done_waits_for_the_next_start():
    run = Session({0: "start", 19: "start", 39: "quit"}, done_after=5)
    assert [len(e) for e in run.recorder.episodes] == [5, 5] and run.summary.ending is Ending.KEY


@pytest.mark.parametrize("line", ["begin", "task", "task   ", "stop", "?", "x" * 1000])
def test_what_means_nothing_does_nothing(line, caplog):
    with caplog.at_level(logging.WARNING):
        run = Session({3: line, 9: "quit"}, record=False)
    assert run.phases() == "." * 10
    assert ("want" in caplog.text) == (line != "stop")


# --- lines --------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[Lines, int]]:
    """(what listens, what to write to)."""
    reading, writing = os.pipe()
    lines = Lines(reading)
    lines.start()
    yield lines, writing
    lines.stop()
    os.close(reading)


def said(lines: Lines, count: int) -> list[str]:
    found, end_s = [], time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < end_s:
        found += lines.poll()
        time.sleep(0.005)
    return found


def test_lines_come_whole_and_their_end_is_a_quit(pipe):
    lines, writing = pipe
    assert lines.active
    os.write(writing, b"start fo")
    os.write(writing, "ld the töwel\r\n\n  stop \nres".encode())
    assert said(lines, 2) == ["start fold the töwel", "stop"]
    os.write(writing, b"et")
    os.close(writing)
    assert said(lines, 2) == ["reset", "quit"]


def test_a_line_without_end_takes_no_memory(pipe):
    lines, writing = pipe
    os.set_blocking(writing, True)
    for _ in range(2 * LINE_BYTES_MAX // 4096):
        os.write(writing, b"x" * 4096)
    os.write(writing, b"\nstop\n")
    os.close(writing)
    found = said(lines, 3)
    assert found[-2:] == ["stop", "quit"] and all(len(line) <= LINE_BYTES_MAX for line in found)


def test_listening_ends_when_it_is_told_to(pipe):
    lines, writing = pipe
    thread = lines._thread
    lines.stop()
    lines.stop()
    assert not thread.is_alive() and not lines.active
    os.close(writing)
