"""The last seconds of a drive, bounded by time and by memory."""

from __future__ import annotations

import sys
from collections import deque

from edge.rollout.control import Tick


class Ring:
    """Newest ticks; the oldest go when there are too many or they are too large. Used by the control thread alone."""

    def __init__(self, ticks_max: int, bytes_max: int) -> None:
        self.ticks_max, self.bytes_max = ticks_max, bytes_max
        self.bytes = 0
        self._ticks: deque[Tick] = deque()

    def __len__(self) -> int:
        return len(self._ticks)

    def add(self, tick: Tick) -> int:
        """Keep a tick; returns how many old ones went for it."""
        self._ticks.append(tick)
        self.bytes += _bytes_of(tick)
        gone = 0
        while self._ticks and (len(self._ticks) > self.ticks_max or self.bytes > self.bytes_max):
            self.take()
            gone += 1
        return gone

    def unbounded(self) -> None:
        """Forget nothing from here on: what it holds is to be written."""
        self.ticks_max, self.bytes_max = sys.maxsize, sys.maxsize

    def take(self) -> Tick:
        """The oldest tick, which is no longer kept. Raises IndexError when there is none."""
        tick = self._ticks.popleft()
        self.bytes -= _bytes_of(tick)
        return tick


def _bytes_of(tick: Tick) -> int:
    return tick.action.nbytes + tick.reading.state.nbytes + sum(i.nbytes for i in tick.reading.images.values())
