"""When the next tick begins: deadlines on a fixed grid of the monotonic clock, and how well they were kept.

A deadline is start + k periods, so that nothing adds up over hours, and no step of the wall clock is ever seen. A tick
that took too long skips the deadlines it missed; they are counted and never made up for in a burst.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

import numpy as np

# The last stretch is spun: sleeping alone wakes 0.15 ms late (p50) and 1.7 ms (p99); with this 0.001 and 0.02 ms,
# for 1 % of a core at 100 Hz (measured, Linux).
SPIN_S = 0.0003
NAP_MAX_S = 0.1  # a stop is seen after this even where ticks are rare
LATE = 0.5  # of a period: later than this, the deadline counts as missed
KEPT = 36_000  # lateness of so many last ticks: an hour at 10 Hz, six minutes at 100 Hz
SWITCH_S = 0.0005  # how long another thread may hold the interpreter, in place of Python's 5 ms


@dataclass(frozen=True)
class Lateness:
    """How late ticks began, over the last ticks; `max_ms` over all."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Pace:
    """Gives the beat of one loop. Used by its thread alone."""

    def __init__(
        self,
        period_s: float,
        stop: Event | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.period_s = period_s
        self.overruns = 0  # deadlines that were missed and skipped
        self.late_s = 0.0  # of the tick that runs
        self._stop = stop or Event()
        self._now, self._sleep = now, sleep
        self._due_s: float | None = None
        self._kept = np.zeros(KEPT, np.float32)
        self._ticks = 0
        self._late_max_s = 0.0

    def restart(self) -> None:
        """The next tick begins at once and a new grid with it: after something that took its time on purpose."""
        self._due_s = None

    def wait(self) -> None:
        """Until the next tick's deadline, or until stop is set. Sets `late_s`."""
        now_s = self._now()
        if self._due_s is None:
            self._due_s = now_s
            self.late_s = 0.0
            return
        wanted_s = self._due_s + self.period_s
        missed = 0
        if now_s - wanted_s > LATE * self.period_s:
            missed = round((now_s - wanted_s) / self.period_s)
            self.overruns += max(1, missed)
        self._due_s = wanted_s + missed * self.period_s
        if not self._reach(self._due_s):
            return
        self._count(self._now() - wanted_s)

    def _reach(self, due_s: float) -> bool:
        """Whether it was waited for; no when it was stopped."""
        while (left_s := due_s - SPIN_S - self._now()) > 0:
            if self._stop.is_set():
                return False
            self._sleep(min(left_s, NAP_MAX_S))
        while self._now() < due_s:
            pass
        return True

    def _count(self, late_s: float) -> None:
        self.late_s = late_s
        self._kept[self._ticks % KEPT] = late_s
        self._ticks += 1
        self._late_max_s = max(self._late_max_s, late_s)

    def lateness(self) -> Lateness:
        """See Lateness; zeros before the second tick."""
        if not self._ticks:
            return Lateness(0.0, 0.0, 0.0)
        p50, p99 = np.percentile(self._kept[: min(self._ticks, KEPT)], (50, 99))
        return Lateness(float(p50) * 1e3, float(p99) * 1e3, self._late_max_s * 1e3)


@contextmanager
def steady() -> Iterator[None]:
    """While a loop runs: short turns of other threads, and no garbage collection of what was there before."""
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(min(SWITCH_S, switch_s))
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(switch_s)
