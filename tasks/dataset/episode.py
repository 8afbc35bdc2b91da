"""What is known of one recorded episode without opening its video."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np


class LazyDigest:
    """A string field that may be given as a function of the episode: hashing recorded signals waits until asked."""

    def __get__(self, episode: Episode | None, owner: type | None = None) -> str | LazyDigest:
        if episode is None:
            return self
        value = episode.__dict__["_digest"]
        if callable(value):
            value = episode.__dict__["_digest"] = value(episode)
        return value

    def __set__(self, episode: Episode, value: str | Callable[[Episode], str] | LazyDigest) -> None:
        episode.__dict__["_digest"] = "" if isinstance(value, LazyDigest) else value


@dataclass(frozen=True)
class VideoRef:
    """Where an episode lies inside an mp4 that several episodes share."""

    path: Path
    from_s: float  # video time of the episode's t = 0
    to_s: float
    height: int  # pixels of the camera's own frame, from info.json (0: unknown)
    width: int


@dataclass(frozen=True)
class Episode:
    """One episode. Times are seconds from its start, exactly as stored (float32 widened to float)."""

    episode_index: int
    task: str  # dataset task of its first frame; "" when the dataset has none
    timestamps: np.ndarray  # float32 (frames,), increasing
    frame_indices: np.ndarray  # int64 (frames,)
    data_path: Path
    row_offset: int  # first row inside the shard
    row_group: int | None  # the row group that holds this episode alone; None when the shard is packed otherwise
    fps: float
    videos: Mapping[str, VideoRef] = field(default_factory=dict)  # camera key -> where; colour cameras only
    # identity of rows, signals and video files: changes when any of them does; a str, or what makes it when asked
    digest: str = field(default=LazyDigest(), repr=False, compare=False)  # type: ignore[assignment]

    @property
    def frames(self) -> int:
        """How many frames (rows) the episode has."""
        return len(self.timestamps)

    @cached_property
    def times(self) -> list[float]:
        """Timestamps as Python floats: the only values an event row may carry."""
        return [float(t) for t in self.timestamps]

    @property
    def start_s(self) -> float:
        """Time of the first frame."""
        return self.times[0]

    @property
    def end_s(self) -> float:
        """Time of the last frame."""
        return self.times[-1]

    def nearest(self, t: float) -> int:
        """Row of the frame closest to `t`; the earlier one wins a tie."""
        times = self.times
        i = bisect_left(times, t)
        if i == 0:
            return 0
        if i == len(times):
            return i - 1
        return i - 1 if t - times[i - 1] <= times[i] - t else i

    def snap(self, t: float) -> float:
        """Timestamp of the frame closest to `t`."""
        return self.times[self.nearest(t)]
