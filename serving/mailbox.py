"""The one slot between the network and the policy: the newest observation of a robot wins."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from serving.wire.header import Header


@dataclass(frozen=True, slots=True)
class Deposit:
    """An observation, not yet decoded."""

    header: Header
    body: bytes
    received_s: float  # monotonic


@dataclass(frozen=True, slots=True)
class Taken:
    """An observation on its way to the policy, and how many it replaced since the last one taken."""

    deposit: Deposit
    superseded: int


class Mailbox:
    """A slot that any thread may fill and empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slot: Deposit | None = None
        self._superseded = 0  # since the last take
        self.superseded_total = 0

    def put(self, deposit: Deposit) -> bool:
        """Leave an observation; True when it replaced one. An older one (by its header) is not taken."""
        with self._lock:
            old = self._slot
            if old is not None and _age(deposit.header) < _age(old.header):
                return False
            self._slot = deposit
            if old is None:
                return False
            self._superseded += 1
            self.superseded_total += 1
            return True

    def take(self) -> Taken | None:
        """Empty the slot, and read and zero the counter in the same breath."""
        with self._lock:
            if self._slot is None:
                return None
            taken = Taken(self._slot, self._superseded)
            self._slot, self._superseded = None, 0
            return taken

    def peek(self) -> Deposit | None:
        """What lies there."""
        return self._slot

    def clear(self) -> None:
        """Throw away what lies there."""
        with self._lock:
            self._slot = None


def _age(header: Header) -> tuple[int, int]:
    return header.session_epoch, header.seq_id
