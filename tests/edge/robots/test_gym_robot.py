"""An environment as a robot: gym-pusht closed loop, and the map from spaces to numbers, pictures and names."""

from __future__ import annotations

import numpy as np
import pytest

from edge.errors import RobotError, SettingsError
from edge.robots.registry import make_robot
from edge.robots.watch import check_reading

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("gym_pusht")

PUSHT = {"env": "gym_pusht/PushT-v0", "env_kwargs": {"obs_type": "pixels_agent_pos"}, "seed": 3}


class Toy(gymnasium.Env):
    """One number of each kind; the reward is the action. Ends after three steps, in success."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space = gymnasium.spaces.Box(-2.0, 4.0, (2,), np.float64)
    observation_space = gymnasium.spaces.Dict(
        arm=gymnasium.spaces.Dict(joints=gymnasium.spaces.Box(-9, 9, (2,), np.float64)),
        mode=gymnasium.spaces.Discrete(5),
        eye=gymnasium.spaces.Box(0, 255, (6, 8, 3), np.uint8),
        depth=gymnasium.spaces.Box(0, 1, (6, 8), np.float32),
    )

    def __init__(self, render_mode: str | None = None, fails_at: int = -1, space: str = "") -> None:
        self.render_mode, self.fails_at = render_mode, fails_at
        self.steps, self.seeds, self.taken, self.closed = 0, [], [], 0
        self.buffer = np.zeros((6, 8, 3), np.uint8)
        if space:
            self.action_space = {
                "discrete": gymnasium.spaces.Discrete(3, start=1),
                "binary": gymnasium.spaces.MultiBinary(2),
                "many": gymnasium.spaces.MultiDiscrete([3, 4]),
                "text": gymnasium.spaces.Text(3),
            }[space]

    def _seen(self) -> dict:
        self.buffer[:] = self.steps  # the same buffer every time
        joints = np.array([self.steps, -self.steps], np.float64)
        return {"arm": {"joints": joints}, "mode": self.steps % 5, "eye": self.buffer, "depth": np.zeros((6, 8))}

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action):
        if self.steps == self.fails_at:
            raise ValueError("the motor broke")
        self.taken.append(action)
        self.steps += 1
        return self._seen(), float(np.sum(action)), self.steps == 3, False, {"is_success": self.steps == 3}

    def render(self):
        return np.full((12, 16, 3), 100 + self.steps, np.uint8)

    def close(self) -> None:
        self.closed += 1


gymnasium.register("cuebook-tests/Toy-v0", entry_point=Toy)


def robot(**options):
    made = make_robot("gym", {"env": "cuebook-tests/Toy-v0", **options})
    made.connect()
    return made


def inner(made) -> Toy:
    return made._env.unwrapped


def test_a_controller_drives_gym_pusht_to_where_it_wants() -> None:
    driven = make_robot("gym", PUSHT)
    assert driven.features.fps == 10
    assert driven.features.state_names == ("agent_pos_0", "agent_pos_1")
    assert driven.features.cameras == {"pixels": (96, 96)}
    assert list(driven.features.action_max) == [512, 512]
    driven.connect()
    first = driven.read()
    check_reading(first, driven.features)
    target = np.array([400.0, 90.0], np.float32)
    for _ in range(40):
        reading = driven.read()
        driven.send(reading.state + 0.5 * (target - reading.state))
    reading = driven.read()
    assert np.abs(reading.state - target).max() < 5
    assert not np.array_equal(first.images["pixels"], reading.images["pixels"])
    driven.begin_episode()
    assert np.abs(driven.read().state - target).max() > 5
    (report, *_) = driven.report()["episodes"]
    assert report["steps"] == 40 and report["success"] is False
    driven.disconnect()


def test_the_same_seed_begins_the_same_way_and_the_next_episode_another_way() -> None:
    starts = []
    for _ in range(2):
        driven = make_robot("gym", PUSHT)
        driven.connect()
        first = driven.read().state
        driven.send(first)
        driven.begin_episode()
        starts.append((first, driven.read().state))
        driven.disconnect()
    assert (starts[0][0] == starts[1][0]).all() and (starts[0][1] == starts[1][1]).all()
    assert (starts[0][0] != starts[0][1]).any()


def test_numbers_pictures_and_names_are_mapped() -> None:
    driven = robot()
    assert driven.features.state_names == ("arm.joints_0", "arm.joints_1", "mode")
    assert driven.features.action_names == ("action_0", "action_1")
    assert driven.features.cameras == {"eye": (6, 8)}
    assert driven.features.fps == 20
    driven.disconnect()
    driven = robot(
        state=["mode", "arm.joints"], state_names=["m", "a", "b"], action_names=["x.vel", "y.vel"], fps=5,
        cameras={"front": "eye", "top": "render"}, state_scale=[1, 10, 10], state_offset=1,
    )  # fmt: skip
    assert driven.features.cameras == {"front": (6, 8), "top": (12, 16)}
    assert driven.features.fps == 5
    driven.send(np.zeros(2, np.float32))
    reading = driven.read()
    check_reading(reading, driven.features)
    assert list(reading.state) == [2, 11, -9]
    assert (reading.images["top"] == 101).all() and (reading.images["front"] == 1).all()
    driven.disconnect()


def test_a_reading_stays_as_it_was_when_the_environment_draws_again() -> None:
    driven = robot()
    before = driven.read()
    driven.send(np.zeros(2, np.float32))
    driven.read()
    assert (before.images["eye"] == 0).all()
    driven.disconnect()


def test_actions_are_scaled_and_held_to_the_space_and_what_was_sent_is_told() -> None:
    driven = robot(action_scale=[3, -3], action_offset=1)
    assert list(driven.features.action_min) == [-1, -1]
    assert list(driven.features.action_max) == [1, 1]
    sent = driven.send(np.array([0.5, 7.0], np.float32))
    assert list(inner(driven).taken[0]) == [2.5, -2.0]
    assert list(sent) == [0.5, 1.0]
    driven.disconnect()


@pytest.mark.parametrize(
    ("space", "asked", "taken"),
    [("discrete", [2.4], 2), ("discrete", [9.0], 3), ("binary", [0.2, 0.8], [0, 1]), ("many", [1.6, 9.0], [2, 3])],
)
def test_whole_numbers_are_rounded(space: str, asked: list[float], taken: object) -> None:
    driven = robot(env_kwargs={"space": space})
    driven.send(np.array(asked, np.float32))
    assert np.array_equal(inner(driven).taken[0], taken)
    driven.disconnect()


def test_nothing_happens_between_commands_nor_after_the_end() -> None:
    driven = robot()
    for _ in range(3):
        assert not driven.done
        driven.read()
        driven.read()
        driven.send(np.ones(2, np.float32))
    assert driven.done
    driven.send(np.ones(2, np.float32))
    driven.stop()
    assert inner(driven).steps == 3
    driven.begin_episode()
    driven.begin_episode()  # has just begun
    assert not driven.done
    assert len(inner(driven).seeds) == 2
    report = driven.report()
    assert report["episodes"] == [{"steps": 3, "reward": 6.0, "success": True, "ended": "terminated"}]
    assert report["successes"] == 1
    driven.disconnect()
    driven.disconnect()
    with pytest.raises(RobotError, match="connected"):
        driven.read()


def test_what_an_environment_raises_is_told() -> None:
    driven = robot(env_kwargs={"fails_at": 1})
    driven.send(np.ones(2, np.float32))
    with pytest.raises(RobotError, match="the motor broke"):
        driven.send(np.ones(2, np.float32))
    driven.disconnect()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"env": None}, SettingsError, "--robot.env"),
        ({"evn": "x"}, SettingsError, "did you mean --robot.env"),
        ({"seed": -1}, SettingsError, "--robot.seed"),
        ({"action_scale": [1, 0]}, SettingsError, "--robot.action_scale"),
        ({"env": "cuebook-tests/Toi-v0"}, RobotError, "did you mean cuebook-tests/Toy-v0"),
        ({"env": "nowhere/Toy-v0"}, RobotError, "install its package"),
        ({"env_kwargs": {"colour": 1}}, RobotError, "--robot.env_kwargs"),
        ({"env_kwargs": {"space": "text"}}, RobotError, "wrap its actions"),
        ({"state": ["mod"]}, RobotError, "did you mean mode"),
        ({"state": ["eye"]}, RobotError, "--robot.cameras"),
        ({"cameras": {"front": "eyes"}}, RobotError, "did you mean eye"),
        ({"cameras": {"front": "depth"}}, RobotError, "render"),
        ({"state_names": ["a"]}, RobotError, "3 different names in --robot.state_names"),
        ({"action_names": ["a", "a"]}, RobotError, "2 different names in --robot.action_names"),
        ({"action_scale": [1, 2, 3]}, RobotError, "one number, or 2, in --robot.action_scale"),
    ],
)
def test_wrong_options_name_the_flag(options: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make_robot("gym", {"env": "cuebook-tests/Toy-v0", **options})
