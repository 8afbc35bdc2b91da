"""What an episode is, as one short string: changes when its rows, signals or video files do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tasks.dataset.episode import Episode, VideoRef
from tasks.dataset.shards import episode_column, flat_values

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
