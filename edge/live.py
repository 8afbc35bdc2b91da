"""How a run goes at this moment, as one JSON object: for the progress line, `edge watch` and the summary."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.engine import Engine
    from edge.rollout.control import Tick
    from edge.state import Event, State

TRANSITIONS_KEPT = 1000
RATE_WINDOW_S = 2.0


@dataclass(frozen=True)
class Transition:
    """One change of state."""

    at_s: float  # since the run began
    old: str
    new: str
    event: str
    why: str

    def line(self) -> str:
        """In words."""
        return f"{self.at_s:8.2f} s  {self.old} -> {self.new}  ({self.event}{': ' + self.why if self.why else ''})"


@dataclass
class Live:
    """What is seen of a run. `on_tick` belongs to the control thread and takes about a microsecond."""

    about: dict[str, Any] = field(default_factory=dict)  # what does not change: robot, task, service
    began_s: float = field(default_factory=time.monotonic)
    engine: Engine | None = None
    tick: Tick | None = None  # the last one
    transitions: deque[Transition] = field(default_factory=lambda: deque(maxlen=TRANSITIONS_KEPT))
    changes: int = 0  # transitions so far, those no longer kept too
    stage: str = "starting"
    _rate: deque[tuple[float, int]] = field(default_factory=lambda: deque([(time.monotonic(), 0)]))
    _lock: Lock = field(default_factory=Lock)

    def on_tick(self, tick: Tick) -> None:
        """One tick is over."""
        self.tick = tick

    def on_transition(self, old: State, new: State, event: Event, why: str) -> None:
        """The engine's state changed; on its thread."""
        at_s = time.monotonic() - self.began_s
        self.transitions.append(Transition(at_s, str(old), str(new), str(event), why))
        self.changes += 1

    def now(self) -> dict[str, Any]:
        """How it stands. Any thread but the control thread, which has better things to do."""
        stats = self.engine.stats().as_dict() if self.engine is not None else {}
        tick = self.tick
        return {
            **self.about,
            "pid": os.getpid(),
            "stage": self.stage,
            "elapsed_s": round(time.monotonic() - self.began_s, 3),
            "ticks": tick.number + 1 if tick else 0,
            "tick_hz": self._tick_hz(tick.number if tick else 0),
            "phase": str(tick.phase) if tick else "",
            "lateness_ms": round(tick.lateness_ms, 3) if tick else 0.0,
            "last_transition": vars(self.transitions[-1]) if self.transitions else None,
            **stats,
        }

    def _tick_hz(self, number: int) -> float:
        """Over the last seconds, or since somebody looked before."""
        now_s = time.monotonic()
        with self._lock:
            self._rate.append((now_s, number))
            while len(self._rate) > 2 and now_s - self._rate[1][0] > RATE_WINDOW_S:
                self._rate.popleft()
            then_s, before = self._rate[0]
        return round((number - before) / (now_s - then_s), 1) if now_s > then_s else 0.0
