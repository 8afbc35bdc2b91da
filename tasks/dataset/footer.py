"""A parquet footer taken apart: where its row groups stand, and what of each column chunk depends on its place.

Field ids are those of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.dataset.thrift import LIST, STRUCT, after, list_bytes, open_field, open_list, signed, signed_bytes

FILE_ROWS, FILE_GROUPS = 3, 4  # FileMetaData
GROUP_COLUMNS = 1  # RowGroup
CHUNK_META = 3  # ColumnChunk
META_PLAIN, META_PACKED = 6, 7  # ColumnMetaData: total_uncompressed_size, total_compressed_size
META_OFFSETS = frozenset({9, 10, 11})  # data_page_offset, index_page_offset, dictionary_page_offset
META_WANTED = META_OFFSETS | {META_PLAIN, META_PACKED}
CHUNK_ELSEWHERE, META_ELSEWHERE = frozenset({4, 6}), 14  # page indexes and bloom filter lie outside the chunk


@dataclass(slots=True)
class StoredChunk:
    """A column chunk in a file."""

    meta: bytes = b""  # its ColumnChunk struct
    offsets: tuple[tuple[int, int, int], ...] = ()  # inside `meta`: first byte, byte after, value
    plain_bytes: int = 0  # before compression
    packed_bytes: int = 0
    elsewhere: bool = False  # parts of it lie in other places of the file

    @property
    def start(self) -> int:
        """Where its pages begin."""
        return min(value for _, _, value in self.offsets)


class Footer:
    """A footer and its row groups."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.groups: list[list[StoredChunk]] = []
        at = field = 0
        while data[at]:
            field, kind, at = open_field(data, at, field)
            if field == FILE_ROWS:
                self._rows_start = at
                _, at = signed(data, at)
                self._rows_stop = at
            elif field == FILE_GROUPS:
                self._list_start = at
                count, _, at = open_list(data, at)
                for _ in range(count):
                    at = self._group(at)
                self._list_stop = at
            else:
                at = after(data, at, kind)

    def with_groups(self, groups: list[bytes], rows: int) -> bytes:
        """This footer with other row groups, each a RowGroup struct."""
        data = self.data
        before = data[: self._rows_start] + signed_bytes(rows) + data[self._rows_stop : self._list_start]
        return before + list_bytes(len(groups)) + b"".join(groups) + data[self._list_stop :]

    def _group(self, at: int) -> int:
        data, field = self.data, 0
        chunks: list[StoredChunk] = []
        while data[at]:
            field, kind, at = open_field(data, at, field)
            if field == GROUP_COLUMNS and kind == LIST:
                count, _, at = open_list(data, at)
                for _ in range(count):
                    chunk, at = _chunk(data, at)
                    chunks.append(chunk)
            else:
                at = after(data, at, kind)
        self.groups.append(chunks)
        return at + 1


def _chunk(data: bytes, at: int) -> tuple[StoredChunk, int]:
    start, field, chunk = at, 0, StoredChunk()
    while data[at]:
        field, kind, at = open_field(data, at, field)
        if field == CHUNK_META and kind == STRUCT:
            at = _meta(data, at, start, chunk)
        else:
            chunk.elsewhere |= field in CHUNK_ELSEWHERE
            at = after(data, at, kind)
    chunk.meta = data[start : at + 1]
    return chunk, at + 1


def _meta(data: bytes, at: int, origin: int, chunk: StoredChunk) -> int:
    field, offsets = 0, []
    while data[at]:
        field, kind, at = open_field(data, at, field)
        if field not in META_WANTED:
            chunk.elsewhere |= field == META_ELSEWHERE
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
    chunk.offsets = tuple(offsets)
    return at + 1
