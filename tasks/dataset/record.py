"""DatasetRecorder: frames in, a LeRobot v3.0 dataset out. Nothing can be seen as a dataset before finalize().

with DatasetRecorder(out, fps=30, features=features, codec="h264") as recorder:
    for frame in frames:
        recorder.add_frame(frame)
    recorder.save_episode("Put the cup on the tray.")
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tasks.dataset.encode import Clip, Encoding, VideoTrack, encoding_for
from tasks.dataset.feature_stats import PictureStats, Stats, merge_stats, vector_stats
from tasks.dataset.record_files import (
    DATA_PATH,
    EPISODES_PATH,
    DataFiles,
    EpisodeRows,
    arrow_array,
    arrow_type,
    tasks_table,
)
from tasks.errors import DatasetError

CODEBASE_VERSION = "v3.0"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CHUNK_FILES_MAX = 1000
DATA_MB_MAX = 100
VIDEO_MB_MAX = 200
MIB = 1024 * 1024
BOOKKEEPING: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}


def vector_feature(names: Sequence[str], dtype: str = "float32") -> dict[str, Any]:
    """The feature of one vector per frame, such as joint positions."""
    return {"dtype": dtype, "shape": [len(names)], "names": list(names)}


def camera_feature(size: tuple[int, int], *, stored: str = "video", depth: bool = False) -> dict[str, Any]:
    """The feature of a camera of (width, height) pixels, stored as "video" or as one PNG ("image") per frame."""
    width, height = size
    feature: dict[str, Any] = {"dtype": stored, "shape": [height, width, 1 if depth else 3]}
    feature["names"] = ["height", "width", "channels"]
    return feature | ({"info": {"is_depth_map": True}} if depth else {})


class DatasetRecorder:
    """Writes a dataset episode by episode into a hidden folder beside `out`, which finalize() renames to `out`.

    `features` are info.json's, without the bookkeeping columns. Colour pictures are uint8 (height, width, 3), depth
    pictures uint16 (height, width) with 12-bit codes. Memory holds one episode's vectors and a few pictures a camera.
    """

    def __init__(
        self,
        out: Path,
        *,
        fps: float,
        features: Mapping[str, Mapping[str, Any]],
        robot_type: str | None = None,
        codec: str = "h264",
        gop: int | None = None,
        chunks_size: int = CHUNK_FILES_MAX,
        data_files_size_in_mb: float = DATA_MB_MAX,
        video_files_size_in_mb: float = VIDEO_MB_MAX,
    ) -> None:
        self.out = Path(out).absolute()
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise DatasetError("a new or empty folder to record into", str(self.out), "choose another, or remove it")
        self._info: dict[str, Any] = {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": robot_type,
            "fps": int(fps) if fps == int(fps) else fps,
            "chunks_size": chunks_size,
            "data_files_size_in_mb": data_files_size_in_mb,
            "video_files_size_in_mb": video_files_size_in_mb,
        }
        self._features = {key: dict(feature) for key, feature in features.items()}
        encodings = {key: _encoding(f, codec, gop) for key, f in self._features.items() if f["dtype"] == "video"}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._root = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.recording-", dir=self.out.parent))
        self._tracks = {key: self._track(key, encoding) for key, encoding in encodings.items()}
        self._rows: dict[str, list[Any]] = {}
        self._pictures: dict[str, PictureStats] = {}
        self._frames = 0  # of the running episode
        self._tasks: dict[str, int] = {}
        self._stats: dict[str, Stats] = {}
        self._data = DataFiles(self._root, self._schema(), data_files_size_in_mb * MIB, chunks_size)
        self._episodes = EpisodeRows(self._root / EPISODES_PATH)
        self._total_frames = 0
        self._open = True
        self._start_episode()

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Add one frame: a value for every feature. Waits when an encoder cannot keep up."""
        self._must_be_open()
        if frame.keys() != self._features.keys():
            raise DatasetError(
                f"a value for each of {sorted(self._features)}", str(sorted(frame)), "add or drop the others"
            )
        values = {key: _checked(key, feature, frame[key]) for key, feature in self._features.items()}
        for key, value in values.items():
            if key in self._tracks:
                self._tracks[key].add(value)
            elif self._features[key]["dtype"] == "image":
                self._pictures[key].add(value)
                self._rows[key].append({"bytes": _png(value), "path": f"frame-{self._frames:06d}.png"})
            else:
                self._rows[key].append(value)
        self._frames += 1

    def save_episode(self, task: str) -> int:
        """End the running episode; returns its index."""
        self._must_be_open()
        if self._frames == 0:
            raise DatasetError("an episode of at least one frame", "none", "call add_frame first")
        with _disk(self.out):
            return self._save(task)

    def _save(self, task: str) -> int:
        episode = self._episodes.total
        clips = {key: track.end_episode() for key, track in self._tracks.items()}
        columns = self._columns(episode, self._tasks.setdefault(task, len(self._tasks)))
        stats = self._episode_stats(columns, clips)
        chunk, file = self._data.write(self._table(columns))
        self._episodes.add(
            {
                "episode_index": episode,
                "tasks": [task],
                "length": self._frames,
                "dataset_from_index": self._total_frames,
                "dataset_to_index": self._total_frames + self._frames,
                "data/chunk_index": chunk,
                "data/file_index": file,
                **_video_columns(clips),
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            },
            stats,
        )
        self._stats = merge_stats(self._stats, stats)
        self._total_frames += self._frames
        self._start_episode()
        return episode

    def discard_episode(self) -> None:
        """Forget the running episode. Its pictures stay in the video files, where no episode refers to them."""
        self._must_be_open()
        if self._frames:
            for track in self._tracks.values():
                track.end_episode()
        self._start_episode()

    def finalize(self) -> Path:
        """Write the metadata and make the dataset visible under its name; an unsaved episode is left out."""
        self._must_be_open()
        self.discard_episode()
        if self._episodes.total == 0:
            raise DatasetError("at least one saved episode", "none", "call save_episode before finalize")
        for track in self._tracks.values():
            track.close()
        with _disk(self.out):
            self._data.close()
            self._episodes.close()
            self._write_meta()
            _sync(self._root)
            os.chmod(self._root, 0o755)  # temporary folders are private, datasets are not
            os.rename(self._root, self.out)
        self._open = False
        return self.out

    def abort(self) -> None:
        """Drop everything recorded so far. Idempotent."""
        if not self._open:
            return
        self._open = False
        for track in self._tracks.values():
            track.stop()
        for files in (self._data, self._episodes):
            with suppress(OSError):  # a full disk: they are removed anyway
                files.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> DatasetRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        try:
            if kind is None:
                self.finalize()
        finally:
            self.abort()

    def _track(self, key: str, encoding: Encoding) -> VideoTrack:
        height, width = self._features[key]["shape"][:2]
        return VideoTrack(
            lambda chunk, file: self._root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file),
            encoding,
            fps=self._info["fps"],
            size=(width, height),
            bytes_max=self._info["video_files_size_in_mb"] * MIB,
            chunk_files_max=self._info["chunks_size"],
        )

    def _must_be_open(self) -> None:
        if not self._open:
            raise DatasetError("an open recorder", "a finished one", "make a new DatasetRecorder")

    def _start_episode(self) -> None:
        self._frames = 0
        self._rows = {key: [] for key in self._features if key not in self._tracks}
        self._pictures = {key: PictureStats(every=1) for key, f in self._features.items() if f["dtype"] == "image"}

    def _schema(self) -> pa.Schema:
        stored = {key: f for key, f in self._features.items() if f["dtype"] != "video"} | BOOKKEEPING
        return pa.schema([pa.field(key, arrow_type(feature)) for key, feature in stored.items()])

    def _columns(self, episode: int, task_index: int) -> dict[str, Any]:
        n = self._frames
        frames = np.arange(n, dtype=np.int64)
        return self._rows | {
            "timestamp": (frames / float(self._info["fps"])).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(n, episode, np.int64),
            "index": frames + self._total_frames,
            "task_index": np.full(n, task_index, np.int64),
        }

    def _table(self, columns: Mapping[str, Any]) -> pa.Table:
        schema = self._data.schema
        arrays = [arrow_array(columns[field.name], field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _episode_stats(self, columns: Mapping[str, Any], clips: Mapping[str, Clip]) -> dict[str, Stats]:
        stats = {}
        for key, feature in (self._features | BOOKKEEPING).items():
            if key in clips:
                stats[key] = clips[key].stats
            elif key in self._pictures:
                stats[key] = self._pictures[key].result()
            elif feature["dtype"] not in ("string", "bool"):
                stats[key] = vector_stats(np.asarray(columns[key]))
        return stats

    def _write_meta(self) -> None:
        meta, episodes = self._root / "meta", self._episodes.total
        for key, track in self._tracks.items():
            self._features[key]["info"] = {**self._features[key].get("info", {}), **track.info}
        totals = {"total_episodes": episodes, "total_frames": self._total_frames, "total_tasks": len(self._tasks)}
        info = self._info | totals | {"splits": {"train": f"0:{episodes}"}, "data_path": DATA_PATH}
        info |= {"video_path": VIDEO_PATH if self._tracks else None, "features": self._features | BOOKKEEPING}
        stats = {key: {name: v.tolist() for name, v in value.items()} for key, value in self._stats.items()}
        (meta / "info.json").write_text(json.dumps(info, indent=4))
        (meta / "stats.json").write_text(json.dumps(stats, indent=4))
        pq.write_table(tasks_table(self._tasks), meta / "tasks.parquet")


@contextmanager
def _disk(out: Path) -> Iterator[None]:
    """Failures of the file system as DatasetError."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"to write the recording {out.name} in {out.parent}", str(error), "free disk space"
        ) from error


def _encoding(feature: Mapping[str, Any], codec: str, gop: int | None) -> Encoding:
    depth = (feature.get("info") or {}).get("is_depth_map", False)
    return encoding_for("depth" if depth else codec, gop)


def _video_columns(clips: Mapping[str, Clip]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, clip in clips.items():
        columns[f"videos/{key}/chunk_index"] = clip.chunk_index
        columns[f"videos/{key}/file_index"] = clip.file_index
        columns[f"videos/{key}/from_timestamp"] = clip.from_s
        columns[f"videos/{key}/to_timestamp"] = clip.to_s
    return columns


def _checked(key: str, feature: Mapping[str, Any], value: Any) -> Any:
    """The value in its feature's type, or DatasetError."""
    shape = tuple(feature["shape"])
    if feature["dtype"] == "string":
        return str(value)
    if feature["dtype"] in ("video", "image"):
        array = np.array(value)  # a copy: drivers reuse their buffers
        array = array[..., 0] if shape[-1] == 1 and array.ndim == 3 else array
        wanted, dtype = (shape[:2], np.uint16) if shape[-1] == 1 else (shape, np.uint8)
        if array.shape != wanted or array.dtype != dtype:
            got = f"{array.dtype.name} {array.shape}"
            raise DatasetError(f"{key}: {np.dtype(dtype).name} {wanted}", got, "convert the picture first")
        return array
    array = np.array(value, dtype=feature["dtype"])
    if array.shape != shape and not (shape == (1,) and array.shape == ()):
        raise DatasetError(f"{key}: shape {shape}", str(array.shape), "match the feature")
    return array.reshape(-1)[0] if shape == (1,) else array


def _png(picture: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _sync(root: Path) -> None:
    """Force every file to the disk, so that the rename never shows an incomplete dataset."""
    for path in (root, *root.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
