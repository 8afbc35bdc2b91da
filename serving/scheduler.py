"""Who is served next: earliest deadline first, and nobody waits more than one full cycle.

Pure: no clock, no threads. A deadline is when the robot's buffer runs dry. The fairness rule: while a session waits,
no other session is served twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ready:
    """A session with something to answer."""

    session: str
    deadline_s: float  # monotonic; when the robot has nothing left to do
    kind: Hashable = None  # only requests of one kind share a batch


class Scheduler:
    """Remembers who was served when. Used under its owner's lock."""

    def __init__(self) -> None:
        self._tick = 0  # one more with each session served
        self._served: dict[str, int] = {}  # tick at which a session was served last
        self._ready_since: dict[str, int] = {}  # tick at which a session began to wait

    def order(self, ready: Iterable[Ready]) -> list[Ready]:
        """Ready sessions, the next one first; those whose turn has not come again follow behind all others."""
        waiting = list(ready)
        for item in waiting:
            self._ready_since.setdefault(item.session, self._tick)
        oldest = min((self._ready_since[item.session] for item in waiting), default=0)
        return sorted(waiting, key=lambda item: self._rank(item, oldest))

    def _rank(self, item: Ready, oldest: int) -> tuple[bool, float, int, str]:
        since = self._ready_since[item.session]
        had_its_turn = self._served.get(item.session, 0) > oldest  # served while somebody waited who still does
        return had_its_turn, item.deadline_s, since, item.session

    def batch(self, ready: Iterable[Ready], size_max: int) -> list[Ready]:
        """The next session, and others of its kind behind it, as many as fit."""
        ordered = self.order(ready)
        if not ordered:
            return []
        return [item for item in ordered if item.kind == ordered[0].kind][:size_max]

    def served(self, sessions: Sequence[str]) -> None:
        """These have been taken."""
        for session in sessions:
            self._tick += 1
            self._served[session] = self._tick
            self._ready_since.pop(session, None)

    def forget(self, session: str) -> None:
        """A session has ended, or has nothing to answer any more."""
        self._served.pop(session, None)
        self._ready_since.pop(session, None)
