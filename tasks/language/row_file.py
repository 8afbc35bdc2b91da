"""All language rows of a dataset as one Arrow file with one row an episode, read from the shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset
from tasks.dataset.shards import open_parquet
from tasks.errors import DatasetError
from tasks.language.arrow import TEXT, TEXT_FIELDS
from tasks.language.shard import LANGUAGE_COLUMNS, Batch, batches, read_shard
from tasks.language.styles import EVENTS, PERSISTENT

FORMAT_VERSION = 1

Progress = Callable[[int, int], None]  # episodes read, of how many

ROWS = pa.list_(
    pa.struct(
        [
            ("frame", pa.int32()),  # position in the episode
            *((name, TEXT) for name in TEXT_FIELDS),
            ("timestamp", pa.float64()),
            ("tool_calls", pa.list_(TEXT)),  # JSON texts
        ]
    )
)
EPISODES = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("task", TEXT),
        ("path", TEXT),  # of the shard, relative to the dataset
        ("row_offset", pa.int64()),
        ("row_group", pa.int32()),
        ("timestamp", pa.list_(pa.float32())),
        ("frame_index", pa.list_(pa.int64())),
        ("index", pa.list_(pa.int64())),
        (PERSISTENT, ROWS),
        (EVENTS, ROWS),
    ]
)


def write_rows(dataset: Dataset, sink: IO[bytes] | pa.NativeFile, progress: Progress | None) -> None:
    """Read every shard once, some episodes at a time.

    Raises DatasetError when no shard has language columns, or when one cannot be read.
    """
    paths = dataset.data_files
    if paths and not any(set(LANGUAGE_COLUMNS) & set(open_parquet(p).schema_arrow.names) for p in paths):
        want = f"want the columns {' and '.join(LANGUAGE_COLUMNS)} in the data shards of {dataset.root}"
        raise DatasetError(want, "neither", "annotate it first (annotate run)")
    episodes = {e.episode_index: e for e in dataset.episodes()}
    done = first = 0
    with pa.ipc.new_file(sink, EPISODES) as writer:
        for path in paths:
            shard = read_shard(path, drop_subtask_index=False)
            for batch in batches(shard, [n for n in ("timestamp", "index") if n in shard.kept]):
                writer.write_batch(_record(dataset.root, batch, [episodes[r.episode] for r in batch.runs], first))
                done += len(batch.runs)
                if progress is not None:
                    progress(done, len(episodes))
            first += sum(run.frames for run in shard.runs)
    pa.default_memory_pool().release_unused()  # what decoding took is not needed again


def _record(root: Path, batch: Batch, episodes: Sequence[Episode], first: int) -> pa.RecordBatch:
    """Some episodes of a shard, whose own first frame is the dataset's frame `first`."""
    tables, persistent, events = batch.read()
    frames = np.array([e.frames for e in episodes])
    indices = [_indices(table, first + run.start) for table, run in zip(tables, batch.runs, strict=True)]
    columns = {
        "episode_index": [e.episode_index for e in episodes],
        "task": [e.task for e in episodes],
        "path": [e.data_path.relative_to(root).as_posix() for e in episodes],
        "row_offset": [e.row_offset for e in episodes],
        "row_group": [e.row_group for e in episodes],
        "timestamp": _lists(frames, pa.array(np.concatenate([e.timestamps for e in episodes]))),
        "frame_index": _lists(frames, pa.array(np.concatenate([e.frame_indices for e in episodes]))),
        "index": _lists(frames, pa.array(np.concatenate(indices))),
        PERSISTENT: _row_lists(persistent, episodes),
        EVENTS: _row_lists(events, episodes),
    }
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, EPISODES.field(n).type) for n, c in columns.items()]
    return pa.record_batch(arrays, schema=EPISODES)


def _indices(table: pa.Table, first: int) -> np.ndarray:
    """The frames' numbers in the dataset; counted where the shard does not have them."""
    if "index" not in table.column_names:
        return np.arange(first, first + len(table))
    return table.column("index").to_numpy().astype(np.int64)


def _row_lists(table: pa.Table, episodes: Sequence[Episode]) -> pa.ListArray:
    """Rows of several episodes, given in the order of episodes, as one list an episode."""
    owner, times = table.column("episode").to_numpy(), table.column("timestamp").to_numpy()
    counts = np.bincount(owner, minlength=len(episodes))
    ends = np.cumsum(counts)
    frames = [
        nearest_frames(times[end - n : end], e.timestamps) for e, n, end in zip(episodes, counts, ends, strict=True)
    ]
    fields = {"frame": pa.array(np.concatenate(frames), pa.int32())}
    fields |= {f.name: table.column(f.name).combine_chunks() for f in ROWS.value_type if f.name != "frame"}
    return _lists(counts, pa.StructArray.from_arrays(list(fields.values()), fields=list(ROWS.value_type)))


def nearest_frames(times: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Positions of the frames whose time is closest; of two equally close the earlier."""
    recorded = timestamps.astype(np.float64)
    after = np.clip(np.searchsorted(recorded, times), 1, max(len(recorded) - 1, 1))
    after = np.minimum(after, len(recorded) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(times - recorded[before] <= recorded[after] - times, before, after)


def _lists(lengths: np.ndarray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values)
