"""What an episode is, as one short string: changes when its rows, signals or video files do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.dataset.episode import Episode, VideoRef
from tasks.dataset.shards import episode_column, flat_values, open_parquet

if TYPE_CHECKING:
    from tasks.dataset.layout import Dataset

IDENTITY_ROWS = 16  # enough to tell recordings apart
SIGNALS = ("observation.state", "action")  # what the motion annotator and the signal reader look at


@dataclass(frozen=True)
class EpisodeDigest:
    """Makes the digest of an episode of the dataset at `root`. Rewriting a shard with equal values keeps it."""

    root: Path

    def __call__(self, episode: Episode) -> str:
        hasher = hashlib.blake2b(digest_size=16)
        hasher.update(f"{episode.episode_index} {episode.frames} {episode.fps} {episode.task!r}".encode())
        hasher.update(episode.timestamps.tobytes())
        hasher.update(episode.frame_indices.tobytes())
        for name in SIGNALS:
            column = episode_column(episode, name)
            if column is None:
                continue
            values = flat_values(column)
            hasher.update(f"{name} {values.type} {len(values)}".encode())
            numeric = values.to_numpy()
            hasher.update(numeric.tobytes() if numeric.dtype != object else repr(numeric.tolist()).encode())
        for camera, ref in sorted(episode.videos.items()):
            hasher.update(f"{camera} {self._video(ref)}".encode())
        return hasher.hexdigest()

    def _video(self, ref: VideoRef) -> str:
        """Path inside the dataset, size and time of the file: hashing its bytes would cost more than decoding them."""
        try:
            stat = ref.path.stat()
            file = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            file = "missing"  # reported by check_videos or by the decoder, not here
        where = ref.path.relative_to(self.root) if ref.path.is_relative_to(self.root) else ref.path
        return f"{where.as_posix()} {file} {ref.from_s!r} {ref.to_s!r}"


def dataset_identity(dataset: Dataset) -> str:
    """What stays the same when a dataset is annotated, moved or gets more episodes, and differs between recordings.

    Features, frame rate, robot, and the first rows of the first shard. Other episodes are not read: one of them
    may be damaged.
    """
    features = sorted(k for k in dataset.info.features if not k.startswith("language_"))
    known = [features, dataset.info.fps, dataset.info.raw.get("robot_type")]
    shard = open_parquet(dataset.data_files[0])
    names = [n for n in (*SIGNALS, "timestamp") if n in shard.schema_arrow.names]
    head = next(shard.iter_batches(batch_size=IDENTITY_ROWS, columns=names), None)
    return hashlib.blake2b(repr([known, head.to_pylist() if head else []]).encode(), digest_size=16).hexdigest()
