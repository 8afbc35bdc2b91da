"""Joining parquet files of one schema into one file, row group by row group, without decoding anything.

One shard is encoded by several threads, each into a file of its own. Row groups are copied as bytes; all that changes
when they move are the byte offsets in the footer. The footer is thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), its fields are those of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tasks.errors import DatasetError

MAGIC = b"PAR1"
TAIL_BYTES = 8  # footer length, magic
SHORT_LIST_MAX = 14
PATH_BITS = 8
BOOLEANS, BYTE, I16, DOUBLE, BINARY, LIST, SET, STRUCT = (1, 2), 3, 4, 7, 8, 9, 10, 12  # thrift's types
VARINTS = frozenset({4, 5, 6})
WIDTHS = {1: 0, 2: 0, BYTE: 1, DOUBLE: 8}  # a boolean field lives in its head


def _path(*fields: int) -> int:
    """Field ids from the footer inwards as one number; the id of a list stands for each of its items."""
    path = 0
    for field in fields:
        path = path << PATH_BITS | field
    return path


NUM_ROWS, ROW_GROUPS, ORDINAL = _path(3), _path(4), _path(4, 7)
OFFSETS = frozenset(
    {
        _path(4, 5),  # RowGroup.file_offset
        _path(4, 1, 2),  # ColumnChunk.file_offset, 0 when unused
        _path(4, 1, 4),  # ColumnChunk.offset_index_offset
        _path(4, 1, 6),  # ColumnChunk.column_index_offset
        _path(4, 1, 3, 9),  # ColumnMetaData.data_page_offset
        _path(4, 1, 3, 10),  # ColumnMetaData.index_page_offset
        _path(4, 1, 3, 11),  # ColumnMetaData.dictionary_page_offset
        _path(4, 1, 3, 14),  # ColumnMetaData.bloom_filter_offset
    }
)
NUMBERS = OFFSETS | {NUM_ROWS, ORDINAL}
INSIDE = frozenset({ROW_GROUPS, _path(4, 1), _path(4, 1, 3)})  # on the way to them; all else is passed over
Number = tuple[int, int, int, int]  # a number that a move changes: path, first byte, byte after, value


class Footer:
    """A footer and where its row groups and their numbers stand."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.numbers: list[Number] = []
        self.list_start = self.groups_start = self.groups_stop = self.groups = 0
        self._at = 0
        self._struct(0)
        _, self._rows_start, self._rows_stop, self.rows = next(n for n in self.numbers if n[0] == NUM_ROWS)

    @classmethod
    def of(cls, path: Path) -> Footer:
        """Read a file's footer."""
        with path.open("rb") as file:
            return cls(_footer_bytes(file)[0])

    def moved(self, by_bytes: int, by_groups: int) -> Iterator[bytes]:
        """The row groups as they read when they lie `by_bytes` later, behind `by_groups` others."""
        at = self.groups_start
        for path, start, stop, value in self.numbers:
            if path == NUM_ROWS or (value == 0 and path != ORDINAL):  # an offset of 0 is an unused one
                continue
            yield self.data[at:start]
            yield _number_bytes(value + (by_groups if path == ORDINAL else by_bytes))
            at = stop
        yield self.data[at : self.groups_stop]

    def with_groups(self, groups: bytes, count: int, rows: int) -> bytes:
        """This footer with other row groups."""
        data = self.data
        before = data[: self._rows_start] + _number_bytes(rows) + data[self._rows_stop : self.list_start]
        return before + _list_head_bytes(count) + groups + data[self.groups_stop :]

    def _struct(self, path: int) -> None:
        data, field = self.data, 0
        while head := data[self._at]:
            self._at += 1
            field = field + (head >> 4) if head >> 4 else self._number()
            inner = path << PATH_BITS | field
            if inner in NUMBERS:
                start = self._at
                value = self._number()
                self.numbers.append((inner, start, self._at, value))
            elif inner in INSIDE:
                self._inside(head & 0x0F, inner)
            else:
                self._at = _after(data, self._at, head & 0x0F)
        self._at += 1

    def _inside(self, kind: int, path: int) -> None:
        if kind == STRUCT:
            return self._struct(path)
        list_start = self._at
        count, _, self._at = _open_list(self.data, self._at)
        groups_start = self._at
        for _ in range(count):
            self._struct(path)
        if path == ROW_GROUPS:
            self.list_start, self.groups_start = list_start, groups_start
            self.groups_stop, self.groups = self._at, count

    def _number(self) -> int:
        value, self._at = _varint(self.data, self._at)
        return (value >> 1) ^ -(value & 1)


