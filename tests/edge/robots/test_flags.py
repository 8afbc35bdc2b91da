"""Options as they come from a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import SettingsError
from edge.robots.dataset import DatasetRobot
from edge.robots.registry import make_robot
from edge.run_settings import load
from edge.teleoperators.registry import make_teleop


def options(*flags: str, section: str = "robot") -> tuple[str, dict]:
    settings = load(["--policy.path=acme/policy", "--task=go", *flags])
    return settings.type_of(section), settings.options(section)


@pytest.mark.parametrize(("said", "cameras"), [("none", 0), ("all", 2), ("front", 1), ("front,side", 2)])
def test_a_recording_by_flags(generated_dataset: Path, said: str, cameras: int) -> None:
    flags = [f"--robot.root={generated_dataset}", "--robot.episode=2", f"--robot.cameras={said}", "--robot.tolerance=0"]
    robot = make_robot(*options("--robot.type=dataset", *flags))
    assert isinstance(robot, DatasetRobot)
    assert len(robot.features.cameras) == cameras
    assert (robot.episode_index, robot.options.tolerance) == (2, 0.0)


def test_an_environment_by_flags() -> None:
    pytest.importorskip("gym_pusht")
    flags = [
        "--robot.env=gym_pusht/PushT-v0", "--robot.env_kwargs={obs_type: pixels_agent_pos}", "--robot.seed=1",
        "--robot.cameras={front: pixels}", "--robot.state_names=a,b", "--robot.action_names=x,y",
        "--robot.action_scale=256", "--robot.action_offset=256,256", "--robot.env_kwargs.visualization_width=64",
    ]  # fmt: skip
    robot = make_robot(*options("--robot.type=gym", *flags))
    assert robot.features.cameras == {"front": (96, 96)}
    assert robot.features.state_names == ("a", "b")
    assert list(robot.features.action_min) == [-1, -1] and list(robot.features.action_max) == [1, 1]
    robot.disconnect()


def test_a_factory_and_its_teleoperator_by_flags() -> None:
    flags = ["--robot.type=tests.edge.robots.someones:cart", "--robot.speed=2.5"]
    assert make_robot(*options(*flags)).speed == 2.5
    teleop = ["--teleop.type=tests.edge.robots.someones:stick", "--teleop.follows=false"]
    assert not make_teleop(*options(*flags, *teleop, section="teleop")).can_follow


def test_lerobots_options_keep_their_shape() -> None:
    cameras = "{front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}"
    kind, found = options(
        "--robot.type=so101_follower", "--robot.port=/dev/ttyACM0", f"--robot.cameras={cameras}", "--robot.id=blue"
    )
    assert kind == "so101_follower"
    assert found["port"] == "/dev/ttyACM0"
    assert found["cameras"]["front"]["width"] == 640


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--robot.type=dataset", "--robot.rot=x"], "--robot.root"),
        (["--robot.type=gym", "--robot.evn=x"], "--robot.env"),
    ],
)
def test_slips_in_flags_are_named(flags: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        options(*flags)
