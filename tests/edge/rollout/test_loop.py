"""One run: what happens in which order, what is sent, what is recorded, and how it ends by itself."""

from __future__ import annotations

import dataclasses
import logging
import threading

import numpy as np
import pytest

from edge.errors import ContractError, LinkError, RobotError, SettingsError
from edge.robots.watch import FrozenCameras
from edge.rollout import home
from edge.rollout.control import Ending, Phase, Tick
from edge.rollout.loop import Rollout
from edge.rollout.sentry import Sentry
from edge.rollout.settings import RolloutSettings, SentrySettings
from tests.edge.fakes import FakeEngine, FakeRecorder, FakeRobot, FakeTeleop, Log, features

FAST = {"fps": 200.0}


@pytest.fixture(autouse=True)
def short_way_home(monkeypatch):
    monkeypatch.setattr(home, "HOME_S", 0.1)


@pytest.fixture
def log() -> Log:
    return Log()


def settings(**given) -> RolloutSettings:
    return RolloutSettings(**(FAST | given))


def rollout(log: Log, robot: FakeRobot, engine: FakeEngine | None = None, recorder=None, **given) -> Rollout:
    asked = {name: given.pop(name) for name in ("strategy", "on_tick", "teleop", "keys", "stop") if name in given}
    return Rollout(robot, engine or FakeEngine(log), recorder, settings(**given), **asked)


def sentry() -> Sentry:
    return Sentry(SentrySettings())


def test_first_the_server_then_the_robot_and_at_the_end_first_the_robot(log):
    robot, recorder = FakeRobot(log, done_after=3), FakeRecorder(log)
    summary = rollout(log, robot, recorder=recorder, strategy=sentry(), teleop=FakeTeleop(log)).run()
    assert not summary.failed and summary.ending is Ending.ROBOT_DONE
    names = log.names()
    assert names[:7] == [
        "engine.start", "robot.connect", "robot.read", "teleop.connect", "robot.begin_episode", "engine.reset",
        "engine.resume",
    ]  # fmt: skip
    assert names[names.index("engine.pause") :] == [
        "engine.pause", "robot.read", "robot.send", "robot.stop", "robot.disconnect", "teleop.release",
        "teleop.disconnect", "engine.stop", "recorder.save_episode", "recorder.finalize",
    ]  # fmt: skip
    assert robot.safe


def test_what_the_engine_says_is_sent_and_nothing_when_it_says_nothing(log):
    engine = FakeEngine(log, [(1, 2), None, (3, 4), None, None, (5, 6)])
    summary = rollout(log, robot := FakeRobot(log, done_after=3), engine, return_to_initial_position=False).run()
    assert robot.sent.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert summary.counts.without_action == 3 and summary.counts.policy_actions == summary.counts.sent == 3


def test_what_a_robot_shows_when_it_is_done_is_answered_by_no_further_action(log):
    """A recording ends its last step when it is read once more."""

    class Recording(FakeRobot):
        done = False

        def read(self):
            self.done = len(self.sent) >= 2
            return super().read()

    robot = Recording(log)
    assert rollout(log, robot, return_to_initial_position=False).run().ending is Ending.ROBOT_DONE
    assert len(robot.sent) == 2 and len(log.of("engine.notify")) == 2


def test_between_two_actions_it_asks_nobody_and_goes_straight(log):
    engine = FakeEngine(log, [(0, 0), (4, 8)])
    robot = FakeRobot(log, done_after=5)
    ticks: list[Tick] = []
    rollout(
        log, robot, engine, interpolation_multiplier=4, on_tick=ticks.append, return_to_initial_position=False
    ).run()
    assert robot.sent.tolist() == [[0, 0], [1, 2], [2, 4], [3, 6], [4, 8]]
    assert len(log.of("engine.notify")) == len(log.of("engine.get_action")) == 2
    assert len(log.of("robot.read")) == 1 + 2  # where it stands, and one for each action
    assert [t.emitted_policy_action for t in ticks] == [True, False, False, False, True]
    assert [t.dispatched.step for t in ticks] == [0, 1, 1, 1, 1]


def test_a_policy_that_has_nothing_to_say_is_asked_no_more_often(log):
    engine = FakeEngine(log, [(0, 0), None, None, (3, 3)])
    robot = FakeRobot(log, done_after=4)
    summary = rollout(log, robot, engine, interpolation_multiplier=3, return_to_initial_position=False).run()
    assert robot.sent.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert len(log.of("engine.get_action")) == 4 and len(log.of("robot.read")) == 1 + 4
    assert summary.counts.without_action == 2 * 3 and summary.counts.ticks == 1 + 2 * 3 + 3


