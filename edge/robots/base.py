"""What a robot is to the control loop: names, a reading a step, an action a step, and a way to stand still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

POSITION, VELOCITY = ".pos", ".vel"  # endings of joint names, as LeRobot has them
# what stands still at 0 and goes on while nothing is sent: LeRobot's bases have names of their own
VELOCITIES = (VELOCITY, "_velocity", ".vx", ".vy", ".vtheta", "remote.lx", "remote.ly", "remote.rx", "remote.ry")


def is_velocity(name: str) -> bool:
    """Whether an action is a speed: silence lets it go on, zero stops it."""
    return name.endswith(VELOCITIES)


@dataclass(frozen=True)
class RobotFeatures:
    """What a robot measures and takes. Known before it is connected, so that nothing is energised for a question."""

    robot_type: str
    state_names: tuple[str, ...]  # scalars, in the order of `Reading.state`
    action_names: tuple[str, ...]  # in the order that `send` takes them
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # robot's own name -> (height, width), pixels
    fps: float | None = None  # the only rate that makes sense, such as a recording's; None: any
    action_min: np.ndarray | None = None  # float32 (actions,), in the robot's units; None: not known
    action_max: np.ndarray | None = None


@dataclass(frozen=True)
class Reading:
    """What a robot saw at one moment. Its arrays are not written to afterwards, by nobody."""

    state: np.ndarray  # float32 (states,), robot units
    images: Mapping[str, np.ndarray]  # robot's own camera name -> uint8 RGB (height, width, 3)
    captured_s: float  # monotonic; when the oldest part of it was captured


class Robot(Protocol):
    """A robot. All calls come from one thread, the control loop's; none but connect and disconnect may block long."""

    @property
    def features(self) -> RobotFeatures:
        """See RobotFeatures. Never touches hardware."""

    def connect(self) -> None:
        """Energise it. Raises RobotError."""

    def read(self) -> Reading:
        """Where it stands and what it sees. Raises RobotError when a joint or a camera does not answer."""

    def send(self, action: np.ndarray) -> np.ndarray:
        """Move: float32 (actions,). Returns what was really sent, which the robot may have limited. RobotError."""

    def begin_episode(self) -> None:
        """A new episode: environments and recordings start over, real robots do nothing."""

    @property
    def done(self) -> bool:
        """Whether the episode is over by itself: a recording at its end, an environment that says so."""

    def stop(self) -> None:
        """Stand still, whatever was commanded: velocities to zero, positions held. Any time, any number of times."""

    def disconnect(self) -> None:
        """Let go of it. Twice is once."""
