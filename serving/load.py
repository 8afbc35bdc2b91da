"""How much a server has to do, in figures that robots can choose a replica by."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from serving.record import RequestRecord
from serving.registry import Registry

if TYPE_CHECKING:
    from serving.pipeline import Pipeline

WAITS_REMEMBERED = 256
WINDOW_S = 5.0  # over which the policy's busy share is averaged


class Load:
    """Figures of the last seconds."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._waits: deque[float] = deque(maxlen=WAITS_REMEMBERED)
        self._seen = (time.monotonic(), 0.0)  # when, and the policy's working time until then
        self._share = 0.0

    def sessions(self) -> float:
        """Share of places taken."""
        return len(self._registry) / self._registry.sessions_max

    def note(self, record: object) -> None:
        """A request is over."""
        if isinstance(record, RequestRecord):
            with self._lock:
                self._waits.append(record.waited_s)

    def wait_p95_s(self) -> float:
        """How long nearly all requests waited, lately."""
        with self._lock:
            waits = sorted(self._waits)
        return waits[int(0.95 * (len(waits) - 1))] if waits else 0.0

    def busy_share(self, pipeline: Pipeline) -> float:
        """Share of time that the policy worked, averaged over some seconds."""
        with self._lock:
            now_s, busy_s = time.monotonic(), pipeline.busy_s
            then_s, busy_then_s = self._seen
            if now_s - then_s >= WINDOW_S:
                self._share = min(1.0, (busy_s - busy_then_s) / (now_s - then_s))
                self._seen = (now_s, busy_s)
            elif not self._share and now_s > then_s:
                return min(1.0, (busy_s - busy_then_s) / (now_s - then_s))
            return self._share
