"""Parts of a spool as files of a LeRobot v3 dataset: a new file of each kind, beside those that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge.recording.part import SpooledEpisode
from edge.recording.pictures import PNG, Mp4
from edge.recording.plan import EpisodeNote, Plan
from tasks.dataset.episodes import TASKS_PATH, read_task_texts
from tasks.dataset.feature_stats import Stats, merge_stats, vector_stats
from tasks.dataset.info import INFO_PATH, camera_size, read_info
from tasks.dataset.record import BOOKKEEPING, CHUNK_FILES_MAX, CODEBASE_VERSION, DATA_MB_MAX, VIDEO_PATH
from tasks.dataset.record_files import DATA_PATH, EpisodeRows, arrow_array, arrow_type, tasks_table

STATS_PATH = "meta/stats.json"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
PLACE = re.compile(r"chunk-(\d+)/file-(\d+)\.\w+$")
Place = dict[str, int]  # chunk_index and file_index


@dataclass
class Grown:
    """What a dataset holds so far: the files, and what its metadata say."""

    info: dict[str, Any]
    stats: dict[str, Stats]
    tasks: dict[str, int]
    file: Place  # of the data and video files to be written
    episodes_file: Place


def build(plan: Plan, root: Path | None, episodes: Sequence[SpooledEpisode], out: Path) -> list[EpisodeNote]:
    """Write the new and the changed files of a dataset that grows by these episodes into `out`.

    `root` is the dataset so far, None for a new one. Nothing in it is touched.
    """
    grown = _new(plan) if root is None else _existing(plan, root)
    rows = EpisodeRows(out / EPISODES_PATH.format(**grown.episodes_file))
    data = out / DATA_PATH.format(**grown.file)
    data.parent.mkdir(parents=True, exist_ok=True)
    videos = {} if plan.spooled == PNG else {name: _mp4(plan, out, grown, name) for name in episodes[0].cameras}
    schema = _schema(plan)
    with pq.ParquetWriter(data, schema, compression="snappy", use_dictionary=True) as writer:
        for episode in episodes:
            table, row, stats = _episode(plan, grown, episode, schema, videos)
            writer.write_table(table, row_group_size=len(table))
            rows.add(row, stats)
            grown.stats = merge_stats(grown.stats, stats)
            grown.info["total_episodes"] += 1
            grown.info["total_frames"] += len(episode)
    rows.close()
    for name, video in videos.items():
        grown.info["features"][name]["info"] = video.close()
    _write_meta(grown, out)
    return [episode.note() for episode in episodes]


def _episode(
    plan: Plan, grown: Grown, episode: SpooledEpisode, schema: pa.Schema, videos: Mapping[str, Mp4]
) -> tuple[pa.Table, dict[str, Any], dict[str, Stats]]:
    """The rows, the line of meta/episodes and the statistics of one episode; its pictures are written."""
    index, first, n = grown.info["total_episodes"], grown.info["total_frames"], len(episode)
    columns = episode.columns() | _bookkeeping(plan, grown, episode)
    stats = {name: vector_stats(v) for name, v in columns.items() if isinstance(v, np.ndarray) and v.dtype != bool}
    stats |= episode.picture_stats()
    row = {"episode_index": index, "tasks": list(dict.fromkeys(episode.tasks)), "length": n}
    row |= {"dataset_from_index": first, "dataset_to_index": first + n}
    row |= {f"data/{name}": value for name, value in grown.file.items()}
    for number, name in enumerate(episode.cameras):
        if plan.spooled == PNG:
            pictures = [data for data, _ in episode.packets(number)]
            columns[name] = [{"bytes": data, "path": f"frame-{i:06d}.png"} for i, data in enumerate(pictures)]
            continue
        begin = episode.begin
        from_s, to_s = videos[name].append(begin.codec, begin.extradata[number], episode.packets(number))
        row |= {f"videos/{name}/{key}": value for key, value in grown.file.items()}
        row |= {f"videos/{name}/from_timestamp": from_s, f"videos/{name}/to_timestamp": to_s}
    row |= {f"meta/episodes/{name}": value for name, value in grown.episodes_file.items()}
    arrays = [arrow_array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema), row, stats


def _bookkeeping(plan: Plan, grown: Grown, episode: SpooledEpisode) -> dict[str, np.ndarray]:
    frames = np.arange(len(episode), dtype=np.int64)
    numbers = [grown.tasks.setdefault(task, len(grown.tasks)) for task in episode.tasks]
    return {
        "timestamp": (frames / plan.fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(len(episode), grown.info["total_episodes"], np.int64),
        "index": frames + grown.info["total_frames"],
        "task_index": np.array(numbers, np.int64),
    }


def _schema(plan: Plan) -> pa.Schema:
    stored = {name: f for name, f in plan.features.items() if f["dtype"] != "video"} | BOOKKEEPING
    return pa.schema([pa.field(name, arrow_type(feature)) for name, feature in stored.items()])


def _mp4(plan: Plan, out: Path, grown: Grown, name: str) -> Mp4:
    path = out / VIDEO_PATH.format(video_key=name, **grown.file)
    return Mp4(path, plan.codec, plan.gop, camera_size(plan.features[name]), plan.fps)


def _new(plan: Plan) -> Grown:
    video = any(feature["dtype"] == "video" for feature in plan.features.values())
    info = {
        "codebase_version": CODEBASE_VERSION, "robot_type": plan.robot_type,
        "fps": int(plan.fps) if plan.fps == int(plan.fps) else plan.fps,
        "chunks_size": CHUNK_FILES_MAX, "data_files_size_in_mb": DATA_MB_MAX,
        "video_files_size_in_mb": plan.video_mb_max, "total_episodes": 0, "total_frames": 0,
        "data_path": DATA_PATH, "video_path": VIDEO_PATH if video else None,
        "features": {name: dict(feature) for name, feature in (plan.features | BOOKKEEPING).items()},
    }  # fmt: skip
    return Grown(info, {}, {}, _place(0), _place(0))


def _existing(plan: Plan, root: Path) -> Grown:
    info = read_info(root).raw
    stats = json.loads((root / STATS_PATH).read_bytes())
    arrays = {key: {name: np.array(value) for name, value in of.items()} for key, of in stats.items()}
    tasks = {text: number for number, text in sorted(read_task_texts(root).items())}
    size = info.get("chunks_size", CHUNK_FILES_MAX)
    following = max(_following(root / "data", size), _following(root / "videos", size))
    return Grown(info, arrays, tasks, _place(following, size), _place(_following(root / "meta/episodes", size), size))


def _following(folder: Path, chunk_files_max: int) -> int:
    """The first file number that no file below a folder has."""
    places = (PLACE.search(path.as_posix()) for path in folder.rglob("file-*"))
    return max((int(m[1]) * chunk_files_max + int(m[2]) + 1 for m in places if m), default=0)


def _place(number: int, chunk_files_max: int = CHUNK_FILES_MAX) -> Place:
    chunk, file = divmod(number, chunk_files_max)
    return {"chunk_index": chunk, "file_index": file}


def _write_meta(grown: Grown, out: Path) -> None:
    grown.info["total_tasks"] = len(grown.tasks)
    grown.info["splits"] = {"train": f"0:{grown.info['total_episodes']}"}
    stats = {key: {name: value.tolist() for name, value in of.items()} for key, of in grown.stats.items()}
    (out / INFO_PATH).write_text(json.dumps(grown.info, indent=4))
    (out / STATS_PATH).write_text(json.dumps(stats, indent=4))
    pq.write_table(tasks_table(grown.tasks), out / TASKS_PATH)
