"""An epoch number that worker processes see change while they live."""

from __future__ import annotations

from multiprocessing import RawValue
from multiprocessing.context import get_spawning_popen
from typing import Any


class SharedEpoch:
    """A whole number in shared memory, which forked and spawned processes share. A pickle for anyone else is a copy."""

    def __init__(self, number: int = 0) -> None:
        self._value: Any = RawValue("q", number)

    @property
    def number(self) -> int:
        """The epoch now."""
        return int(self._value.value)

    @number.setter
    def number(self, number: int) -> None:
        self._value.value = number

    def __getstate__(self) -> Any:
        # shared memory can be handed to a process only while it is being started
        return self.number if get_spawning_popen() is None else self._value

    def __setstate__(self, state: Any) -> None:
        self._value = RawValue("q", state) if isinstance(state, int) else state
