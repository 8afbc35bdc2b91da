"""What may be sent to a robot: whole chunks of finite numbers, within limits; and what is sent when there is nothing.

Joints go by the ending of their names: silence lets a `.vel` joint keep its last velocity, so it is told to stop;
any other holds where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

import numpy as np

from edge.errors import ChunkError, SettingsError
from edge.robots.base import RobotFeatures, is_velocity
from edge.settings import SafetySettings

DTYPES = (np.float32, np.float16)  # of chunks; float16 holds nothing that float32 does not
ROUNDING = 1e-6  # of the numbers compared: what float32 leaves of a step that is just allowed

REPEAT_LAST, STOP, HOLD = "repeat_last", "stop", "hold"  # sources of what is sent without a policy

T = TypeVar("T")


class Limits:
    """Where joints may be and how far they may move in one control step; float32 (actions,), infinite where any."""

    def __init__(self, safety: SafetySettings, features: RobotFeatures, action_names: Sequence[str]) -> None:
        """Settings and the robot's own limits together, in the order of `action_names`. Raises SettingsError."""
        names = tuple(action_names)
        ranges = _by_joint(safety.range, names, "range")
        steps = _by_joint(safety.step_max, names, "step_max")
        own_low = _of_robot(features.action_min, features, names, -np.inf)
        own_high = _of_robot(features.action_max, features, names, np.inf)
        self.names = names
        self.low = np.array([max(own, ranges.get(n, (own,))[0]) for n, own in zip(names, own_low, strict=True)], "f4")
        self.high = np.array(
            [min(own, ranges.get(n, (own,))[-1]) for n, own in zip(names, own_high, strict=True)], "f4"
        )
        self.step = np.array([steps.get(n, np.inf) for n in names], "f4")
        if len(empty := np.flatnonzero(self.low > self.high)):
            name, own = names[empty[0]], f"[{own_low[empty[0]]:g}, {own_high[empty[0]]:g}]"
            wanted = f"want safety.range.{name} to share something with the robot's own {own}"
            raise SettingsError(wanted, str(list(ranges.get(name, ()))), "give it in the robot's units")
        self.has_range = bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())
        self.has_step = bool(np.isfinite(self.step).any())


def check_chunk(robot: np.ndarray | None, model: np.ndarray | None, action_dim: int, rows_max: int) -> None:
    """Raise ChunkError unless `robot` is finite float (1 … rows_max, action_dim), and `model`, if any, its like."""
    shape = f"float32 (1 to {rows_max}, {action_dim})"
    if robot is None:
        raise _chunk_error(f"want actions, {shape}", "none")
    for name, array in (("chunk_robot", robot), ("chunk_model", model)):
        if array is None:
            continue
        if array.ndim != 2 or array.dtype not in DTYPES:
            raise _chunk_error(f"want {name} {shape}", f"{array.dtype} {array.shape}")
        if array.shape[1] != action_dim or not 1 <= array.shape[0] <= rows_max:
            raise _chunk_error(f"want {name} {shape}", str(array.shape))
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0].tolist()
            raise _chunk_error(f"want finite numbers in {name}", f"{array[row, column]} in row {row}, column {column}")
    if model is not None and model.shape[0] != robot.shape[0]:
        raise _chunk_error("want as many rows in chunk_model as in chunk_robot", f"{len(model)} and {len(robot)}")


def check_limits(limits: Limits, rows: np.ndarray, last: np.ndarray | None) -> None:
    """Raise ChunkError when a row, float (rows, actions), is out of range or a step further than allowed.

    `last` (actions,) is what was executed before the first row; None when nothing was.
    """
    wide = rows.astype(np.float64)
    if limits.has_range:
        beyond = np.argwhere((wide < limits.low) | (wide > limits.high))
        if len(beyond):
            row, joint = beyond[0].tolist()
            wanted = f"want {limits.names[joint]} within [{limits.low[joint]:g}, {limits.high[joint]:g}]"
            raise _limit_error(wanted, f"{wide[row, joint]:g} in row {row}")
    if limits.has_step and len(wide):
        before = np.vstack([wide[0] if last is None else last, wide[:-1]])
        moved = np.abs(wide - before)
        allowed = limits.step + ROUNDING * (limits.step + np.abs(wide))
        beyond = np.argwhere(moved > allowed)
        if len(beyond):
            row, joint = beyond[0].tolist()
            wanted = f"want {limits.names[joint]} to move at most {limits.step[joint]:g} in one step"
            raise _limit_error(wanted, f"{moved[row, joint]:g} to row {row}")


