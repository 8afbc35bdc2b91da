"""A network inside the process: the same rules as the real one, for tests and for trying things out.

Puts reach callbacks on the caller's thread, at once; questions are answered on threads of their own, so that a slow
callback costs the asker its time limit and no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zenoh

from network.errors import TransportError
from network.gate import Gate
from network.transport import Kind, Query, Sample
from serving.wire.limits import DEFAULT_LIMITS


@dataclass(eq=False)
class _Entry:
    """Something declared: what it matches, whose it is, and what to call."""

    key_expr: zenoh.KeyExpr
    owner: MemoryTransport
    call: Callable[..., None]


@dataclass
class Hub:
    """What sessions in one process share."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    subscribers: list[_Entry] = field(default_factory=list)
    queryables: list[_Entry] = field(default_factory=list)
    watchers: list[_Entry] = field(default_factory=list)
    tokens: list[_Entry] = field(default_factory=list)

    def matching(self, among: list[_Entry], key_expr: zenoh.KeyExpr) -> list[_Entry]:
        """What is declared on keys that a key expression has in common."""
        with self.lock:
            return [entry for entry in among if entry.key_expr.intersects(key_expr)]

    def tell_watchers(self, key_expr: zenoh.KeyExpr) -> None:
        """Let those who watch a token look again."""
        for entry in self.matching(self.watchers, key_expr):
            entry.call()


class MemoryTransport:
    """One session with a hub. See Transport."""

    def __init__(self, hub: Hub, rx_message_bytes_max: int = DEFAULT_LIMITS.body_bytes_max) -> None:
        self._hub = hub
        self._gate = Gate(rx_message_bytes_max)
        self._closed = False
        self._mine: list[_Declared] = []
        self._asking: set[_Answers] = set()

    def publisher(self, key: str, kind: Kind) -> MemoryPublisher:
        """See Transport."""
        self.check_open()
        return MemoryPublisher(self._hub, self, _key_expr(key))

    def subscribe(self, key_expr: str, on_sample: Callable[[Sample], None]) -> _Declared:
        """See Transport."""

        def take(key: str, body: bytes, attachment: bytes) -> None:
            if self._gate.admits(key, len(body), len(attachment)):
                self._gate.call(on_sample, Sample(key, attachment, len(body), lambda: body))

        return self._declare(self._hub.subscribers, key_expr, take)

    def queryable(self, key_expr: str, on_query: Callable[[Query], None]) -> _Declared:
        """See Transport."""

        def take(asked: str, body: bytes, answers: _Answers) -> None:
            key = asked if "*" in key_expr else key_expr
            answer = _Answer(answers, key, self._gate)
            query = Query(key, len(body), lambda: body, answer.reply, answer.done)
            if not (self._gate.admits(key, len(body)) and self._gate.call(on_query, query)):
                answer.done()

        return self._declare(self._hub.queryables, key_expr, take)

    def query(self, key: str, body: bytes, timeout_s: float) -> list[bytes]:
        """See Transport. Raises TransportError when closed."""
        self._gate.refuse_inside("questions")
        asked = [e for e in self._hub.matching(self._hub.queryables, _key_expr(key)) if e.owner is not self]
        answers = _Answers(len(asked))
        with self._hub.lock:
            self.check_open()
            self._asking.add(answers)
        for entry in asked:
            threading.Thread(target=entry.call, args=(key, bytes(body), answers), daemon=True).start()
        try:
            return [body for at, body in answers.wait(timeout_s) if self._gate.admits(at, len(body))]
        finally:
            self._asking.discard(answers)

    def token(self, key: str) -> _Declared:
        """See Transport."""
        return self._declare(self._hub.tokens, key, lambda: None, lambda: self._hub.tell_watchers(_key_expr(key)))

    def watch(self, key_expr: str, on_change: Callable[[str, bool], None]) -> _Declared:
        """See Transport."""
        watcher = _Watcher(lambda: self._live(key_expr), lambda key, alive: self._gate.call(on_change, key, alive))
        declared = self._declare(self._hub.watchers, key_expr, watcher.look)
        watcher.look()
        return declared

    def alive(self, key_expr: str, timeout_s: float) -> list[str]:
        """See Transport. Raises TransportError when closed."""
        self._gate.refuse_inside("questions")
        self.check_open()
        return self._live(key_expr)

    def connected(self) -> bool:
        """See Transport."""
        return not self._closed

    def drops(self) -> dict[str, int]:
        """How many messages were dropped before a callback saw them, by reason."""
        return self._gate.drops()

    def close(self) -> None:
        """See Transport."""
        with self._hub.lock:
            self._closed = True
            mine, self._mine = self._mine, []
            asking = list(self._asking)
        for answers in asking:
            answers.end()
        for declared in mine:
            declared.undeclare()

    def check_open(self) -> None:
        """Raises TransportError once closed."""
        if self._closed:
            raise TransportError("want an open transport", "a closed one", "open another")

    def _live(self, key_expr: str) -> list[str]:
        keys = {str(entry.key_expr) for entry in self._hub.matching(self._hub.tokens, _key_expr(key_expr))}
        return sorted(key for key in keys if self._gate.admits(key, 0))

    def _declare(
        self, among: list[_Entry], key_expr: str, call: Callable[..., None], changed: Callable[[], None] | None = None
    ) -> _Declared:
        entry = _Entry(_key_expr(key_expr), self, call)
        declared = _Declared(self._hub, among, entry, changed)
        with self._hub.lock:
            self.check_open()
            among.append(entry)
            self._mine.append(declared)
        if changed is not None:
            changed()
        return declared


