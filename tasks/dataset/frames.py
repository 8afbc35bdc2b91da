"""Pictures of one episode: every frame is decoded once per camera, however many phases ask."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.answers.question import Picture
from tasks.dataset.episode import Episode
from tasks.errors import VideoError

# Decoding fills a core: more decoders than cores only contend for caches and memory (measured: twice the CPU time).
DECODING = threading.BoundedSemaphore(os.cpu_count() or 1)
CHROMA_420 = 2  # Pillow's name for 4:2:0: half the colour resolution, which no model misses


@dataclass(frozen=True)
class Shot:
    """A decoded frame with the time it really has."""

    time_s: float  # the frame's own timestamp in the episode
    rgb: np.ndarray  # uint8 (height, width, 3)


@dataclass(frozen=True)
class Still:
    """How large and how good a JPEG of a frame may be."""

    width_max: int = 1280
    quality: int = 84
    pixels_max: int | None = None
    multiple: int = 1  # of both sides, for models that would stretch any other picture to it


@dataclass(frozen=True)
class Wants:
    """Which frames of one camera the enabled phases will ask for, so that one pass decodes them all."""

    tiles: frozenset[int] = frozenset()  # rows wanted as small RGB tiles
    tile_width: int = 224
    stills: frozenset[int] = frozenset()  # rows wanted as JPEG stills
    still: Still = Still()


@dataclass(frozen=True)
class TileKey:
    """One small RGB picture."""

    row: int
    width: int


@dataclass(frozen=True)
class StillKey:
    """One JPEG."""

    row: int
    still: Still


Key = TileKey | StillKey


def keys_of(wants: Wants) -> set[Key]:
    """The pictures that a want list names."""
    tiles: set[Key] = {TileKey(row, wants.tile_width) for row in wants.tiles}
    return tiles | {StillKey(row, wants.still) for row in wants.stills}


class _Reel:
    """The pictures of one camera of one episode. Use under its lock."""

    def __init__(self, episode: Episode, camera: str) -> None:
        self.lock = threading.Lock()
        self.pending: set[Key] = set()  # announced, not yet decoded
        self.pictures: dict[Key, np.ndarray | Picture] = {}
        self.size_bytes = 0
        self.decoded = 0
        self._episode, self._camera = episode, camera
        self._clip = None
        self._error: VideoError | None = None

    def get(self, keys: Sequence[Key]) -> list[np.ndarray | Picture]:
        """The pictures, decoded when missing together with all that were announced."""
        if self._error is not None:
            raise VideoError(*self._error.args)
        missing = {k for k in keys if k not in self.pictures}
        if missing:
            try:
                with DECODING:
                    self._decode(missing | self.pending)
            except VideoError as err:
                self._error = err
                self.drop()
                raise
        return [self.pictures[k] for k in keys]

    def drop(self) -> None:
        """Forget all pictures; what is asked for again is decoded again."""
        self.pictures = {}
        self.size_bytes = 0

    def _decode(self, keys: Iterable[Key]) -> None:
        from tasks.dataset.video import Scaler, fit_size

        by_row: dict[int, list[Key]] = {}
        for key in keys:
            by_row.setdefault(key.row, []).append(key)
        rows = sorted(by_row)
        from_s = self._episode.videos[self._camera].from_s
        scaler = Scaler()
        for i, frame in self._open().read([from_s + self._episode.times[row] for row in rows]):
            self.decoded += 1
            for key in by_row[rows[i]]:
                if isinstance(key, TileKey):
                    picture = scaler.rgb(frame, key.width)
                    size_bytes = picture.nbytes
                else:
                    still = key.still
                    size = fit_size((frame.width, frame.height), still.width_max, still.pixels_max, still.multiple)
                    picture = encode_jpeg(scaler.rgb(frame, *size), still.quality)
                    size_bytes = len(picture.jpeg)
                self.pictures[key] = picture
                self.size_bytes += size_bytes
        self.pending.clear()

    def _open(self):  # type: ignore[no-untyped-def]
        from tasks.dataset.video import Clip

        if self._clip is None:
            ref = self._episode.videos[self._camera]
            first_s, last_s = ref.from_s + self._episode.start_s, ref.from_s + self._episode.end_s
            self._clip = Clip(ref.path, first_s, last_s, self._episode.fps)
        return self._clip


def encode_jpeg(rgb: np.ndarray, quality: int) -> Picture:
    """A picture ready to be sent."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=quality, subsampling=CHROMA_420)
    return Picture(out.getvalue(), width=rgb.shape[1], height=rgb.shape[0])


