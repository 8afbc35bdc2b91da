"""The annotated dataset, written: staged rows into the shards' language columns, then one commit of everything."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.dataset.commit import Transaction, begin
from tasks.dataset.layout import Dataset
from tasks.dataset.row_groups import RowGroupFile
from tasks.errors import CommitError, DatasetError
from tasks.language.encode import Encoded, Encoder
from tasks.language.info import merge_info_text
from tasks.language.shard import LANGUAGE_COLUMNS, RowSource, Shard, batches, group_batches, read_shard, text_leaves
from tasks.language.staged import read_staged, staged_files
from tasks.language.styles import MODULE_STYLES
from tasks.staging import Staging

log = logging.getLogger(__name__)

INFO, PROVENANCE = Path("meta/info.json"), Path("meta/cuebook.json")
WORKERS_MAX = 4
VERIFY_ROWS = 64  # decoded at once when a new shard is tried
BATCHES_AHEAD = 1  # encoded or waiting, beyond one a worker


@dataclass(frozen=True)
class Written:
    """Where a dataset was written, and how much of it."""

    path: Path
    shards_written: int
    shards_kept: int  # shared with the dataset as it was


@dataclass(frozen=True)
class WriteSummary(Written):
    """What was written of staged rows."""

    episodes: int  # whose rows were replaced
    persistent_rows: int  # staged rows written
    event_rows: int


@dataclass
class _Rows:
    """The final rows of every episode: staged ones in place of those their modules made before, all others kept."""

    staging: Staging
    modules: Mapping[int, Sequence[str]]
    persistent_rows: int = 0
    event_rows: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, episodes: Sequence[int], persistent: pa.Table, events: pa.Table) -> tuple[pa.Table, pa.Table]:
        modules = [self.modules.get(e, ()) for e in episodes]
        states, moments = read_staged(staged_files(self.staging, episodes, modules))
        with self._lock:
            self.persistent_rows += len(states)
            self.event_rows += len(moments)
        return (
            pa.concat_tables([_others(persistent, modules), states]),
            pa.concat_tables([_others(events, modules), moments]),
        )


def _others(rows: pa.Table, modules: Sequence[Sequence[str]]) -> pa.Table:
    """The rows that none of their episode's modules makes."""
    made_by = np.zeros(len(rows), dtype=np.int64)  # bit m: a style of module m
    for m, owned in enumerate(MODULE_STYLES.values()):
        mine = pc.is_in(rows.column("style"), pa.array(owned, pa.string()))  # a null among them means null rows too
        made_by |= mine.to_numpy().astype(np.int64) << m
    replaced = np.array([sum(1 << m for m, name in enumerate(MODULE_STYLES) if name in names) for names in modules])
    return rows.filter(pa.array(made_by & replaced[rows.column("episode").to_numpy()] == 0))


def write_dataset(
    dataset: Dataset,
    staging: Staging,
    modules: Mapping[int, Sequence[str]],
    *,
    output: Path | None,
    provenance: dict[str, Any],
    drop_subtask_index: bool,
) -> WriteSummary:
    """Write staged rows of `modules[episode]` in place, or as a new dataset at `output`; all of it or nothing.

    Every shard gets the columns, so that the dataset loads. Rows of other episodes and modules stay as they are.
    Call it under `lock_dataset` of the folder it writes. Raises RowError, StagingError, DatasetError, CommitError.
    """
    rows = _Rows(staging, modules)
    touched = {episode for episode, names in modules.items() if names}
    written = write_rows(
        dataset, rows, touched, output=output, provenance=provenance, drop_subtask_index=drop_subtask_index
    )
    return WriteSummary(
        written.path,
        written.shards_written,
        written.shards_kept,
        episodes=len(touched),
        persistent_rows=rows.persistent_rows,
        event_rows=rows.event_rows,
    )


