"""Tiny mp4 files and datasets for tests. Every frame shows its own index: a test reads which frame it got."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder otherwise fills stderr
CAMERA = "observation.images.front"
GRID = (4, 6)  # blocks down and across: 24 bits, of which 12 are used, each shown twice as itself and inverted
BLOCK = 16
HEIGHT, WIDTH = GRID[0] * BLOCK, GRID[1] * BLOCK
BITS = 12


def index_picture(index: int) -> np.ndarray:
    """Gray blocks that spell the index: the upper half its bits, the lower half their opposites."""
    bits = np.array([(index >> i) & 1 for i in range(BITS)], np.uint8)
    blocks = np.concatenate([bits, 1 - bits]).reshape(GRID) * 200 + 28
    gray = np.kron(blocks, np.ones((BLOCK, BLOCK), np.uint8)).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def read_index(rgb: np.ndarray) -> int:
    """The index a picture spells, at any scale; fails when the two halves disagree."""
    h, w = rgb.shape[0] / GRID[0], rgb.shape[1] / GRID[1]
    gray = rgb.mean(axis=2)
    centre = [
        gray[int((r + 0.3) * h) : int((r + 0.7) * h) + 1, int((c + 0.3) * w) : int((c + 0.7) * w) + 1].mean() > 128
        for r in range(GRID[0])
        for c in range(GRID[1])
    ]
    bits, opposite = centre[:BITS], centre[BITS:]
    assert all(a != b for a, b in zip(bits, opposite, strict=True)), "blurred or mixed frames"
    return sum(int(b) << i for i, b in enumerate(bits))


def write_mp4(
    path: Path,
    frames: int | Iterable[int],
    *,
    codec: str = "mpeg4",
    fps: int = 10,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    start_frame: int = 0,
    movflags: str = "",
) -> Path:
    """An mp4 whose frames spell `frames`; `start_frame` shifts all presentation times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    indices = range(frames) if isinstance(frames, int) else frames
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.codec_context.time_base = Fraction(1, fps)
        for i, index in enumerate(indices):
            frame = av.VideoFrame.from_ndarray(index_picture(index), format="rgb24")
            frame.pts, frame.time_base = i + start_frame, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def feature(dtype: str, shape: Sequence[int], names: object = None, **more: object) -> dict:
    """One entry of info.json's features."""
    return {"dtype": dtype, "shape": list(shape), "names": names, **more}


def video_feature(**more: object) -> dict:
    """A colour camera of the size that `write_mp4` makes."""
    return feature("video", (HEIGHT, WIDTH, 3), ["height", "width", "channels"], **more)


class TinyDataset:
    """A v3 dataset whose parts a test may bend before `write`."""

    def __init__(self, root: Path, lengths: Sequence[int] = (6, 8, 5), fps: int = 10) -> None:
        self.root, self.fps, self.lengths = root, fps, list(lengths)
        total = sum(lengths)
        starts = np.cumsum([0, *lengths])[:-1]
        joint = {"names": [["x", "y"]]}
        scalars = ("episode_index", "frame_index", "index", "task_index")
        self.info: dict = {
            "codebase_version": "v3.0",
            "fps": fps,
            "total_episodes": len(lengths),
            "total_frames": total,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": {
                "observation.state": feature("float32", [2], **joint),
                "action": feature("float32", [2], **joint),
                CAMERA: video_feature(),
                "timestamp": feature("float32", [1]),
                **{name: feature("int64", [1]) for name in scalars},
            },
        }
        values = np.arange(total * 2, dtype=np.float32).reshape(total, 2)
        self.columns: dict = {
            "observation.state": list(values),
            "action": list(values + 1),
            "timestamp": np.concatenate([np.arange(n) / fps for n in lengths]).astype(np.float32),
            "frame_index": np.concatenate([np.arange(n) for n in lengths]),
            "episode_index": np.repeat(np.arange(len(lengths)), lengths),
            "index": np.arange(total),
            "task_index": np.repeat(np.arange(len(lengths)) % 2, lengths),
        }
        zeros = [0] * len(lengths)
        self.episodes: dict = {
            "episode_index": list(range(len(lengths))),
            "length": self.lengths,
            "data/chunk_index": zeros,
            "data/file_index": zeros,
            f"videos/{CAMERA}/chunk_index": zeros,
            f"videos/{CAMERA}/file_index": zeros,
            f"videos/{CAMERA}/from_timestamp": [float(s / fps) for s in starts],
            f"videos/{CAMERA}/to_timestamp": [float((s + n) / fps) for s, n in zip(starts, lengths, strict=True)],
            "stats/action/mean": [[0.0, 0.0]] * len(lengths),
        }
        self.tasks: pa.Table | None = pa.table({"task_index": [0, 1], "task": ["open the box", "close the box"]})

    @property
    def shard(self) -> Path:
        return self.root / "data/chunk-000/file-000.parquet"

    @property
    def video(self) -> Path:
        return self.root / f"videos/{CAMERA}/chunk-000/file-000.mp4"

    def data_table(self) -> pa.Table:
        return pa.table({k: v if isinstance(v, pa.Array) else pa.array(v) for k, v in self.columns.items()})

    def write(self, *, group_per_episode: bool = True, video: bool = False) -> Path:
        """Write all files; the mp4 only when asked."""
        for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "meta/info.json").write_text(json.dumps(self.info))
        pq.write_table(pa.table(self.episodes), self.root / "meta/episodes/chunk-000/file-000.parquet")
        if self.tasks is not None:
            pq.write_table(self.tasks, self.root / "meta/tasks.parquet")
        table = self.data_table()
        with pq.ParquetWriter(self.shard, table.schema) as writer:
            start = 0
            for rows in self.lengths if group_per_episode else [table.num_rows]:
                writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
                start += rows
        if video:
            write_mp4(self.video, sum(self.lengths), fps=self.fps)
        return self.root
