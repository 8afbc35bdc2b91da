"""What was used last, held up to a total weight."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key; those used longest ago go first. Several threads may ask; a pickle holds none of the values."""

    def __init__(self, weight_max: int) -> None:
        """`weight_max`: of all values together, in whatever `make` weighs them by. One value is always held."""
        self.weight_max = weight_max
        self.weight = 0
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[K], tuple[V, int]]) -> V:
        """The value of a key; `make` gives value and weight when it is not held."""
        with self._lock:
            if (found := self._held.get(key)) is not None:
                self._held.move_to_end(key)
                return found[0]
        value, weight = make(key)  # outside the lock: another thread may do the same work, none has to wait for it
        with self._lock:
            _, replaced = self._held.pop(key, (None, 0))
            self._held[key] = value, weight
            self.weight += weight - replaced
            while self.weight > self.weight_max and len(self._held) > 1:
                self.weight -= self._held.popitem(last=False)[1][1]
        return value

    def __len__(self) -> int:
        return len(self._held)

    def __reduce__(self) -> tuple[Any, ...]:
        return Recent, (self.weight_max,)
