"""One thread that writes to disk what other threads hand it; they never wait for the disk."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

ITEMS_MAX = 1024
BYTES_MAX = 64 << 20

Item = TypeVar("Item")


class LogWriter(Generic[Item]):
    """A bounded queue and the thread behind it. What does not fit is lost and counted.

    `write` may raise OSError (disk full, folder gone): the item is lost, the first such error in a row is logged.
    """

    def __init__(
        self, name: str, write: Callable[[Item], None], items_max: int = ITEMS_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._name, self._write, self._items_max, self._bytes_max = name, write, items_max, bytes_max
        self._wake = threading.Condition()
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._ending = False
        self._failing = False
        self.lost = 0
        self.written = 0
        self._thread = threading.Thread(target=self._run, name=f"serving-{name}", daemon=True)
        self._thread.start()

    def put(self, item: Item, size: int = 0) -> bool:
        """Hand an item over, of `size` bytes; False when it is lost. Never waits for the disk."""
        with self._wake:
            full = len(self._items) >= self._items_max or self._bytes + size > self._bytes_max
            if full or self._ending:
                self.lost += 1
                return False
            self._items.append((item, size))
            self._bytes += size
            self._wake.notify()
            return True

    def close(self, timeout_s: float) -> bool:
        """Write what waits, then end; False when the disk takes longer. Twice is once."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._items:
                    if self._ending:
                        return
                    self._wake.wait()
                item, size = self._items[0]
            self._try(item)
            with self._wake:
                self._items.popleft()
                self._bytes -= size

    def _try(self, item: Item) -> None:
        try:
            self._write(item)
            self.written += 1
            self._failing = False
        except Exception as err:  # noqa: BLE001 - the thread outlives a full disk
            with self._wake:
                self.lost += 1
            if not self._failing:
                log.warning(
                    "the %s log loses entries until this is mended: %s: %s", self._name, type(err).__name__, err
                )
            self._failing = True