@dataclass(eq=False)
class _Declared:
    """See Declaration."""

    hub: Hub
    among: list[_Entry]
    entry: _Entry
    changed: Callable[[], None] | None = None

    def undeclare(self) -> None:
        """See Declaration."""
        with self.hub.lock:
            if self.entry not in self.among:
                return
            self.among.remove(self.entry)
        if self.changed is not None:
            self.changed()


class MemoryPublisher:
    """See Publisher."""

    def __init__(self, hub: Hub, owner: MemoryTransport, key_expr: zenoh.KeyExpr) -> None:
        self._hub, self._owner, self._key_expr = hub, owner, key_expr
        self._declared = True

    def put(self, body: bytes, attachment: bytes) -> None:
        """See Publisher."""
        self._owner.check_open()
        if not self._declared:
            raise TransportError("want a declared publisher", f"{self._key_expr} is undeclared", "declare it again")
        body, attachment = bytes(body), bytes(attachment)
        for entry in self._hub.matching(self._hub.subscribers, self._key_expr):
            if entry.owner is not self._owner:
                entry.call(str(self._key_expr), body, attachment)

    def undeclare(self) -> None:
        """See Publisher."""
        self._declared = False


class _Answers:
    """What comes back to one question."""

    def __init__(self, pending: int) -> None:
        self._changed = threading.Condition()
        self._pending, self._bodies = pending, []

    def add(self, key: str, body: bytes) -> None:
        with self._changed:
            self._bodies.append((key, body))

    def one_done(self) -> None:
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._pending = 0
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> list[tuple[str, bytes]]:
        with self._changed:
            self._changed.wait_for(lambda: self._pending <= 0, timeout_s)
            return list(self._bodies)


class _Answer:
    """The way back of one question from one queryable."""

    def __init__(self, answers: _Answers, key: str, gate: Gate) -> None:
        self._answers: _Answers | None = answers
        self._key, self._gate = key, gate
        self._lock = threading.Lock()

    def reply(self, body: bytes) -> None:
        with self._lock:
            if self._answers is None:
                return self._gate.drop("late_answer", self._key)
            self._answers.add(self._key, bytes(body))
        return None

    def done(self) -> None:
        with self._lock:
            answers, self._answers = self._answers, None
        if answers is not None:
            answers.one_done()


@dataclass
class _Watcher:
    """Tells the difference between the tokens that live and those it has told of, in order whoever changes them."""

    live: Callable[[], list[str]]
    tell: Callable[[str, bool], Any]
    told: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def look(self) -> None:
        with self.lock:
            live = set(self.live())
            for key in sorted(self.told - live):
                self.told.discard(key)
                self.tell(key, False)
            for key in sorted(live - self.told):
                self.told.add(key)
                self.tell(key, True)


def _key_expr(text: str) -> zenoh.KeyExpr:
    try:
        return zenoh.KeyExpr(text)
    except zenoh.ZError as err:
        raise TransportError("want a key expression", str(err), "check the key") from err
