"""The reference's action queue and latency tracker, re-created from their specification in NumPy.

`make compat` holds both to LeRobot's own, call by call.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

WINDOW = 100


class ReferenceQueue:
    """Rows to execute and the same rows in model space, with one index for both; what step a row is for is not kept."""

    def __init__(self, rtc: bool) -> None:
        self._rtc = rtc
        self._lock = threading.Lock()
        self._model: np.ndarray | None = None
        self._robot: np.ndarray | None = None
        self._next = 0

    def get(self) -> np.ndarray | None:
        """A copy of the next row, or None."""
        with self._lock:
            if self._robot is None or self._next >= len(self._robot):
                return None
            self._next += 1
            return self._robot[self._next - 1].copy()

    def qsize(self) -> int:
        """Rows left."""
        with self._lock:
            return 0 if self._robot is None else len(self._robot) - self._next

    def get_action_index(self) -> int:
        """Rows taken since the last merge."""
        with self._lock:
            return self._next

    def get_left_over(self) -> np.ndarray | None:
        """A copy of what is left in model space, possibly no rows; None before the first merge."""
        with self._lock:
            return None if self._model is None else self._model[self._next :].copy()

    def get_processed_left_over(self) -> np.ndarray | None:
        """The same in robot space."""
        with self._lock:
            return None if self._robot is None else self._robot[self._next :].copy()

    def clear(self) -> None:
        """Forget all rows."""
        with self._lock:
            self._model = self._robot = None
            self._next = 0

    def merge(self, model: np.ndarray, robot: np.ndarray, delay: int) -> None:
        """With real-time chunking the chunk replaces the queue, but for `delay` rows; without it is put behind it."""
        with self._lock:
            if self._rtc:
                delay = max(0, min(delay, len(model), len(robot)))
                self._model, self._robot = model[delay:].copy(), robot[delay:].copy()
            elif self._robot is None or self._model is None:
                self._model, self._robot = model.copy(), robot.copy()
            else:
                self._model = np.concatenate([self._model, model])[self._next :]
                self._robot = np.concatenate([self._robot, robot])[self._next :]
            self._next = 0


class ReferenceLatency:
    """What requests took. The maximum is that of the whole run."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._longest_s = 0.0

    def add(self, seconds: float) -> None:
        """One more; negatives are no latencies."""
        if seconds >= 0:
            self._seconds.append(seconds)
            self._longest_s = max(self._longest_s, seconds)

    def max(self) -> float:
        """The longest ever, 0 before the first."""
        return self._longest_s

    def percentile(self, q: float) -> float:
        """Of the last hundred, 0 before the first; the longest ever for q = 1."""
        if not self._seconds:
            return 0.0
        if q <= 0:
            return min(self._seconds)
        return self._longest_s if q >= 1 else float(np.quantile(np.array(self._seconds, np.float32), q))
