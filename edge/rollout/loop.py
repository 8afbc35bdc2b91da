"""One run from the first word with the server to the robot standing still, whatever happens on the way.

engine.start    before anything is energised
robot.connect, where does it stand, teleoperator, keys
the strategy drives
engine.pause, the way home, robot.stop, robot.disconnect    first the robot
keys, teleoperator, engine.stop, the recording              then all that may take its time
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError
from edge.robots.base import Robot
from edge.rollout import home
from edge.rollout.base import Base
from edge.rollout.control import Control, Ending, Tick
from edge.rollout.interrupts import Interrupts, Stage
from edge.rollout.keys import NO_KEYS, KeySource
from edge.rollout.pace import steady
from edge.rollout.pusher import Pusher
from edge.rollout.reader import answering
from edge.rollout.settings import BaseSettings, RolloutSettings
from edge.rollout.strategy import Strategy
from edge.rollout.summary import Problem, RolloutSummary
from edge.teleoperators.base import InOrder, Teleoperator

if TYPE_CHECKING:
    from edge.engine import Engine
    from edge.recording import Recorder

_log = logging.getLogger(__name__)
STOP_TRIES, DISCONNECT_TRIES = 3, 2  # a bus that failed once may work the next time


class Rollout:
    """Drives one robot once. `run` never raises for what happens on the way: see RolloutSummary."""

    def __init__(
        self,
        robot: Robot,
        engine: Engine,
        recorder: Recorder | None,
        settings: RolloutSettings,
        *,
        strategy: Strategy | None = None,
        teleop: Teleoperator | None = None,
        keys: KeySource | None = None,
        on_tick: Callable[[Tick], None] | None = None,
        push: Callable[[], object] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Robot, engine, teleoperator and keys are started by `run` and must not be yet.

        `push` uploads the dataset, called by a thread of its own. Raises SettingsError, ContractError.
        """
        self.strategy = strategy or Base(BaseSettings())
        self.strategy.check(recorder is not None, teleop is not None)
        self.robot, self.engine, self.recorder, self.settings = robot, engine, recorder, settings
        self.stop = stop or threading.Event()
        self.summary = RolloutSummary()
        self._control = Control(
            robot, engine, settings, recorder,
            teleop=None if teleop is None else InOrder(teleop, robot.features.action_names),
            keys=keys or NO_KEYS, on_tick=on_tick, stop=self.stop, counts=self.summary.counts,
            pusher=Pusher(push),
        )  # fmt: skip
        self._begun: set[str] = set()  # "engine", "robot", "teleop": their start was called
        self._connected = False

    def run(self) -> RolloutSummary:
        """Drive, and leave everything in its safe state. What went wrong is in the summary."""
        with Interrupts(self.stop) as interrupts:
            try:
                self._drive(interrupts)
            except BaseException as err:  # noqa: BLE001 - told in the summary; the robot comes first
                interrupts.enter(Stage.ENDING)
                self._failed(err)
            finally:
                interrupts.enter(Stage.ENDING)
                self._end(interrupts)
        return self.summary

    # --- driving --------------------------------------------------------------------------------------

    def _drive(self, interrupts: Interrupts) -> None:
        self._begun.add("engine")
        self.engine.start()
        interrupts.enter(Stage.DRIVING)
        self._begun.add("robot")
        with answering("be connected"):
            self.robot.connect()
        self._connected = True
        control = self._control
        control.home = control.stand()
        if control.teleop is not None:
            self._begun.add("teleop")
            control.teleop.connect()
        control.keys.start()
        with steady():
            control.begin()
            try:
                self.summary.ending = control.ending() or self.strategy.run(control)
            finally:
                self.summary.duration_s = control.elapsed_s
        if self.summary.ending is Ending.ENGINE_FAILED:
            self.summary.problems.append(Problem("engine", self._why_the_engine_failed()))

    def _why_the_engine_failed(self) -> BaseException:
        return self.engine.failure or EdgeError("want actions", "an engine that failed", "see its log")

    def _failed(self, err: BaseException) -> None:
        self.summary.ending = Ending.INTERRUPTED if isinstance(err, KeyboardInterrupt) else Ending.ERROR
        if not isinstance(err, KeyboardInterrupt):
            self.summary.problems.append(Problem("drive" if self._connected else "start", err))

    # --- the end --------------------------------------------------------------------------------------

    def _end(self, interrupts: Interrupts) -> None:
        """All steps, each of them tried whatever became of the others."""
        summary, control = self.summary, self._control
        summary.lateness, summary.overruns = control.pace.lateness(), control.pace.overruns

        def step(name: str, call: Callable[[], Any], tries: int = 1) -> None:
            self._step(interrupts, name, call, tries)

        if "engine" in self._begun:
            step("pause the engine", self.engine.pause)
        if self._connected and not self.settings.dry_run:
            step("return to the initial position", lambda: self._go_home(interrupts.no_way_home))
            step("stop the robot", self.robot.stop, STOP_TRIES)
        if "robot" in self._begun:
            step("disconnect the robot", self.robot.disconnect, DISCONNECT_TRIES)
        step("let go of the terminal", control.keys.stop)
        if "teleop" in self._begun:
            step("release the teleoperator", control.teleop.release)
            step("disconnect the teleoperator", control.teleop.disconnect)
        if "engine" in self._begun:
            step("stop the engine", self.engine.stop)
        if self.recorder is not None:
            step("save the last episode", lambda: self.strategy.finish(control))
            step("finish the recording", self._finish_recording)
            step("end the uploads", control.pusher.close)
        if summary.dataset is not None:
            step("push the dataset", control.pusher.last)

    def _step(self, interrupts: Interrupts, name: str, call: Callable[[], Any], tries: int) -> None:
        """One step, tried again where that may help; the last error of it is told."""
        for left in reversed(range(tries)):
            try:
                interrupts.step(call)
                return
            except BaseException as err:  # noqa: BLE001 - one step never keeps the next ones from being done
                if not left:
                    _log.error("could not %s: %s", name, err or type(err).__name__)
                    self.summary.problems.append(Problem(name, err))

    def _finish_recording(self) -> None:
        self.summary.dataset = self.recorder.finalize()

    def _go_home(self, no_way_home: threading.Event) -> None:
        """Back to where it stood, when that is asked for and known. Raises what the robot raises."""
        summary, control = self.summary, self._control
        if not self.settings.return_to_initial_position:
            summary.home = "not asked for"
        elif control.last_action is None:
            summary.home = "never left"
        elif control.home is None:
            summary.home = "unknown: the robot tells no joint's position"
        elif no_way_home.is_set():
            summary.home = "interrupted"
        else:
            summary.home = "failed"
            summary.home = control.go(control.home, home.HOME_S, no_way_home)
