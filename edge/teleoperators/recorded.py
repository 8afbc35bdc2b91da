"""A recorded episode in a person's place: what was done then is done again. For tests, and for trying a strategy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from edge.errors import RobotError
from edge.robots.options import Options
from edge.robots.recorded_episode import open_recording, rows_of, value_names
from edge.teleoperators.base import NO_EVENTS, TeleopEvents


class RecordedOptions(Options):
    """--teleop.… of a recorded person."""

    root: Path = Field(description="folder of a LeRobot v3 dataset")
    episode: int = Field(0, ge=0, description="which episode is done again")
    loop: bool = Field(False, description="begin again at its end, in place of saying nothing more")
    action_key: str = Field("action", description="column of what was done")


class RecordedTeleoperator:
    """One recorded action a read, from the first one on."""

    can_follow = False

    def __init__(self, options: RecordedOptions) -> None:
        """Raises RobotError on what cannot be played."""
        self.options = options
        self._dataset, self._episode = open_recording(options.root, options.episode)
        self.action_names = value_names(self._dataset, options.action_key, "--teleop.action_key")
        self._actions: np.ndarray | None = None
        self._next = 0

    def connect(self) -> None:
        """Read the recorded actions. Raises RobotError."""
        self._actions, self._next = rows_of(self._dataset, self._episode, self.options.action_key), 0

    def read(self) -> np.ndarray | None:
        """The next recorded action; None behind the end."""
        if self._actions is None:
            raise RobotError("want a teleoperator that is connected", "it is not", "call connect first")
        if self._next >= len(self._actions):
            if not self.options.loop:
                return None
            self._next = 0
        self._next += 1
        return self._actions[self._next - 1]

    def events(self) -> TeleopEvents:
        """None: only actions were recorded."""
        return NO_EVENTS

    def follow(self, action: np.ndarray) -> bool:
        """No: it has no motors."""
        return False

    def release(self) -> None:
        """Nothing to release."""

    def disconnect(self) -> None:
        """Forget the recording."""
        self._actions = None
