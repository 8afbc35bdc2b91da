"""Whoever makes us complain a thousand times a second must not fill the disk with it."""

from __future__ import annotations

import logging
import threading
import time

LINES_PER_S_MAX = 5


class LineLimit(logging.Filter):
    """Lets through so many lines a second of each message; the next one that passes says how many did not."""

    def __init__(self, lines_max: int = LINES_PER_S_MAX, window_s: float = 1.0) -> None:
        super().__init__()
        self._lines_max, self._window_s = lines_max, window_s
        self._lock = threading.Lock()
        self._lines: dict[str, tuple[float, int]] = {}  # by message, before its arguments: since when, how many

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        now_s = time.monotonic()
        with self._lock:
            since_s, count = self._lines.get(str(record.msg), (now_s, 0))
            left_out = 0
            if now_s - since_s >= self._window_s:
                left_out, since_s, count = max(0, count - self._lines_max), now_s, 0
            self._lines[str(record.msg)] = since_s, count + 1
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like this were left out)"
        return count < self._lines_max
