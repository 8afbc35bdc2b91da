"""A session: somebody says by line when the policy drives, and what it is to do.

start [TASK]   the policy drives, with a new episode
task TASK      the instruction from the next request on, while it drives too
stop           the robot stands still; with a dataset, the episode is saved
reset          the same, and the robot goes back to where it stood at the start
quit           the end
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge.rollout.control import Control, Ending, Phase
from edge.rollout.handover import move_between
from edge.rollout.lines import END, Lines
from edge.rollout.settings import InteractiveSettings
from edge.rollout.strategy import Strategy

_log = logging.getLogger(__name__)


class Interactive(Strategy):
    """See above."""

    name = "interactive"
    records = None
    listens = Lines
    settings: InteractiveSettings

    def __init__(self, settings: InteractiveSettings) -> None:
        super().__init__(settings)
        self.driving = False
        self._quit = False
        self._commands: dict[str, Callable[[Control, str], None]] = {
            "start": self._start, "task": self._task, "stop": self._stop, "reset": self._reset, END: self._end
        }  # fmt: skip

    def run(self, control: Control) -> Ending:
        """Do what is said until it is over."""
        if not control.keys.active:
            _log.warning("nobody can say anything here: want standard input")
        _log.info("say %s", ", ".join(self._commands))
        control.begin()
        while (ending := control.ending()) is None and not self._quit:
            if self.driving:
                control.record(control.policy_tick())
                if control.robot_done():
                    _log.info("the robot says that its episode is over")
                    self._stop(control, "")
            else:
                control.other_tick(Phase.PAUSED, lambda _: control.still())
            for line in control.pressed():
                self.obey(control, line)
        return ending or Ending.KEY

    def obey(self, control: Control, line: str) -> None:
        """Do what one line says. Raises RobotError."""
        name, _, rest = line.partition(" ")
        command = self._commands.get(name.lower())
        if command is None:
            _log.warning("want one of %s, got %r", ", ".join(self._commands), name)
            return
        command(control, rest.strip())

    def _start(self, control: Control, task: str) -> None:
        if self.driving:
            self._stop(control, "")
        if task:
            self._task(control, task)
        self.driving = True
        control.begin_episode()
        _log.info("driving: %s", control.engine.task)

    def _task(self, control: Control, task: str) -> None:
        if not task:
            _log.warning("want task and an instruction, got none: write it like task fold the towel")
            return
        control.engine.set_task(task)
        _log.info("task: %s", task)

    def _stop(self, control: Control, _: str) -> None:
        if not self.driving:
            return
        self.driving = False
        control.engine.pause()
        control.stand_still()
        control.save_episode()
        control.pace.restart()
        _log.info("stopped")

    def _reset(self, control: Control, _: str) -> None:
        self._stop(control, "")
        how = move_between(control, control.home)
        control.engine.reset()
        control.pace.restart()
        _log.info("back to where it began: %s", how)

    def _end(self, control: Control, _: str) -> None:
        self._quit = True
