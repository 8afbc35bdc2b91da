"""Episodes of a given length with time between them: right ends one early, left records it again, escape ends the run.

An episode is saved when the time after it is over, so that left still throws it away while things are put back.
"""

from __future__ import annotations

import logging

import numpy as np

from edge.robots.base import Reading
from edge.rollout.control import Control, Ending, Phase
from edge.rollout.handover import meet, move_between
from edge.rollout.settings import EpisodicSettings
from edge.rollout.strategy import Strategy

_log = logging.getLogger(__name__)


class Episodic(Strategy):
    """See above."""

    name = "episodic"
    settings: EpisodicSettings

    def __init__(self, settings: EpisodicSettings) -> None:
        super().__init__(settings)
        self._again = False  # the episode at hand is thrown away

    def run(self, control: Control) -> Ending:
        """Record until all episodes are there."""
        saved, wanted = 0, self.settings.num_episodes
        control.begin()
        while saved < wanted:
            _log.info("episode %d of %d", saved + 1, wanted)
            self._again = False
            ending = self._episode(control)
            if ending is None and (self._again or saved + 1 < wanted):
                ending = self._between(control)
            if ending is not None:  # what is open is kept or thrown away when the robot stands still
                return ending
            if self._again:
                control.discard_episode()
            else:
                saved += control.save_episode()
        return Ending.EPISODES

    def finish(self, control: Control) -> None:
        """Keep the episode at hand, unless it was to be recorded again."""
        if self._again:
            control.discard_episode()
        else:
            control.save_episode()

    def _episode(self, control: Control) -> Ending | None:
        """The policy drives one episode; why the run is over, if it is."""
        control.begin_episode()
        began_s = control.elapsed_s
        while (ending := control.ending()) is None and not control.robot_done():
            if control.elapsed_s - began_s >= self.settings.episode_time_s:
                break
            control.record(control.policy_tick())
            if self._ends(control):
                return control.ending()
        return ending

    def _between(self, control: Control) -> Ending | None:
        """The engine rests; the robot is driven by a person, or goes back and waits."""
        control.engine.pause()
        self._come_together(control)
        control.pace.restart()
        began_s = control.elapsed_s
        by_hand = _nothing if control.teleop is None else lambda _: control.teleop.read()
        while (ending := control.ending()) is None and control.elapsed_s - began_s < self.settings.reset_time_s:
            control.other_tick(Phase.RESET, by_hand)
            if self._ends(control):
                return control.ending()
        return ending

    def _come_together(self, control: Control) -> None:
        """Robot and person, or robot and its first pose."""
        control.stand_still()
        if control.teleop is not None:
            if self.settings.smooth_handover:
                meet(control)
            control.teleop.release()
        elif self.settings.reset_to_initial_position:
            move_between(control, control.home)

    def _ends(self, control: Control) -> bool:
        """Whether somebody ends this part, and perhaps wants the episode again."""
        keys, events = control.pressed(), control.teleop_events()
        again = self.settings.rerecord_key in keys or events.rerecord
        self._again = self._again or again
        return again or self.settings.end_key in keys or events.end_episode


def _nothing(reading: Reading) -> np.ndarray | None:
    return None
