"""The policy drives until a person pauses it, corrects it by a teleoperator, and lets it go on.

    AUTONOMOUS --pause--> PAUSED --pause--> AUTONOMOUS
                          PAUSED --correct--> CORRECTING --correct--> PAUSED

Each correction is an episode; with `record_autonomous` everything is recorded, in slices, and corrections are told
apart by the column `intervention`.
"""

from __future__ import annotations

import logging
from enum import Enum, auto

import numpy as np

from edge.robots.base import Reading
from edge.rollout.control import Control, Ending, Phase
from edge.rollout.handover import lead, meet
from edge.rollout.sentry import Slices
from edge.rollout.settings import DaggerSettings
from edge.rollout.strategy import Strategy, over

_log = logging.getLogger(__name__)


class Mode(Enum):
    """Who drives."""

    AUTONOMOUS = auto()
    PAUSED = auto()
    CORRECTING = auto()


class Wish(Enum):
    """What a person may want."""

    PAUSE = auto()  # or to let it go on
    CORRECT = auto()  # or to be done with it


TABLE = {
    (Mode.AUTONOMOUS, Wish.PAUSE): Mode.PAUSED,
    (Mode.PAUSED, Wish.PAUSE): Mode.AUTONOMOUS,
    (Mode.PAUSED, Wish.CORRECT): Mode.CORRECTING,
    (Mode.CORRECTING, Wish.CORRECT): Mode.PAUSED,
}


class Dagger(Strategy):
    """See above."""

    name = "dagger"
    needs_teleop = True
    settings: DaggerSettings

    def __init__(self, settings: DaggerSettings) -> None:
        super().__init__(settings)
        self.mode = Mode.AUTONOMOUS
        self._slices: Slices | None = None

    def run(self, control: Control) -> Ending:
        """Drive until it is over, or all corrections are recorded."""
        if not control.keys.active:
            _log.warning("no keys can be pressed here: only the teleoperator itself can begin a correction")
        self._slices = Slices(self.settings, control)
        control.begin_episode()
        control.begin()
        while (ending := over(control)) is None:
            self._tick(control)
            self._listen(control)
            if not self.settings.record_autonomous and control.counts.episodes >= self.settings.num_episodes:
                return Ending.EPISODES
        return ending

    def _tick(self, control: Control) -> None:
        if self.mode is Mode.PAUSED:
            control.other_tick(Phase.PAUSED, lambda _: control.still())
        elif self.mode is Mode.CORRECTING:
            tick = control.other_tick(Phase.CORRECTING, lambda reading: self._corrected(control, reading))
            control.record(tick, intervention=True)
        else:
            tick = control.policy_tick()
            if self.settings.record_autonomous:
                control.record(tick, intervention=False)
                self._slices.cut(control)

    def _corrected(self, control: Control, reading: Reading) -> np.ndarray | None:
        """What the person wants; while the device says nothing, the robot stands still."""
        action = control.teleop.read()
        return control.still() if action is None else action

    # --- from one to the other ------------------------------------------------------------------------

    def _listen(self, control: Control) -> None:
        for key in control.pressed():
            if key == self.settings.pause_key:
                self._wish(control, Wish.PAUSE)
            elif key == self.settings.correct_key:
                self._wish(control, Wish.CORRECT)
            elif key == self.settings.push_key:
                control.pusher.request()
        self._follow_device(control)

    def _follow_device(self, control: Control) -> None:
        """A device that tells whether a person acts begins and ends corrections by itself."""
        acts = control.teleop_events().intervention
        if acts and self.mode is Mode.AUTONOMOUS:
            self._wish(control, Wish.PAUSE)
        if acts and self.mode is Mode.PAUSED:
            self._wish(control, Wish.CORRECT)
        elif acts is False and self.mode is Mode.CORRECTING:
            self._wish(control, Wish.CORRECT)
            self._wish(control, Wish.PAUSE)

    def _wish(self, control: Control, wish: Wish) -> None:
        """Do what somebody wants, where it means something now."""
        before, after = self.mode, TABLE.get((self.mode, wish))
        if after is None:
            return
        _log.info("%s -> %s", before.name.lower(), after.name.lower())
        self.mode = after
        if before is Mode.AUTONOMOUS:
            self._pause(control)
        elif after is Mode.CORRECTING:
            self._begin(control)
        elif before is Mode.CORRECTING:
            self._end(control)
        else:
            control.teleop.release()
            control.engage()
        control.pace.restart()

    def _pause(self, control: Control) -> None:
        """The policy rests, the robot stands, and a leader with motors comes to it."""
        control.engine.pause()
        control.stand_still()
        if self.settings.smooth_handover and control.teleop.can_follow:
            lead(control)

    def _begin(self, control: Control) -> None:
        """The person takes over; nothing is uploaded while an episode is in the making."""
        control.pusher.hold(True)
        if self.settings.smooth_handover and not control.teleop.can_follow:
            meet(control)
        control.teleop.release()

    def _end(self, control: Control) -> None:
        """The correction is over: an episode of its own, or part of the slice."""
        control.stand_still()
        if not self.settings.record_autonomous:
            control.save_episode()
        control.pusher.hold(False)
