"""The parquet files of a dataset that is being recorded: data shards, meta/episodes, meta/tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.feature_stats import QUANTILES, Stats

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
EPISODE_ROWS_HELD_MAX = 64  # rows of meta/episodes kept in memory before they are written
STAT_NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)


class DataFiles:
    """The data shards: one row group per episode; a new shard before `bytes_max` would be passed."""

    def __init__(self, root: Path, schema: pa.Schema, bytes_max: float, chunk_files_max: int) -> None:
        self.schema = schema
        self._root, self._bytes_max, self._chunk_files_max = root, bytes_max, chunk_files_max
        self._files, self._episode_bytes_max = -1, 0
        self._sink: Any = None
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> tuple[int, int]:
        """Write one episode; returns the shard's chunk and file index."""
        if self._writer is None or self._sink.tell() + self._episode_bytes_max >= self._bytes_max:
            self.close()
            self._files += 1
            chunk, file = divmod(self._files, self._chunk_files_max)
            path = self._root / DATA_PATH.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = path.open("wb")
            self._writer = pq.ParquetWriter(self._sink, self.schema, compression="snappy", use_dictionary=True)
        before = self._sink.tell()
        self._writer.write_table(table, row_group_size=len(table))
        self._episode_bytes_max = max(self._episode_bytes_max, self._sink.tell() - before)
        return divmod(self._files, self._chunk_files_max)

    def close(self) -> None:
        """Finish the open shard."""
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
            self._writer = None


class EpisodeRows:
    """meta/episodes: a row per episode, written some at a time."""

    def __init__(self, path: Path) -> None:
        self.total = 0
        self._path = path
        self._held: list[dict[str, Any]] = []
        self._types: dict[str, pa.DataType] = {}
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], stats: Mapping[str, Stats]) -> None:
        """Add one episode. All episodes have the same keys."""
        flat = {f"stats/{key}/{name}": value[name] for key, value in stats.items() for name in STAT_NAMES}
        if not self._types:
            self._types = {key: _plain_type(value) for key, value in row.items()}
            self._types |= {key: _nested(pa.from_numpy_dtype(v.dtype), v.ndim) for key, v in flat.items()}
        self._held.append(row | {key: value.tolist() for key, value in flat.items()})
        self.total += 1
        if len(self._held) >= EPISODE_ROWS_HELD_MAX:
            self._flush()

    def close(self) -> None:
        """Write what is held and finish the file."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if not self._held:
            return
        table = pa.Table.from_pylist(self._held, schema=pa.schema(list(self._types.items())))
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="snappy")
        self._writer.write_table(table)
        self._held = []


def arrow_type(feature: Mapping[str, Any]) -> pa.DataType:
    shape = tuple(feature["shape"])
    if feature["dtype"] == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if feature["dtype"] == "string":
        return pa.string()
    value = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    if shape == (1,):
        return value
    return pa.list_(value, shape[0]) if len(shape) == 1 else _nested(value, len(shape))


def arrow_array(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        flat = np.stack(values).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.array([value.tolist() for value in values], kind)
    return pa.array(values, kind)


def tasks_table(tasks: Mapping[str, int], kind: str = "task") -> pa.Table:
    """A table that pandas reads back as a frame with the text of each task (or what `kind` says) as its index."""
    index = f"{kind}_index"
    table = pa.table({index: pa.array(tasks.values(), pa.int64()), kind: pa.array(tasks, pa.string())})
    number = {"name": index, "field_name": index, "pandas_type": "int64", "numpy_type": "int64"}
    text = {"name": kind, "field_name": kind, "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {"index_columns": [kind], "column_indexes": [], "columns": [number | {"metadata": None}]}
    pandas["columns"].append(text | {"metadata": None})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _plain_type(value: Any) -> pa.DataType:
    if isinstance(value, list):
        return pa.list_(pa.string())
    return pa.float64() if isinstance(value, float) else pa.int64()


def _nested(value: pa.DataType, depth: int) -> pa.DataType:
    for _ in range(depth):
        value = pa.list_(value)
    return value