def test_commands_come_as_often_as_interpolation_asks_for(log):
    summary = rollout(log, FakeRobot(log), fps=50.0, interpolation_multiplier=4, duration=0.5).run()
    assert summary.counts.ticks + summary.overruns == pytest.approx(100, abs=4)
    assert len(log.of("engine.get_action")) == pytest.approx(25, abs=3)


def test_only_the_policys_own_actions_are_recorded_with_what_it_saw(log):
    engine, recorder = FakeEngine(log, [(0, 0), (4, 8), None]), FakeRecorder(log)
    robot = FakeRobot(log, done_after=7)
    summary = rollout(log, robot, engine, recorder, interpolation_multiplier=3, strategy=sentry()).run()
    (episode,) = recorder.episodes
    assert [frame.action.tolist() for frame in episode] == [[0, 0], [4, 8], [0, 0]]
    seen = [frame.reading for frame in episode]
    assert all(any(reading is notified for notified in engine.notified) for reading in seen)
    assert [frame.dispatched.step for frame in episode] == [0, 1, 3]
    assert summary.counts.frames == 3 and recorder.tasks == ["pick"] and recorder.finalized


def test_it_goes_on_until_its_time_is_over(log):
    summary = rollout(log, robot := FakeRobot(log), duration=0.2).run()
    assert summary.ending is Ending.DURATION and not summary.failed
    assert 0.2 <= summary.duration_s < 1 and summary.counts.ticks + summary.overruns == pytest.approx(40, abs=3)
    assert summary.home == "reached" and np.allclose(list(robot.position.values()), 0, atol=1e-6)


def test_another_thread_stops_it(log):
    stop = threading.Event()
    log.hooks["robot.send", 5] = stop.set
    summary = rollout(log, robot := FakeRobot(log), stop=stop).run()
    assert summary.ending is Ending.STOPPED and not summary.failed and robot.safe
    assert summary.counts.sent == 6 and summary.home == "reached"


def test_it_is_stopped_before_it_begins(log):
    stop = threading.Event()
    log.hooks["robot.connect", 0] = stop.set
    summary = rollout(log, robot := FakeRobot(log), stop=stop).run()
    assert summary.ending is Ending.STOPPED and robot.safe
    assert "robot.send" not in log.names() and summary.home == "never left"


def test_no_server_means_that_nothing_is_energised(log):
    engine = FakeEngine(log, faults={"start": {0: LinkError("want a server", "none", "start one")}})
    recorder = FakeRecorder(log)
    summary = rollout(log, FakeRobot(log), engine, recorder, strategy=sentry()).run()
    assert summary.ending is Ending.ERROR and [p.step for p in summary.problems] == ["start"]
    assert not [name for name in log.names() if name.startswith("robot.")]
    assert log.names()[-1] == "recorder.finalize"
    with pytest.raises(LinkError):
        summary.raise_for_problems()


def test_an_engine_that_gives_up_ends_the_run_at_once_and_says_why(log):
    engine = FakeEngine(log)
    log.hooks["engine.get_action", 4] = lambda: engine.fail(LinkError("want a server", "none for 60 s", "look"))
    summary = rollout(log, robot := FakeRobot(log), engine).run()
    assert summary.ending is Ending.ENGINE_FAILED and isinstance(summary.problems[0].error, LinkError)
    assert robot.safe and summary.home == "reached" and summary.counts.ticks == 5


def test_a_dry_run_sends_the_robot_nothing_and_records_nothing(log):
    ticks: list[Tick] = []
    recorder = FakeRecorder(log)
    summary = rollout(
        log, robot := FakeRobot(log), recorder=recorder, strategy=sentry(), dry_run=True, duration=0.1,
        on_tick=ticks.append,
    ).run()  # fmt: skip
    assert not {"robot.send", "robot.stop", "recorder.add"} & set(log.names())
    assert not robot.connected and recorder.finalized
    assert summary.counts.policy_actions > 5 and summary.counts.sent == 0
    assert ticks[0].action is not None and not ticks[0].sent


def test_it_stays_where_it_is_when_it_is_told_so(log):
    summary = rollout(log, robot := FakeRobot(log, done_after=2), return_to_initial_position=False).run()
    assert summary.home == "not asked for" and len(robot.sent) == 2 and robot.safe


