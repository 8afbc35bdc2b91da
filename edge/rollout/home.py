"""Back to where the robot stood at the start, smoothly: what every run ends with, unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

import numpy as np

from edge.robots.base import POSITION, Reading, RobotFeatures, is_velocity
from edge.rollout.pace import Pace

HOME_S = 3.0
BETWEEN_S = 1.0  # between two episodes, and when a person takes over
RATE_HZ = 50.0


@dataclass(frozen=True)
class Pose:
    """Where joints stood: an action's worth of positions, and which entries of it are known."""

    action: np.ndarray  # float32 (actions,), robot units; 0 where it is not known
    known: np.ndarray  # bool (actions,)


def pose_of(features: RobotFeatures, reading: Reading) -> Pose | None:
    """The position of each `.pos` joint that is both measured and moved; None for a robot without one."""
    measured = dict(zip(features.state_names, reading.state, strict=True))
    names = features.action_names
    known = np.array([name.endswith(POSITION) and name in measured for name in names])
    action = np.array([measured[name] if k else 0.0 for name, k in zip(names, known, strict=True)], np.float32)
    return Pose(action, known) if known.any() and np.isfinite(action).all() else None


def filled(features: RobotFeatures, here: Pose | None, last: np.ndarray | None) -> Pose | None:
    """Where a robot stands, and where it was sent last for joints that do not tell; None when nothing is known."""
    if last is None:
        return here
    sent = Pose(np.asarray(last, np.float32), np.array([not is_velocity(n) for n in features.action_names]))
    if here is None:
        return sent if sent.known.any() else None
    return Pose(np.where(here.known, here.action, sent.action), here.known | sent.known)


def way(
    features: RobotFeatures, here: Pose, there: Pose, last: np.ndarray | None, duration_s: float = HOME_S
) -> np.ndarray | None:
    """Commands from one pose to another at RATE_HZ: float32 (steps, actions). None where a joint has no safe value.

    Slow at both ends (minimum jerk: 10 s^3 - 15 s^4 + 6 s^5, Flash and Hogan 1985). Velocities are zero; joints of
    neither kind keep what they were sent last.
    """
    part = np.arange(1, max(1, round(duration_s * RATE_HZ)) + 1) / max(1, round(duration_s * RATE_HZ))
    part = part**3 * (10 - 15 * part + 6 * part**2)
    moving = here.known & there.known
    zero = np.array([is_velocity(name) for name in features.action_names])
    if last is None and not (moving | zero).all():
        return None
    kept = np.zeros(len(zero)) if last is None else np.where(zero, 0.0, last)
    start, end = (np.where(moving, pose.action, kept) for pose in (here, there))
    return (start + part[:, None] * (end - start)).astype(np.float32)


def follow(commands: np.ndarray, send: Callable[[np.ndarray], object], stop: Event, rate_hz: float = RATE_HZ) -> bool:
    """Send one command after the other; no when it was told to stop on the way. Raises what `send` raises."""
    pace = Pace(1.0 / rate_hz, stop)
    for command in commands:
        pace.wait()
        if stop.is_set():
            return False
        send(command)
    return True
