"""Reading columns of data shards: metadata parsed once per file, only the columns and row groups asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.episode import Episode
from tasks.errors import DatasetError

SHARDS_REMEMBERED = 8  # parsed parquet footers; one of 2,000 row groups takes some 50 MiB
PACKED_COLUMNS_REMEMBERED = 2  # decoded columns of row groups that several episodes share

LIST_KINDS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)

FileVersion = tuple[int, int, int]  # inode, time, size: what is remembered of a file holds only for this

_packed_lock = threading.Lock()


def file_version(path: Path) -> FileVersion:
    """What changes when a file is replaced or rewritten."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=SHARDS_REMEMBERED)
def _metadata(path: Path, version: FileVersion) -> pq.FileMetaData:
    return pq.read_metadata(path)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file with its cached footer; DatasetError when it is damaged."""
    try:
        # no pre_buffer: it would fetch the language columns that lie between the wanted ones
        return pq.ParquetFile(path, metadata=_metadata(path, file_version(path)), pre_buffer=False)
    except (pa.ArrowException, OSError) as err:
        raise unreadable(path, err) from err


def unreadable(path: Path, err: Exception) -> DatasetError:
    """The error for a damaged parquet file."""
    return DatasetError(f"want a readable parquet file: {path}", str(err), "restore it, or download the dataset again")


def read_columns(
    file: pq.ParquetFile, path: Path, names: Sequence[str], groups: Sequence[int] | None = None
) -> pa.Table:
    """Those of the named columns that exist, of all row groups or some; DatasetError when the bytes are damaged."""
    present = [n for n in names if n in file.schema_arrow.names]
    try:
        if groups is None:
            return file.read(columns=present)
        return file.read_row_groups(list(groups), columns=present, use_threads=len(groups) > 1)
    except (pa.ArrowException, OSError) as err:
        raise unreadable(path, err) from err


def group_starts(file: pq.ParquetFile) -> np.ndarray:
    """First row of each row group, and the row count at the end."""
    meta = file.metadata
    return np.cumsum([0, *(meta.row_group(i).num_rows for i in range(meta.num_row_groups))])


def episode_column(episode: Episode, name: str) -> pa.ChunkedArray | None:
    """One column of one episode's rows, None when the shard lacks it."""
    path = episode.data_path
    file = open_parquet(path)
    if name not in file.schema_arrow.names:
        return None
    if episode.row_group is not None:
        return read_columns(file, path, [name], [episode.row_group])[name]
    starts = group_starts(file)
    first = int(np.searchsorted(starts, episode.row_offset, side="right")) - 1
    last = int(np.searchsorted(starts, episode.row_offset + episode.frames, side="left"))
    with _packed_lock:  # several episodes of one row group asked at once must not decode it several times
        column = _packed_column(path, file_version(path), name, tuple(range(first, last)))
    return column.slice(episode.row_offset - int(starts[first]), episode.frames)


@lru_cache(maxsize=PACKED_COLUMNS_REMEMBERED)
def _packed_column(path: Path, version: FileVersion, name: str, groups: tuple[int, ...]) -> pa.ChunkedArray:
    return read_columns(open_parquet(path), path, [name], groups)[name]


def flat_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The innermost values of list columns, in order."""
    while any(is_kind(column.type) for is_kind in LIST_KINDS):
        column = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    return column
