"""A pool of threads for what others have no time for."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from serving.log_limit import LineLimit

log = logging.getLogger(__name__)
log.addFilter(LineLimit())


class Jobs:
    """Begins what it is told in order of arrival; a job that raises is logged and forgotten. Safe from any thread."""

    def __init__(self, threads: int, name: str) -> None:
        lock = threading.RLock()
        self._done = threading.Condition(lock)
        self._to_do = threading.Condition(lock)
        self._waiting: deque[Callable[[], object]] = deque()
        self._under_way = 0
        self._nothing_comes = False
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(threads)]

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def later(self, job: Callable[[], object]) -> None:
        """Have a job done by a thread of the pool."""
        with self._done:
            self._waiting.append(job)
            self._to_do.notify()

    def now(self, job: Callable[[], object]) -> None:
        """Do a job here, under the same care: what it raises does not reach the caller."""
        try:
            job()
        except Exception:
            log.exception("a job failed: what it was to send is lost")

    def drain(self, timeout_s: float) -> bool:
        """Wait until all is done; False when that takes too long."""
        with self._done:
            return self._done.wait_for(lambda: not (self._waiting or self._under_way), timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """End the threads after what waits; False when one does not end. Twice is once."""
        end_s = time.monotonic() + timeout_s
        with self._done:
            self._nothing_comes = True
            self._to_do.notify_all()
        for thread in self._threads:
            if thread.ident is not None:  # one that was never started cannot be waited for
                thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while True:
            with self._done:
                while not self._waiting:
                    if self._nothing_comes:
                        return
                    self._to_do.wait()
                job = self._waiting.popleft()
                self._under_way += 1
            try:
                self.now(job)
            finally:
                with self._done:
                    self._under_way -= 1
                    self._done.notify_all()
