"""The policy drives and everything is recorded, in slices. Between two of them nothing is reset: it is one drive."""

from __future__ import annotations

import logging

from edge.robots.base import RobotFeatures
from edge.rollout.control import Control, Ending
from edge.rollout.settings import SentrySettings, SlicedSettings
from edge.rollout.strategy import Strategy, over

_log = logging.getLogger(__name__)

BITS_PER_PIXEL = 0.1  # of recorded video; low, so that a slice's file has certainly reached its size
WITHOUT_VIDEO_S = 300.0


def slice_s(features: RobotFeatures, fps: float, target_mb: float) -> float:
    """How long until the smallest camera's video is `target_mb` MiB; 300 s without cameras."""
    if not features.cameras:
        return WITHOUT_VIDEO_S
    pixels = min(height * width for height, width in features.cameras.values())
    return target_mb * 2**20 * 8 / (pixels * BITS_PER_PIXEL * fps)


class Slices:
    """Saves an episode each time that one is full, and pushes after some. Frames are counted, not time."""

    def __init__(self, settings: SlicedSettings, control: Control) -> None:
        fps = control.settings.fps
        self._frames = max(1, round(fps * slice_s(control.features, fps, settings.target_video_file_size_mb)))
        self._push_every = settings.upload_every_n_episodes
        self._saved = 0

    def cut(self, control: Control) -> None:
        """Save the slice when it is full. RecordingError."""
        if control.open_frames < self._frames:
            return
        control.save_episode()
        self._saved += 1
        if self._saved % self._push_every == 0:
            control.pusher.request()


class Sentry(Strategy):
    """See above."""

    name = "sentry"
    settings: SentrySettings

    def run(self, control: Control) -> Ending:
        """Drive and record until it is over."""
        slices = Slices(self.settings, control)
        control.begin_episode()
        control.begin()
        while (ending := over(control)) is None:
            control.record(control.policy_tick())
            slices.cut(control)
            control.pressed()
        return ending
