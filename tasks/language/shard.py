"""One data shard with new language columns, read and encoded one episode (which is one row group) at a time."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.files import sync_file
from tasks.dataset.shards import group_starts, open_parquet, unreadable
from tasks.errors import DatasetError
from tasks.language.arrow import (
    CODED_TYPES,
    COLUMN_TYPES,
    events_array,
    persistent_array,
    rows_of_events,
    rows_of_frame,
)
from tasks.language.info import shard_metadata
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT

LANGUAGE_COLUMNS = (PERSISTENT, EVENTS)
TOOLS_COLUMN, SUBTASK_COLUMN = "tools", "subtask_index"
PACKED_BATCH_BYTES = 16 << 20  # read at once from a shard whose row groups are not episodes
PACKED_BATCH_ROWS_MAX = 8192
READ_BUFFER_BYTES = WRITE_BUFFER_BYTES = 1 << 20


class RowSource(Protocol):
    """Where an episode's final rows come from, given those it has now."""

    def __call__(self, episode: int, persistent: list[Row], events: list[Row]) -> tuple[list[Row], list[Row]]: ...


@dataclass(frozen=True)
class Run:
    """The rows of one episode in a shard."""

    episode: int
    start: int
    stop: int

    @property
    def frames(self) -> int:
        """How many rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Shard:
    """What a shard is and what it will be."""

    path: Path
    runs: tuple[Run, ...]
    aligned: bool  # row group i holds episode i alone
    current: bool  # has the columns as this version writes them and nothing to drop
    kept: tuple[str, ...]  # columns that pass through
    dropped: tuple[str, ...]
    schema: pa.Schema  # the new one, as readers see it


@dataclass(frozen=True)
class _Episode:
    kept: pa.Table
    persistent: list[Row]
    events: list[Row]


def read_shard(path: Path, *, drop_subtask_index: bool) -> Shard:
    """Look at a shard: its episodes and its columns. Raises DatasetError when it lacks what annotation needs."""
    file = open_parquet(path)
    schema = file.schema_arrow
    missing = [n for n in ("episode_index", "timestamp") if n not in schema.names]
    if missing:
        raise DatasetError(f"want columns episode_index and timestamp in {path}", f"no {missing[0]}", "record it again")
    unwanted = (TOOLS_COLUMN, SUBTASK_COLUMN) if drop_subtask_index else (TOOLS_COLUMN,)
    dropped = tuple(n for n in schema.names if n in unwanted)
    kept = tuple(n for n in schema.names if n not in dropped and n not in LANGUAGE_COLUMNS)
    fields = [schema.field(n) for n in kept] + [pa.field(c, COLUMN_TYPES[c]) for c in LANGUAGE_COLUMNS]
    new = pa.schema(fields, metadata=shard_metadata(schema.metadata, kept))
    runs = _runs(file, path)
    starts = group_starts(file)
    aligned = len(starts) == len(runs) + 1 and all(r.start == s for r, s in zip(runs, starts, strict=False))
    return Shard(path, runs, aligned, aligned and schema.equals(new, check_metadata=False), kept, dropped, new)


def _runs(file: pq.ParquetFile, path: Path) -> tuple[Run, ...]:
    try:
        index = file.read(columns=["episode_index"]).column("episode_index").to_numpy()
    except (pa.ArrowException, OSError) as err:
        raise unreadable(path, err) from err
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)] if len(index) else [0]
    runs = tuple(Run(int(index[a]), a, b) for a, b in pairwise(edges))
    seen: set[int] = set()
    for run in runs:
        if run.episode in seen:
            raise DatasetError(
                f"want the frames of an episode side by side in {path}",
                f"episode {run.episode} in several places",
                "sort the shard by episode_index and frame_index",
            )
        seen.add(run.episode)
    return runs


def encode(shard: Shard, runs: Sequence[Run], out: Path, rows_for: RowSource) -> None:
    """Write those consecutive episodes of a shard to `out`, one row group each, and onto the disk."""
    coded = [shard.schema.field(n) for n in shard.kept] + [pa.field(c, CODED_TYPES[c]) for c in LANGUAGE_COLUMNS]
    schema = pa.schema(coded)
    with _writer(out, shard, schema) as writer:
        for run, old in zip(runs, _episodes(shard, runs), strict=True):
            persistent, events = rows_for(run.episode, old.persistent, old.events)
            columns = [
                *old.kept.columns,
                persistent_array(persistent, run.frames),
                events_array(events, _timestamps(old.kept)),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=run.frames)
    sync_file(out)


@contextmanager
def _writer(out: Path, shard: Shard, coded: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of coded columns whose file says that they are plain text."""
    sink = pa.BufferedOutputStream(pa.OSFile(str(out), "wb"), WRITE_BUFFER_BYTES)
    writer = pq.ParquetWriter(
        sink,
        coded,
        compression="snappy",
        use_dictionary=True,
        write_statistics=_leaves(shard),  # of no use on language columns, and they cost a pass over every frame
        store_schema=False,
    )
    try:
        plain = base64.b64encode(shard.schema.serialize().to_pybytes())
        writer.add_key_value_metadata({**(shard.schema.metadata or {}), b"ARROW:schema": plain})
        yield writer
        writer.close()
        sink.close()
    except BaseException:
        writer.is_open = False  # or it tries to write a footer when it is collected
        with suppress(OSError):
            sink.close()
        raise


