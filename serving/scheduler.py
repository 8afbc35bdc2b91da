"""Who is served next: earliest deadline first, and nobody waits more than one full cycle.

Pure: no clock, no threads. A deadline is when the robot's buffer runs dry. The fairness rule: while a session waits,
no other session is served twice, and none that came after another had been served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ready:
    """A session with something to answer."""

    session: str
    deadline_s: float  # monotonic; when the robot has nothing left to do


class Scheduler:
    """Remembers who was served when. Used under its owner's lock."""

    def __init__(self) -> None:
        self._tick = 0  # one more with each session served
        self._served: dict[str, int] = {}  # tick at which a session was served last, or first seen
        self._ready_since: dict[str, int] = {}  # tick at which a session began to wait

    def order(self, ready: Iterable[Ready]) -> list[Ready]:
        """Ready sessions, the next one first; those whose turn has not come again follow behind all others."""
        waiting = list(ready)
        for item in waiting:
            self._ready_since.setdefault(item.session, self._tick)
            self._served.setdefault(item.session, self._tick)  # or robots that keep coming anew would starve the others
        oldest = min((self._ready_since[item.session] for item in waiting), default=0)
        return sorted(waiting, key=lambda item: self._rank(item, oldest))

    def _rank(self, item: Ready, oldest: int) -> tuple[bool, float, int, str]:
        since = self._ready_since[item.session]
        had_its_turn = self._served[item.session] > oldest  # while somebody waited who still does
        return had_its_turn, item.deadline_s, since, item.session

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
