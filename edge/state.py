"""How it stands between robot and server: one table, one owner, every change logged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum

_log = logging.getLogger(__name__)


class State(StrEnum):
    """What the robot may count on."""

    CONNECTING = "CONNECTING"  # a session, or on the way to one; no chunk of it yet
    STREAMING = "STREAMING"  # chunks come in time
    DEGRADED = "DEGRADED"  # one is overdue, queued rows are played
    STALLED = "STALLED"  # one is overdue, nothing is left to play
    RECONNECTING = "RECONNECTING"  # no session
    DEAD = "DEAD"  # given up; the run ends
    STOPPED = "STOPPED"  # as it was told


class Event(StrEnum):
    """What may happen."""

    MERGED = "merged"  # a chunk was taken
    LATE = "late"  # a request is overdue or failed
    STARVED = "starved"  # the control loop found the queue empty
    LINK_LOST = "link lost"  # router or server gone, or it does not know this session
    HANDSHAKE_DONE = "handshake done"
    OFFLINE_TOO_LONG = "offline too long"
    CONTRACT_BROKEN = "contract broken"  # the server is another one than the run began with
    WORKER_FAILED = "worker failed"
    STOP = "stop"


_ENDS = {
    Event.OFFLINE_TOO_LONG: State.DEAD,
    Event.CONTRACT_BROKEN: State.DEAD,
    Event.WORKER_FAILED: State.DEAD,
    Event.STOP: State.STOPPED,
}
_LINK = {Event.LINK_LOST: State.RECONNECTING, Event.HANDSHAKE_DONE: State.CONNECTING}

_ROWS: dict[State, dict[Event, State]] = {
    # before the first chunk nothing is late: the wait for it is bounded by the offline budget
    State.CONNECTING: {
        Event.MERGED: State.STREAMING, Event.LATE: State.CONNECTING, Event.STARVED: State.CONNECTING, **_LINK, **_ENDS
    },
    State.STREAMING: {
        Event.MERGED: State.STREAMING, Event.LATE: State.DEGRADED, Event.STARVED: State.STALLED, **_LINK, **_ENDS
    },
    State.DEGRADED: {
        Event.MERGED: State.STREAMING, Event.LATE: State.DEGRADED, Event.STARVED: State.STALLED, **_LINK, **_ENDS
    },
    State.STALLED: {
        Event.MERGED: State.STREAMING, Event.LATE: State.STALLED, Event.STARVED: State.STALLED, **_LINK, **_ENDS
    },
    # only a handshake ends it: a chunk of the session that was lost says nothing of the next one
    State.RECONNECTING: {
        Event.MERGED: State.RECONNECTING, Event.LATE: State.RECONNECTING, Event.STARVED: State.RECONNECTING,
        **_LINK, **_ENDS,
    },
    # never left, so that whoever looks afterwards sees how it ended
    State.DEAD: dict.fromkeys(Event, State.DEAD),
    State.STOPPED: dict.fromkeys(Event, State.STOPPED),
}  # fmt: skip

TABLE: dict[tuple[State, Event], State] = {(s, e): to for s, row in _ROWS.items() for e, to in row.items()}


class Machine:
    """The state. Any thread may read it; the first thread that fires an event is the only one that ever may."""

    def __init__(self, on_change: Callable[[State, State, Event, str], None]) -> None:
        self._on_change = on_change
        self._state = State.CONNECTING
        self._owner: int | None = None
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    def fire(self, event: Event, why: str = "") -> State:
        """Tell what happened; the state after it. `on_change` hears of every change, on this thread."""
        me = threading.get_ident()
        with self._lock:
            if self._owner is None:
                self._owner = me
        if self._owner != me:
            raise RuntimeError(f"want all events from the thread that fired the first, got {event.name} from another")
        old, new = self._state, TABLE[self._state, event]
        if new is not old:
            self._state = new
            _log.log(_LEVELS[new], "%s -> %s (%s)", old, new, f"{event}: {why}" if why else event)
            self._on_change(old, new, event, why)
        return new


_LEVELS = dict.fromkeys(State, logging.INFO) | {
    State.DEGRADED: logging.WARNING,
    State.STALLED: logging.WARNING,
    State.RECONNECTING: logging.WARNING,
    State.DEAD: logging.ERROR,
}


class ActiveClock:
    """Monotonic time that stands still while paused: a pause costs nothing of a budget. Any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._paused_at_s: float | None = None
        self._lost_s = 0.0  # all pauses that are over

    def now_s(self) -> float:
        """Seconds; only differences mean something."""
        with self._lock:
            at_s = self._clock() if self._paused_at_s is None else self._paused_at_s
            return at_s - self._lost_s

    def pause(self) -> None:
        """Stand still. Twice is once."""
        with self._lock:
            if self._paused_at_s is None:
                self._paused_at_s = self._clock()

    def resume(self) -> None:
        """Go on. Twice is once."""
        with self._lock:
            if self._paused_at_s is not None:
                self._lost_s += self._clock() - self._paused_at_s
                self._paused_at_s = None
