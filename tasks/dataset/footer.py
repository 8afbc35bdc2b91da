"""A parquet footer taken apart: its row groups, and what of each column chunk depends on its place in the file.

Field ids are those of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.dataset.thrift import LIST, STOP, after, list_bytes, open_field, open_list, signed, signed_bytes

FILE_ROWS, FILE_GROUPS = 3, 4  # FileMetaData
GROUP_COLUMNS = 1  # RowGroup
CHUNK_META = 3  # ColumnChunk; what follows are page indexes, which lie outside the chunk
META_PLAIN, META_PACKED = 6, 7  # ColumnMetaData: total_uncompressed_size, total_compressed_size
META_OFFSETS = frozenset({9, 10, 11})  # data_page_offset, index_page_offset, dictionary_page_offset
META_WANTED = META_OFFSETS | {META_PLAIN, META_PACKED}
META_BLOOM = 14  # a filter outside the chunk; what follows are optional statistics


@dataclass(slots=True)
class StoredChunk:
    """A column chunk in a file, without what lies elsewhere in that file."""

    meta: bytes = b""  # its ColumnChunk struct
    offsets: Sequence[tuple[int, int, int]] = ()  # inside `meta`: first byte, byte after, value
    plain_bytes: int = 0  # before compression
    packed_bytes: int = 0

    @property
    def start(self) -> int:
        """Where its pages begin."""
        return min(value for _, _, value in self.offsets)


def stored_groups(footer: bytes) -> Iterator[list[StoredChunk]]:
    """The column chunks of one row group after the other."""
    at = field = 0
    while footer[at]:
        field, kind, at = open_field(footer, at, field)
        if field != FILE_GROUPS:
            at = after(footer, at, kind)
            continue
        count, _, at = open_list(footer, at)
        for _ in range(count):
            group, at = _group(footer, at)
            yield group


def with_groups(footer: bytes, groups: Sequence[bytes], rows: int) -> bytes:
    """A footer with other row groups, each a RowGroup struct."""
    parts: list[bytes] = []
    at = field = done = 0
    while footer[at]:
        field, kind, at = open_field(footer, at, field)
        start, at = at, after(footer, at, kind)
        if field == FILE_ROWS:
            parts += (footer[done:start], signed_bytes(rows))
            done = at
        elif field == FILE_GROUPS:
            parts += (footer[done:start], list_bytes(len(groups)), *groups)
            done = at
    return b"".join([*parts, footer[done:]])


def _group(data: bytes, at: int) -> tuple[list[StoredChunk], int]:
    chunks: list[StoredChunk] = []
    field = 0
    while data[at]:
        field, kind, at = open_field(data, at, field)
        if field == GROUP_COLUMNS and kind == LIST:
            count, _, at = open_list(data, at)
            for _ in range(count):
                chunk, at = _chunk(data, at)
                chunks.append(chunk)
        else:
            at = after(data, at, kind)
    return chunks, at + 1


def _chunk(data: bytes, at: int) -> tuple[StoredChunk, int]:
    start, field, chunk = at, 0, StoredChunk()
    while data[at]:
        field, kind, at = open_field(data, at, field)
        at = _meta(data, at, start, chunk) if field == CHUNK_META else after(data, at, kind)
    return chunk, at + 1


def _meta(data: bytes, at: int, origin: int, chunk: StoredChunk) -> int:
    field, offsets, end = 0, [], 0
    while data[at]:
        begin = at
        field, kind, at = open_field(data, at, field)
        if field not in META_WANTED:
            if field == META_BLOOM:
                end = begin
            at = after(data, at, kind)
            continue
        begin = at
        value, at = signed(data, at)
        if field == META_PLAIN:
            chunk.plain_bytes = value
        elif field == META_PACKED:
            chunk.packed_bytes = value
        elif value:  # 0 is an unused offset
            offsets.append((begin - origin, at - origin, value))
    chunk.meta = data[origin : end or at] + STOP + STOP
    chunk.offsets = offsets
    return at + 1
