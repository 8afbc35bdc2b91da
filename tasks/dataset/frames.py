"""Pictures of one episode: every frame is decoded once per camera, however many phases ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.answers.question import Picture
from tasks.dataset.episode import Episode


@dataclass(frozen=True)
class Shot:
    """A decoded frame with the time it really has."""

    time_s: float  # the frame's own timestamp in the episode
    rgb: np.ndarray  # uint8 (height, width, 3)


@dataclass(frozen=True)
class Wants:
    """Which frames of one camera the enabled phases will ask for, so that one pass decodes them all."""

    tiles: frozenset[int] = frozenset()  # rows wanted as small RGB tiles
    tile_width: int = 224
    stills: frozenset[int] = frozenset()  # rows wanted as JPEG stills
    still_width_max: int = 1280
    still_quality: int = 84


class EpisodeFrames:
    """Frames of one episode. Thread-safe. Every method raises VideoError when a frame cannot be had."""

    def __init__(self, episode: Episode, wants: Mapping[str, Wants]) -> None: ...

    def tiles(self, camera: str, times: Sequence[float], width: int) -> list[Shot]:
        """One shot per distinct frame nearest to the given times, in time order, `width` pixels wide."""
        ...

    def stills(self, camera: str, times: Sequence[float], width_max: int, quality: int) -> list[tuple[float, Picture]]:
        """(frame time, JPEG) per distinct frame nearest to the given times, in time order, at most `width_max` wide."""
        ...


class FrameStore:
    """The frames of the episodes in flight, within a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None: ...

    def open(self, episode: Episode, wants: Mapping[str, Wants]) -> EpisodeFrames:
        """The frames of an episode; the same object for every phase that opens it."""
        ...

    def release(self, episode_index: int) -> None:
        """Forget an episode's pictures: no phase will ask again."""
        ...
