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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.dataset.row_groups import Chunk, ChunkReader, bare_chunks, copied_chunks
from tasks.language.arrow import event_lists, persistent_lists
from tasks.language.shard import LANGUAGE_COLUMNS, Batch, RowSource, Shard, timestamps_of
from tasks.language.styles import EVENTS, PERSISTENT

PAGES_PER_CHUNK = 16  # about: equal data pages of a long episode's persistent list
WHOLE_VALUES_MAX = 4096  # below this many rows on all frames together, one page holds them
PAGE_WORDS_BYTES_MAX = 1 << 20  # text of the frames of one page, however few frames that leaves
DICTIONARY_BYTES_MAX = 1 << 30  # a column must not change its encoding halfway: its pages are repeated
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
        tables, persistent, events = batch.read()
        frames = [len(t) for t in tables]
        states, moments = rows_for([run.episode for run in batch.runs], persistent, events)
        kept = self._copied.read(batch.group, len(frames)) if self._copied else self._encode_kept(tables)
        lists = _encode_states(states, frames)
        changing = bare_chunks(_encode(EVENTS, event_lists(moments, [timestamps_of(t) for t in tables]), frames))
        return [
            Encoded([*others, *same, *here], n)
            for others, same, here, n in zip(kept, lists, changing, frames, strict=True)
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
    return ChunkReader(shard.path, leaves)


def _root(path: str, names: Sequence[str]) -> str:
    """The column that a leaf belongs to; names may hold dots."""
    return max((n for n in names if path == n or path.startswith(n + ".")), key=len)


def _encode_states(states: pa.Table, frames: Sequence[int]) -> Iterator[list[Chunk]]:
    """Each episode's persistent list on all of its frames."""
    pages = [_page(*sizes) for sizes in zip(frames, *_sizes(states, len(frames)), strict=True)]
    pieces = [(episode, n) for episode, page in enumerate(pages) for n in page if n]
    array = persistent_lists(states, len(frames), pieces)
    groups = iter(bare_chunks(_encode(PERSISTENT, array, [n for _, n in pieces])))
    for n, (page, rest) in zip(frames, pages, strict=True):
        once = next(groups)
        rest_of = next(groups) if rest else [None] * len(once)
        yield [c.repeated(n // page, r) for c, r in zip(once, rest_of, strict=True)]


def _sizes(states: pa.Table, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and bytes of text of each episode."""
    episode, calls = states.column("episode").to_numpy(), states.column("tool_calls").combine_chunks()
    words = pc.fill_null(pc.binary_length(states.column("content")), 0).to_numpy()
    owners, lengths = pc.list_parent_indices(calls), pc.binary_length(pc.list_flatten(calls))
    words = words + np.bincount(owners.to_numpy(), weights=lengths.to_numpy(), minlength=len(words))
    return np.bincount(episode, minlength=episodes), np.bincount(episode, weights=words, minlength=episodes)


def _page(frames: int, rows: int, words_bytes: float) -> tuple[int, int]:
    """How many frames one data page of the persistent list holds, and how many a last, shorter one."""
    if frames * max(1, rows) <= WHOLE_VALUES_MAX and frames * words_bytes <= PAGE_WORDS_BYTES_MAX:
        return frames, 0
    about = max(1, min(frames // PAGES_PER_CHUNK, int(PAGE_WORDS_BYTES_MAX // max(words_bytes, 1))))
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
        sink,
        schema,
        compression=COMPRESSION,
        use_dictionary=True,
        dictionary_pagesize_limit=None if statistics else DICTIONARY_BYTES_MAX,
        write_statistics=statistics,
        store_schema=False,
    )
    try:
        yield writer, sink
    finally:
        writer.close()
