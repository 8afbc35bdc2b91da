"""Memory that is used again: fresh pages for each picture cost about a third of what decoding it does."""

from __future__ import annotations

import sys
import threading

import numpy as np

from serving.wire.limits import MIB

KEPT_BYTES_MAX = 32 * MIB
KEPT_MAX = 64


class Buffers:
    """Hands out memory, and hands it out again once nobody holds it or any view of it. Safe from any thread."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX, number_max: int = KEPT_MAX) -> None:
        self._bytes_max, self._number_max = bytes_max, number_max
        self._lock = threading.Lock()
        self._kept: list[np.ndarray] = []  # the longest unused first

    def take(self, size: int) -> np.ndarray:
        """Memory of so many bytes, uint8 (size,), whatever stands in it."""
        with self._lock:
            for i in range(len(self._kept)):
                if self._kept[i].nbytes == size and _references(self._kept, i) == _IDLE:
                    self._kept.append(self._kept.pop(i))
                    return self._kept[-1]
            fresh = np.empty(size, np.uint8)
            if size <= self._bytes_max:
                self._keep(fresh)
            return fresh

    def _keep(self, fresh: np.ndarray) -> None:
        """Remember one more, and let go of the longest unused; who holds them keeps them."""
        self._kept.append(fresh)
        while len(self._kept) > self._number_max or sum(kept.nbytes for kept in self._kept) > self._bytes_max:
            del self._kept[0]


def _references(kept: list[np.ndarray], i: int) -> int:
    """How many hold an array or a view of it: a view holds what it was made of."""
    return sys.getrefcount(kept[i])


_IDLE = _references([np.empty(0, np.uint8)], 0)  # only the list; how many that counts is Python's own affair
