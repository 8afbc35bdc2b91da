"""Kinds of robots and teleoperators by name, and what is said when a name, an option or a factory is wrong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edge.errors import ContractError, RobotError, SettingsError
from edge.robots.registry import make_robot, robot_settings
from edge.teleoperators.base import InOrder
from edge.teleoperators.registry import make_teleop

HERE = "tests.edge.robots.someones"


def test_a_factory_gets_the_options_and_its_robot_is_driven() -> None:
    made = make_robot(f"{HERE}:cart", {"speed": 2.0})
    made.send(np.array([3.0], np.float32))
    assert made.v == 6.0
    made.stop()
    assert made.v == 0.0


@pytest.mark.parametrize(
    ("kind", "options", "error", "said"),
    [
        (f"{HERE}:carts", {}, SettingsError, "did you mean cart"),
        (f"{HERE}:cart", {"sped": 1}, SettingsError, "did you mean --robot.speed"),
        (f"{HERE}:broken", {}, SettingsError, "no such port"),
        (f"{HERE}:unplugged", {}, RobotError, "plug it in"),
        (f"{HERE}:headless", {}, SettingsError, "RobotFeatures"),
        (f"{HERE}:mute", {}, SettingsError, "no stop"),
        (f"{HERE}:doubled", {}, SettingsError, "action_names has x.vel twice"),
        ("nowhere_at_all:robot", {}, SettingsError, "want a module nowhere_at_all"),
        ("", {}, SettingsError, "--robot.type=dataset"),
    ],
)
def test_wrong_factories_are_named(kind: str, options: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make_robot(kind, options)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tests/compat tries this with lerobot")
@pytest.mark.parametrize(
    ("kind", "said"),
    [("datset", "did you mean dataset"), ("gim", "did you mean gym"), ("so101_follower", r"cuebook\[lerobot\]")],
)
def test_unknown_kinds_get_the_nearest_of_ours(kind: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_robot(kind, {})


def test_options_of_our_kinds_have_a_schema() -> None:
    assert set(robot_settings("dataset").model_fields) >= {"root", "episode", "tolerance"}
    assert robot_settings("so101_follower").model_config["extra"] == "allow"
    assert all(f.description for kind in ("dataset", "gym") for f in robot_settings(kind).model_fields.values())


def test_naming_kinds_loads_nothing_heavy() -> None:
    code = """
import sys
from edge.robots.registry import robot_settings
from edge.teleoperators.registry import teleop_settings
robot_settings("dataset"), robot_settings("gym"), teleop_settings("dataset")
print([m for m in ("torch", "lerobot", "pyarrow", "av", "gymnasium", "cv2", "PIL", "zenoh") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_teleoperator_speaks_in_the_robots_order() -> None:
    made = make_teleop(f"{HERE}:stick", {})
    teleop = InOrder(made, ("a", "b"))
    assert list(teleop.read()) == [1, 2]
    assert teleop.follow(np.array([5, 6], np.float32))
    assert list(made.led[0]) == [6, 5]


@pytest.mark.parametrize("names", [("a", "c"), ("a",), ("a", "b", "c")])
def test_a_teleoperator_of_another_robot_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ContractError, match=r"missing: [\s\S]*foreign: "):
        InOrder(make_teleop(f"{HERE}:stick", {}), names)


def test_a_recorded_person_does_it_again(generated_dataset) -> None:
    from tests.edge.robots.test_dataset_robot import recorded

    _, actions = recorded(generated_dataset, 1)
    teleop = make_teleop("dataset", {"root": str(generated_dataset), "episode": 1})
    assert teleop.action_names == make_robot("dataset", {"root": str(generated_dataset)}).features.action_names
    teleop.connect()
    assert all((teleop.read() == action).all() for action in actions)
    assert teleop.read() is None
    assert not teleop.follow(actions[0])
    teleop.disconnect()
    with pytest.raises(RobotError, match="connected"):
        teleop.read()


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("dataset", {"rot": "x"}, "did you mean --teleop.root"),
        ("dataset", {}, "give --teleop.root"),
        (f"{HERE}:cart", {}, "no events, follow, release"),
        (f"{HERE}:stick", {"folows": True}, "did you mean --teleop.follows"),
        ("", {}, "--teleop.type=dataset"),
    ],
)
def test_wrong_teleoperators_are_named(kind: str, options: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_teleop(kind, options)
