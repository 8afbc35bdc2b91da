"""What every message passes before a callback sees it: bounds, counts, and a guard around the callback.

The real transport and its twin in memory share it, so that both refuse the same.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable

from network.errors import TransportError

log = logging.getLogger(__name__)

ATTACHMENT_BYTES_MAX = 256  # a header is 35 bytes at most
WILDCARDS = frozenset("*$")  # a put, question or token may be made on a key expression; nobody means to be heard so


class Gate:
    """Checks and counts for one transport."""

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._lock = threading.Lock()
        self._drops: Counter[str] = Counter()
        self._thread = threading.local()

    def drops(self) -> dict[str, int]:
        """How many messages were dropped here, by reason."""
        with self._lock:
            return dict(self._drops)

    def drop(self, reason: str, what: str) -> None:
        """Count a dropped message; the log names the 1st, 10th, 100th … of a reason, so a flood cannot fill it."""
        with self._lock:
            self._drops[reason] += 1
            count = self._drops[reason]
        if _is_power_of_ten(count):
            log.warning("dropped %.200r: %s (%d so far)", what, reason, count)  # a key may hold line breaks

    def admits(self, key: str, size: int, attachment_size: int = 0) -> bool:
        """Whether a message may go on to a callback; sizes in bytes, before anything is copied."""
        if not WILDCARDS.isdisjoint(key):
            reason = "wildcard_key"
        elif size > self._body_bytes_max:
            reason = "body_too_large"
        elif attachment_size > ATTACHMENT_BYTES_MAX:
            reason = "attachment_too_large"
        else:
            return True
        self.drop(reason, key)
        return False

    def call(self, callback: Callable[..., object], *arguments: object) -> bool:
        """Run a callback; what it raises is counted and logged, and harms nobody. False when it raised."""
        outer, self._thread.inside = self.inside, True
        try:
            callback(*arguments)
        except Exception as err:
            self.drop("callback_error", f"what a callback raised ({type(err).__name__}: {err})")
            if self.drops()["callback_error"] == 1:
                log.exception("a callback of the network raised; its subscription goes on")
            return False
        finally:
            self._thread.inside = outer
        return True

    @property
    def inside(self) -> bool:
        """Whether this thread is inside a callback."""
        return getattr(self._thread, "inside", False)

    def refuse_inside(self, what: str) -> None:
        """Callbacks may not wait for the network: they run on its threads. Raises TransportError."""
        if self.inside:
            raise TransportError(f"want {what} outside of callbacks", "a callback", "hand it over to a thread")


def _is_power_of_ten(count: int) -> bool:
    return str(count).strip("0") == "1"
