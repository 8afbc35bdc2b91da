"""The persistent rows that a dataset has, and the labels they stand for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset
from tasks.dataset.shards import open_parquet
from tasks.errors import DatasetError
from tasks.interchange.labels import Label, merged
from tasks.language.shard import batches, read_shard
from tasks.language.styles import PERSISTENT

Progress = Callable[[str, int, int], None]  # what is being done, how many episodes of how many


@dataclass(frozen=True)
class EpisodeLabels:
    """An episode and its labels of one style, by start."""

    episode: Episode
    labels: tuple[Label, ...]


def persistent_rows(dataset: Dataset) -> Iterator[tuple[list[int], pa.Table]]:
    """Some episodes at a time: their indices, and the row table of their persistent rows (`episode`: position)."""
    for path in dataset.data_files:
        if PERSISTENT not in open_parquet(path).schema_arrow.names:
            continue
        for batch in batches(read_shard(path, drop_subtask_index=False), ("timestamp",)):
            _, persistent, _ = batch.read()
            yield [run.episode for run in batch.runs], persistent


def count_rows(dataset: Dataset, styles: Collection[str]) -> dict[tuple[int, str], int]:
    """How many rows of each style an episode has: (episode_index, style) -> count, for those styles."""
    counts: dict[tuple[int, str], int] = {}
    wanted = pa.array(sorted(styles), pa.string())
    for indices, rows in persistent_rows(dataset):
        mine = (
            rows.filter(pc.is_in(rows["style"], wanted)).group_by(["episode", "style"]).aggregate([([], "count_all")])
        )
        for found in mine.to_pylist():
            counts[indices[found["episode"]], found["style"]] = found["count_all"]
    return counts


def stored_labels(dataset: Dataset, style: str, progress: Progress) -> list[EpisodeLabels]:
    """Every episode with its labels of a style; () for those without. Raises DatasetError where two begin at once."""
    episodes = dataset.episodes()
    by_index: dict[int, list[tuple[float, str]]] = {e.episode_index: [] for e in episodes}
    for indices, rows in persistent_rows(dataset):
        mine = rows.filter(pc.fill_null(pc.equal(rows["style"], style), False)).select(
            ["episode", "timestamp", "content"]
        )
        for position, time_s, text in zip(*(c.to_pylist() for c in mine.columns), strict=True):
            by_index[indices[position]].append((time_s, text or ""))
        progress("reading rows", min(len(episodes), indices[-1] + 1), len(episodes))
    return [EpisodeLabels(e, _labels(e, by_index[e.episode_index], style)) for e in episodes]


def _labels(episode: Episode, rows: Sequence[tuple[float, str]], style: str) -> tuple[Label, ...]:
    found = sorted((episode.nearest(time_s), text) for time_s, text in rows)
    starts = [start for start, _ in found]
    for start, following in pairwise(starts):
        if start == following:
            want = f"want one {style} at a time in episode {episode.episode_index}"
            got = f"{starts.count(start)} at {episode.times[start]:g} s"
            raise DatasetError(want, got, "export a style that has one text at a time, or annotate the episode again")
    stops = [*starts[1:], episode.frames] if starts else []
    return merged([Label(text, start, stop) for (start, text), stop in zip(found, stops, strict=True)])


def seconds_at(episode: Episode, frame: int) -> float:
    """When a frame begins, in seconds with no more digits than float32 has; the frame after the last is the end."""
    if frame < episode.frames:
        return float(str(episode.timestamps[frame]))
    return float(str(np.float32(episode.end_s + 1 / episode.fps)))


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody hears."""


def check_new_folder(output: Path | None) -> None:
    """Raise DatasetError when an output folder holds anything: it would be replaced as a whole."""
    if output is None or not output.exists():
        return
    if not output.is_dir() or any(output.iterdir()):
        got = f"{output}, which is {'not empty' if output.is_dir() else 'a file'}"
        raise DatasetError("want a new or empty folder as --output", got, "choose another, or remove that one")
