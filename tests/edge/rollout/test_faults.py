"""Whatever fails, at whichever call: the robot stands still and is let go, and nothing recorded is lost."""

from __future__ import annotations

import pytest

from edge.errors import RecordingError, RobotError
from edge.rollout import home
from edge.rollout.control import Ending
from edge.rollout.highlight import Highlight
from edge.rollout.loop import DISCONNECT_TRIES, STOP_TRIES, Rollout
from edge.rollout.sentry import Sentry
from edge.rollout.settings import HighlightSettings, RolloutSettings, SentrySettings
from edge.rollout.summary import RolloutSummary
from tests.edge.fakes import FakeEngine, FakeKeys, FakeRecorder, FakeRobot, FakeTeleop, Log, features

STEPS = 6  # actions of a run without faults
HOME_SENDS = 5


@pytest.fixture(autouse=True)
def short_way_home(monkeypatch):
    monkeypatch.setattr(home, "HOME_S", HOME_SENDS / home.RATE_HZ)


class Run:
    """A sentry run with everything in it."""

    def __init__(self, **faults) -> None:
        self.log = Log()
        self.robot = FakeRobot(self.log, faults=faults.get("robot"), done_after=STEPS)
        self.engine = FakeEngine(self.log, faults=faults.get("engine"))
        self.recorder = FakeRecorder(self.log, faults=faults.get("recorder"))
        self.teleop = FakeTeleop(self.log, faults=faults.get("teleop"))
        self.keys = FakeKeys()

    def go(self) -> RolloutSummary:
        return Rollout(
            self.robot, self.engine, self.recorder, RolloutSettings(fps=500), strategy=Sentry(SentrySettings()),
            teleop=self.teleop, keys=self.keys,
        ).run()  # fmt: skip

    @property
    def kept(self) -> int:
        """Recorded frames that a dataset would have."""
        return sum(map(len, self.recorder.episodes))


def test_a_run_without_faults_is_what_the_others_are_held_against():
    run = Run()
    summary = run.go()
    assert not summary.failed and run.robot.safe and run.kept == STEPS and summary.home == "reached"


CALLS = [
    ("connect", 0), *[("read", i) for i in range(STEPS + 2)], *[("send", i) for i in range(STEPS + HOME_SENDS)],
    ("begin_episode", 0),
]  # fmt: skip


@pytest.mark.parametrize("error", [OSError("bus"), RobotError("want joint 2 to answer", "silence", "check its cable")])
@pytest.mark.parametrize("call, number", CALLS)
def test_a_robot_that_fails_once_is_brought_to_rest(call, number, error):
    run = Run(robot={call: {number: error}})
    summary = run.go()
    assert isinstance(summary.problems[0].error, RobotError) and str(error).splitlines()[0] in str(summary.problems[0])
    assert run.robot.safe and run.recorder.finalized and run.keys.stopped
    assert run.kept == run.log.counts["recorder.add"] and not run.recorder.open
    assert run.log.names()[-1] in ("recorder.finalize",)
    assert "engine.stop" in run.log.names()


@pytest.mark.parametrize("call, number", [("read", 3), ("send", 3)])
def test_a_robot_that_answers_again_is_brought_home(call, number):
    run = Run(robot={call: {number: OSError("bus")}})
    summary = run.go()
    assert summary.home == "reached" and len(summary.problems) == 1


@pytest.mark.parametrize("call", ["read", "send"])
def test_a_robot_that_never_answers_again_is_stopped_where_it_is(call):
    run = Run(robot={call: {i: OSError(f"bus {i}") for i in range(3, 1000)}})
    summary = run.go()
    assert [p.step for p in summary.problems] == ["drive", "return to the initial position"]
    assert summary.home == "failed" and run.robot.safe and run.kept == run.log.counts["recorder.add"]
    with pytest.raises(BaseExceptionGroup) as group:
        summary.raise_for_problems()
    assert len(group.value.exceptions) == 2


