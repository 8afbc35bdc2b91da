"""A LeRobot v3 dataset folder: what it holds, its episodes, and whether its videos are whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from tasks.dataset.episode import Episode
from tasks.dataset.episodes import read_episodes
from tasks.dataset.info import DatasetInfo, camera_size, flat_names, is_depth_map, read_info
from tasks.dataset.shards import episode_column, flat_values
from tasks.dataset.video import check_video
from tasks.errors import DatasetError, SettingsError

__all__ = ["Dataset", "DatasetInfo", "open_dataset"]


@dataclass(frozen=True)
class Dataset:
    """An opened dataset. Cheap to make and to pickle; files are read when asked."""

    root: Path
    info: DatasetInfo

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Colour cameras stored as video, in the order of info.json."""
        features = self.info.features.items()
        return tuple(k for k, f in features if f.get("dtype") == "video" and not is_depth_map(f))

    @cached_property
    def depth_cameras(self) -> tuple[str, ...]:
        """Videos of depth; never shown to a model."""
        return tuple(k for k, f in self.info.features.items() if f.get("dtype") == "video" and is_depth_map(f))

    @cached_property
    def image_cameras(self) -> tuple[str, ...]:
        """Cameras stored as images inside the data shards; never chosen."""
        return tuple(k for k, f in self.info.features.items() if f.get("dtype") == "image")

    @cached_property
    def camera_sizes(self) -> dict[str, tuple[int, int]]:
        """(width, height) in pixels per colour camera."""
        return {k: camera_size(self.info.features[k]) for k in self.cameras}

    @property
    def data_files(self) -> list[Path]:
        """Data shards in path order."""
        return sorted(p for p in (self.root / "data").glob("**/*.parquet") if not p.name.startswith("."))

    def default_camera(self, camera_key: str | None) -> str | None:
        """The named camera, else the first, else None; SettingsError lists the cameras when the name is unknown."""
        if camera_key is None:
            return self.cameras[0] if self.cameras else None
        if camera_key in self.cameras:
            return camera_key
        got = camera_key
        if camera_key in self.image_cameras:
            got += ", which is stored as images, not as video"
        elif camera_key in self.depth_cameras:
            got += ", which holds depth, not colour"
        near = get_close_matches(camera_key, self.cameras, n=1, cutoff=0.4)
        remedy = f"say {near[0]}" if near else "name one of them, or leave the setting out"
        raise SettingsError(f"want a camera of {', '.join(self.cameras) or 'none (no colour video)'}", got, remedy)

    def episodes(self, only: Sequence[int] | None = None) -> list[Episode]:
        """Episodes ordered by index, all or those named. No video is opened."""
        shards = self.data_files
        if not shards:
            raise DatasetError(
                "want data shards (data/**/*.parquet)", f"none in {self.root}", "download the whole dataset"
            )
        return read_episodes(self.root, self.info, self.cameras, shards, only)

    def columns(self, episode: Episode, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of one episode: (frames,) for scalars, (frames, values) for vectors of any nesting."""
        return {name: self._column(episode, name) for name in names}

    def _column(self, episode: Episode, name: str) -> np.ndarray:
        column = episode_column(episode, name)
        if column is None:
            want = f"want column {name} in {episode.data_path}"
            raise DatasetError(want, "no such column", f"the dataset has {', '.join(self.info.features)}")
        flat = flat_values(column)
        values = flat.to_numpy()
        if flat is column:
            return values
        if len(values) % episode.frames or len({float(n) for c in column.chunks for n in _lengths(c)}) > 1:
            raise DatasetError(
                f"want vectors of one length in column {name}", str(episode.data_path), "repair the shard"
            )
        return values.reshape(episode.frames, -1)

    def feature_names(self, key: str) -> list[str]:
        """Flattened names of a feature's values; empty when there are none or not one per value."""
        feature = self.info.features.get(key, {})
        names = flat_names(feature.get("names"))
        return names if len(names) == prod(feature.get("shape") or [0]) else []

    def check_videos(self, episodes: Sequence[Episode], cameras: Sequence[str] | None = None) -> None:
        """Open each mp4 that is needed; VideoError names the first that is missing, damaged or too short."""
        needed: dict[Path, list[tuple[float, float, int]]] = {}
        for episode in episodes:
            for camera, ref in episode.videos.items():
                if cameras is None or camera in cameras:
                    needed.setdefault(ref.path, []).append((ref.from_s, ref.to_s, episode.episode_index))
        for path, ranges in sorted(needed.items()):
            check_video(path, ranges, self.info.fps)


def _lengths(chunk) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Distinct lengths of the outermost lists."""
    if hasattr(chunk.type, "list_size"):
        return np.array([chunk.type.list_size])
    return np.unique(chunk.value_lengths().to_numpy(zero_copy_only=False))


def open_dataset(root: Path) -> Dataset:
    """Open a dataset folder; DatasetError says why it is none. Reads info.json only."""
    root = Path(root).expanduser().absolute()
    return Dataset(root, read_info(root))
