"""The network as the daemon sees it: small enough that a twin in memory can stand in for it.

Callbacks run on the network's threads. They must deposit and return: never block, never raise, never publish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["observation", "action"]  # which of the two qualities of service


@dataclass(frozen=True)
class Sample:
    """A message as it came in; its body is copied only when asked for."""

    key: str
    attachment: bytes
    size: int  # bytes of the body
    body: Callable[[], bytes]


@dataclass(frozen=True)
class Query:
    """A question as it came in. Answer at most once, from any thread, then `done` (an unanswered one too)."""

    key: str
    size: int
    body: Callable[[], bytes]
    reply: Callable[[bytes], None]
    done: Callable[[], None]


class Publisher(Protocol):
    """A key declared for puts."""

    def put(self, body: bytes, attachment: bytes) -> None:
        """Send, or drop where the way is blocked; never waits for a reader. Raises TransportError once closed."""

    def undeclare(self) -> None:
        """No more puts. Twice is once."""


class Declaration(Protocol):
    """A subscriber, queryable, token or watcher."""

    def undeclare(self) -> None:
        """End it. Twice is once."""


class Transport(Protocol):
    """One session with the network."""

    def publisher(self, key: str, kind: Kind) -> Publisher:
        """Declare a key for puts."""

    def subscribe(self, key_expr: str, on_sample: Callable[[Sample], None]) -> Declaration:
        """Call `on_sample` with each put that matches and comes from another session."""

    def queryable(self, key_expr: str, on_query: Callable[[Query], None]) -> Declaration:
        """Call `on_query` with each question that matches."""

    def query(self, key: str, body: bytes, timeout_s: float) -> list[bytes]:
        """All answers that come until everybody has answered, or time is up; [] when nobody is there."""

    def token(self, key: str) -> Declaration:
        """Declare that we live."""

    def watch(self, key_expr: str, on_change: Callable[[str, bool], None]) -> Declaration:
        """Call `on_change(key, alive)` for tokens that are there and for each that comes or goes."""

    def alive(self, key_expr: str, timeout_s: float) -> list[str]:
        """Keys of the tokens that live now."""

    def connected(self) -> bool:
        """Whether anybody is at the other end: a router in client mode; always true for a listening peer."""

    def drops(self) -> dict[str, int]:
        """How many messages were dropped before a callback saw them, by reason."""

    def close(self) -> None:
        """End everything. Twice is once."""
