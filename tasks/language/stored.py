"""Language rows that a dataset on disk already has, one episode at a time."""

from __future__ import annotations

import pyarrow.parquet as pq

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset
from tasks.errors import DatasetError
from tasks.language.arrow import rows_of_events, rows_of_frame
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT


def episode_rows(dataset: Dataset, episode: Episode) -> list[Row]:
    """Persistent rows of the first frame, then event rows in frame order; [] when the dataset has no such columns.

    Reads the episode's own row group, or the shard's when the shard is packed otherwise. Raises DatasetError.
    """
    try:
        shard = pq.ParquetFile(episode.data_path)
        columns = [c for c in (PERSISTENT, EVENTS) if c in shard.schema_arrow.names]
        if not columns:
            return []
        if episode.row_group is not None:
            table = shard.read_row_group(episode.row_group, columns=columns)
        else:
            table = shard.read(columns=columns).slice(episode.row_offset, episode.frames)
    except (OSError, ValueError) as err:
        raise DatasetError(f"want readable parquet in {episode.data_path}", str(err), "restore the file") from err
    rows: list[Row] = []
    if PERSISTENT in columns:
        rows += rows_of_frame(table[PERSISTENT][0])
    if EVENTS in columns:
        rows += rows_of_events(table[EVENTS], episode.timestamps)
    return rows
