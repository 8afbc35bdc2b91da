"""Anyone's own robot: `module:function` returns an object that keeps to the protocol in `edge.robots.base`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from configuration.factory import find
from configuration.flags import nearest
from edge.errors import EdgeError, RobotError, SettingsError
from edge.robots.base import Robot, RobotFeatures

METHODS = ("connect", "read", "send", "begin_episode", "stop", "disconnect")
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def is_factory(kind: str) -> bool:
    """Whether a kind has the form module:function."""
    return bool(_NAME.fullmatch(kind))


def make(kind: str, options: Mapping[str, Any]) -> Robot:
    """Call the factory with the options as keyword arguments, and check what it returns. Raises SettingsError."""
    return check_robot(call(kind, options, "--robot."), kind)


def call(kind: str, options: Mapping[str, Any], flag: str) -> Any:
    """What a factory returns. Raises SettingsError where it cannot be called; its own EdgeErrors pass."""
    factory = find(kind, SettingsError)
    _check_arguments(factory, kind, options, flag)
    try:
        return factory(**options)
    except EdgeError:
        raise
    except Exception as err:
        raise SettingsError(f"want {kind} to return", f"{type(err).__name__}: {err}", "mend it") from err


def _check_arguments(factory: Callable[..., Any], kind: str, options: Mapping[str, Any], flag: str) -> None:
    signature = inspect.signature(factory)
    try:
        signature.bind(**options)
        return
    except TypeError as err:
        wrong = str(err)
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [p.name for p in signature.parameters.values() if p.kind in keyword]
    near = next((hint for name in options if name not in known and (hint := nearest(name, known, flag))), "")
    raise SettingsError(f"want options that fit {kind}{signature}", wrong, near or f"correct {flag}…")


def check_robot(robot: Any, kind: str) -> Robot:
    """The robot itself when it keeps to the protocol. Raises SettingsError with what is missing."""
    features = getattr(robot, "features", None)
    if not isinstance(features, RobotFeatures):
        got = f"{type(features).__name__} from {type(robot).__name__}"
        raise SettingsError(f"want {kind} to return a robot with features: RobotFeatures", got, "see docs/robots.md")
    missing = [m for m in METHODS if not callable(getattr(robot, m, None))]
    missing += [] if hasattr(robot, "done") else ["done"]
    if missing:
        wanted = f"want {', '.join(METHODS)} and done on {type(robot).__name__}"
        raise SettingsError(wanted, f"no {', '.join(missing)}", "see docs/robots.md")
    if wrong := _wrong(features):
        raise SettingsError(f"want features of {kind} that fit together", "; ".join(wrong), "correct RobotFeatures")
    return robot


def _wrong(features: RobotFeatures) -> list[str]:
    wrong = []
    for what in ("state_names", "action_names"):
        names = getattr(features, what)
        if twice := sorted({n for n in names if names.count(n) > 1}):
            wrong.append(f"{what} has {', '.join(twice)} twice")
    if not features.action_names:
        wrong.append("action_names is empty")
    for name, size in features.cameras.items():
        if len(size) != 2 or min(size) < 1:
            wrong.append(f"camera {name} has size {size}, not (height, width)")
    for what in ("action_min", "action_max"):
        limits = getattr(features, what)
        if limits is not None and np.shape(limits) != (len(features.action_names),):
            wrong.append(f"{what} has shape {np.shape(limits)} for {len(features.action_names)} actions")
    if features.fps is not None and not features.fps > 0:
        wrong.append(f"fps {features.fps:g} is not above 0")
    return wrong


def check_action(action: np.ndarray, features: RobotFeatures) -> None:
    """Raise RobotError unless an action has one finite number a name."""
    if action.shape != (len(features.action_names),):
        wanted = f"want an action of {len(features.action_names)} numbers"
        raise RobotError(wanted, f"shape {action.shape}", f"send {', '.join(features.action_names)}")
    if not np.isfinite(action).all():
        bad = ", ".join(n for n, v in zip(features.action_names, action, strict=True) if not np.isfinite(v))
        raise RobotError("want finite numbers in an action", f"NaN or infinity for {bad}", "look at the policy")
