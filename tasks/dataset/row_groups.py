"""Parquet files put together from encoded column chunks, without decoding or encoding them again.

Columns that do not change are copied as bytes. A column that says the same on every frame is encoded for a few frames
only, and its data page repeated. And one file is filled by several threads.

A column chunk is a dictionary page and data pages, and these hold no positions. Only the footer does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.files import sync_file
from tasks.dataset.footer import StoredChunk, stored_groups, with_groups
from tasks.dataset.thrift import (
    BINARY,
    I32,
    I64,
    LIST,
    STOP,
    STRUCT,
    head_bytes,
    list_bytes,
    signed,
    signed_bytes,
    unsigned_bytes,
)
from tasks.errors import DatasetError

MAGIC = b"PAR1"
TAIL_BYTES = 8  # footer length, magic
PAGE_HEAD_BYTES_MAX = 32  # of the part that holds the sizes
PHYSICAL_TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
CODECS = ("UNCOMPRESSED", "SNAPPY")
ENCODINGS = {"PLAIN": 0, "PLAIN_DICTIONARY": 2, "RLE": 3, "BIT_PACKED": 4, "RLE_DICTIONARY": 8}
Pages = Sequence[bytes | memoryview]


class Chunk(Protocol):
    """A column chunk, ready to be placed anywhere."""

    plain_bytes: int  # before compression
    packed_bytes: int
    pages: Pages

    def placed(self, at: int) -> bytes:
        """Its ColumnChunk struct when its pages begin at that byte of a file."""
        ...


@dataclass(slots=True)
class CopiedChunk:
    """A chunk as another file has it, statistics included."""

    stored: StoredChunk
    plain_bytes: int
    packed_bytes: int
    pages: Pages

    def placed(self, at: int) -> bytes:
        """The old struct with the offsets moved."""
        meta, moved, done, out = self.stored.meta, at - self.stored.start, 0, b""
        for start, stop, value in self.stored.offsets:
            out += meta[done:start] + signed_bytes(value + moved)
            done = stop
        return out + meta[done:]


@dataclass(slots=True)
class BareChunk:
    """A chunk without statistics."""

    head: bytes  # the struct's begin: type, encodings, path, codec
    values: int
    plain_bytes: int
    packed_bytes: int
    words_bytes: int  # of the dictionary page, 0 when there is none
    pages: Pages

    def placed(self, at: int) -> bytes:
        """A struct of sizes and offsets only."""
        fields = [
            b"\x16" + signed_bytes(self.values),  # a number, the next field
            b"\x16" + signed_bytes(self.plain_bytes),
            b"\x16" + signed_bytes(self.packed_bytes),
            b"\x26" + signed_bytes(at + self.words_bytes),  # data_page_offset: a number, the field after the next
        ]
        if self.words_bytes:
            fields.append(b"\x26" + signed_bytes(at))  # dictionary_page_offset
        return b"".join([self.head, *fields, STOP, STOP])

    def repeated(self, times: int, rest: BareChunk | None) -> BareChunk:
        """The chunk of a column whose rows are those of this one, `times` over, and then those of `rest`.

        Both must have the same dictionary: they do when they were made of the same words in the same order.
        """
        if times == 1 and rest is None:
            return self
        (body,) = self.pages
        words, data = body[: self.words_bytes], body[self.words_bytes :]
        words_plain = _plain_bytes(words)
        pages = [words, *[data] * times]
        values, plain = self.values * times, words_plain + (self.plain_bytes - words_plain) * times
        if rest is not None:
            (other,) = rest.pages
            if other[: self.words_bytes] != words:
                raise DatasetError("want one dictionary for all frames of an episode", "two", "report this as a bug")
            pages.append(other[self.words_bytes :])
            values += rest.values
            plain += rest.plain_bytes - words_plain
        return BareChunk(self.head, values, plain, sum(map(len, pages)), self.words_bytes, pages)


class ChunkReader:
    """The column chunks of a parquet file as they are, for the columns named by position."""

    def __init__(self, path: Path, columns: Sequence[int]) -> None:
        with path.open("rb") as file:
            end = file.seek(-TAIL_BYTES, os.SEEK_END)
            size = int.from_bytes(file.read(4), "little")
            file.seek(end - size)
            self._coming = stored_groups(file.read(size))
        self._path = path
        self._columns = columns
        self._groups: list[list[StoredChunk]] = []  # those taken out of the footer so far
        self._lock = threading.Lock()

    def read(self, group: int, count: int) -> list[list[CopiedChunk]]:
        """The chunks of some consecutive row groups."""
        with self._lock:
            while len(self._groups) < group + count:
                stored = next(self._coming)
                self._groups.append([stored[i] for i in self._columns])
        chosen = self._groups[group : group + count]
        first = min(c.start for columns in chosen for c in columns)
        last = max(c.start + c.packed_bytes for columns in chosen for c in columns)
        with self._path.open("rb") as file:
            file.seek(first)
            data = memoryview(file.read(last - first))  # in one go: they lie side by side
        if len(data) != last - first:
            raise DatasetError(f"want a whole parquet file: {self._path}", "it ends early", "download it again")
        return [[_copied(c, data, first) for c in columns] for columns in chosen]


def _copied(chunk: StoredChunk, data: memoryview, first: int) -> CopiedChunk:
    """A stored chunk with its pages, out of the bytes of its file from `first` on."""
    start = chunk.start - first
    return CopiedChunk(chunk, chunk.plain_bytes, chunk.packed_bytes, [data[start : start + chunk.packed_bytes]])


def copied_chunks(file: pa.Buffer) -> list[list[CopiedChunk]]:
    """The column chunks of each row group of a parquet file in memory."""
    view = memoryview(file)
    return [[_copied(c, view, 0) for c in group] for group in stored_groups(_footer_bytes(view))]


def bare_chunks(file: pa.Buffer) -> list[list[BareChunk]]:
    """The column chunks of each row group of a parquet file in memory, without any statistics."""
    view = memoryview(file)
    metadata = pq.read_metadata(pa.BufferReader(file))
    heads: dict[tuple[int, tuple[str, ...]], bytes] = {}
    groups = []
    for i in range(metadata.num_row_groups):
        group, chunks = metadata.row_group(i), []
        for j in range(group.num_columns):
            column = group.column(j)
            key = (j, column.encodings)
            if key not in heads:
                heads[key] = _head(column)
            size, data, words = column.total_compressed_size, column.data_page_offset, column.dictionary_page_offset
            start = data if words is None else words
            pages = [view[start : start + size]]
            plain = column.total_uncompressed_size
            chunks.append(BareChunk(heads[key], column.num_values, plain, size, data - start, pages))
        groups.append(chunks)
    return groups


class RowGroupFile:
    """A parquet file written chunk by chunk. `empty` is a file without rows: the schema and metadata it shall have."""

    def __init__(self, path: Path, empty: pa.Buffer) -> None:
        self.path = path
        self._footer = _footer_bytes(memoryview(empty))
        self._groups: list[bytes] = []
        self._rows = 0
        self._file = path.open("xb")
        self._file.write(MAGIC)
        self._at = len(MAGIC)

    def add(self, chunks: Sequence[Chunk], rows: int) -> None:
        """Append a row group: its columns' chunks in schema order."""
        start, plain, metas, pages = self._at, 0, [], []
        for chunk in chunks:
            metas.append(chunk.placed(self._at))
            pages += chunk.pages
            self._at += chunk.packed_bytes
            plain += chunk.plain_bytes
        self._file.write(b"".join(pages))
        group = [
            *(head_bytes(1, LIST), list_bytes(len(metas)), *metas),  # columns
            *(head_bytes(1, I64), signed_bytes(plain)),  # total_byte_size
            *(head_bytes(1, I64), signed_bytes(rows)),  # num_rows
            *(head_bytes(2, I64), signed_bytes(start)),  # file_offset
            *(head_bytes(1, I64), signed_bytes(self._at - start), STOP),  # total_compressed_size
        ]
        self._groups.append(b"".join(group))
        self._rows += rows

    def close(self) -> None:
        """Write the footer and wait until all is on the disk."""
        tail = with_groups(self._footer, self._groups, self._rows)
        self._file.write(tail + len(tail).to_bytes(4, "little") + MAGIC)
        self._file.close()
        sync_file(self.path)

    def abandon(self) -> None:
        """Close without finishing, whatever the disk says to the last bytes."""
        with suppress(OSError):
            self._file.close()


