"""Strategies: what is recorded as which episode, who drives when, and what each key does."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from pydantic import ValidationError

from edge.errors import SettingsError
from edge.rollout import handover, home
from edge.rollout.control import Ending, Phase, Tick
from edge.rollout.loop import Rollout
from edge.rollout.ring import Ring
from edge.rollout.sentry import slice_s
from edge.rollout.settings import RolloutSettings, strategy_settings
from edge.rollout.strategies import STRATEGIES, make_strategy
from edge.state import State
from edge.teleoperators.base import TeleopEvents
from tests.edge.fakes import FakeEngine, FakeKeys, FakeRecorder, FakeRobot, FakeTeleop, Log, features

FPS = 200.0
COUNTING = [(i, -i) for i in range(1000)]  # each action says its own number


@pytest.fixture(autouse=True)
def short_ways(monkeypatch):
    monkeypatch.setattr(home, "HOME_S", 0.06)
    monkeypatch.setattr(handover, "BETWEEN_S", 0.1)
    monkeypatch.setattr(handover, "LEADER_S", 0.1)


class Run:
    """One run of a strategy."""

    def __init__(self, kind: str, options=None, *, keys=None, teleop=None, robot=None, script=COUNTING, **settings):
        self.log = Log()
        self.keys = FakeKeys(keys)
        self.robot = robot(self.log) if robot else FakeRobot(self.log)
        self.engine = FakeEngine(self.log, script)
        self.recorder = FakeRecorder(self.log)
        self.teleop = teleop(self.log) if teleop else None
        self.ticks: list[Tick] = []
        self.pushes: list[int] = []  # episodes there were at each push
        self.stop = threading.Event()
        self.rollout = Rollout(
            self.robot, self.engine, None if kind == "base" else self.recorder,
            RolloutSettings(**({"fps": FPS, "duration": 20.0} | settings)), strategy=make_strategy(kind, options or {}),
            teleop=self.teleop, keys=self.keys, on_tick=self.ticks.append, stop=self.stop,
            push=lambda: self.pushes.append(len(self.recorder.episodes)),
        )  # fmt: skip

    def go(self):
        self.summary = self.rollout.run()
        assert not self.summary.failed, self.summary.problems
        assert self.robot.safe and self.recorder.finalized == (self.rollout.recorder is not None)
        assert not self.recorder.open
        return self

    @property
    def episodes(self) -> list[list[float]]:
        """The first joint of what was recorded, by episode."""
        return [[float(frame.action[0]) for frame in episode] for episode in self.recorder.episodes]


# --- base ---------------------------------------------------------------------------------------------


def test_base_ends_by_escape_and_never_resets_on_the_way():
    run = Run("base", keys={4: "esc"}).go()
    assert run.summary.ending is Ending.KEY and run.summary.counts.sent == 5
    assert run.log.counts["engine.reset"] == run.log.counts["robot.begin_episode"] == 1


# --- episodic -----------------------------------------------------------------------------------------

SHORT = {"num_episodes": 3, "episode_time_s": 0.1, "reset_time_s": 0.05}
LONG = {"num_episodes": 2, "episode_time_s": 10, "reset_time_s": 10}


def test_episodes_are_as_long_as_was_said_and_each_begins_anew():
    run = Run("episodic", SHORT).go()
    assert run.summary.ending is Ending.EPISODES and len(run.episodes) == run.summary.counts.episodes == 3
    for episode in run.episodes:
        assert episode[0] == 0 and len(episode) <= 21  # the engine was reset
    driven = sum(map(len, run.episodes)) + sum(t.phase is Phase.RESET for t in run.ticks)
    assert driven + run.summary.overruns == pytest.approx(3 * 20 + 2 * 10, abs=8)
    assert run.log.counts["robot.begin_episode"] == run.log.counts["engine.reset"] == 3
    assert len(run.log.of("engine.pause")) == 3  # no time after the last episode, but its end


def test_between_episodes_the_engine_rests_and_the_robot_stops_and_goes_back():
    run = Run("episodic", SHORT | {"num_episodes": 2}).go()
    calls = [name for name, _ in run.log.calls]
    pause, again = calls.index("engine.pause"), [i for i, c in enumerate(calls) if c == "robot.begin_episode"][1]
    between = set(calls[pause + 1 : again])
    assert between == {"robot.stop", "robot.read", "robot.send", "recorder.save_episode"}
    sent = [what for name, what in run.log.calls[pause:again] if name == "robot.send"]
    assert len(sent) == handover.BETWEEN_S * home.RATE_HZ and np.allclose(sent[-1], 0, atol=1e-6)
    assert {t.phase for t in run.ticks} == {Phase.POLICY, Phase.RESET}
    assert all(t.action is None for t in run.ticks if t.phase is Phase.RESET)


def test_right_ends_an_episode_and_the_time_after_it():
    run = Run("episodic", LONG, keys={4: "right", 9: "right", 19: "right"}).go()
    assert run.summary.ending is Ending.EPISODES and [len(e) for e in run.episodes] == [5, 10]
    assert sum(t.phase is Phase.RESET for t in run.ticks) == 5


def test_left_throws_an_episode_away_and_records_it_again():
    run = Run("episodic", LONG | {"num_episodes": 1}, keys={4: "left", 9: "right", 19: "right"}).go()
    assert run.recorder.discarded == 1 and [len(e) for e in run.episodes] == [10]
    assert sum(t.phase is Phase.RESET for t in run.ticks) == 5  # things are put back all the same


def test_left_still_throws_it_away_while_things_are_put_back():
    run = Run("episodic", LONG, keys={4: "right", 9: "left", 19: "right", 24: "right", 34: "right"}).go()
    assert run.recorder.discarded == 1 and [len(e) for e in run.episodes] == [10, 10]


def test_escape_keeps_what_was_recorded():
    run = Run("episodic", SHORT | {"episode_time_s": 10}, keys={6: "esc"}).go()
    assert run.summary.ending is Ending.KEY and [len(e) for e in run.episodes] == [7]


def test_escape_after_left_keeps_nothing_of_that_episode():
    run = Run("episodic", SHORT | {"episode_time_s": 10, "reset_time_s": 10}, keys={6: "left", 9: "esc"}).go()
    assert run.episodes == [] and run.recorder.discarded == 1


def test_a_robot_that_is_done_ends_its_episode():
    run = Run("episodic", SHORT | {"episode_time_s": 10}, robot=lambda log: FakeRobot(log, done_after=4)).go()
    assert run.episodes == [[0, 1, 2, 3]] * 3


def test_an_episode_without_actions_is_none():
    run = Run("episodic", SHORT, script=[None], duration=0.5).go()
    assert run.summary.ending is Ending.DURATION and run.episodes == []


def test_a_person_drives_between_episodes_and_the_robot_comes_to_the_leader_first():
    run = Run("episodic", SHORT | {"num_episodes": 2}, teleop=FakeTeleop).go()
    reset = [t.action.tolist() for t in run.ticks if t.phase is Phase.RESET]
    assert len(reset) >= 5 and reset == [[1.0, 2.0]] * len(reset)
    before = run.robot.sent[: len(run.episodes[0]) + 5]
    assert np.abs(np.diff(before[-6:, 0])).max() < 20  # slid there, not jumped
    assert all(frame.dispatched is not None for e in run.recorder.episodes for frame in e)  # none of it is recorded


def test_a_leader_with_motors_comes_to_the_robot_and_is_let_go():
    run = Run("episodic", SHORT | {"num_episodes": 2}, teleop=lambda log: FakeTeleop(log, can_follow=True)).go()
    names = run.log.names()
    assert names.index("teleop.follow") < names.index("teleop.release")
    followed = run.log.of("teleop.follow")
    last = run.episodes[0][-1]
    assert np.allclose(followed[-1], [last, -last], atol=1e-4)


def test_no_handover_when_it_is_not_wanted():
    options = SHORT | {"num_episodes": 2, "smooth_handover": False}
    run = Run("episodic", options, teleop=lambda log: FakeTeleop(log, can_follow=True)).go()
    assert "teleop.follow" not in run.log.names()


def test_buttons_of_a_teleoperator_count_as_keys():
    def teleop(log: Log) -> FakeTeleop:
        made = FakeTeleop(log)
        made.said = [TeleopEvents()] * 4 + [TeleopEvents(rerecord=True)] + [TeleopEvents(end_episode=True)] * 2
        return made

    run = Run("episodic", {"num_episodes": 1, "episode_time_s": 10, "reset_time_s": 10}, teleop=teleop).go()
    assert run.recorder.discarded == 1 and [len(e) for e in run.episodes] == [1]


# --- sentry -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cameras, mb, seconds",
    [
        ({}, 200, 300.0),
        ({"a": (480, 640)}, 200, 200 * 2**20 * 8 / (480 * 640 * 0.1 * 30)),
        ({"a": (480, 640), "b": (240, 320)}, 200, 200 * 2**20 * 8 / (240 * 320 * 0.1 * 30)),
    ],
)
def test_a_slice_is_as_long_as_its_smallest_video_takes_to_grow(cameras, mb, seconds):
    assert slice_s(features(cameras=cameras), 30.0, mb) == pytest.approx(seconds)


def test_everything_is_recorded_in_slices_and_the_policy_notices_nothing():
    size_mb = 8 * 8 * 0.1 * 10 / 8 / 2**20  # ten frames of eight by eight pixels
    robot = lambda log: FakeRobot(log, features(cameras={"a": (8, 8)}), done_after=34)  # noqa: E731
    run = Run("sentry", {"target_video_file_size_mb": size_mb, "upload_every_n_episodes": 2}, robot=robot).go()
    assert [len(e) for e in run.episodes] == [10, 10, 10, 4]
    assert [n for e in run.episodes for n in e] == list(range(34))  # no frame is lost at a cut
    assert run.log.counts["engine.reset"] == 1
    assert run.pushes[-1] == 4 and set(run.pushes) <= {2, 3, 4}


def test_frames_that_sent_nothing_do_not_fill_a_slice():
    size_mb = 8 * 8 * 0.1 * 10 / 8 / 2**20
    robot = lambda log: FakeRobot(log, features(cameras={"a": (8, 8)}), done_after=12)  # noqa: E731
    run = Run("sentry", {"target_video_file_size_mb": size_mb}, robot=robot, script=[(1, 1), None, None]).go()
    assert [len(e) for e in run.episodes] == [10, 2]


# --- highlight ----------------------------------------------------------------------------------------


def ring(seconds: float = 0.05, mb: float = 1.0) -> dict:
    return {"ring_buffer_seconds": seconds, "ring_buffer_max_memory_mb": mb}


def test_a_key_keeps_the_past_and_what_follows_and_the_same_key_ends_it():
    run = Run("highlight", ring(), keys={39: "s", 59: "s", 80: "esc"}).go()
    assert run.episodes == [list(range(30, 60))]  # ten remembered, thirty to thirty-nine; then until the second key
    assert run.summary.ending is Ending.KEY


def test_two_highlights_are_two_episodes_and_overlap_in_nothing():
    run = Run("highlight", ring(), keys={20: "s", 30: "s", 33: "s", 40: "s", 60: "esc"}).go()
    assert run.episodes == [list(range(11, 31)), list(range(31, 41))]


def test_a_highlight_that_has_not_ended_is_saved_at_the_end():
    run = Run("highlight", ring(), keys={20: "s", 25: "esc"}).go()
    assert run.episodes == [list(range(11, 26))]


def test_nothing_is_kept_without_a_key():
    assert Run("highlight", ring(), keys={40: "esc"}).go().episodes == []


def test_the_past_is_written_a_little_at_a_time():
    run = Run("highlight", ring(0.5), keys={120: "s", 125: "esc"})
    per_tick: list[int] = []
    run.rollout._control.on_tick = lambda tick: per_tick.append(run.log.counts["recorder.add"])
    run.go()
    assert max(np.diff(per_tick)) <= 2 and run.episodes == [list(range(21, 126))]


def test_while_the_recorder_is_behind_frames_wait_and_none_is_lost():
    run = Run("highlight", ring(0.5), keys={60: "s", 80: "esc"})
    run.recorder.waiting = 100
    at_end: list[int] = []
    run.rollout._control.on_tick = lambda tick: at_end.append(len(run.recorder.open))
    run.go()
    assert at_end[-1] == 0 and run.episodes == [list(range(0, 81))]


def test_what_waits_is_bounded_by_memory():
    tick_mb = (8 * 8 * 3 + 16) / 2**20
    robot = lambda log: FakeRobot(log, features(cameras={"a": (8, 8)}))  # noqa: E731
    run = Run("highlight", ring(0.05, 10 * tick_mb), keys={20: "s", 80: "esc"}, robot=robot)
    run.recorder.waiting = 100
    waiting: list[int] = []
    run.rollout._control.on_tick = lambda tick: waiting.append(tick.number - 10 - len(run.recorder.open))
    run.go()
    assert max(waiting) <= 22 and run.episodes == [list(range(11, 81))]


def test_a_push_is_asked_for_by_key():
    run = Run("highlight", ring(), keys={5: "s", 15: "s", 60: "h", 90: "esc"}).go()
    assert run.pushes[-1] == 1 and len(run.pushes) == 2  # by key, and at the end


def tick(number: int, size: int = 10) -> Tick:
    robot = FakeRobot(Log(), features(cameras={"a": (size, size)}))
    robot.connected = True
    return Tick(number, Phase.POLICY, robot.read(), np.zeros(2, np.float32), True, True, None, 0, 0, State.STREAMING)


def test_a_ring_is_bounded_by_time_and_by_memory():
    by_time, by_memory = Ring(3, 10**9), Ring(100, 1000)  # a tick is 300 bytes of picture and 16 of numbers
    for number in range(10):
        by_time.add(tick(number))
        by_memory.add(tick(number))
    assert [by_time.take().number for _ in range(len(by_time))] == [7, 8, 9] and by_time.bytes == 0
    assert [t.number for t in by_memory._ticks] == [7, 8, 9] and by_memory.bytes == 3 * 316
    by_memory.unbounded()
    for number in range(10, 20):
        by_memory.add(tick(number))
    assert len(by_memory) == 13


def test_a_tick_larger_than_the_whole_ring_is_not_remembered():
    small = Ring(100, 100)
    small.add(tick(0))
    assert len(small) == 0 and small.bytes == 0


# --- dagger -------------------------------------------------------------------------------------------


def dagger(options=None, keys=None, teleop=FakeTeleop, **more) -> Run:
    return Run("dagger", options, keys=keys, teleop=teleop, **more)


def phases(run: Run) -> list[tuple[Phase, int]]:
    """Who drove for how many ticks."""
    found: list[tuple[Phase, int]] = []
    for t in run.ticks:
        if found and found[-1][0] is t.phase:
            found[-1] = (t.phase, found[-1][1] + 1)
        else:
            found.append((t.phase, 1))
    return found


def test_a_person_pauses_corrects_and_lets_it_go_on():
    run = dagger(keys={9: "space", 14: "tab", 24: "tab", 29: "space", 39: "esc"}).go()
    assert phases(run) == [
        (Phase.POLICY, 10), (Phase.PAUSED, 5), (Phase.CORRECTING, 10), (Phase.PAUSED, 5), (Phase.POLICY, 10)
    ]  # fmt: skip
    assert run.episodes == [[1.0] * 10]  # the correction alone
    assert all(f.extra == {"intervention": True} and f.dispatched is None for f in run.recorder.episodes[0])
    after = [t.action[0] for t in run.ticks[-10:]]
    assert after == list(range(10))  # engine and interpolator begin anew: nothing of before is played


def test_while_paused_the_last_action_is_sent_again_and_nobody_is_asked():
    run = dagger(keys={9: "space", 14: "esc"}).go()
    assert [t.action.tolist() for t in run.ticks[10:]] == [[9, -9]] * 5
    calls = [name for name, _ in run.log.calls]
    paused = calls.index("engine.pause")
    assert calls[paused + 1] == "robot.stop" and len(run.log.of("engine.pause")) == 2  # now, and at the end
    assert not {"engine.get_action", "engine.notify"} & set(calls[paused:])


def test_while_paused_velocities_are_zero():
    mixed = features(actions=("a.pos", "wheel.vel"), states=("a.pos", "wheel.vel"))
    run = dagger(
        keys={9: "space", 14: "esc"}, robot=lambda log: FakeRobot(log, mixed),
        teleop=lambda log: FakeTeleop(log, ("a.pos", "wheel.vel")),
    ).go()  # fmt: skip
    assert [t.action.tolist() for t in run.ticks[10:]] == [[9, 0]] * 5


def test_keys_that_mean_nothing_now_do_nothing():
    run = dagger(keys={3: "tab", 5: ["x", "enter"], 9: "space", 12: "tab", 14: "space", 16: "esc"}).go()
    assert phases(run) == [(Phase.POLICY, 10), (Phase.PAUSED, 3), (Phase.CORRECTING, 4)]


def test_the_robot_slides_to_a_leader_without_motors():
    run = dagger(keys={9: "space", 14: "tab", 20: "esc"}).go()
    sent = run.robot.sent[:, 0]
    (begin,) = [i for i in range(len(sent)) if (sent[i:] == 1.0).any() and (sent[:i] == 9.0).any() and sent[i] < 9][:1]
    way = sent[begin - 1 : begin + 5]
    assert way[0] == 9.0 and way[-1] == 1.0 and (np.diff(way) < 0).all()


def test_joints_that_do_not_tell_where_they_are_slide_from_where_they_were_sent():
    names = ("a.pos", "gripper", "wheel.vel")
    run = dagger(
        keys={9: "space", 14: "tab", 20: "esc"}, script=[(9, 90, 5)],
        robot=lambda log: FakeRobot(log, features(actions=names, states=("a.pos",))),
        teleop=lambda log: FakeTeleop(log, names, pose=(1.0, 10.0, 3.0)),
    ).go()  # fmt: skip
    sent = run.robot.sent
    slide = sent[15 : 15 + round(handover.BETWEEN_S * home.RATE_HZ)]  # after ten of the policy and five while paused
    assert (np.diff(slide[:, :2], axis=0) < 0).all() and slide[-1].tolist() == pytest.approx([1, 10, 0])
    assert (slide[:, 2] == 0).all() and sent[-1, 2] == 0  # and at the end the wheel stands


def test_a_leader_with_motors_comes_to_the_robot_when_it_is_paused():
    run = dagger(
        keys={9: "space", 14: "tab", 20: "esc"}, teleop=lambda log: FakeTeleop(log, can_follow=True)
    ).go()  # fmt: skip
    assert np.allclose(run.log.of("teleop.follow")[-1], [9, -9])
    corrected = [t.action.tolist() for t in run.ticks if t.phase is Phase.CORRECTING]
    assert corrected and np.allclose(corrected, [[9, -9]] * len(corrected))  # it begins where the robot is


def test_a_device_that_says_nothing_leaves_the_robot_where_it_is():
    run = dagger(keys={9: "space", 14: "tab", 20: "esc"}, teleop=lambda log: FakeTeleop(log, pose=None)).go()
    assert [t.action.tolist() for t in run.ticks[10:]] == [[9, -9]] * 11


def test_after_all_corrections_the_run_is_over():
    keys = {4: "space", 6: "tab", 9: "tab", 12: "tab", 14: "tab"}
    run = dagger({"num_episodes": 2}, keys=keys).go()
    assert run.summary.ending is Ending.EPISODES and [len(e) for e in run.episodes] == [3, 2]


def test_everything_is_recorded_when_that_is_wanted_and_corrections_are_told_apart():
    run = dagger({"record_autonomous": True}, keys={9: "space", 14: "tab", 24: "tab", 29: "space", 39: "esc"}).go()
    (episode,) = run.recorder.episodes
    said = [frame.extra["intervention"] for frame in episode]
    assert said == [False] * 10 + [True] * 10 + [False] * 10  # paused ticks are nobody's


def test_a_slice_is_not_cut_within_a_correction():
    size_mb = 8 * 8 * 0.1 * 12 / 8 / 2**20  # twelve frames
    run = dagger(
        {"record_autonomous": True, "target_video_file_size_mb": size_mb},
        keys={9: "space", 11: "tab", 21: "tab", 23: "space", 39: "esc"},
        robot=lambda log: FakeRobot(log, features(cameras={"a": (8, 8)})),
    ).go()  # fmt: skip
    assert [len(e) for e in run.episodes] == [21, 12, 3]


def test_with_interpolation_corrections_are_recorded_at_the_policys_rate():
    run = dagger(keys={7: "space", 8: "tab", 28: "tab", 30: "esc"}, interpolation_multiplier=4, fps=50.0).go()
    assert sum(t.phase is Phase.CORRECTING for t in run.ticks) == 20
    assert [len(e) for e in run.episodes] == [5]


def test_nothing_is_pushed_while_a_correction_is_recorded():
    run = dagger(keys={4: "space", 6: "tab", 8: "enter", 60: "tab", 90: "esc"})
    seen: list[tuple[Phase, int]] = []
    run.rollout._control.on_tick = lambda tick: seen.append((tick.phase, len(run.pushes)))
    run.go()
    assert all(pushes == 0 for phase, pushes in seen if phase is Phase.CORRECTING)
    assert run.pushes and run.pushes[0] == 1  # after it: with the correction


def test_a_device_that_tells_takes_over_by_itself():
    def teleop(log: Log) -> FakeTeleop:
        made = FakeTeleop(log)
        said = [None] * 5 + [True] * 10 + [False] * 5
        made.said = [TeleopEvents(intervention=value) for value in said]
        return made

    run = dagger(keys={25: "esc"}, teleop=teleop).go()
    assert phases(run) == [(Phase.POLICY, 6), (Phase.CORRECTING, 10), (Phase.POLICY, 10)]
    assert run.episodes == [[1.0] * 10]


def test_dagger_is_refused_without_a_teleoperator():
    with pytest.raises(SettingsError, match="teleoperator"):
        dagger(teleop=None)


# --- settings -----------------------------------------------------------------------------------------


def test_a_misspelt_strategy_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean episodic"):
        strategy_settings("episodical")
    with pytest.raises(SettingsError, match="use one of base"):
        strategy_settings("zzz")


def test_every_strategy_has_its_settings():
    assert {name: kind.name for name, (_, kind) in STRATEGIES.items()} == {n: n for n in STRATEGIES}
    assert all(strategy_settings(name) is settings for name, (settings, _) in STRATEGIES.items())


@pytest.mark.parametrize(
    "kind, options",
    [
        ("base", {"x": 1}), ("episodic", {"num_episodes": 0}), ("episodic", {"end_key": "left"}),
        ("highlight", {"save_key": "h"}), ("dagger", {"push_key": "tab"}), ("sentry", {"target_video_file_size_mb": 0}),
        ("highlight", {"ring_buffer_seconds": float("nan")}),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(kind, options):
    with pytest.raises(ValidationError):
        make_strategy(kind, options)
