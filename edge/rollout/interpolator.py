"""Several commands for each action of the policy, on the straight line from one action to the next.

Both ends of a line keep the limits that the engine applies, so all of it does: a range is convex, and a part of a step
is never larger than the step.
"""

from __future__ import annotations

import numpy as np


class Interpolator:
    """From one action a period to `multiplier` commands a period. Used by the control thread alone."""

    def __init__(self, multiplier: int = 1) -> None:
        self.multiplier = multiplier
        self._from: np.ndarray | None = None
        self._to: np.ndarray | None = None
        self._left = 0

    @property
    def needs_action(self) -> bool:
        """Whether the next command asks for a new action first."""
        return self._left == 0

    def add(self, action: np.ndarray) -> None:
        """The next action: float32 (actions,). The first one after a reset is sent as it is."""
        self._from, self._to = self._to, action
        self._left = 1 if self._from is None else self.multiplier

    def next(self) -> tuple[np.ndarray, bool] | None:
        """The next command, and whether it is the policy's own action; None until there is a new one."""
        if not self._left:
            return None
        self._left -= 1
        if not self._left:
            return self._to, True
        part = (self.multiplier - self._left) / self.multiplier
        return self._from + np.float32(part) * (self._to - self._from), False

    def reset(self) -> None:
        """Forget where it was: a new episode, or somebody else has moved the robot."""
        self._from = self._to = None
        self._left = 0
