"""Errors of the wire, and the codes that tell the other side why something was refused."""

from __future__ import annotations

from enum import IntEnum


class Told:
    """An error's message in three parts: what was wanted, what was got, what to do. Mixed into exceptions."""

    def __init__(self, wanted: str, got: str = "", remedy: str = "") -> None:
        self.wanted, self.got, self.remedy = wanted, got, remedy
        super().__init__(wanted, got, remedy)

    def __str__(self) -> str:
        parts = [self.wanted]
        if self.got:
            parts.append(f"got: {self.got}")
        if self.remedy:
            parts.append(f"do: {self.remedy}")
        return "\n  ".join(parts)


class WireError(Told, ValueError):
    """Root of all errors of the wire."""


class KeyNameError(WireError):
    """A key expression, or a name that is to become part of one, is not allowed."""


class HeaderError(WireError):
    """The attachment is no header of a known layout."""


class MessageError(WireError):
    """A body cannot be decoded, or a field of it is not what the message says."""


class LimitError(MessageError):
    """A body is larger than what is ever decoded."""


class EventCode(IntEnum):
    """Why a request got no chunk, or a session ended. Sent in EVENT messages."""

    UNKNOWN_SESSION = 1
    BAD_SCHEMA = 2
    BUSY = 3
    BAD_REQUEST = 4
    INTERNAL = 5
    DRAINING = 6
    SESSION_CLOSED = 7


class RejectCode(IntEnum):
    """Why a session was not opened. Sent in SessionAck; 0 is a server that does not say."""

    NONE = 0
    SCHEMA = 1
    FULL = 2
    ACTION_NAMES = 3
    STATE_DIM = 4
    CAMERAS = 5
    TASK = 6
    FPS = 7
    DRAINING = 8
    BAD_REQUEST = 9
    INTERNAL = 10
    IN_USE = 11  # another robot holds this id and its resume token was not shown
    FEATURES = 12  # the policy needs something that the client cannot send
    BUSY = 13  # too many questions at once


RETRYABLE_EVENTS = frozenset({EventCode.BUSY, EventCode.INTERNAL, EventCode.DRAINING, EventCode.UNKNOWN_SESSION})
RETRYABLE_REJECTS = frozenset(
    {RejectCode.FULL, RejectCode.DRAINING, RejectCode.INTERNAL, RejectCode.IN_USE, RejectCode.BUSY}
)
