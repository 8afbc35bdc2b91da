"""Ctrl-C, Ctrl-Z, SIGTERM and a lost terminal: a call to the robot is not cut in two where it can be helped.

stage       first signal                    further ones
STARTING    KeyboardInterrupt               the end goes on: nothing is energised yet
DRIVING     the loop ends at its next tick  KeyboardInterrupt: the loop hangs in a call
ENDING      no way home: stop where it is   the third within one step gives that step up
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from enum import Enum, auto
from types import FrameType
from typing import Any

# the last two would end or halt the process with the robot moving: a terminal that is gone (a dropped ssh), and Ctrl-Z
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGTSTP")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
INSIST = 3  # signals within one step of the end that give it up


class Stage(Enum):
    """How far a run is."""

    STARTING = auto()
    DRIVING = auto()
    ENDING = auto()


class Interrupts:
    """Takes these signals over for a while; does nothing outside of the main thread, where only `stop` counts."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.no_way_home = threading.Event()
        self.stage = Stage.STARTING
        self._before: dict[int, Any] = {}
        self._signals = 0  # of this stage, or of this step of the end
        self._in_step = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def enter(self, stage: Stage) -> None:
        """What a signal means from here on."""
        self.stage, self._signals = stage, 0

    def step(self, call: Callable[[], Any]) -> Any:
        """One step of the end. Raises KeyboardInterrupt, from inside of it alone, when somebody insists."""
        self._signals = 0
        try:
            self._in_step = True
            return call()
        finally:
            self._in_step = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.stop.set()
        if self.stage is Stage.ENDING:
            self.no_way_home.set()
            if self._in_step and self._signals >= INSIST:
                raise KeyboardInterrupt
        elif self.stage is Stage.STARTING or self._signals > 1:
            self.enter(Stage.ENDING)  # whatever comes now must not be cut in two by the next one
            raise KeyboardInterrupt
