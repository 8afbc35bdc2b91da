"""Tiny datasets with whatever rows a test wants, written without staging: rules are not checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.dataset.layout import open_dataset
from tasks.language.arrow import events_array, persistent_array
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT, column_for_style
from tests.tiny import CAMERA, SHARD, make_dataset, sample_rows


def annotate(root: Path, rows: dict[int, list[Row]], only_shard: int | None = None) -> Path:
    """Put rows into a tiny dataset's shards as this version writes them; persistent rows may lie between frames."""
    for path in open_dataset(root).data_files if only_shard is None else [root / SHARD.format(c=0, f=only_shard)]:
        parts = []
        table = pq.read_table(path)
        for episode in np.unique(table["episode_index"].to_numpy()):
            mine = table.filter(pc.equal(table["episode_index"], episode))
            stamps = mine["timestamp"].to_numpy()
            given = rows.get(int(episode), [])
            states = [row for row in given if column_for_style(row.style) == PERSISTENT]
            events = [row for row in given if column_for_style(row.style) == EVENTS]
            mine = mine.append_column(PERSISTENT, persistent_array(states, len(mine)))
            parts.append(mine.append_column(EVENTS, events_array(events, stamps)))
        with pq.ParquetWriter(path, parts[0].schema) as writer:
            for part in parts:
                writer.write_table(part)
    return root


def dataset(root: Path, shards: Sequence[Sequence[int]] = ((6, 4), (5,))) -> Path:
    """A tiny dataset with the metadata that a whole one has."""
    make_dataset(root, shards)
    lengths = [n for shard in shards for n in shard]
    columns = {"episode_index": range(len(lengths)), "length": lengths}
    video = f"videos/{CAMERA}"
    columns |= {f"{video}/{name}": [0] * len(lengths) for name in ("chunk_index", "file_index")}
    columns |= {f"{video}/from_timestamp": [0.0] * len(lengths), f"{video}/to_timestamp": [1.0] * len(lengths)}
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "meta/episodes/chunk-000/file-000.parquet")
    return root


def tiny_rows(episode: int, frames: int) -> list[Row]:
    """Valid rows of every kind."""
    return [row for rows in sample_rows(episode, frames).values() for row in rows]
