"""Whoever makes us complain a thousand times a second must not fill the disk with it."""

from __future__ import annotations

import logging
import threading
import time

LINES_PER_S_MAX = 5


class Allowance:
    """So many a second, and no more."""

    def __init__(self, per_s_max: int, window_s: float = 1.0) -> None:
        self._max, self._window_s = per_s_max, window_s
        self._lock = threading.Lock()
        self._since_s = time.monotonic()
        self._taken = 0
        self.refused = 0  # since somebody last looked

    def take(self) -> bool:
        """Whether there is one left."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._since_s >= self._window_s:
                self._since_s, self._taken = now_s, 0
            self._taken += 1
            if self._taken > self._max:
                self.refused += 1
                return False
            return True


class LineLimit(logging.Filter):
    """Lets through so many lines a second of each message; the next one that passes says how many did not."""

    def __init__(self, per_s_max: int = LINES_PER_S_MAX, window_s: float = 1.0) -> None:
        super().__init__()
        self._max, self._window_s = per_s_max, window_s
        self._allowances: dict[str, Allowance] = {}  # by message before its arguments: as many as the code has

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        allowance = self._allowances.setdefault(str(record.msg), Allowance(self._max, self._window_s))
        if not allowance.take():
            return False
        left_out, allowance.refused = allowance.refused, 0
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like this were left out)"
        return True