class EpisodeFrames:
    """Frames of one episode. Thread-safe. Every method raises VideoError when a frame cannot be had."""

    def __init__(
        self, episode: Episode, wants: Mapping[str, Wants], on_use: Callable[[EpisodeFrames], None] | None = None
    ) -> None:
        self.episode = episode
        self._on_use = on_use  # told after every request, when no lock is held
        self._closed = False
        self._reels = {camera: _Reel(episode, camera) for camera in episode.videos}
        self.announce(wants)

    def announce(self, wants: Mapping[str, Wants]) -> None:
        """Add to what the next decode of each camera will take along."""
        for camera, wanted in wants.items():
            reel = self._reels.get(camera)
            if reel is not None:
                with reel.lock:
                    reel.pending |= keys_of(wanted) - reel.pictures.keys()

    def tiles(self, camera: str, times: Sequence[float], width: int) -> list[Shot]:
        """One shot per distinct frame nearest to the given times, in time order, `width` pixels wide."""
        rows = self._rows(times)
        pictures = self._get(camera, [TileKey(row, width) for row in rows])
        return [Shot(self.episode.times[row], rgb) for row, rgb in zip(rows, pictures, strict=True)]

    def stills(self, camera: str, times: Sequence[float], still: Still) -> list[tuple[float, Picture]]:
        """(frame time, JPEG) per distinct frame nearest to the given times, in time order."""
        rows = self._rows(times)
        pictures = self._get(camera, [StillKey(row, still) for row in rows])
        return [(self.episode.times[row], picture) for row, picture in zip(rows, pictures, strict=True)]

    @property
    def decoded(self) -> int:
        """Frames taken from the decoder so far, all cameras."""
        return sum(reel.decoded for reel in self._reels.values())

    @property
    def size_bytes(self) -> int:
        """Memory of the pictures kept."""
        return sum(reel.size_bytes for reel in self._reels.values())

    def drop_idle(self) -> None:
        """Forget the pictures of cameras that nobody is reading at this moment."""
        for reel in self._reels.values():
            if reel.lock.acquire(blocking=False):
                try:
                    reel.drop()
                finally:
                    reel.lock.release()

    def close(self) -> None:
        """Forget everything; a straggler that asks later is served but nothing is kept."""
        self._closed = True
        self.drop_idle()

    def _rows(self, times: Sequence[float]) -> list[int]:
        return sorted({self.episode.nearest(t) for t in times})

    def _get(self, camera: str, keys: Sequence[Key]) -> list:  # type: ignore[type-arg]
        reel = self._reels.get(camera)
        if reel is None:
            have = ", ".join(self._reels) or "none"
            want = f"want video of camera {camera} for episode {self.episode.episode_index}"
            raise VideoError(want, f"cameras of the episode: {have}", "name one of them")
        with reel.lock:
            try:
                pictures = reel.get(keys)
            finally:
                if self._closed:
                    reel.drop()
        if self._on_use is not None:
            self._on_use(self)
        return pictures


class FrameStore:
    """The frames of the episodes in flight, within a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[int, EpisodeFrames] = OrderedDict()  # least recently used first

    def open(self, episode: Episode, wants: Mapping[str, Wants]) -> EpisodeFrames:
        """The frames of an episode; the same object for every phase that opens it."""
        with self._lock:
            frames = self._open.get(episode.episode_index)
            if frames is None:
                frames = self._open[episode.episode_index] = EpisodeFrames(episode, {}, self._used)
        frames.announce(wants)
        return frames

    def release(self, episode_index: int) -> None:
        """Forget an episode's pictures: no phase will ask again."""
        with self._lock:
            frames = self._open.pop(episode_index, None)
        if frames is not None:
            frames.close()

    @property
    def size_bytes(self) -> int:
        """Memory of all pictures kept."""
        with self._lock:
            return sum(f.size_bytes for f in self._open.values())

    def _used(self, frames: EpisodeFrames) -> None:
        """Note the use; when over budget, drop the pictures of the episodes that were not used for longest."""
        with self._lock:
            if frames.episode.episode_index in self._open:
                self._open.move_to_end(frames.episode.episode_index)
            total = sum(f.size_bytes for f in self._open.values())
            for other in list(self._open.values()):
                if total <= self.budget_bytes or other is frames:
                    break
                total -= other.size_bytes
                other.drop_idle()
                total += other.size_bytes
