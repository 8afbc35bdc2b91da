"""Episode records: metadata keyed by episode_index, joined with four small columns of the data shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.digest import EpisodeDigest
from tasks.dataset.episode import Episode, VideoRef
from tasks.dataset.info import DatasetInfo, camera_size
from tasks.dataset.shards import flat_values, group_starts, open_parquet, read_columns
from tasks.errors import DatasetError, SettingsError

EPISODES_DIR = "meta/episodes"
TASKS_PATH = "meta/tasks.parquet"
RECORD_COLUMNS = ("episode_index", "timestamp", "frame_index", "task_index")
TASK_TEXT_COLUMNS = ("task", "__index_level_0__")
VIDEO_FIELDS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
NO_TASK = -1
NAMED_MAX = 8  # episodes listed in one message
RESTORE = "restore the files, or download the dataset again"


@dataclass(frozen=True)
class EpisodeMeta:
    """One row of meta/episodes."""

    episode_index: int
    frames: int | None  # None when the metadata do not say
    videos: dict[str, VideoRef]


@dataclass(frozen=True)
class Run:
    """Consecutive rows of one episode in one shard."""

    episode_index: int
    path: Path
    row_offset: int
    row_group: int | None
    timestamps: np.ndarray
    frame_indices: np.ndarray
    task_index: int


def named(indices: Sequence[int]) -> str:
    """A short list for messages."""
    head = ", ".join(map(str, sorted(indices)[:NAMED_MAX]))
    return head + (f" and {len(indices) - NAMED_MAX} more" if len(indices) > NAMED_MAX else "")


def read_episodes(
    root: Path, info: DatasetInfo, cameras: Sequence[str], shards: Sequence[Path], only: Sequence[int] | None
) -> list[Episode]:
    """Records ordered by episode_index; DatasetError names the first episode whose files disagree."""
    metas = read_metadata(root, info, cameras)
    if not metas:
        raise DatasetError(f"want at least one episode in {root / EPISODES_DIR}", "none", "record or download episodes")
    wanted = set(metas) if only is None else set(only)
    if unknown := wanted - set(metas):
        known = f"the dataset has {len(metas)} episodes, {min(metas)} to {max(metas)}"
        raise SettingsError(
            "want known episodes in only_episodes", f"{named(list(unknown))}; {known}", "correct the list"
        )
    if not wanted:
        raise SettingsError("want at least one episode in only_episodes", "an empty list", "name some, or leave it out")
    runs = read_runs(shards, None if only is None else wanted)
    if missing := wanted - set(runs):
        raise DatasetError(
            "want the rows of every episode in data/", f"none of episode {named(list(missing))}", RESTORE
        )
    if stray := set(runs) - set(metas):
        got = f"nothing of episode {named(list(stray))}"
        raise DatasetError(f"want every episode of data/ in {EPISODES_DIR}", got, RESTORE)
    texts = read_task_texts(root)
    digest = EpisodeDigest(root)
    return [_episode(runs[i], metas[i], texts, info.fps, digest) for i in sorted(wanted)]


def _episode(run: Run, meta: EpisodeMeta, texts: Mapping[int, str], fps: float, digest: EpisodeDigest) -> Episode:
    rows = len(run.timestamps)
    if meta.frames is not None and meta.frames != rows:
        got = f"length {meta.frames} in {EPISODES_DIR}, {rows} rows in {run.path}"
        raise DatasetError(f"want one length for episode {run.episode_index}", got, RESTORE)
    check_times(run)
    return Episode(
        episode_index=run.episode_index,
        task=texts.get(run.task_index, ""),
        timestamps=run.timestamps,
        frame_indices=run.frame_indices,
        data_path=run.path,
        row_offset=run.row_offset,
        row_group=run.row_group,
        fps=fps,
        videos=meta.videos,
        digest=digest,  # type: ignore[arg-type]
    )


def check_times(run: Run) -> None:
    """Timestamps must be finite and increasing: every lookup of a frame by its time relies on it."""
    times = run.timestamps
    good = np.isfinite(times)
    good[1:] &= np.diff(times) > 0
    if good.all():
        return
    row = int(np.argmin(good))
    before = f" after {times[row - 1]}" if row else ""
    raise DatasetError(
        f"want finite, increasing timestamps in episode {run.episode_index}",
        f"{times[row]}{before} at frame {row} ({run.path}, row {run.row_offset + row})",
        "repair the timestamp column, or leave the episode out with only_episodes",
    )


# --- meta/episodes -------------------------------------------------------------------------------------------------


def read_metadata(root: Path, info: DatasetInfo, cameras: Sequence[str]) -> dict[int, EpisodeMeta]:
    """Episode metadata by episode_index; statistics are never read."""
    metas: dict[int, EpisodeMeta] = {}
    for path in sorted((root / EPISODES_DIR).glob("**/*.parquet")):
        for meta in _metadata_of(path, root, info, cameras):
            if meta.episode_index in metas:
                got = f"episode {meta.episode_index} twice, the second time in {path}"
                raise DatasetError(f"want each episode once in {root / EPISODES_DIR}", got, RESTORE)
            metas[meta.episode_index] = meta
    return metas


def _metadata_of(path: Path, root: Path, info: DatasetInfo, cameras: Sequence[str]) -> Iterator[EpisodeMeta]:
    video_columns = {(c, f): f"videos/{c}/{f}" for c in cameras for f in VIDEO_FIELDS}
    table = read_columns(open_parquet(path), path, ["episode_index", "length", *video_columns.values()])
    missing = [n for n in ("episode_index", *video_columns.values()) if n not in table.column_names]
    if missing:
        raise DatasetError(f"want column {missing[0]} in {path}", f"columns {table.column_names}", RESTORE)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    lengths = columns.get("length", [None] * table.num_rows)
    sizes = {c: camera_size(info.features[c]) for c in cameras}
    for row, index in enumerate(columns["episode_index"]):
        if index is None:
            raise DatasetError(f"want an episode_index in every row of {path}", f"null in row {row}", RESTORE)
        refs = {}
        for camera in cameras:
            place = [columns[video_columns[camera, f]][row] for f in VIDEO_FIELDS]
            if None not in place:  # null: this episode was recorded without that camera
                refs[camera] = _video_ref(root, info.video_path, camera, sizes[camera], index, place)
        yield EpisodeMeta(index, lengths[row], refs)


def _video_ref(
    root: Path, template: str, camera: str, size: tuple[int, int], episode: int, place: Sequence[float]
) -> VideoRef:
    chunk, file, from_s, to_s = place
    if not (math.isfinite(to_s) and 0 <= from_s < to_s):
        got = f"from {from_s} s to {to_s} s"
        raise DatasetError(f"want a video range for camera {camera} of episode {episode}", got, RESTORE)
    try:
        path = root / template.format(video_key=camera, chunk_index=int(chunk), file_index=int(file))
    except (KeyError, IndexError, ValueError) as err:
        want = "want a video_path in meta/info.json made of {video_key}, {chunk_index} and {file_index}"
        raise DatasetError(want, repr(template), "restore the template") from err
    return VideoRef(path=path, from_s=float(from_s), to_s=float(to_s), width=size[0], height=size[1])


# --- data shards ---------------------------------------------------------------------------------------------------


def read_runs(shards: Sequence[Path], wanted: set[int] | None) -> dict[int, Run]:
    """Rows of each episode by episode_index; an episode in two places is an error."""
    runs: dict[int, Run] = {}
    for path in shards:
        for run in _runs_of(path, wanted):
            if (other := runs.get(run.episode_index)) is not None:
                got = f"rows from {other.row_offset} of {other.path} and rows from {run.row_offset} of {run.path}"
                raise DatasetError(f"want the rows of episode {run.episode_index} in one piece", got, RESTORE)
            runs[run.episode_index] = run
    return runs


def _runs_of(path: Path, wanted: set[int] | None) -> Iterator[Run]:
    file = open_parquet(path)
    if "episode_index" not in file.schema_arrow.names:
        return
    starts = group_starts(file)
    groups = list(range(file.metadata.num_row_groups)) if wanted is None else _groups_with(file, wanted)
    if not groups:
        return
    table = read_columns(file, path, RECORD_COLUMNS, groups)
    episodes = _integers(table, "episode_index", path)
    if not len(episodes):
        return
    rows = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups])
    breaks = np.flatnonzero((np.diff(episodes) != 0) | (np.diff(rows) != 1)) + 1
    columns = _record_columns(table, path, len(episodes))
    group_of_range = {(int(starts[g]), int(starts[g + 1])): g for g in groups}
    for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(episodes)], strict=True):
        index = int(episodes[first])
        if wanted is not None and index not in wanted:
            continue
        offset = int(rows[first])
        timestamps, frame_indices, tasks = (c[first:end] if c is not None else None for c in columns)
        yield Run(
            episode_index=index,
            path=path,
            row_offset=offset,
            row_group=group_of_range.get((offset, offset + end - first)),
            timestamps=timestamps if timestamps is not None else np.zeros(end - first, np.float32),
            frame_indices=frame_indices if frame_indices is not None else np.arange(end - first),
            task_index=int(tasks[0]) if tasks is not None else NO_TASK,
        )


def _groups_with(file: pq.ParquetFile, wanted: set[int]) -> list[int]:
    """Row groups that may hold a wanted episode, by their statistics."""
    meta = file.metadata
    names = [meta.schema.column(i).path for i in range(len(meta.schema))]
    column = names.index("episode_index")
    ordered = np.array(sorted(wanted))
    groups = []
    for i in range(meta.num_row_groups):
        stats = meta.row_group(i).column(column).statistics
        unknown = stats is None or not stats.has_min_max
        if unknown or np.searchsorted(ordered, stats.min, "left") < np.searchsorted(ordered, stats.max, "right"):
            groups.append(i)
    return groups


def _record_columns(table: pa.Table, path: Path, rows: int) -> tuple[np.ndarray | None, ...]:
    """timestamp, frame_index and task_index as arrays over all rows read; None for those the shard lacks."""
    timestamps = None
    if "timestamp" in table.column_names:
        timestamps = flat_scalars(table["timestamp"], path, "timestamp", rows).to_numpy().astype(np.float32, copy=False)
    integers = (_integers(table, n, path) if n in table.column_names else None for n in ("frame_index", "task_index"))
    return timestamps, *integers


def _integers(table: pa.Table, name: str, path: Path) -> np.ndarray:
    column = flat_scalars(table[name], path, name, table.num_rows)
    if column.null_count or not pa.types.is_integer(column.type):
        got = f"{column.null_count} nulls, type {column.type}"
        raise DatasetError(f"want an integer in every row of column {name} of {path}", got, RESTORE)
    return column.to_numpy().astype(np.int64, copy=False)


def flat_scalars(column: pa.ChunkedArray, path: Path, name: str, rows: int) -> pa.ChunkedArray:
    """A column of scalars, also when each is wrapped in a list of one."""
    flat = flat_values(column)
    if len(flat) != rows:
        raise DatasetError(
            f"want one value per row in column {name} of {path}", f"{len(flat)} for {rows} rows", RESTORE
        )
    return flat


# --- tasks ---------------------------------------------------------------------------------------------------------


def read_task_texts(root: Path) -> dict[int, str]:
    """Task text by task_index; empty when the dataset has no tasks file."""
    path = root / TASKS_PATH
    if not path.exists():
        return {}
    file = open_parquet(path)
    name = next((n for n in TASK_TEXT_COLUMNS if n in file.schema_arrow.names), None)
    if name is None or "task_index" not in file.schema_arrow.names:
        want = f"want columns task_index and {' or '.join(TASK_TEXT_COLUMNS)} in {path}"
        raise DatasetError(want, f"columns {file.schema_arrow.names}", RESTORE)
    table = read_columns(file, path, ["task_index", name])
    pairs = zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True)
    return {int(index): str(text or "") for index, text in pairs if index is not None}
