"""An epoch number that worker processes see change while they live."""

from __future__ import annotations

import os
from multiprocessing import RawValue
from multiprocessing.context import get_spawning_popen
from typing import Any


class SharedEpoch:
    """A whole number in shared memory: processes started by this one see what it sets later.

    A process that sets it for itself, such as one of several trainers, no longer follows the one it came from. A pickle
    for anyone but a process that is being started is a copy.
    """

    def __init__(self, number: int = 0) -> None:
        self._begin(number)

    def _begin(self, number: int) -> None:
        self._value: Any = RawValue("q", number)
        self._owner = os.getpid()

    @property
    def number(self) -> int:
        """The epoch now."""
        return int(self._value.value)

    @number.setter
    def number(self, number: int) -> None:
        if self._owner != os.getpid():
            self._begin(number)
        self._value.value = number

    def __getstate__(self) -> Any:
        # shared memory can be handed to a process only while it is being started
        return self.number if get_spawning_popen() is None else (self._value, self._owner)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, int):
            self._begin(state)
        else:
            self._value, self._owner = state
