"""What a teleoperator is to the control loop: an action a step, what was pressed, and a way to be led to a pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge.errors import ContractError


@dataclass(frozen=True)
class TeleopEvents:
    """What a device says beside its action, since it was asked last. A device without buttons says nothing."""

    intervention: bool | None = None  # whether the person acts; None: the device cannot tell
    end_episode: bool = False
    success: bool = False
    failure: bool = False
    rerecord: bool = False


NO_EVENTS = TeleopEvents()


class Teleoperator(Protocol):
    """A device in a person's hands. All calls come from one thread, the control loop's; only connect may block long."""

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of what `read` gives, in its order. Known before it is connected."""

    @property
    def can_follow(self) -> bool:
        """Whether it has motors that `follow` moves."""

    def connect(self) -> None:
        """Open it. Raises RobotError."""

    def read(self) -> np.ndarray | None:
        """What the person wants, float32 (actions,) in robot units; None: nothing at this moment. RobotError."""

    def events(self) -> TeleopEvents:
        """What was pressed since the last call."""

    def follow(self, action: np.ndarray) -> bool:
        """Move the device to a pose, in the order of `action_names`, so that a person takes over where the robot is.

        One step of it: the caller paces. False, and nothing moves, where `can_follow` is False. RobotError.
        """

    def release(self) -> None:
        """Let the person move it again, after `follow`. Any number of times."""

    def disconnect(self) -> None:
        """Let go of it. Twice is once."""


class InOrder:
    """A teleoperator that speaks in the order of a robot's actions."""

    def __init__(self, teleop: Teleoperator, action_names: Sequence[str]) -> None:
        """Raises ContractError when the device moves other joints than the robot has."""
        theirs = tuple(teleop.action_names)
        if set(theirs) != set(action_names) or len(theirs) != len(action_names):
            missing = ", ".join(n for n in action_names if n not in theirs) or "none"
            foreign = ", ".join(n for n in theirs if n not in action_names) or "none"
            got = f"{', '.join(theirs)} (missing: {missing}; foreign: {foreign})"
            remedy = "use the device that belongs to this robot"
            raise ContractError(f"want a teleoperator of {', '.join(action_names)}", got, remedy)
        self.teleop = teleop
        self.action_names = tuple(action_names)
        self._from_theirs = np.array([theirs.index(name) for name in action_names])
        self._to_theirs = np.argsort(self._from_theirs)

    @property
    def can_follow(self) -> bool:
        """See Teleoperator."""
        return self.teleop.can_follow

    def connect(self) -> None:
        """See Teleoperator."""
        self.teleop.connect()

    def read(self) -> np.ndarray | None:
        """What the person wants, in the robot's order."""
        action = self.teleop.read()
        return None if action is None else action[self._from_theirs]

    def events(self) -> TeleopEvents:
        """See Teleoperator."""
        return self.teleop.events()

    def follow(self, action: np.ndarray) -> bool:
        """Move the device to a pose given in the robot's order."""
        return self.teleop.follow(action[self._to_theirs])

    def release(self) -> None:
        """See Teleoperator."""
        self.teleop.release()

    def disconnect(self) -> None:
        """See Teleoperator."""
        self.teleop.disconnect()
