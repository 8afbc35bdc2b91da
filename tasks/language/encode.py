"""Episodes as parquet row groups, encoding only what is new.

Columns that pass through are copied as bytes where their shard already has one row group per episode. The persistent
list, the same on each frame, is encoded for a few frames only; its data page is then repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.row_groups import Chunk, ChunkReader, bare_chunks, copied_chunks
from tasks.language.arrow import events_arrays, persistent_arrays
from tasks.language.rows import Row
from tasks.language.shard import LANGUAGE_COLUMNS, Batch, RowSource, Shard
from tasks.language.styles import EVENTS, PERSISTENT

PAGES_PER_CHUNK = 16  # about: equal data pages of a long episode's persistent list
WHOLE_VALUES_MAX = 4096  # below this many rows on all frames together, one page holds them
WORDS_BYTES_MAX = 256 << 10  # of text; far beyond, parquet would give up its dictionary halfway
COMPRESSION = "SNAPPY"


@dataclass(frozen=True)
class Encoded:
    """An episode's row group: its column chunks in schema order."""

    chunks: list[Chunk]
    frames: int


class Encoder:
    """Makes the row groups of one new shard."""

    def __init__(self, shard: Shard) -> None:
        self.schema = shard.schema
        sink = pa.BufferOutputStream()
        pq.ParquetWriter(sink, shard.schema, compression=COMPRESSION).close()
        self.empty = sink.getvalue()  # a file without rows
        self._copied = _copied_chunks(shard, pq.ParquetFile(self.empty).schema)
        self.columns = ("timestamp",) if self._copied else shard.kept  # to be read of each episode

    def encode(self, batch: Batch, rows_for: RowSource) -> list[Encoded]:
        """Row groups of a batch of episodes."""
        tables, states, moments = [], [], []
        for table, persistent, events in batch.episodes(rows_for):
            tables.append(table)
            states.append(persistent)
            moments.append(events)
        frames = [len(t) for t in tables]
        kept = self._copied.read(batch.group, len(frames)) if self._copied else self._encode_kept(tables)
        timestamps = [t.column("timestamp").to_numpy().astype(np.float32) for t in tables]
        events = bare_chunks(_encode(EVENTS, events_arrays(moments, timestamps), frames))
        lists = _encode_lists(states, frames)
        return [
            Encoded([*others, *same, *here], n)
            for others, same, here, n in zip(kept, lists, events, frames, strict=True)
        ]

    def _encode_kept(self, tables: Sequence[pa.Table]) -> list[list[Chunk]]:
        schema = pa.schema([f for f in self.schema if f.name not in LANGUAGE_COLUMNS])
        with _writer(schema, statistics=True) as (writer, sink):
            for table in tables:
                writer.write_table(table.select(schema.names), row_group_size=len(table))
        return copied_chunks(sink.getvalue())


def _copied_chunks(shard: Shard, new: pq.ParquetSchema) -> ChunkReader | None:
    """The old shard's chunks, if they are in the new one's layout already."""
    file = pq.ParquetFile(shard.path)
    old = file.schema
    leaves = [i for i in range(len(old)) if _root(old.column(i).path, file.schema_arrow.names) in shard.kept]
    fits = shard.aligned and len(leaves) <= len(new) and file.metadata.num_row_groups > 0
    if not fits or not all(old.column(i).equals(new.column(j)) for j, i in enumerate(leaves)):
        return None
    group = file.metadata.row_group(0)
    if any(group.column(i).compression != COMPRESSION for i in leaves):
        return None
    reader = ChunkReader(shard.path, leaves)
    return reader if reader.self_contained else None


def _root(path: str, names: Sequence[str]) -> str:
    """The column that a leaf belongs to; names may hold dots."""
    return max((n for n in names if path == n or path.startswith(n + ".")), key=len)


def _encode_lists(episodes: Sequence[Sequence[Row]], frames: Sequence[int]) -> Iterator[list[Chunk]]:
    """Each episode's persistent list on all of its frames."""
    pages = [_page(n, rows) for n, rows in zip(frames, episodes, strict=True)]
    pieces = [(rows, n) for rows, page in zip(episodes, pages, strict=True) for n in page if n]
    array = persistent_arrays([rows for rows, _ in pieces], [n for _, n in pieces])
    groups = iter(bare_chunks(_encode(PERSISTENT, array, [n for _, n in pieces])))
    for n, (page, rest) in zip(frames, pages, strict=True):
        once = next(groups)
        rest_of = next(groups) if rest else [None] * len(once)
        yield [c.repeated(n // page, r) for c, r in zip(once, rest_of, strict=True)]


def _page(frames: int, rows: Sequence[Row]) -> tuple[int, int]:
    """How many frames one data page of the persistent list holds, and how many a last, shorter one."""
    words_bytes = sum(len(r.content or "") for r in rows) * 4  # at most, in UTF-8
    if (
        frames * max(1, len(rows)) <= WHOLE_VALUES_MAX
        or words_bytes > WORDS_BYTES_MAX
        or any(r.tool_calls for r in rows)
    ):
        return frames, 0
    about = max(1, frames // PAGES_PER_CHUNK)
    page = next((p for p in range(about, 2 * about) if frames % p == 0), about)  # one that leaves no rest
    return page, frames % page


def _encode(name: str, array: pa.ListArray, frames: Sequence[int]) -> pa.Buffer:
    """A file of one column, one row group per episode. Statistics of words are of no use to readers."""
    schema = pa.schema([pa.field(name, array.type)])
    at = 0
    with _writer(schema, statistics=False) as (writer, sink):
        for n in frames:
            writer.write_table(pa.Table.from_arrays([array.slice(at, n)], schema=schema), row_group_size=n)
            at += n
    return sink.getvalue()


@contextmanager
def _writer(schema: pa.Schema, statistics: bool) -> Iterator[tuple[pq.ParquetWriter, pa.BufferOutputStream]]:
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
        sink, schema, compression=COMPRESSION, use_dictionary=True, write_statistics=statistics, store_schema=False
    )
    try:
        yield writer, sink
    finally:
        writer.close()
