"""What the engine counts, and how it stands, for displays and summaries."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

from edge.state import State

NAMES = (
    "requests",  # sent, tries of the same one apart
    "resends",  # further tries of a request
    "timeouts",  # requests given up
    "merges",
    "stale_drops",  # rows that were too old to be executed
    "late_rows",  # for steps that were already executed
    "late_chunks",  # of which all rows were: latency is longer than a chunk
    "foreign",  # messages that were not meant for this session, or answer no open request
    "malformed",  # that could not be read, or hold what may not be executed
    "events",  # messages of the server that are no chunk
    "fallback_ticks",  # in which the fallback acted
    "starved_ticks",  # without an action of the policy, after the first one
    "limited",  # actions that a limit changed
    "reconnects",
    "handshakes",
    "overruns",  # ticks that took longer than their period
)


class Counters:
    """Counts by name, of NAMES only. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(NAMES, 0)

    def add(self, name: str, n: int = 1) -> None:
        """Count. Raises KeyError for a name that is not counted."""
        with self._lock:
            self._counts[name] += n

    def snapshot(self) -> dict[str, int]:
        """All of one moment."""
        with self._lock:
            return dict(self._counts)


@dataclass(frozen=True)
class EngineStats:
    """How the engine stands at one moment."""

    state: State
    counters: dict[str, int]
    left_rows: int  # queued
    left_s: float  # the same in seconds
    latency_p50_ms: float  # 0.0 before the first answer, as all of these
    latency_p95_ms: float
    latency_p99_ms: float
    encode_p50_ms: float
    age_ms: float  # of the action executed last
    session_id: str
    server_id: str
    in_flight_s: float | None  # since the open request was sent; None: there is none
    offline_s: float  # of the budget, without pauses

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON takes it."""
        return asdict(self) | {"state": str(self.state)}
