"""docs/robots.md says what the options are."""

from __future__ import annotations

import re

import pytest

from edge.robots.base import Robot
from edge.robots.factory import check_robot
from edge.robots.registry import ROBOTS, robot_settings
from edge.teleoperators.registry import teleop_settings
from tests.conftest import REPO

PAGE = (REPO / "docs/robots.md").read_text()


@pytest.mark.parametrize("kind", ROBOTS)
def test_every_option_of_a_kind_stands_in_its_table_and_no_other(kind: str) -> None:
    section = re.split(r"^## ", PAGE, flags=re.M)
    (own,) = [s for s in section if s.startswith(f"{kind}:")]
    first_cells = [line.split("|")[1] for line in own.splitlines() if line.startswith("| `")]
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == set(
        robot_settings(kind).model_fields
    )


def test_every_option_of_a_recorded_person_is_named() -> None:
    assert set(re.findall(r"--teleop\.(\w+)", PAGE)) - {"type"} == set(teleop_settings("dataset").model_fields)


def test_the_example_of_a_robot_keeps_to_the_protocol() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    made: dict = {}
    exec(compile(code, "docs/robots.md", "exec"), made)
    robot: Robot = check_robot(made["Cart"](), "docs/robots.md")
    assert robot.features.action_names == ("x.vel",)
