"""What a model is shown of an episode for phase `plan`: windows of it, as contact sheets or as clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tasks.answers.question import Clip
from tasks.cameras import default_camera, known_camera
from tasks.dataset.clip import ClipSpec, make_clip
from tasks.dataset.episode import Episode
from tasks.dataset.frames import Wants
from tasks.dataset.signals import Signals
from tasks.motion_hints import facts
from tasks.plan_questions import Window
from tasks.segments import sample_times, windows
from tasks.settings import AnnotateSettings
from tasks.sheets import SheetMaker, tile_width, view_caption

CLIPS_FOLDER = "clips"  # inside the staging folder


def views(settings: AnnotateSettings, cameras: Sequence[str]) -> tuple[str, ...]:
    """The cameras to look through, the default one first."""
    first = default_camera(settings, cameras)
    chosen = [] if first is None else [first]
    if settings.plan.second_camera is not None:
        chosen.append(known_camera(settings.plan.second_camera, cameras, "plan.second_camera"))
    return tuple(dict.fromkeys(chosen))


def bounds(episode: Episode, settings: AnnotateSettings) -> list[tuple[float, float]]:
    """The windows that the episode is looked at in."""
    plan = settings.plan
    return windows(
        episode.start_s, episode.end_s, plan.frames_per_second, plan.max_frames_per_prompt, plan.window_overlap_s
    )


def window_times(episode: Episode, settings: AnnotateSettings, start_s: float, end_s: float) -> list[float]:
    """The times of a window that its sheets show."""
    plan = settings.plan
    return sample_times(episode.times, start_s, end_s, plan.frames_per_second, plan.max_frames_per_prompt)


def wanted_tiles(
    episode: Episode, settings: AnnotateSettings, cameras: Sequence[str], stretches: Sequence[tuple[float, float]]
) -> dict[str, Wants]:
    """The tiles of the sheets of these windows, per camera; none where clips are shown."""
    if settings.plan.media == "video":
        return {}
    rows = frozenset(episode.nearest(t) for s in stretches for t in window_times(episode, settings, *s))
    return {
        camera: Wants(tiles=rows, tile_width=tile_width(settings, episode.videos[camera]))
        for camera in views(settings, cameras)
    }


@dataclass(frozen=True)
class Looks:
    """Shows windows of one episode; what is made for one is made once. Without cameras nothing is shown."""

    episode: Episode
    settings: AnnotateSettings
    sheets: SheetMaker
    clips_folder: Path
    signals: Signals | None = None  # None: not used, or nobody can read them
    _made: dict[tuple[float, float], Window] = field(default_factory=dict)

    def at(self, start_s: float, end_s: float) -> Window:
        """The window with its pictures or clips and facts. Raises VideoError."""
        key = (start_s, end_s)
        if key not in self._made:
            self._made[key] = self._look(start_s, end_s)
        return self._made[key]

    def _look(self, start_s: float, end_s: float) -> Window:
        told: list[str] = []
        if self.signals is not None and self.settings.plan.motion_hints:
            told = facts(self.signals, self.episode, start_s, end_s)
        if self.settings.plan.media == "video":
            return Window(start_s, end_s, clips=self._clips(start_s, end_s), facts=told)
        times = window_times(self.episode, self.settings, start_s, end_s)
        return Window(start_s, end_s, self.sheets.make(times, zero_s=start_s), facts=told)

    def _clips(self, start_s: float, end_s: float) -> tuple[Clip, ...]:
        plan, cameras = self.settings.plan, self.sheets.cameras
        spec = ClipSpec(plan.clip_width, plan.frames_per_second, self.settings.vlm.max_pixels)
        clips = [make_clip(self.episode, camera, start_s, end_s, spec, self.clips_folder) for camera in cameras]
        return tuple(replace(clip, caption=view_caption(cameras, i)) for i, clip in enumerate(clips))