def write_rows(
    dataset: Dataset,
    rows: RowSource,
    touched: Collection[int],
    *,
    output: Path | None,
    provenance: dict[str, Any],
    drop_subtask_index: bool,
) -> Written:
    """Write the rows that `rows` gives for the episodes `touched`, in place or at `output`; all of it or nothing.

    Shards without such an episode are shared as they are, if they have the columns already. `rows` is asked from
    several threads. Call it under `lock_dataset` of the folder it writes. Raises RowError, DatasetError, CommitError.
    """
    shards = [read_shard(p, drop_subtask_index=drop_subtask_index) for p in dataset.data_files]
    _check_episodes(shards, touched)
    changed = [s for s in shards if not s.current or any(r.episode in touched for r in s.runs)]
    relative = [s.path.relative_to(dataset.root) for s in changed]
    with begin(dataset.root, output, replaced=[*relative, INFO, PROVENANCE]) as transaction:
        _write_shards(changed, transaction, dataset.root, rows)
        dropped = {name for s in shards for name in s.dropped}
        text = (dataset.root / INFO).read_text(encoding="utf-8")
        transaction.write(INFO, merge_info_text(text, dropped).encode())
        transaction.write(PROVENANCE, (json.dumps(provenance, indent=2, ensure_ascii=False) + "\n").encode())
        _verify(shards, {s.path: transaction.path(r) for s, r in zip(changed, relative, strict=True)})
        path = transaction.commit()
    return Written(path, len(changed), len(shards) - len(changed))


def _check_episodes(shards: Sequence[Shard], touched: Collection[int]) -> None:
    where: dict[int, Path] = {}
    for shard in shards:
        for run in shard.runs:
            if run.episode in where:
                raise DatasetError(
                    f"want episode {run.episode} in one shard",
                    f"{where[run.episode]} and {shard.path}",
                    "record it again, or merge the two",
                )
            where[run.episode] = shard.path
    if missing := sorted(set(touched) - set(where)):
        raise DatasetError("want annotated episodes in the data shards", f"no episode {missing[0]}", "check data/")


def _write_shards(shards: Sequence[Shard], transaction: Transaction, root: Path, rows: RowSource) -> None:
    """Encode episodes on several threads and put them into their shards in order; few are held at a time."""
    workers = min(WORKERS_MAX, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="write") as pool:
        try:
            waiting: deque[tuple[RowGroupFile, Future[list[Encoded]]]] = deque()
            for shard in shards:
                encoder = Encoder(shard)
                with _file(transaction.path(shard.path.relative_to(root)), encoder) as file:
                    for batch in batches(shard, encoder.columns):
                        waiting.append((file, pool.submit(encoder.encode, batch, rows)))
                        while len(waiting) > workers + BATCHES_AHEAD:
                            _add(*waiting.popleft())
                    while waiting:
                        _add(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _file(path: Path, encoder: Encoder) -> Iterator[RowGroupFile]:
    file = RowGroupFile(path, encoder.empty)
    try:
        yield file
    except BaseException:
        file.abandon()
        raise
    file.close()


def _add(file: RowGroupFile, encoded: Future[list[Encoded]]) -> None:
    for group in encoded.result():
        file.add(group.chunks, group.frames)


def _verify(shards: Sequence[Shard], built: Mapping[Path, Path]) -> None:
    """Open every new shard as a reader would: whole, all rows there, one row group per episode, one schema for all."""
    language: set[str] = set()
    for shard in shards:
        path = built.get(shard.path, shard.path)
        try:
            meta = pq.read_metadata(path)
            schema = meta.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as err:
            raise CommitError("want a readable new shard", f"{path}: {err}", "check the disk and run again") from err
        rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        whole = rows == [r.frames for r in shard.runs] and schema.equals(shard.schema)
        if not whole or (path != shard.path and not _decodes(path, rows)):
            raise CommitError("want the new shard to hold every frame", f"{path} does not", "report this as a bug")
        language.add(str([schema.field(c).type for c in LANGUAGE_COLUMNS]))
    if len(language) > 1:
        raise CommitError("want the same columns in all shards", "different types", "report this as a bug")


def _decodes(path: Path, rows: Sequence[int]) -> bool:
    """Whether the new columns of the first and the last episode can be read on every frame."""
    file = pq.ParquetFile(path, read_dictionary=text_leaves(path))
    groups = sorted({0, len(rows) - 1}) if rows else []
    try:
        return all(sum(map(len, group_batches(file, g, VERIFY_ROWS, LANGUAGE_COLUMNS))) == rows[g] for g in groups)
    except (pa.ArrowException, OSError):
        log.exception("the new shard %s cannot be read back", path)
        return False