def test_a_robot_of_velocities_is_stopped_and_has_no_home(log):
    wheels = features(actions=("left.vel", "right.vel"), states=("left.vel", "right.vel"))
    summary = rollout(log, robot := FakeRobot(log, wheels, done_after=2)).run()
    assert summary.home.startswith("unknown") and robot.safe and not summary.failed


@pytest.mark.parametrize("row", [(1.0,), (1.0, 2.0, 3.0), (1.0, float("nan")), (float("inf"), 0.0)])
def test_what_cannot_be_an_action_is_never_sent(log, row):
    summary = rollout(log, robot := FakeRobot(log), FakeEngine(log, [row]), return_to_initial_position=False).run()
    assert isinstance(summary.problems[0].error, ContractError)
    assert "robot.send" not in log.names() and robot.safe


def test_a_display_that_fails_stops_nobody(log):
    def broken(tick: Tick) -> None:
        raise RuntimeError("no screen")

    summary = rollout(log, FakeRobot(log, done_after=5), on_tick=broken).run()
    assert not summary.failed and summary.counts.sent == 5


def test_ticks_tell_what_happened(log):
    ticks: list[Tick] = []
    rollout(log, FakeRobot(log, done_after=3), on_tick=ticks.append).run()
    assert [t.number for t in ticks] == [0, 1, 2] and {t.phase for t in ticks} == {Phase.POLICY}
    assert all(t.reading is not None and t.dispatched.source == "policy" and t.lateness_ms >= 0 for t in ticks)
    assert {t.state for t in ticks} == {"STREAMING"}


def test_a_robot_that_reads_too_slowly_is_counted_and_told_once(log, caplog):
    with caplog.at_level(logging.WARNING, logger="edge.rollout"):
        summary = rollout(log, FakeRobot(log, read_s=0.03), fps=50.0, duration=0.3).run()
    assert summary.counts.slow_reads >= 5 and summary.counts.read_max_ms >= 30
    assert summary.overruns >= 3
    assert sum("reading the robot took" in record.message for record in caplog.records) == 1


def test_a_joint_that_tells_nonsense_ends_the_run_before_the_policy_sees_it(log):
    robot = FakeRobot(log)
    log.hooks["robot.send", 3] = lambda: robot.broken.append("b.pos")
    engine = FakeEngine(log)
    summary = rollout(log, robot, engine).run()
    assert isinstance(summary.problems[0].error, RobotError) and "b.pos" in str(summary.problems[0])
    assert robot.safe and all(np.isfinite(reading.state).all() for reading in engine.notified)


def test_a_frozen_camera_ends_the_run_of_a_live_robot(log, monkeypatch):
    monkeypatch.setattr("edge.rollout.reader.FrozenCameras", lambda: _frozen_soon())
    robot = FakeRobot(log, features(cameras={"front": (4, 4)}))
    log.hooks["robot.send", 3] = lambda: setattr(robot, "frozen", True)
    summary = rollout(log, robot, duration=5).run()
    assert isinstance(summary.problems[0].error, RobotError) and "front" in str(summary.problems[0])
    assert robot.safe and summary.duration_s < 2


@pytest.mark.parametrize("frozen_camera, fps", [("warn", None), ("auto", 200.0)])
def test_a_frozen_camera_is_only_told_where_pictures_may_stand(log, caplog, monkeypatch, frozen_camera, fps):
    monkeypatch.setattr("edge.rollout.reader.FrozenCameras", lambda: _frozen_soon())
    robot = FakeRobot(log, dataclasses.replace(features(cameras={"front": (4, 4)}), fps=fps))
    robot.frozen = True
    summary = rollout(log, robot, duration=0.5, frozen_camera=frozen_camera).run()
    assert not summary.failed and sum("front" in record.message for record in caplog.records) == 1


def _frozen_soon():
    return FrozenCameras(frozen_after_s=0.15, look_every_s=0.02)


def test_strategies_refuse_what_they_would_ignore(log):
    with pytest.raises(SettingsError, match="records nothing"):
        rollout(log, FakeRobot(log), recorder=FakeRecorder(log))
    with pytest.raises(SettingsError, match="dataset"):
        rollout(log, FakeRobot(log), strategy=sentry())


def test_a_teleoperator_of_another_robot_is_refused(log):
    with pytest.raises(ContractError, match=r"c\.pos"):
        rollout(log, FakeRobot(log), teleop=FakeTeleop(log, ("a.pos", "c.pos")))
