"""Kinds of robots by name: ours, LeRobot's, and anyone's own as `module:function`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from edge.errors import SettingsError
from edge.robots.base import Robot
from edge.robots.factory import is_factory
from edge.robots.options import OpenOptions, checked

ROBOTS = ("dataset", "gym")  # ours; every other plain name is a type of LeRobot
LEROBOT_PREFIX = "lerobot:"  # says that LeRobot's is meant, where a name could be anything
FLAG = "--robot."


def robot_settings(kind: str) -> type[BaseModel]:
    """The options of a kind. Open for LeRobot's robots and factories, which check theirs when they are made."""
    if kind == "dataset":
        from edge.robots.dataset import DatasetOptions

        return DatasetOptions
    if kind == "gym":
        from edge.robots.gym import GymOptions

        return GymOptions
    return OpenOptions


def make_robot(kind: str, options: Mapping[str, Any]) -> Robot:
    """The robot, not connected. Raises SettingsError with the nearest kind or option, RobotError when it is not there.

    Kinds: `dataset`, `gym`, a type that LeRobot registers (`so101_follower`, also `lerobot:so101_follower`), or
    `module:function`.
    """
    if not kind:
        remedy = f"say {FLAG}type={'|'.join(ROBOTS)}, a LeRobot type, or module:function"
        raise SettingsError("want a robot", "none", remedy)
    if kind in ROBOTS:
        settings: Any = checked(robot_settings(kind), options, FLAG)  # type: ignore[type-var]
        if kind == "dataset":
            from edge.robots.dataset import DatasetRobot

            return DatasetRobot(settings)
        from edge.robots.gym import GymRobot

        return GymRobot(settings)
    if is_factory(kind) and not kind.startswith(LEROBOT_PREFIX):
        from edge.robots import factory

        return factory.make(kind, options)
    from edge.robots import lerobot

    return lerobot.make(kind.removeprefix(LEROBOT_PREFIX), options, ours=ROBOTS)
