"""Helpers that decode the pictures of one request at the same time, where there is a core for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T, R = TypeVar("T"), TypeVar("R")


class Helpers:
    """Threads that lend a hand: whoever asks does himself what they have not begun, so busy ones delay nobody."""

    def __init__(self, threads: int, name: str = "serving-helper") -> None:
        self._lent: SimpleQueue[_Lent[Any, Any] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._help, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`function` of each item, in order. Raises what it raises for one of them."""
        if not self._threads or len(items) < 2:
            return [function(item) for item in items]
        lent = [_Lent(function, item) for item in items[1:]]
        for job in lent:
            self._lent.put(job)
        try:
            first = function(items[0])
        finally:  # helpers begin at the front, so what they have not begun is at the back
            for job in reversed(lent):
                job.run()
        return [first, *(job.result() for job in lent)]

    def close(self) -> None:
        """End the threads; nothing may be asked afterwards. Twice is once."""
        while self._threads:
            self._threads.pop()
            self._lent.put(None)

    def _help(self) -> None:
        while (job := self._lent.get()) is not None:
            job.run()


class _Lent(Generic[T, R]):
    """One call, made by whoever comes first. A Future does as much and costs several times the waking of a thread."""

    __slots__ = ("_begun", "_done", "_error", "_function", "_item", "_result")

    def __init__(self, function: Callable[[T], R], item: T) -> None:
        self._function, self._item = function, item
        self._begun, self._done = threading.Lock(), threading.Lock()
        self._error: BaseException | None = None
        self._done.acquire()

    def run(self) -> None:
        """Make the call unless another thread has begun to."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            self._result = self._function(self._item)
        except BaseException as err:  # noqa: BLE001 - it is the asker's to hear
            self._error = err
        finally:
            self._done.release()

    def result(self) -> R:
        """What came of it, once it is there. Raises what the call raised."""
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._result


NO_HELPERS = Helpers(0)
