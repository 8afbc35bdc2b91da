"""Gymnasium's spaces as numbers and pictures with names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configuration.flags import nearest
from edge.errors import RobotError

WHOLE = "observation"  # key of an observation that is no mapping
NUMBERS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")


def kind_of(space: Any) -> str:
    """The name of a space's class."""
    return type(space).__name__


def flat_spaces(space: Any, prefix: str = "") -> dict[str, Any]:
    """Spaces of an observation by dotted key; `observation` for one that is no mapping."""
    if kind_of(space) != "Dict":
        return {prefix or WHOLE: space}
    found = {}
    for key, inner in space.spaces.items():
        found.update(flat_spaces(inner, f"{prefix}.{key}" if prefix else str(key)))
    return found


def value_at(observation: Any, key: str) -> Any:
    """What an observation holds at a dotted key."""
    if isinstance(observation, Mapping):
        for part in key.split(".") if key not in observation else [key]:
            observation = observation[part]
    return observation


def is_picture(space: Any) -> bool:
    """Whether a space is of uint8 RGB pictures, (height, width, 3)."""
    return kind_of(space) == "Box" and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3


def size_of(space: Any) -> int:
    """How many numbers a value of a space is."""
    return 1 if kind_of(space) == "Discrete" else int(np.prod(space.shape))


def vector_keys(spaces: Mapping[str, Any], asked: Sequence[str] | None) -> list[str]:
    """Keys that make the state: those asked for, else every number and list of numbers. Raises RobotError."""
    if asked is None:
        return [k for k, s in spaces.items() if kind_of(s) in NUMBERS and len(s.shape or ()) <= 1]
    for key in asked:
        if key not in spaces:
            raise _no_key(key, spaces, "--robot.state")
        if kind_of(spaces[key]) not in NUMBERS or is_picture(spaces[key]):
            wanted = "want numbers in --robot.state"
            raise RobotError(wanted, f"{key} is {spaces[key]}", "give pictures to --robot.cameras")
    return list(asked)


def picture_keys(spaces: Mapping[str, Any], asked: Mapping[str, str] | None, rendered: str) -> dict[str, str]:
    """Camera name -> key: those asked for, else every picture by its own key. Raises RobotError."""
    if asked is None:
        return {k: k for k, s in spaces.items() if is_picture(s)}
    for key in asked.values():
        if key == rendered:
            continue
        if key not in spaces:
            raise _no_key(key, {**spaces, rendered: None}, "--robot.cameras")
        if not is_picture(spaces[key]):
            wanted = "want uint8 pictures (height, width, 3) in --robot.cameras"
            raise RobotError(wanted, f"{key} is {spaces[key]}", f"take {rendered}, or wrap the environment")
    return dict(asked)


def _no_key(key: str, spaces: Mapping[str, Any], flag: str) -> RobotError:
    remedy = nearest(key, list(spaces)) or f"it has {', '.join(spaces)}"
    return RobotError(f"want keys of the environment's observation in {flag}", repr(key), remedy)


def numbered(key: str, count: int) -> list[str]:
    """A name for each number of a value."""
    return [key] if count == 1 else [f"{key}_{i}" for i in range(count)]


@dataclass(frozen=True)
class ActionSpace:
    """An environment's actions as float vectors."""

    space: Any
    low: np.ndarray  # float64 (actions,), the environment's units; infinite where there is no limit
    high: np.ndarray
    whole: bool  # whole numbers only

    @classmethod
    def of(cls, space: Any) -> ActionSpace:
        """Raises RobotError for a space that no vector of numbers names a point of."""
        kind = kind_of(space)
        if kind == "Box":
            whole = np.issubdtype(space.dtype, np.integer)
            return cls(space, space.low.reshape(-1).astype(float), space.high.reshape(-1).astype(float), whole)
        if kind == "Discrete":
            start = float(space.start)
            return cls(space, np.array([start]), np.array([start + space.n - 1]), True)
        if kind == "MultiDiscrete" and space.nvec.ndim == 1:
            start = space.start.astype(float)
            return cls(space, start, start + space.nvec - 1, True)
        if kind == "MultiBinary":
            size = size_of(space)
            return cls(space, np.zeros(size), np.ones(size), True)
        wanted = "want an environment whose actions are numbers (Box, Discrete, MultiDiscrete, MultiBinary)"
        raise RobotError(wanted, str(space), "wrap its actions")

    @property
    def size(self) -> int:
        """Numbers of an action."""
        return len(self.low)

    def inside(self, action: np.ndarray) -> np.ndarray:
        """The nearest action that the space holds, float64 (actions,)."""
        limited = np.clip(action, self.low, self.high)
        return np.round(limited) if self.whole else limited

    def value(self, action: np.ndarray) -> Any:
        """An action as the environment takes it."""
        if kind_of(self.space) == "Discrete":
            return int(action[0])
        return action.astype(self.space.dtype).reshape(self.space.shape)
