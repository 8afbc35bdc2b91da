"""The policy drives and the last seconds are remembered; a key keeps them and what follows, the same key ends that.

What is remembered goes to the recorder a few frames a tick, oldest first, with the live ones behind it: seconds of
pictures at once would overrun its queue, and what overruns it is lost. They wait here until it has caught up.
"""

from __future__ import annotations

import logging

from edge.rollout.control import Control, Ending, Tick
from edge.rollout.ring import Ring
from edge.rollout.settings import HighlightSettings
from edge.rollout.strategy import Strategy, over

_log = logging.getLogger(__name__)

FLUSH_PER_TICK = 2  # frames that go to the recorder in a tick: twice as fast as they come
WAITING_MAX = 8  # frames in the recorder's queue beyond which the rest waits here
KEPT_MAX = 2.0  # times the memory for the past: beyond it nothing waits here, and the recorder tells what it loses


class Highlight(Strategy):
    """See above."""

    name = "highlight"
    settings: HighlightSettings

    def __init__(self, settings: HighlightSettings) -> None:
        super().__init__(settings)
        self._ring: Ring | None = None  # remembered; while nothing is kept
        self._kept: list[Ring] = []  # parts to be written, oldest first; the last may still grow
        self._live = False  # the last part grows

    def run(self, control: Control) -> Ending:
        """Drive until it is over."""
        self._ring = self._new(control)
        if not control.keys.active:
            _log.warning("no keys can be pressed here: nothing will be kept; run it in a terminal")
        control.begin_episode()
        control.begin()
        while (ending := over(control)) is None:
            self._take(control, control.policy_tick())
            self._listen(control)
        return ending

    def finish(self, control: Control) -> None:
        """Write what is kept and save it; what is only remembered is forgotten."""
        self._live = False
        while self._kept:
            self._write(control)
            control.recorder.flush()
        control.save_episode()

    def _take(self, control: Control, tick: Tick) -> None:
        """Keep or remember a tick, and write some of what is kept."""
        if tick.sent and tick.emitted_policy_action:
            if self._live:
                self._kept[-1].add(tick)
            else:
                self._ring.add(tick)
        if self._kept and (control.recorder.stats().waiting < WAITING_MAX or self._too_much()):
            self._write(control)

    def _too_much(self) -> bool:
        """Whether the recorder is so slow that what waits here has outgrown its memory."""
        return sum(part.bytes for part in self._kept) > KEPT_MAX * self.settings.ring_buffer_max_memory_mb * 2**20

    def _write(self, control: Control) -> None:
        """Give the oldest kept frames to the recorder; a part that is at its end is saved. RecordingError."""
        part = self._kept[0]
        for _ in range(min(FLUSH_PER_TICK, len(part))):
            control.record(part.take())
        if not len(part) and (len(self._kept) > 1 or not self._live):
            self._kept.pop(0)
            if control.save_episode():
                _log.info("highlight saved")

    def _listen(self, control: Control) -> None:
        for key in control.pressed():
            if key == self.settings.save_key:
                self._toggle(control)
            elif key == self.settings.push_key:
                control.pusher.request()

    def _toggle(self, control: Control) -> None:
        if self._live:
            self._live = False
            _log.info("highlight ends")
            return
        _log.info("highlight begins with the last %.1f s", len(self._ring) / control.settings.fps)
        self._ring.unbounded()
        self._kept.append(self._ring)
        self._live, self._ring = True, self._new(control)

    def _new(self, control: Control) -> Ring:
        ticks = max(1, round(self.settings.ring_buffer_seconds * control.settings.fps))
        return Ring(ticks, round(self.settings.ring_buffer_max_memory_mb * 2**20))
