"""The 27-byte header that rides beside each body, so that a message is routed or dropped without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from struct import error as StructError

from serving.wire.errors import HeaderError

SCHEMA_VERSION = 1
MIN_SCHEMA_VERSION = 1
TAG_BYTES = 8  # follows the header once both sides have agreed on session tags

_LAYOUT = Struct("<HBQIqI")
HEADER_BYTES = _LAYOUT.size


class MessageType(IntEnum):
    """What a body is."""

    OBSERVATION = 1
    CHUNK = 2
    EVENT = 3


@dataclass(frozen=True, slots=True)
class Header:
    """Which request this is, or answers."""

    schema_version: int  # u16, the sender's
    msg_type: int  # u8
    seq_id: int  # u64, per client, from 1 on, never used twice; echoed
    episode_id: int  # u32, one more at each reset
    client_mono_ns: int  # i64, the client's monotonic clock; opaque to the server, echoed
    session_epoch: int  # u32, one more at each handshake; older answers are dropped

    def pack(self, tag: bytes = b"") -> bytes:
        """27 bytes little-endian, and the session's tag where one was agreed on. Raises HeaderError."""
        if len(tag) not in (0, TAG_BYTES):
            raise HeaderError(f"want a session tag of {TAG_BYTES} bytes, or none", f"{len(tag)}", "use the ack's")
        try:
            return (
                _LAYOUT.pack(
                    self.schema_version, self.msg_type, self.seq_id, self.episode_id, self.client_mono_ns,
                    self.session_epoch,
                )
                + tag
            )  # fmt: skip
        except StructError as err:
            raise HeaderError("want header fields inside their ranges", f"{self}: {err}") from err


def unpack(attachment: bytes) -> tuple[Header, bytes]:
    """The header, and the session tag that follows it (b"" when none does). Raises HeaderError on another length."""
    if len(attachment) not in (HEADER_BYTES, HEADER_BYTES + TAG_BYTES):
        wanted = f"want a header of {HEADER_BYTES} bytes, or {HEADER_BYTES + TAG_BYTES} with a session tag"
        raise HeaderError(wanted, f"{len(attachment)} bytes", "send both sides' messages with the same schema version")
    return Header(*_LAYOUT.unpack_from(attachment)), bytes(attachment[HEADER_BYTES:])
