"""An annotated dataset judged as it lies on disk: what the writer promises, checked without the writer's help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.check_rows import check_rows
from tasks.dataset.layout import Dataset, open_dataset
from tasks.errors import DatasetError, RowError
from tasks.language.arrow import COLUMN_TYPES, frames_of, rows_of_events, rows_of_table, stored_table
from tasks.language.info import LANGUAGE_FEATURE, declares_say
from tasks.language.shard import LANGUAGE_COLUMNS, TOOLS_COLUMN, Shard, cut_runs, read_shard, text_leaves
from tasks.language.styles import EVENTS, PERSISTENT
from tasks.report import Finding, Report

WRITE_AGAIN = "annotate the dataset again with this version; rows that are there are kept"


def check_dataset(root: Path) -> Report:
    """Verify an annotated dataset: types, invariants, timestamps, info.json. Raises DatasetError when it is none."""
    dataset = open_dataset(root)
    report = Report()
    report.extend(_check_info(dataset))
    shards = [read_shard(p, drop_subtask_index=False) for p in dataset.data_files]
    if not shards:
        raise DatasetError("want data shards", f"none in {root / 'data'}", "download the whole dataset")
    report.extend(_check_totals(dataset, shards))
    for shard in shards:
        report.extend(_check_shard(dataset, shard))
        _check_episodes(dataset, shard, report)
    return report


def _check_info(dataset: Dataset) -> Iterator[Finding]:
    for column in LANGUAGE_COLUMNS:
        feature = dataset.info.features.get(column)
        if feature is None or {**feature, "shape": list(feature.get("shape") or [])} != LANGUAGE_FEATURE:
            message = f"want {LANGUAGE_FEATURE} as feature {column} in meta/info.json, found {feature}"
            yield Finding("error", "feature_missing", message, WRITE_AGAIN)
    if not declares_say(dataset.info.tools):
        message = "want the tool say in meta/info.json, found none of that name"
        yield Finding("error", "tool_missing", message, WRITE_AGAIN)


def _check_totals(dataset: Dataset, shards: Sequence[Shard]) -> Iterator[Finding]:
    frames = sum(run.frames for shard in shards for run in shard.runs)
    if frames != dataset.info.total_frames:
        message = f"want {dataset.info.total_frames} frames as meta/info.json says, found {frames}"
        yield Finding("error", "total_frames", message, "download the whole dataset")
    where: dict[int, Path] = {}
    for shard in shards:
        for run in shard.runs:
            if where.setdefault(run.episode, shard.path) != shard.path:
                message = f"want the episode in one shard, found it in {where[run.episode].name} and {shard.path.name}"
                yield Finding("error", "episode_split", message, "record it again", episode=run.episode)


def _check_shard(dataset: Dataset, shard: Shard) -> Iterator[Finding]:
    schema = pq.read_schema(shard.path)
    name = shard.path.relative_to(dataset.root)
    for column in LANGUAGE_COLUMNS:
        if column not in schema.names:
            yield Finding("error", "column_missing", f"want the column {column} in {name}", WRITE_AGAIN)
        elif schema.field(column).type != COLUMN_TYPES[column]:
            message = f"want {column} in {name} to be {COLUMN_TYPES[column]}, found {schema.field(column).type}"
            yield Finding("error", "column_type", message, WRITE_AGAIN)
    if TOOLS_COLUMN in schema.names:
        yield Finding("error", "tools_column", f"want no column {TOOLS_COLUMN} in {name}", WRITE_AGAIN)
    if not shard.aligned:
        yield Finding("error", "row_groups", f"want one row group per episode in {name}", WRITE_AGAIN)
    stored = {k for k, f in dataset.info.features.items() if f.get("dtype") != "video"}
    for column in sorted(stored.symmetric_difference(schema.names) - set(LANGUAGE_COLUMNS) - {TOOLS_COLUMN}):
        where = "meta/info.json but not" if column in stored else "not in meta/info.json but"
        yield Finding(
            "error", "feature_column", f"{column} is {where} in {name}: loaders fail", "repair meta/info.json"
        )


def _check_episodes(dataset: Dataset, shard: Shard, report: Report) -> None:
    sizes = {**{c: (0, 0) for c in dataset.image_cameras}, **dataset.camera_sizes}
    has = [c for c in LANGUAGE_COLUMNS if c in pq.read_schema(shard.path).names]
    file = pq.ParquetFile(shard.path, read_dictionary=text_leaves(shard.path))
    for episode, table in _tables(file, shard, ["timestamp", *has]):
        try:
            report.rows_checked += _check_episode(episode, table, sizes, report)
        except (RowError, pa.ArrowException) as err:
            report.extend([Finding("error", "row", str(err), WRITE_AGAIN, episode=episode)])
        report.episodes_checked += 1


def _tables(file: pq.ParquetFile, shard: Shard, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """Each episode's columns, the next one decoded while this one is judged."""
    tables = (
        (file.read_row_group(i, columns=columns, use_threads=False) for i in range(len(shard.runs)))
        if shard.aligned
        else cut_runs(file, shard.runs, columns)
    )
    with ThreadPoolExecutor(1, thread_name_prefix="check") as pool:
        coming = pool.submit(next, tables, None)
        for run in shard.runs:
            table = coming.result()
            coming = pool.submit(next, tables, None)
            yield run.episode, table


def _check_episode(episode: int, table: pa.Table, sizes: Mapping[str, tuple[int, int]], report: Report) -> int:
    """Judge one episode's columns; the count of its rows."""
    timestamps = table.column("timestamp").to_numpy().astype(np.float32)
    persistent, events = [], []
    if PERSISTENT in table.column_names:
        column = table.column(PERSISTENT).combine_chunks()
        frame = first_difference(column)
        if frame is not None:
            message = f"want the same {PERSISTENT} on every frame, found another list on frame {frame}"
            report.extend([Finding("error", "persistent_differs", message, WRITE_AGAIN, episode=episode, row=frame)])
        persistent = rows_of_table(stored_table(column.slice(0, 1), np.zeros(1, dtype=np.int64), None))
    if EVENTS in table.column_names:
        events = rows_of_events(table.column(EVENTS), timestamps)
    at = frames_of([r.timestamp for r in events], timestamps).tolist()
    report.extend(check_rows(episode, persistent, events, at, timestamps, sizes))
    return len(persistent) + len(events)


def first_difference(column: pa.ListArray) -> int | None:
    """The first frame whose list is not that of frame 0. Text is compared by dictionary index."""
    if pa.types.is_null(column.type):
        return None
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    other = np.flatnonzero(lengths != lengths[0])
    if len(other):
        return int(other[0])
    if lengths[0] <= 0:
        return None
    values = column.flatten()
    different = np.zeros(len(column), dtype=bool)
    for child in values.flatten():
        codes = _codes(child).reshape(len(column), -1)
        different |= (codes != codes[0]).any(axis=1)
    found = np.flatnonzero(different)
    return int(found[0]) if len(found) else None


def _codes(values: pa.Array) -> np.ndarray:
    """Numbers that are equal exactly where the values are; nulls are -1."""
    if values.null_count == len(values):
        return np.full(len(values), -1)
    if pa.types.is_nested(values.type):  # tool calls: rare on persistent rows
        values = pa.array([None if v is None else repr(v) for v in values.to_pylist()])
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode(null_encoding="mask")
    return pc.fill_null(values.indices, -1).to_numpy(zero_copy_only=False)
