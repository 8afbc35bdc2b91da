"""The newest observation, and as many earlier ones as the policy looks back on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge.robots.base import Reading


@dataclass(frozen=True, slots=True)
class Observed:
    """A reading with its place: the step that is executed next after it, and its episode."""

    reading: Reading
    step: int
    episode: int


class ObservationSlot:
    """Latest-only. The control thread puts, the worker looks; neither waits for the other's work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Observed] = deque(maxlen=1)
        self._on_put: Callable[[], None] | None = None

    def keep(self, count: int) -> None:
        """How many to keep, the newest included."""
        with self._lock:
            self._kept = deque(self._kept, maxlen=max(1, count))

    def put(self, observed: Observed) -> None:
        """A new one; whoever waits for it is told."""
        with self._lock:
            self._kept.append(observed)
            told, self._on_put = self._on_put, None
        if told is not None:
            told()

    def newest(self) -> Observed | None:
        """The newest, None when there is none since `clear`."""
        with self._lock:
            return self._kept[-1] if self._kept else None

    def earlier(self, count: int, every: int) -> list[tuple[int, Observed]]:
        """At most `count` before the newest, `every` readings apart, oldest first, each with its distance."""
        with self._lock:
            kept = list(self._kept)
        found = [(back, kept[-1 - back]) for back in range(every, count * every + 1, every) if back < len(kept)]
        return found[::-1]

    def tell(self, on_put: Callable[[], None]) -> None:
        """Call this once when the next one comes."""
        with self._lock:
            self._on_put = on_put

    def clear(self) -> None:
        """Forget all: the last frame of an episode must not begin the next."""
        with self._lock:
            self._kept.clear()
