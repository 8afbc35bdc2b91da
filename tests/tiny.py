"""Tiny datasets made with pyarrow alone: no video is opened, so writing and committing are tested in milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.language.rows import Row
from tasks.language.styles import MODULES
from tasks.staging import Staging

FPS = 10
CAMERA = "observation.images.front"
SHARD = "data/chunk-{c:03d}/file-{f:03d}.parquet"


def times(frames: int) -> list[float]:
    """Frame timestamps as stored: float32."""
    return [float(t) for t in (np.arange(frames) / FPS).astype(np.float32)]


def frames_table(episode: int, frames: int, **extra: pa.Array) -> pa.Table:
    """The frames of one episode."""
    return pa.table(
        {
            "observation.state": pa.array([[float(episode), i / 7] for i in range(frames)], pa.list_(pa.float32(), 2)),
            "timestamp": pa.array(times(frames), pa.float32()),
            "frame_index": pa.array(range(frames), pa.int64()),
            "episode_index": pa.array([episode] * frames, pa.int64()),
            "index": pa.array(range(frames), pa.int64()),
            "task_index": pa.array([0] * frames, pa.int64()),
            **extra,
        }
    )


def make_dataset(
    root: Path, shards: Sequence[Sequence[int]] = ((6, 4), (5,)), *, packed: bool = False, **extra
) -> Path:
    """A dataset whose shards hold episodes of those frame counts; `packed`: one row group for a whole shard.

    `extra`: more columns, each a function of the frame count.
    """
    episode = 0
    for f, lengths in enumerate(shards):
        path = root / SHARD.format(c=0, f=f)
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = []
        for frames in lengths:
            tables.append(frames_table(episode, frames, **{k: make(frames) for k, make in extra.items()}))
            episode += 1
        if packed:
            pq.write_table(pa.concat_tables(tables), path)
        else:
            with pq.ParquetWriter(path, tables[0].schema) as writer:
                for table in tables:
                    writer.write_table(table)
    _write_meta(root, [n for lengths in shards for n in lengths], extra)
    video = root / "videos" / CAMERA / "chunk-000" / "file-000.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"not opened by these tests")
    (root / "README.md").write_text("card\n")
    return root


def _write_meta(root: Path, lengths: Sequence[int], extra: dict) -> None:
    one = {"shape": [1], "names": None}
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        CAMERA: {"dtype": "video", "shape": [240, 320, 3], "names": ["height", "width", "channels"]},
        "timestamp": {"dtype": "float32", **one},
        **{n: {"dtype": "int64", **one} for n in ("frame_index", "episode_index", "index", "task_index", *extra)},
    }
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 1,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))


def sample_rows(episode: int, frames: int) -> dict[str, list[Row]]:
    """Valid rows of every module for one episode."""
    t = times(frames)
    mid = t[frames // 2]
    return {
        "plan": [
            Row("user", f"do {episode} differently", "task_aug", t[0]),
            Row("assistant", f"reach for {episode}", "subtask", t[0]),
            Row("assistant", "1. reach\n2. lift", "plan", t[0]),
            Row("assistant", "lift – slowly", "subtask", mid),
            Row("assistant", "1. lift", "plan", mid),
            Row("assistant", "I reached.", "memory", mid),
        ],
        "interjections": [
            Row.speech('I "begin".', t[0]),
            Row("user", "now lift", "interjection", mid),
            Row.speech("Sure.", mid),
        ],
        "vqa": [
            Row("user", "how many?", "vqa", t[1], CAMERA),
            Row("assistant", json.dumps({"label": "cube", "count": episode}), "vqa", t[1], CAMERA),
        ],
    }


def stage(staging: Staging, lengths: dict[int, int], modules: Sequence[str] = MODULES) -> dict[int, Sequence[str]]:
    """Stage sample rows of those episodes (index -> frames); returns the writer's `modules`."""
    for episode, frames in lengths.items():
        for module, rows in sample_rows(episode, frames).items():
            if module in modules:
                staging.write(episode, module, rows, key="k", facts={})
    return dict.fromkeys(lengths, modules)


def tree(root: Path) -> dict[str, str]:
    """Every file below a folder with a digest of its bytes; links by their target. Staged rows are left out."""
    found: dict[str, str] = {}
    for folder, names, files in os.walk(root):
        names[:] = [n for n in names if n != ".annotate_staging"]
        for name in files:
            path = Path(folder) / name
            data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[path.relative_to(root).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def column(root: Path, name: str, f: int = 0) -> list:
    """One column of a shard as Python values."""
    return pq.read_table(root / SHARD.format(c=0, f=f), columns=[name]).column(name).to_pylist()
