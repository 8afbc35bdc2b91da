"""The process-wide limit on requests in flight: one pool of threads, the critical path first."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Step = Callable[[], float | None]  # does one request; None: finished, else the pause in seconds before its next one


@dataclass(order=True)
class _Work:
    priority: int
    number: int  # first come, first served within a priority
    owner: object = field(compare=False)
    step: Step = field(compare=False)


class WorkPool:
    """Runs steps on daemon threads, never more at once than the smallest limit among its owners.

    A paused step waits in a queue of its own and holds no thread. Steps must not raise.
    """

    def __init__(self) -> None:
        self._cond = threading.Condition()
        self._limits: dict[object, int] = {}
        self._ready: list[_Work] = []
        self._paused: list[tuple[float, _Work]] = []
        self._numbers = itertools.count()
        self._threads = 0
        self._idle = 0

    def join(self, owner: object, limit: int) -> None:
        """Let an owner submit work."""
        with self._cond:
            self._limits[owner] = limit

    def leave(self, owner: object) -> None:
        """Drop what the owner has queued; threads end when no owner is left."""
        with self._cond:
            self._limits.pop(owner, None)
            self._ready = [w for w in self._ready if w.owner is not owner]
            self._paused = [p for p in self._paused if p[1].owner is not owner]
            heapq.heapify(self._ready)
            heapq.heapify(self._paused)
            self._cond.notify_all()

    def submit(self, owner: object, priority: int, step: Step) -> None:
        """Queue a step; lower priorities run first."""
        with self._cond:
            if owner not in self._limits:
                return  # it left meanwhile
            heapq.heappush(self._ready, _Work(priority, next(self._numbers), owner, step))
            if self._idle < len(self._ready) and self._threads < self._limit():
                self._threads += 1
                threading.Thread(target=self._run, name=f"vlm-{self._threads}", daemon=True).start()
            self._cond.notify()

    def _limit(self) -> int:
        return min(self._limits.values(), default=0)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            pause_s = work.step()
            if pause_s is not None:
                self._requeue(work, pause_s)

    def _next(self) -> _Work | None:
        with self._cond:
            while self._threads <= self._limit():
                now = time.monotonic()
                while self._paused and self._paused[0][0] <= now:
                    heapq.heappush(self._ready, heapq.heappop(self._paused)[1])
                if self._ready:
                    return heapq.heappop(self._ready)
                self._idle += 1
                self._cond.wait(self._paused[0][0] - now if self._paused else None)
                self._idle -= 1
            self._threads -= 1
            return None

    def _requeue(self, work: _Work, pause_s: float) -> None:
        with self._cond:
            if work.owner not in self._limits:
                return
            if pause_s > 0:
                heapq.heappush(self._paused, (time.monotonic() + pause_s, work))
            else:
                heapq.heappush(self._ready, work)


SHARED = WorkPool()  # every answerer of the process sends its requests here
