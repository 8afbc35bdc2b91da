"""Labels as lists in meta/episodes: names, start and end of each subtask (SARM, stage-aware reward models).

The columns are `sparse_subtask_names`, `…_start_times`, `…_end_times`, `…_start_frames` and `…_end_frames`, the same
with `dense_`, and without prefix in older datasets, where they mean sparse. Null: the episode has no labels. LeRobot's
annotator writes whole seconds and frames made from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.dataset.episode import Episode
from tasks.dataset.episodes import EPISODES_DIR
from tasks.dataset.layout import Dataset
from tasks.dataset.shards import open_parquet, read_columns
from tasks.errors import DatasetError
from tasks.interchange.additions import Additions
from tasks.interchange.columns import with_features
from tasks.interchange.form import FormOptions, SarmLevel
from tasks.interchange.frame_index import table_bytes
from tasks.interchange.labels import Found, Label, from_spans
from tasks.interchange.stored import EpisodeLabels, seconds_at

NAMES = "subtask_names"
FIELDS = (
    NAMES,
    "subtask_start_times",
    "subtask_end_times",
    "subtask_start_frames",
    "subtask_end_frames",
)
PREFIXES: dict[SarmLevel, tuple[str, ...]] = {"dense": ("dense_",), "sparse": ("sparse_", "")}
TYPES = (pa.string(), pa.float64(), pa.float64(), pa.int64(), pa.int64())  # of one value of each field
ROUNDING_S = 1.0  # ends are rounded to whole seconds: so far past the episode they may lie

Lists = dict[str, list[Any] | None]


class Sarm:
    """The form, opened: one prefix, read for all episodes."""

    def __init__(self, prefix: str, lists: dict[int, Lists], others: Sequence[str]) -> None:
        self.prefix, self._lists = prefix, lists
        self.choices = [f"{prefix}subtask_* of {EPISODES_DIR} (level {_level(prefix)}) -> subtask"]
        levels = sorted({_level(p) for p in others} - {_level(prefix)})
        self.choices += [f"{level} labels are there too; --sarm.level={level} takes those" for level in levels]

    @staticmethod
    def is_in(dataset: Dataset) -> bool:
        """Whether any episode has labels of any level."""
        return bool(_filled(dataset))

    @classmethod
    def open(cls, dataset: Dataset, episodes: Sequence[Episode], options: FormOptions) -> Sarm:
        """Choose a level and read it. Raises DatasetError when there is none."""
        levels: Sequence[SarmLevel] = ("dense", "sparse") if options.sarm_level is None else (options.sarm_level,)
        filled = _filled(dataset)
        prefix = next((p for level in levels for p in PREFIXES[level] if p in filled), None)
        if prefix is None:
            wanted = " or ".join(f"{p}{NAMES}" for level in levels for p in PREFIXES[level])
            got = f"labels in {', '.join(p + NAMES for p in filled) or 'no such column'}"
            raise DatasetError(f"want labels in {wanted} of {EPISODES_DIR}", got, "give another --sarm.level or --from")
        return cls(prefix, _read(dataset, [prefix + f for f in FIELDS]), filled)

    def read(self, episode: Episode) -> dict[str, Found]:
        """The episode's subtasks, on frames where these are given, else by time."""
        lists = {f: self._lists.get(episode.episode_index, {}).get(self.prefix + f) for f in FIELDS}
        if not lists[NAMES]:
            return {}
        return {"subtask": from_spans(_spans(lists, episode, self.prefix), episode.frames)}


def _files(dataset: Dataset) -> list[Path]:
    """The parquet files of meta/episodes, in path order."""
    return sorted((dataset.root / EPISODES_DIR).glob("**/*.parquet"))


def _level(prefix: str) -> SarmLevel:
    return "dense" if prefix in PREFIXES["dense"] else "sparse"


def _filled(dataset: Dataset) -> list[str]:
    """Prefixes under which some episode has names, the finest first."""
    prefixes = [p for level in PREFIXES.values() for p in level]
    found = _read(dataset, [p + NAMES for p in prefixes])
    return [p for p in prefixes if any(lists.get(p + NAMES) for lists in found.values())]


def _read(dataset: Dataset, columns: Sequence[str]) -> dict[int, Lists]:
    """Those columns by episode; files that lack one say nothing of it."""
    found: dict[int, Lists] = {}
    for path in _files(dataset):
        table = read_columns(open_parquet(path), path, ["episode_index", *columns])
        values = {name: table[name].to_pylist() for name in table.column_names}
        indices = values.pop("episode_index", [])
        for row, index in enumerate(indices):
            found[index] = {name: value[row] for name, value in values.items()}
    return found


