"""A column of the data shards that holds an index into a table of texts, and such tables under meta/."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset
from tasks.dataset.shards import LIST_KINDS, episode_column, open_parquet, read_columns
from tasks.errors import DatasetError
from tasks.interchange.labels import NONE

PANDAS_INDEX = "__index_level_0__"  # the name parquet gives an index without a name
NAMED_MAX = 8


def data_columns(dataset: Dataset) -> list[str]:
    """Columns of the data shards, by the first of them."""
    return open_parquet(dataset.data_files[0]).schema_arrow.names if dataset.data_files else []


def read_texts(path: Path, kind: str) -> dict[int, str]:
    """Text by index out of meta/tasks.parquet or meta/subtasks.parquet; "" where there is none. `kind`: task, subtask.

    The text is the column `kind` or the index that pandas has kept without a name. Raises DatasetError.
    """
    file = open_parquet(path)
    number, text = f"{kind}_index", text_column(file.schema_arrow, kind)
    if number not in file.schema_arrow.names or text is None:
        want = f"want an integer column {number} and a text column {kind} (or the pandas index) in {path}"
        raise DatasetError(want, f"columns {', '.join(file.schema_arrow.names) or 'none'}", "write the table again")
    table = read_columns(file, path, [number, text])
    found: dict[int, str] = {}
    for index, value in zip(table[number].to_pylist(), table[text].to_pylist(), strict=True):
        if index is None:
            continue
        words_of = (value or "").strip()
        if found.setdefault(int(index), words_of) != words_of:
            want = f"want each {number} once in {path}"
            raise DatasetError(want, f"{index} is {found[int(index)]!r} and {words_of!r}", "correct the table")
    return found


def text_column(schema: pa.Schema, kind: str) -> str | None:
    """The column of texts in such a table, None where it cannot be told."""
    words = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    return next((n for n in (kind, PANDAS_INDEX) if n in words), words[0] if len(words) == 1 else None)


def table_bytes(table: pa.Table, rows_per_group: int | None = None) -> bytes:
    """A table as a parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=rows_per_group, compression="snappy")
    return sink.getvalue().to_pybytes()


def frame_values(episode: Episode, column: str) -> pa.Array:
    """One value per frame, null where there is none; a list on each frame may hold one value at most."""
    stored = episode_column(episode, column)
    if stored is None:
        raise DatasetError(f"want column {column} in every shard", f"none in {episode.data_path}", "restore the shard")
    array = stored.combine_chunks()
    while any(is_kind(array.type) for is_kind in LIST_KINDS):
        array = array.cast(pa.list_(array.type.value_type))
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        if lengths.max(initial=0) > 1:
            got = f"{lengths.max()} on frame {int(lengths.argmax())} of episode {episode.episode_index}"
            raise DatasetError(f"want at most one value on a frame in column {column}", got, "import another column")
        position = pa.array(np.cumsum(lengths) - 1, mask=lengths == 0)
        array = array.flatten().take(position)
    return array


def frame_indices(episode: Episode, column: str) -> np.ndarray:
    """The index on each frame, int64 (frames,); NONE where it is null, NaN or -1. Raises DatasetError."""
    values = frame_values(episode, column)
    if pa.types.is_null(values.type):
        return np.full(len(values), NONE, dtype=np.int64)
    if pa.types.is_floating(values.type):  # pandas turns integers with gaps into these
        values = pc.if_else(pc.is_nan(values), None, values)
        whole = pc.all(pc.equal(values, pc.round(values))).as_py()
        values = values if whole is False else values.cast(pa.int64())
    if not pa.types.is_integer(values.type):
        got = f"{values.type} in episode {episode.episode_index}"
        raise DatasetError(f"want whole numbers in column {column}", got, "import another column")
    return pc.fill_null(values.cast(pa.int64()), NONE).to_numpy(zero_copy_only=False)


def check_texts(indices: np.ndarray, texts: Mapping[int, str], episode: Episode, column: str, table: str) -> None:
    """Raise DatasetError unless every index that occurs has a text."""
    for index in np.unique(indices).tolist():
        if index == NONE or texts.get(index):
            continue
        frame = int(np.argmax(indices == index))
        got = f"{index} on frame {frame} of episode {episode.episode_index}, "
        got += "whose text is empty" if index in texts else f"while {table} has {_some(texts)}"
        want = f"want a text in {table} for every {column}"
        raise DatasetError(want, got, f"add it to {table}, or leave the episode out with --only_episodes")


def _some(indices: Collection[int]) -> str:
    head = ", ".join(map(str, sorted(indices)[:NAMED_MAX]))
    return head + (f" and {len(indices) - NAMED_MAX} more" if len(indices) > NAMED_MAX else "") or "none"
