"""Calls of any thread, run on one thread.

CUDA graphs belong to the thread that recorded them: those of the warm-up would be recorded again, into new memory, by
the first request on the daemon's own thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class OneThread:
    """A thread that lives until `close`; calls wait for their answer, and get what it raises."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def __call__(self, job: Callable[..., T], *arguments: Any) -> T:
        """Run a job there."""
        return self._pool.submit(job, *arguments).result()

    def close(self) -> None:
        """End the thread after what it is at. Twice is once."""
        self._pool.shutdown()
