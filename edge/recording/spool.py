"""A part of an episode on disk: one file that only grows, one checked record per frame, readable after any kill.

A record is its length and CRC-32 (two little-endian uint32) and its body, a msgpack array. A record that is torn ends
the part; all before it is whole, because a frame's pictures and numbers are one record.
"""

from __future__ import annotations

import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tasks.dataset.files import sync_folder

log = logging.getLogger(__name__)

HEAD = struct.Struct("<II")
RECORD_BYTES_MAX = 512 * 1024 * 1024  # a longer one is damage
PART_NAME = "part-{:06d}.spool"
SAVED, STOPPED, SPLIT, INTERRUPTED = "saved", "stopped", "split", "interrupted"  # how an episode ended


class Begin(msgspec.Struct, tag=0, array_like=True, frozen=True):
    """The first record: what the pictures are encoded with."""

    number: int  # of the part, counted over the recording
    dropped: int  # frames lost before it
    codec: str  # name of the encoding; "png" for pictures inside the data files
    extradata: list[bytes]  # the decoder's parameters of each camera


class Frame(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """One frame."""

    state: bytes  # float32
    action: bytes  # float32
    task: str
    session: str
    source: str
    intervention: bool
    numbers: tuple[int, ...]
    times: tuple[float, ...]
    packets: list[list[tuple[bytes, bool]]]  # of each camera: encoded picture, whether a keyframe
    counts: list[bytes]  # of each camera, some times a second: histograms for the statistics


class End(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """The last record of a part that was ended on purpose."""

    task: str
    how: str  # SAVED, STOPPED or SPLIT
    packets: list[list[tuple[bytes, bool]]]  # what the encoders still held


Record = Begin | Frame | End
_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Record)


class PartFile:
    """A part being written. One thread."""

    def __init__(self, folder: Path, number: int, sync_s: float) -> None:
        self.path, self.number, self.bytes = folder / PART_NAME.format(number), number, 0
        self._sync_s, self._synced_s = sync_s, time.monotonic()
        self._named = False  # whether its name is on the disk, too
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def append(self, record: Record) -> None:
        """Write one record, or nothing of it: OSError when the disk does not take it."""
        body = _encoder.encode(record)
        whole = memoryview(HEAD.pack(len(body), zlib.crc32(body)) + body)
        try:
            done = 0
            while done < len(whole):
                done += os.write(self._fd, whole[done:])
        except OSError:
            os.ftruncate(self._fd, self.bytes)
            raise
        self.bytes += len(whole)
        if time.monotonic() - self._synced_s > self._sync_s:
            self.sync()

    def sync(self) -> None:
        """Wait until what was written survives a power cut."""
        os.fdatasync(self._fd)
        if not self._named:
            sync_folder(self.path.parent)
            self._named = True
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """Twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Forget the part."""
        self.close()
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Part:
    """A part that is on disk."""

    path: Path
    number: int
    bytes: int


def parts_in(folder: Path) -> list[Part]:
    """All parts of a recording, oldest first."""
    found = []
    for path in sorted(folder.glob(PART_NAME.replace("{:06d}", "*"))):
        number = path.stem.rpartition("-")[2]
        if number.isdecimal():
            found.append(Part(path, int(number), path.stat().st_size))
    return sorted(found, key=lambda part: part.number)


def records(path: Path, *, tell: bool = False) -> Iterator[Record]:
    """The whole records of a part, in order; a torn one at the end is left out, and logged if `tell`."""
    with path.open("rb") as file:
        while head := file.read(HEAD.size):
            body = b""
            if len(head) == HEAD.size:
                length, crc = HEAD.unpack(head)
                body = file.read(length) if length <= RECORD_BYTES_MAX else b""
            if not body or len(body) < length or zlib.crc32(body) != crc:
                if tell:
                    log.warning("%s: the last record is torn; all before it is kept", path)
                return
            yield _decoder.decode(body)