def test_stop_and_disconnect_are_tried_again():
    run = Run(robot={"stop": {0: OSError("bus"), 1: OSError("bus")}, "disconnect": {0: OSError("bus")}})
    assert not run.go().failed and run.robot.safe


def test_what_cannot_be_stopped_is_still_let_go_and_told():
    run = Run(robot={"stop": dict.fromkeys(range(9), OSError("bus"))})
    summary = run.go()
    assert [p.step for p in summary.problems] == ["stop the robot"] and not run.robot.connected
    assert run.log.counts["robot.stop"] == STOP_TRIES and run.kept == STEPS


def test_every_step_of_the_end_is_tried_whatever_became_of_the_others():
    always = dict.fromkeys(range(99), OSError("gone"))
    run = Run(
        robot={"read": {4: OSError("first")}, "stop": always, "disconnect": always},
        engine={"pause": always, "stop": always},
        recorder={"save_episode": always, "finalize": always},
        teleop={"release": always, "disconnect": always},
    )
    summary = run.go()
    assert [p.step for p in summary.problems] == [
        "drive", "pause the engine", "stop the robot", "disconnect the robot", "release the teleoperator",
        "disconnect the teleoperator", "stop the engine", "save the last episode", "finish the recording",
    ]  # fmt: skip
    assert run.log.counts["robot.disconnect"] == DISCONNECT_TRIES and run.keys.stopped
    assert "first" in str(summary.problems[0])


@pytest.mark.parametrize("call, number", [("reset", 0), ("resume", 0), ("notify", 2), ("get_action", 3), ("pause", 0)])
def test_an_engine_that_raises_leaves_the_robot_safe(call, number):
    run = Run(engine={call: {number: RuntimeError("a bug")}})
    summary = run.go()
    assert summary.failed and run.robot.safe and run.kept == run.log.counts["recorder.add"]


@pytest.mark.parametrize("call, number", [("connect", 0), ("release", 0), ("disconnect", 0)])
def test_a_teleoperator_that_fails_leaves_the_robot_safe(call, number):
    run = Run(teleop={call: {number: OSError("unplugged")}})
    assert run.go().failed and run.robot.safe and run.recorder.finalized


@pytest.mark.parametrize("number", range(STEPS))
def test_a_full_disk_ends_the_run_and_keeps_what_was_written(number):
    run = Run(recorder={"add": {number: RecordingError("want room", "disk full", "free some")}})
    summary = run.go()
    assert isinstance(summary.problems[0].error, RecordingError) and summary.home == "reached"
    assert run.robot.safe and run.kept == number and run.recorder.finalized


def test_the_robot_is_at_rest_before_anything_waits_for_network_or_disk():
    run = Run(robot={"send": {3: OSError("bus")}})
    run.go()
    names = run.log.names()
    assert names.index("robot.disconnect") < names.index("engine.stop") < names.index("recorder.finalize")
    assert names.index("robot.disconnect") < names.index("recorder.save_episode")


@pytest.mark.parametrize("stage", [("engine", "start"), ("robot", "connect"), ("robot", "read"), ("robot", "send")])
def test_exceptions_that_are_no_errors_end_it_as_well(stage):
    part, call = stage
    run = Run(**{part: {call: {0: KeyboardInterrupt()}}})
    summary = run.go()
    assert summary.ending is Ending.INTERRUPTED and run.recorder.finalized
    assert not run.robot.connected and run.robot.standing


def test_what_a_key_kept_is_written_when_the_robot_fails():
    """Frames that wait for the recorder are lossless too."""
    log = Log()
    robot = FakeRobot(log, features(cameras={"front": (2, 2)}), faults={"send": {20: OSError("bus")}})
    recorder, strategy = FakeRecorder(log), Highlight(HighlightSettings())
    keys = FakeKeys({17: "s"})
    summary = Rollout(
        robot, FakeEngine(log), recorder, RolloutSettings(fps=500), strategy=strategy, keys=keys
    ).run()  # fmt: skip
    assert summary.failed and robot.safe
    assert [len(episode) for episode in recorder.episodes] == [20]  # all 18 remembered ones, and the 2 after the key