def limit(limits: Limits, action: np.ndarray, last: np.ndarray | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """The nearest action that is allowed, and which joints had to give way; float32 (actions,).

    The step counts for more than the range: a joint that stands out of range comes back step by step. The array given
    is returned as it is where nothing gives way, and is never written to.
    """
    near = action
    if limits.has_range:
        near = np.minimum(np.maximum(near, limits.low), limits.high)
    if limits.has_step and last is not None:
        near = np.fmin(np.fmax(near, last - limits.step), last + limits.step)  # a `last` that is NaN limits nothing
    if near is action:
        return action, ()
    changed = (near != action).nonzero()[0]
    return (near, tuple(changed.tolist())) if len(changed) else (action, ())


class Fallback:
    """What is sent while there is no action: see InferenceSettings.fallback. Raises SettingsError for an unsafe one."""

    def __init__(self, kind: str, action_names: Sequence[str], repeat_last_max_s: float) -> None:
        self._kind = kind
        self._repeat_last_max_s = repeat_last_max_s
        self._velocity = np.array([is_velocity(name) for name in action_names], bool)
        if kind == "zero" and not self._velocity.all():
            other = next(name for name in action_names if not is_velocity(name))
            wanted = "want velocities only where the fallback is zero: it drives any other joint to position 0"
            raise SettingsError(wanted, other, "set --inference.fallback=stop: velocities to zero, positions held")

    def action(self, last: np.ndarray | None, starved_s: float) -> tuple[np.ndarray | None, str]:
        """What to send, float32 (actions,), None for nothing, and its source.

        `last` is what was executed last, None before the first action; `starved_s` how long there has been none.
        """
        if self._kind == REPEAT_LAST and last is not None and starved_s <= self._repeat_last_max_s:
            return last.copy(), REPEAT_LAST
        if self._kind in (HOLD, REPEAT_LAST) and not self._velocity.any():
            return None, HOLD  # silence holds positions
        if last is None:
            if not self._velocity.all():
                return None, HOLD  # where the positions are to be held, nobody has said yet
            return np.zeros(len(self._velocity), np.float32), STOP
        return np.where(self._velocity, np.float32(0), last), STOP


def _by_joint(settings: Mapping[str, T], names: tuple[str, ...], what: str) -> dict[str, T]:
    """Settings by full action name. A name may leave its ending out where only one joint begins so."""
    found: dict[str, T] = {}
    for given, value in settings.items():
        meant = [n for n in names if n == given] or [n for n in names if n.rpartition(".")[0] == given]
        if len(meant) != 1:
            near = meant or get_close_matches(given, names, n=1, cutoff=0.0)
            raise SettingsError(
                f"want joints of this robot in safety.{what}", given, f"did you mean {', '.join(near)}?"
            )
        if meant[0] in found:
            raise SettingsError(f"want each joint once in safety.{what}", f"{meant[0]} twice", "take one away")
        found[meant[0]] = value
    return found


def _of_robot(own: np.ndarray | None, features: RobotFeatures, names: tuple[str, ...], unlimited: float) -> list[float]:
    """The robot's own limits in the order of `names`."""
    if own is None:
        return [unlimited] * len(names)
    if len(own) != len(features.action_names):
        wanted = f"want {len(features.action_names)} limits of {features.robot_type}, one an action"
        raise SettingsError(wanted, str(len(own)), "mend the robot's features")
    known = dict(zip(features.action_names, np.asarray(own, np.float64).tolist(), strict=True))
    return [value if np.isfinite(value := known.get(name, unlimited)) else unlimited for name in names]


def _chunk_error(wanted: str, got: str) -> ChunkError:
    return ChunkError(wanted, got, "the server's policy is at fault: see its log")


def _limit_error(wanted: str, got: str) -> ChunkError:
    return ChunkError(wanted, got, "set --safety.on_limit=clamp to go as far as allowed, or mend the policy")