def _spans(lists: Lists, episode: Episode, prefix: str) -> list[Label]:
    """The spans of one episode as they are given. Raises DatasetError where they cannot be meant so."""
    where = f"{{}} of episode {episode.episode_index} in {EPISODES_DIR}"
    names = _names(lists[NAMES] or [], where.format(prefix + NAMES))
    by_frame = lists["subtask_start_frames"] is not None
    unit = "frames" if by_frame else "times"
    given = {}
    for side in ("start", "end"):
        field = f"subtask_{side}_{unit}"
        values, place = lists[field], where.format(prefix + field)
        if values is None and side == "start":
            raise DatasetError(f"want {place}, or the frames", "null", _remedy(episode))
        if values is None:  # each ends where the next one begins
            continue
        if len(values) != len(names):
            raise DatasetError(f"want {len(names)} values in {place}, one a name", f"{len(values)}", _remedy(episode))
        given[side] = [_frame(v, episode, place, side, by_frame=by_frame) for v in values]
    starts = given["start"]
    ends = given.get("end") or [*starts[1:], episode.frames]
    for name, start, end in zip(names, starts, ends, strict=True):
        if end < start and "end" in given:
            want = f"want the end of {name!r} not before its start in episode {episode.episode_index}"
            raise DatasetError(want, f"start {start}, end {end} (frames)", _remedy(episode))
    return [Label(*span) for span in zip(names, starts, ends, strict=True)]


def _names(values: Sequence[Any], place: str) -> list[str]:
    names = [v.strip() if isinstance(v, str) else v for v in values]
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise DatasetError(f"want a text as each name in {place}", f"{values[i]!r} at position {i}", "name it")
    return names


def _frame(value: Any, episode: Episode, place: str, side: str, *, by_frame: bool) -> int:
    """A start or an end as a frame. An end may lie past the episode by what rounding to seconds explains."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (by_frame and value != int(value)):
        want = "whole numbers" if by_frame else "seconds"
        raise DatasetError(f"want {want} in {place}", repr(value), _remedy(episode))
    last = episode.frames - 1 if by_frame else (episode.frames - 1) / episode.fps
    slack = 0 if side == "start" else 1 + ROUNDING_S * episode.fps if by_frame else 1 / episode.fps + ROUNDING_S
    if not 0 <= value <= last + slack:
        unit = "frames" if by_frame else "s"
        got = f"{value:g}, while the episode ends at {last:g} {unit}"
        raise DatasetError(f"want a place inside the episode in {place}", got, _remedy(episode))
    frame = int(value) if by_frame else episode.nearest(episode.start_s + value)
    return min(frame, episode.frames)


def _remedy(episode: Episode) -> str:
    return f"correct it, or leave episode {episode.episode_index} out with --only_episodes"


def additions(dataset: Dataset, episodes: Sequence[EpisodeLabels], level: SarmLevel) -> Additions:
    """The columns of a level in every file of meta/episodes; unprefixed ones follow where they are there."""
    filled = [p for p in _filled(dataset) if p in PREFIXES[level]]
    lists = {e.episode.episode_index: _lists(e) for e in episodes}
    files = {}
    for path in _files(dataset):
        file = open_parquet(path)
        table = read_columns(file, path, file.schema_arrow.names)
        here = [p for i, p in enumerate(PREFIXES[level]) if i == 0 or p + NAMES in table.column_names]
        rows = file.metadata.row_group(0).num_rows if file.num_row_groups else None
        files[path.relative_to(dataset.root)] = table_bytes(_with_lists(table, lists, here), rows)
    present = f"{filled[0]}{NAMES} in {dataset.root / EPISODES_DIR}" if filled else None
    return Additions(files=files, present=present)


def _lists(episode: EpisodeLabels) -> list[list[Any] | None]:
    """The values of each field for one episode. An end frame is the last one of its span: stages then never overlap."""
    labels, of = episode.labels, episode.episode
    if not labels:
        return [None] * len(FIELDS)
    return [
        [label.text for label in labels],
        [seconds_at(of, label.start) for label in labels],
        [seconds_at(of, label.stop) for label in labels],
        [label.start for label in labels],
        [label.stop - 1 for label in labels],
    ]


def _with_lists(table: pa.Table, lists: Mapping[int, list[Any]], prefixes: Sequence[str]) -> pa.Table:
    features = {}
    kept = [f for f in table.schema if f.name not in {p + n for p in prefixes for n in FIELDS}]
    columns = {f.name: table[f.name] for f in kept}
    indices = table["episode_index"].to_pylist()
    for prefix in prefixes:
        for i, (name, kind) in enumerate(zip(FIELDS, TYPES, strict=True)):
            columns[prefix + name] = pa.array([lists[e][i] if e in lists else None for e in indices], pa.list_(kind))
            value = {"dtype": "string" if kind == pa.string() else str(kind).replace("double", "float64")}
            features[prefix + name] = {"feature": {**value, "_type": "Value"}, "_type": "List"}
    return pa.table(columns).replace_schema_metadata(with_features(table.schema.metadata, features, kept))
