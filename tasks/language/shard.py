"""A data shard as it is read to be written again: its episodes, what passes through, and the rows it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.shards import group_starts, open_parquet, unreadable
from tasks.errors import DatasetError
from tasks.language.arrow import COLUMN_TYPES, TEXT_FIELDS, row_table, stored_table
from tasks.language.info import shard_metadata
from tasks.language.styles import EVENTS, PERSISTENT

LANGUAGE_COLUMNS = (PERSISTENT, EVENTS)
TOOLS_COLUMN, SUBTASK_COLUMN = "tools", "subtask_index"
BATCH_BYTES = 16 << 20  # of a shard, held at once by one worker; an episode is never cut
BATCH_ROWS_MAX = 16384
BATCH_EPISODES_MAX = 32
READ_BUFFER_BYTES = 1 << 20


class RowSource(Protocol):
    """Where the final rows of some episodes come from, given those they have now: persistent and event row tables."""

    def __call__(
        self, episodes: Sequence[int], persistent: pa.Table, events: pa.Table
    ) -> tuple[pa.Table, pa.Table]: ...


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
class Batch:
    """Consecutive episodes of a shard, with their rows where the shard had to be read in one stream."""

    shard: Shard
    group: int  # position of the first of them
    runs: Sequence[Run]
    columns: Sequence[str]
    tables: Sequence[pa.Table] | None

    def read(self) -> tuple[list[pa.Table], pa.Table, pa.Table]:
        """The columns asked for of each episode, and the persistent and event rows that are there."""
        try:
            if self.tables is None:
                return self._read_groups()
            firsts = [t.column(PERSISTENT).slice(0, 1) for t in self.tables if PERSISTENT in t.column_names]
            return list(self.tables), _states(firsts), self._moments(pa.concat_tables(self.tables))
        except (pa.ArrowException, OSError) as err:
            raise unreadable(self.shard.path, err) from err

    def _read_groups(self) -> tuple[list[pa.Table], pa.Table, pa.Table]:
        """Of the persistent list, the same on each frame, only the first one is decoded."""
        file = open_parquet(self.shard.path)
        names = file.schema_arrow.names
        columns = [*self.columns, *(c for c in (EVENTS,) if c in names)]
        groups = range(self.group, self.group + len(self.runs))
        table = file.read_row_groups(list(groups), columns=columns, use_threads=False)
        firsts = []
        for group in groups if PERSISTENT in names else ():
            frames = file.iter_batches(1, row_groups=[group], columns=[PERSISTENT], use_threads=False)
            firsts.append(pa.chunked_array([next(frames).column(0)]))
        tables = [table.slice(run.start - self.runs[0].start, run.frames) for run in self.runs]
        return tables, _states(firsts), self._moments(table)

    def _moments(self, table: pa.Table) -> pa.Table:
        if EVENTS not in table.column_names:
            return row_table([])
        episode = np.repeat(np.arange(len(self.runs)), [run.frames for run in self.runs])
        return stored_table(table.column(EVENTS), episode, timestamps_of(table))


def _states(firsts: Sequence[pa.ChunkedArray]) -> pa.Table:
    """Rows of the first frames' persistent lists, one an episode."""
    if not firsts:
        return row_table([])
    cells = pa.chunked_array([chunk for first in firsts for chunk in first.chunks], firsts[0].type)
    return stored_table(cells, np.arange(len(cells)), None)


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


def batches(shard: Shard, columns: Sequence[str]) -> Iterator[Batch]:
    """The shard's episodes in order, some at a time. Of a shard in row groups, nothing is read yet."""
    try:
        known = open_parquet(shard.path)  # its footer was read before: one of many row groups is large
        file = pq.ParquetFile(
            shard.path,
            metadata=known.metadata,
            buffer_size=READ_BUFFER_BYTES,
            read_dictionary=_text_leaves(known.schema),
        )
        limit = batch_rows(file)
        has = [c for c in LANGUAGE_COLUMNS if c in file.schema_arrow.names]
        cut = None if shard.aligned else cut_runs(file, shard.runs, [*columns, *has])
        at = 0
        for runs in _grouped(shard.runs, limit):
            yield Batch(shard, at, runs, columns, None if cut is None else list(islice(cut, len(runs))))
            at += len(runs)
    except (pa.ArrowException, OSError) as err:
        raise unreadable(shard.path, err) from err


def _grouped(runs: Sequence[Run], rows_max: int) -> Iterator[list[Run]]:
    group: list[Run] = []
    for run in runs:
        if group and (run.stop - group[0].start > rows_max or len(group) == BATCH_EPISODES_MAX):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def timestamps_of(table: pa.Table) -> np.ndarray:
    """Frame timestamps in float32, as rows are compared with them."""
    return table.column("timestamp").to_numpy().astype(np.float32)


def cut_runs(file: pq.ParquetFile, runs: Sequence[Run], columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of each of a file's runs (all of them, in order), cut out of a stream of batches."""
    limit = batch_rows(file)
    batches = chain.from_iterable(group_batches(file, g, limit, columns) for g in range(file.num_row_groups))
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


def group_batches(file: pq.ParquetFile, group: int, rows_max: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """One row group in batches. A batch of several cannot be had where their dictionaries differ."""
    return file.iter_batches(rows_max, row_groups=[group], columns=list(columns), use_threads=False)


def text_leaves(path: Path) -> list[str]:
    """Parquet's names of the language columns' texts. Read as dictionary indices they cost a third."""
    return _text_leaves(pq.ParquetFile(path).schema)


def _text_leaves(schema: pq.ParquetSchema) -> list[str]:
    leaves = [schema.column(i).path for i in range(len(schema))]
    return [p for p in leaves if p.split(".")[0] in LANGUAGE_COLUMNS and p.split(".")[-1] in TEXT_FIELDS]


def batch_rows(file: pq.ParquetFile) -> int:
    """How many frames to hold at once."""
    meta = file.metadata
    size_bytes = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    return int(np.clip(BATCH_BYTES * meta.num_rows // max(size_bytes, 1), 1, BATCH_ROWS_MAX))