def _head(column: pq.ColumnChunkMetaData) -> bytes:
    """The begin of a ColumnChunk struct: no offset of its own, then type, encodings, path and codec of its pages."""
    names = [name.encode() for name in column.path_in_schema.split(".")]
    parts = [
        *(head_bytes(2, I64), signed_bytes(0), head_bytes(1, STRUCT)),
        *(head_bytes(1, I32), signed_bytes(PHYSICAL_TYPES.index(column.physical_type))),
        *(head_bytes(1, LIST), list_bytes(len(column.encodings), I32)),
        *(signed_bytes(ENCODINGS[e]) for e in column.encodings),
        *(head_bytes(1, LIST), list_bytes(len(names), BINARY)),
        *(unsigned_bytes(len(n)) + n for n in names),
        *(head_bytes(1, I32), signed_bytes(CODECS.index(column.compression))),
    ]
    return b"".join(parts)


def _footer_bytes(file: memoryview) -> bytes:
    size = int.from_bytes(file[-TAIL_BYTES:-4], "little")
    return bytes(file[-TAIL_BYTES - size : -TAIL_BYTES])


def _plain_bytes(page: bytes | memoryview) -> int:
    """Size of a page and its head before compression. The head begins with type, plain and packed size of the page."""
    if not len(page):
        return 0
    data = bytes(page[:PAGE_HEAD_BYTES_MAX])
    _, at = signed(data, 1)  # each number follows the one byte of its field's head
    plain, at = signed(data, at + 1)
    packed, _ = signed(data, at + 1)
    return len(page) - packed + plain