def _leaves(shard: Shard) -> list[str]:
    """Parquet's names of the kept columns' innermost parts."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, pa.schema([shard.schema.field(n) for n in shard.kept])).close()
    schema = pq.ParquetFile(sink.getvalue()).schema
    return [schema.column(i).path for i in range(len(schema))]


def _timestamps(table: pa.Table) -> np.ndarray:
    return table.column("timestamp").to_numpy().astype(np.float32)


def _episodes(shard: Shard, runs: Sequence[Run]) -> Iterator[_Episode]:
    try:
        yield from (_aligned if shard.aligned else _packed)(shard, runs)
    except (pa.ArrowException, OSError) as err:
        raise unreadable(shard.path, err) from err


def _aligned(shard: Shard, runs: Sequence[Run]) -> Iterator[_Episode]:
    """Episodes of a shard with one row group each: the persistent list is decoded for the first frame only."""
    file = open_parquet(shard.path)
    group_of = {run.start: i for i, run in enumerate(shard.runs)}
    has = [c for c in LANGUAGE_COLUMNS if c in file.schema_arrow.names]
    for run in runs:
        group = group_of[run.start]
        wanted = [*shard.kept, *(c for c in has if c == EVENTS)]
        table = file.read_row_group(group, columns=wanted, use_threads=False)
        first = None
        if PERSISTENT in has:
            batches = file.iter_batches(1, row_groups=[group], columns=[PERSISTENT], use_threads=False)
            first = next(batches).column(0)
        yield _episode(shard, table, first)


def _packed(shard: Shard, runs: Sequence[Run]) -> Iterator[_Episode]:
    """Episodes of a shard whose row groups are something else."""
    file = pq.ParquetFile(shard.path, buffer_size=READ_BUFFER_BYTES)
    wanted = [*shard.kept, *(c for c in LANGUAGE_COLUMNS if c in file.schema_arrow.names)]
    for table in cut_runs(file, runs, wanted):
        yield _episode(shard, table, table.column(PERSISTENT) if PERSISTENT in table.column_names else None)


def cut_runs(file: pq.ParquetFile, runs: Sequence[Run], columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of each of a file's runs (all of them, in order), cut out of a stream of batches."""
    batches = file.iter_batches(_batch_rows(file), columns=list(columns), use_threads=False)
    ready: list[pa.RecordBatch] = []
    rows = at = 0  # rows in `ready`, and the first of them
    for run in runs:
        while at + rows < run.stop:
            ready.append(next(batches))
            rows += ready[-1].num_rows
        table = pa.Table.from_batches(ready)
        left = table.slice(run.stop - at)
        ready, rows, at = left.to_batches(), left.num_rows, run.stop
        yield table.slice(0, run.frames)


def _batch_rows(file: pq.ParquetFile) -> int:
    meta = file.metadata
    size_bytes = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    return int(np.clip(PACKED_BATCH_BYTES * meta.num_rows // max(size_bytes, 1), 1, PACKED_BATCH_ROWS_MAX))


def _episode(shard: Shard, table: pa.Table, first: pa.Array | pa.ChunkedArray | None) -> _Episode:
    persistent = rows_of_frame(first[0]) if first is not None and len(first) else []
    events = rows_of_events(table.column(EVENTS), _timestamps(table)) if EVENTS in table.column_names else []
    return _Episode(table.select(list(shard.kept)), persistent, events)
