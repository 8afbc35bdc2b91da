"""A network inside the process: the same rules as the real one, for tests and for trying things out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.errors import TransportError
from serving.transport import Kind, Query, Sample


def includes(key_expr: str, key: str) -> bool:
    """Whether a key expression matches a key; `*` stands for one chunk that does not begin with @."""
    wanted, got = key_expr.split("/"), key.split("/")
    return len(wanted) == len(got) and all(
        w == g or (w == "*" and not g.startswith("@")) for w, g in zip(wanted, got, strict=True)
    )


@dataclass
class Hub:
    """What sessions in one process share."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    subscribers: list[tuple[str, object, Callable[[Sample], None]]] = field(default_factory=list)
    queryables: list[tuple[str, object, Callable[[Query], None]]] = field(default_factory=list)
    watchers: list[tuple[str, object, Callable[[str, bool], None]]] = field(default_factory=list)
    tokens: list[tuple[str, object]] = field(default_factory=list)

    def tell(self, key: str, alive: bool) -> None:
        """Tell the watchers of a token."""
        with self.lock:
            watchers = [call for expr, _, call in self.watchers if includes(expr, key)]
        for call in watchers:
            call(key, alive)


class MemoryTransport:
    """One session with a hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._closed = False
        self._mine: list[_Declared] = []

    def publisher(self, key: str, kind: Kind) -> MemoryPublisher:
        """See Transport."""
        return MemoryPublisher(self._hub, self, key)

    def subscribe(self, key_expr: str, on_sample: Callable[[Sample], None]) -> _Declared:
        """See Transport."""
        return self._declare(self._hub.subscribers, (key_expr, self, on_sample))

    def queryable(self, key_expr: str, on_query: Callable[[Query], None]) -> _Declared:
        """See Transport."""
        return self._declare(self._hub.queryables, (key_expr, self, on_query))

    def query(self, key: str, body: bytes, timeout_s: float) -> list[bytes]:
        """See Transport."""
        with self._hub.lock:
            calls = [call for expr, _, call in self._hub.queryables if includes(expr, key)]
        answers: list[bytes] = []
        left = threading.Semaphore(0)
        for call in calls:
            call(Query(key, len(body), lambda: body, answers.append, left.release))
        end_s = time.monotonic() + timeout_s
        for _ in calls:
            left.acquire(timeout=max(0.0, end_s - time.monotonic()))
        return list(answers)

    def token(self, key: str) -> _Declared:
        """See Transport."""
        declared = self._declare(self._hub.tokens, (key, self), lambda: self._hub.tell(key, False))
        self._hub.tell(key, True)
        return declared

    def watch(self, key_expr: str, on_change: Callable[[str, bool], None]) -> _Declared:
        """See Transport."""
        declared = self._declare(self._hub.watchers, (key_expr, self, on_change))
        for key in self.alive(key_expr, 0.0):
            on_change(key, True)
        return declared

    def alive(self, key_expr: str, timeout_s: float) -> list[str]:
        """See Transport."""
        with self._hub.lock:
            return [key for key, _ in self._hub.tokens if includes(key_expr, key)]

    def connected(self) -> bool:
        """See Transport."""
        return not self._closed

    def close(self) -> None:
        """See Transport."""
        self._closed = True
        for declared in self._mine:
            declared.undeclare()

    def _declare(self, among: list, entry: tuple, then: Callable[[], None] | None = None) -> _Declared:
        if self._closed:
            raise TransportError("want an open transport", "a closed one", "open another")
        with self._hub.lock:
            among.append(entry)
        declared = _Declared(self._hub, among, entry, then)
        self._mine.append(declared)
        return declared


@dataclass
class _Declared:
    hub: Hub
    among: list
    entry: tuple
    then: Callable[[], None] | None = None

    def undeclare(self) -> None:
        """Take the entry out. Twice is once."""
        with self.hub.lock:
            there = any(entry is self.entry for entry in self.among)
            self.among[:] = [entry for entry in self.among if entry is not self.entry]
        if there and self.then is not None:
            self.then()


class MemoryPublisher:
    """Puts reach every other session's subscribers at once, on the caller's thread."""

    def __init__(self, hub: Hub, owner: MemoryTransport, key: str) -> None:
        self._hub, self._owner, self._key = hub, owner, key
        self._declared = True

    def put(self, body: bytes, attachment: bytes) -> None:
        """See Publisher."""
        if not self._declared:
            raise TransportError("want a declared publisher", f"{self._key} is undeclared", "declare it again")
        with self._hub.lock:
            calls = [call for e, o, call in self._hub.subscribers if o is not self._owner and includes(e, self._key)]
        body = bytes(body)
        for call in calls:
            call(Sample(self._key, attachment, len(body), lambda: body))

    def undeclare(self) -> None:
        """See Publisher."""
        self._declared = False
