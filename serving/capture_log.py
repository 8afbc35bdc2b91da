"""Captured requests on disk: segments of framed messages, each whole by itself.

A segment is `MAGIC`, then frames: length (u32), CRC-32 (u32), MessagePack body. The first frame is the `Run`, what was
served and how; all others are `Pair`s. Only the run that began a segment appends to it, so a damaged end costs that
segment's tail and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import msgspec

from serving.errors import ServingError
from serving.wire.limits import Limits

MAGIC = b"CUECAP1\n"
FRAME_BYTES_MAX = 256 << 20
SUFFIX = ".cap"
_FRAME = Struct("<II")


class Run(msgspec.Struct, tag="run", frozen=True):
    """What was served while the pairs behind it were captured."""

    run_id: str  # one start of one server
    server_id: str
    began: str  # wall clock, UTC
    policy_type: str
    model_repo: str
    model_revision: str
    checkpoint_hash: str
    normalisation_hash: str
    shared: bool
    default_task: str
    pinned_task: str | None
    limits: dict[str, int]

    def as_limits(self) -> Limits:
        """The bounds that were set on messages."""
        known = {field.name for field in fields(Limits)}
        return Limits(**{name: value for name, value in self.limits.items() if name in known})


class SessionFacts(msgspec.Struct, frozen=True):
    """What it takes to open a session again as it was."""

    features: list[str]
    schema_version: int
    rtc: bool
    chunk_form: str
    f16: bool
    task: str
    fps: float
    robot_type: str
    action_names: list[str]
    tags: dict[str, str]


class Pair(msgspec.Struct, tag="pair", frozen=True):
    """A request and its answer. Headers and bodies are as they were on the wire."""

    session_id: str
    client: str
    session: SessionFacts
    seq_id: int
    superseded: int
    batch: int  # requests predicted together; 0: it failed before
    batch_number: int
    batch_place: int
    policy_reset: bool
    outcome: str
    stages_s: dict[str, float]
    request_header: bytes
    request_body: bytes
    reply_header: bytes  # b"" when it failed
    reply_body: bytes


@dataclass(frozen=True)
class Segment:
    """What could be read of one file."""

    path: Path
    run: Run
    pairs: list[Pair] = field(default_factory=list)


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Run | Pair] = msgspec.msgpack.Decoder(Run | Pair)


def frame(message: Run | Pair) -> bytes:
    """A message as it stands in a segment."""
    body = _encoder.encode(message)
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def segments(path: Path) -> list[Path]:
    """Segment files of a capture folder, oldest first; a single file is a capture too. Raises ServingError."""
    found = [path] if path.is_file() else sorted(path.glob(f"*{SUFFIX}"))
    if not found:
        raise ServingError(
            f"want captured requests in {path}", "no *.cap file", "set debug.capture_dir and serve a while"
        )
    return found


def read_segment(path: Path) -> tuple[Segment | None, str]:
    """What a segment holds, and what is wrong with it ("" when nothing is): a damaged tail is left out."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None, f"{path.name}: no capture segment of a known layout, skipped"
        size, run, pairs, damage = path.stat().st_size, None, [], ""
        try:
            for message in _messages(file, size):
                if isinstance(message, Pair):
                    pairs.append(message)
                else:
                    run = message
        except _Damaged as err:
            damage = f"{path.name}: {err}; {size - err.at} bytes from byte {err.at} on are skipped"
    if run is None:
        return None, damage or f"{path.name}: empty, skipped"
    return Segment(path, run, pairs), damage


def count_pairs(path: Path) -> int:
    """How many pairs a segment holds, by the lengths of its frames alone."""
    frames, size = 0, path.stat().st_size
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        while len(head := file.read(_FRAME.size)) == _FRAME.size and file.tell() < size:
            file.seek(_FRAME.unpack(head)[0], 1)
            frames += file.tell() <= size
    return max(0, frames - 1)  # the first is the run


class _Damaged(Exception):
    def __init__(self, at: int, what: str) -> None:
        self.at = at
        super().__init__(what)


def _messages(file: BinaryIO, size: int) -> Iterator[Run | Pair]:
    """Messages until the end or the first damage."""
    at = file.tell()
    while head := file.read(_FRAME.size):
        if len(head) < _FRAME.size:
            raise _Damaged(at, "a frame is cut off")
        length, check = _FRAME.unpack(head)
        if length > min(FRAME_BYTES_MAX, size - file.tell()):
            raise _Damaged(at, "a frame is longer than what is left")
        body = file.read(length)
        if zlib.crc32(body) != check:
            raise _Damaged(at, "a frame is damaged")
        try:
            yield _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as err:
            raise _Damaged(at, f"a frame is of another layout ({err})") from err
        at = file.tell()
