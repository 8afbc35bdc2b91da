"""The pictures that chat samples show: which frames they are, and those frames as JPEG files, each decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.dataset.episode import Episode
from tasks.dataset.files import write_atomic
from tasks.dataset.frames import EpisodeFrames, Still, Wants
from tasks.dataset.layout import Dataset
from tasks.errors import SettingsError
from tasks.language.components import short_name

IMAGES_DIR = "images"
FRAMES_AT_ONCE = 256  # decoded frames held in memory


@dataclass(frozen=True, order=True)
class PictureRef:
    """One frame of one camera."""

    camera: str
    frame: int  # 0-based position in the episode


class Album:
    """Picture files of one export."""

    def __init__(self, dataset: Dataset, still: Still) -> None:
        self._dataset, self._still = dataset, still
        short = [short_name(c) for c in dataset.cameras]
        self._labels = {c: s if short.count(s) == 1 else c for c, s in zip(dataset.cameras, short, strict=True)}

    def ref(self, block: Mapping[str, Any], frame: int) -> PictureRef:
        """What an image block shows at a frame: its `feature`, else the first camera.

        Raises SettingsError when the dataset has no such camera.
        """
        wanted = block.get("feature")
        if wanted is not None and wanted not in self._labels:
            wanted = next((c for c, label in self._labels.items() if label == wanted), wanted)
        camera = self._dataset.default_camera(wanted)
        if camera is None:
            got = f"{self._dataset.root} has no colour video"
            raise SettingsError("want a camera for the image blocks of this recipe", got, "use a recipe without images")
        return PictureRef(camera, frame)

    def file(self, episode_index: int, ref: PictureRef) -> str:
        """Path of a picture inside the export."""
        label = self._labels[ref.camera].replace("/", "_")
        return f"{IMAGES_DIR}/ep{episode_index:03d}_{ref.frame:06d}_{label}.jpg"

    def write(self, folder: Path, episode: Episode, refs: Sequence[PictureRef]) -> int:
        """Decode and write the pictures of one episode that are not there yet; how many. Raises VideoError."""
        wanted: dict[str, list[int]] = {}
        for ref in sorted(set(refs)):
            if not (folder / self.file(episode.episode_index, ref)).is_file():
                wanted.setdefault(ref.camera, []).append(ref.frame)
        frames = EpisodeFrames(episode, {})
        for camera, rows in wanted.items():
            for first in range(0, len(rows), FRAMES_AT_ONCE):
                self._write_some(folder, frames, camera, rows[first : first + FRAMES_AT_ONCE])
        return sum(map(len, wanted.values()))

    def _write_some(self, folder: Path, frames: EpisodeFrames, camera: str, rows: Sequence[int]) -> None:
        frames.announce({camera: Wants(stills=frozenset(rows), still=self._still)})
        stills = frames.stills(camera, [frames.episode.times[row] for row in rows], self._still)
        for row, (_, picture) in zip(rows, stills, strict=True):
            write_atomic(folder / self.file(frames.episode.episode_index, PictureRef(camera, row)), picture.jpeg)
        frames.drop_idle()
