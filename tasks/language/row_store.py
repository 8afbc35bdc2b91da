"""The language rows of a whole dataset, each held once although a shard repeats it on every frame.

`open_rows` reads the shards once and keeps what it finds in a file, which it maps from then on. Tables of rows are made
from the mapped bytes when an episode is asked for; a bounded number of them is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset, open_dataset
from tasks.errors import DatasetError, SettingsError
from tasks.language.recent import Recent
from tasks.language.resolve import EpisodeTable, call_of
from tasks.language.row_cache import load, mapped, stem
from tasks.language.row_file import Progress
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT

ROWS_HELD_MAX = 250_000  # as Python objects, some 0.4 KiB each
ROW_FIELDS = ("role", "content", "style", "timestamp", "camera", "tool_calls")  # in the order of `Row`
FEW_WORDS = ("role", "style", "camera")


def open_rows(
    dataset: Dataset | Path | str, *, cache_dir: Path | str | None = None, progress: Progress | None = None
) -> RowStore:
    """The rows of an annotated dataset.

    The first call reads every shard (`progress` is told the episodes read, and of how many) and writes a file below
    `cache_dir`, by default `$CUEBOOK_CACHE`, else `~/.cache/cuebook`; later ones map that file. A dataset that has
    changed is read again. Raises DatasetError when the dataset has no language columns or cannot be read.
    """
    if not isinstance(dataset, Dataset):
        dataset = open_dataset(Path(dataset))
    folder = None if cache_dir is None else Path(cache_dir)
    return RowStore(dataset, *load(dataset, folder, progress), folder)


@dataclass(frozen=True)
class _Part:
    """One record batch of the file; arrays are views of the mapped bytes."""

    batch: pa.RecordBatch
    offsets: np.ndarray  # of each episode's first frame in the three arrays
    timestamps: np.ndarray
    frame_indices: np.ndarray
    indices: np.ndarray
    persistent: pa.ListArray
    events: pa.ListArray

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> _Part:
        """The arrays of a batch."""
        frames = [batch[name] for name in ("timestamp", "frame_index", "index")]
        values = (column.values.to_numpy(zero_copy_only=True) for column in frames)
        return cls(batch, frames[0].offsets.to_numpy(), *values, batch[PERSISTENT], batch[EVENTS])


class RowStore:
    """Episodes by position: 0 is the one with the lowest index. Cheap to pickle: another process maps the same file."""

    def __init__(self, dataset: Dataset, file: pa.Buffer, path: Path | None, cache_dir: Path | None = None) -> None:
        """Use `open_rows`. `path` is where `file` is mapped from; None when it is in memory."""
        self.dataset, self._file, self._path, self._cache_dir = dataset, file, path, cache_dir
        reader = pa.ipc.open_file(file)
        self._parts = [_Part.of(reader.get_batch(i)) for i in range(reader.num_record_batches)]
        rows = [
            (index, task, part, row)
            for part in self._parts
            for row, (index, task) in enumerate(
                zip(part.batch["episode_index"].to_pylist(), part.batch["task"].to_pylist(), strict=True)
            )
        ]
        rows.sort(key=lambda row: row[0])
        self.episode_indices = [index for index, *_ in rows]
        self._tasks = [intern(task) for _, task, *_ in rows]
        self._places = [(part, row) for *_, part, row in rows]
        self._positions = {index: position for position, index in enumerate(self.episode_indices)}
        self._tables: Recent[int, EpisodeTable] = Recent(ROWS_HELD_MAX)

    def __len__(self) -> int:
        """How many episodes."""
        return len(self.episode_indices)

    def position(self, episode_index: int) -> int:
        """Where an episode stands. Raises SettingsError when the dataset has no such episode."""
        try:
            return self._positions[episode_index]
        except KeyError:
            known = f"the dataset has {len(self)} episodes, {self.episode_indices[0]} to {self.episode_indices[-1]}"
            raise SettingsError("want a known episode", f"{episode_index!r}; {known}", "correct the number") from None

    def frames(self, position: int) -> int:
        """How many frames an episode has."""
        part, row = self._places[position]
        return int(part.offsets[row + 1] - part.offsets[row])

    def task(self, position: int) -> str:
        """The dataset's task; "" when it has none."""
        return self._tasks[position]

    def timestamps(self, position: int) -> np.ndarray:
        """float32 (frames,): seconds from the episode's start, as stored."""
        part, row = self._places[position]
        return part.timestamps[part.offsets[row] : part.offsets[row + 1]]

    def frame_indices(self, position: int) -> np.ndarray:
        """int64 (frames,): the column `frame_index`."""
        part, row = self._places[position]
        return part.frame_indices[part.offsets[row] : part.offsets[row + 1]]

    def indices(self, position: int) -> np.ndarray:
        """int64 (frames,): the column `index`, a frame's number in the dataset."""
        part, row = self._places[position]
        return part.indices[part.offsets[row] : part.offsets[row + 1]]

    def numbers(self, position: int, frame: int) -> tuple[int, int, float]:
        """`frame_index`, `index` and `timestamp` of one frame, as plain numbers."""
        part, row = self._places[position]
        at = part.offsets.item(row) + frame
        return part.frame_indices.item(at), part.indices.item(at), part.timestamps.item(at)

    def table(self, position: int) -> EpisodeTable:
        """An episode's rows, to be looked up by frame (0-based position in the episode)."""
        return self._tables.get(position, self._make_table)

    def episode(self, position: int) -> Episode:
        """The episode's record as far as its columns need it: videos are left out."""
        part, row = self._places[position]
        path, row_offset, row_group = (part.batch[name][row].as_py() for name in ("path", "row_offset", "row_group"))
        return Episode(
            episode_index=self.episode_indices[position],
            task=self._tasks[position],
            timestamps=self.timestamps(position),
            frame_indices=self.frame_indices(position),
            data_path=self.dataset.root / path,
            row_offset=row_offset,
            row_group=row_group,
            fps=self.dataset.info.fps,
        )

    def _make_table(self, position: int) -> tuple[EpisodeTable, int]:
        part, row = self._places[position]
        persistent, events = _rows(part.persistent, row), _rows(part.events, row)
        return EpisodeTable(persistent, events), len(persistent) + len(events)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            return RowStore, (self.dataset, self._file, None, self._cache_dir)
        return _map_again, (self.dataset, self._path, self._cache_dir)


def _map_again(dataset: Dataset, path: Path, cache_dir: Path | None) -> RowStore:
    """The store of another process. Raises DatasetError when the file is gone because the dataset has changed."""
    try:
        return RowStore(dataset, mapped(path), path, cache_dir)
    except FileNotFoundError as err:
        if not path.name.startswith(stem(dataset)):
            got = f"{dataset.root} has changed since"
            raise DatasetError("want the dataset whose rows were opened", got, "open it again") from err
    return open_rows(dataset, cache_dir=cache_dir)


def _rows(lists: pa.ListArray, at: int) -> list[tuple[int, Row]]:
    """One episode's rows with their frames. What few rows differ in is the same object in all of them."""
    first, end = lists.offsets[at].as_py(), lists.offsets[at + 1].as_py()
    values = lists.values.slice(first, end - first)
    columns = {field.name: values.field(field.name).to_pylist() for field in values.type}
    for name in FEW_WORDS:
        columns[name] = [word and intern(word) for word in columns[name]]
    columns["tool_calls"] = [calls and [call_of(text) for text in calls] for calls in columns["tool_calls"]]
    rows = (Row(*fields) for fields in zip(*(columns[name] for name in ROW_FIELDS), strict=True))
    return list(zip(columns["frame"], rows, strict=True))