def join_parquet(first: Path, rest: Sequence[Path], footers: Sequence[Footer]) -> None:
    """Append the row groups of `rest`, in order, to `first`, and delete `rest`.

    All files have one schema; `footers` are those of `first` and of each of `rest`.
    """
    head = footers[0]
    groups, count, rows = [head.data[head.groups_start : head.groups_stop]], head.groups, head.rows
    with first.open("r+b", buffering=0) as out:
        position = _footer_bytes(out)[1]
        out.truncate(position)
        out.seek(position)
        for path, footer in zip(rest, footers[1:], strict=True):
            groups += footer.moved(position - len(MAGIC), count)
            with path.open("rb") as part:
                position += _append(out, part, len(MAGIC), _footer_bytes(part)[1])
            count += footer.groups
            rows += footer.rows
        tail = head.with_groups(b"".join(groups), count, rows)
        out.write(tail + len(tail).to_bytes(4, "little") + MAGIC)
    for path in rest:
        path.unlink()


def _footer_bytes(file: BinaryIO) -> tuple[bytes, int]:
    """A footer and the offset where it begins."""
    end = file.seek(-TAIL_BYTES, os.SEEK_END)
    tail = file.read(TAIL_BYTES)
    start = file.seek(end - int.from_bytes(tail[:4], "little"))
    return file.read(end - start), start


def _append(out: BinaryIO, part: BinaryIO, start: int, stop: int) -> int:
    at = start
    while at < stop:
        sent = os.sendfile(out.fileno(), part.fileno(), at, stop - at)
        if not sent:
            raise DatasetError("want a whole parquet part", f"{at} of {stop} bytes", "run again")
        at += sent
    return stop - start


def _after(data: bytes, at: int, kind: int) -> int:
    """The byte after a value. Most of a footer is passed here, hence the loops without calls."""
    if kind in VARINTS:
        while data[at] & 0x80:
            at += 1
        return at + 1
    if kind == STRUCT:
        while head := data[at]:
            at += 1
            if not head >> 4:  # a long field id follows
                at = _after(data, at, I16)
            if (kind := head & 0x0F) in VARINTS:
                while data[at] & 0x80:
                    at += 1
                at += 1
            else:
                at = _after(data, at, kind)
        return at + 1
    if kind == BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind in (LIST, SET):
        count, item, at = _open_list(data, at)
        for _ in range(count):
            at = _after(data, at, BYTE if item in BOOLEANS else item)
        return at
    if kind in WIDTHS:
        return at + WIDTHS[kind]
    raise DatasetError("want a parquet footer", f"thrift type {kind}", "report this as a bug")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number and the byte after it."""
    byte = data[at]
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, at + 1


def _open_list(data: bytes, at: int) -> tuple[int, int, int]:
    """How many items, of which type, and where the first one begins."""
    head = data[at]
    if head >> 4 <= SHORT_LIST_MAX:
        return head >> 4, head & 0x0F, at + 1
    count, at = _varint(data, at + 1)
    return count, head & 0x0F, at


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number_bytes(value: int) -> bytes:
    return _varint_bytes((value << 1) ^ (value >> 63))


def _list_head_bytes(count: int) -> bytes:
    if count <= SHORT_LIST_MAX:
        return bytes([count << 4 | STRUCT])
    return bytes([0xF0 | STRUCT]) + _varint_bytes(count)
