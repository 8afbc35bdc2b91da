"""Kinds of teleoperators by name: a recording, LeRobot's, and anyone's own as `module:function`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from edge.errors import SettingsError
from edge.robots.factory import call, is_factory
from edge.robots.options import OpenOptions, checked
from edge.robots.registry import LEROBOT_PREFIX
from edge.teleoperators.base import Teleoperator

TELEOPERATORS = ("dataset",)  # ours; every other plain name is a type of LeRobot
FLAG = "--teleop."
METHODS = ("connect", "read", "events", "follow", "release", "disconnect")
VALUES = ("action_names", "can_follow")


def teleop_settings(kind: str) -> type[BaseModel]:
    """The options of a kind. Open for LeRobot's devices and factories, which check theirs when they are made."""
    if kind == "dataset":
        from edge.teleoperators.recorded import RecordedOptions

        return RecordedOptions
    return OpenOptions


def make_teleop(kind: str, options: Mapping[str, Any]) -> Teleoperator:
    """The device, not connected. Raises SettingsError with the nearest kind or option, RobotError when it is not there.

    Kinds: `dataset`, a type that LeRobot registers (`so101_leader`, also `lerobot:so101_leader`), or `module:function`.
    """
    if not kind:
        remedy = f"say {FLAG}type=dataset, a LeRobot type, or module:function"
        raise SettingsError("want a teleoperator", "none", remedy)
    if kind == "dataset":
        from edge.teleoperators.recorded import RecordedOptions, RecordedTeleoperator

        return RecordedTeleoperator(checked(RecordedOptions, options, FLAG))
    if is_factory(kind) and not kind.startswith(LEROBOT_PREFIX):
        return check_teleoperator(call(kind, options, FLAG), kind)
    from edge.teleoperators import lerobot

    return lerobot.make(kind.removeprefix(LEROBOT_PREFIX), options, ours=TELEOPERATORS)


def check_teleoperator(device: Any, kind: str) -> Teleoperator:
    """The device itself when it keeps to the protocol. Raises SettingsError with what is missing."""
    missing = [m for m in METHODS if not callable(getattr(device, m, None))]
    missing += [v for v in VALUES if not hasattr(device, v)]
    if missing:
        wanted = f"want {', '.join((*VALUES, *METHODS))} on what {kind} returns"
        raise SettingsError(wanted, f"no {', '.join(missing)} on {type(device).__name__}", "see docs/robots.md")
    return device
