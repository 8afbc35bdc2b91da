"""Helpers that decode the pictures of one request at the same time, where there is a core for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")


class Helpers:
    """Threads that lend a hand: whoever asks does himself what they have not begun, so busy ones delay nobody."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="serving-helper") if threads else None

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`function` of each item, in order. Raises what it raises for one of them."""
        if self._pool is None or len(items) < 2:
            return [function(item) for item in items]
        lent = [self._pool.submit(function, item) for item in items[1:]]
        results = [function(items[0])]
        # helpers begin at the front, so what they have not begun is at the back
        behind = [
            function(item) if job.cancel() else job.result() for item, job in zip(items[:0:-1], lent[::-1], strict=True)
        ]
        return results + behind[::-1]

    def close(self) -> None:
        """End the threads; nothing may be asked afterwards. Twice is once."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


NO_HELPERS = Helpers(0)
