"""What every strategy drives with: one tick of the policy, one tick of somebody else, and when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import ContractError
from edge.robots.base import Reading, Robot, is_velocity
from edge.rollout.home import Pose, filled, follow, pose_of, way
from edge.rollout.interpolator import Interpolator
from edge.rollout.keys import ESCAPE, NO_KEYS, KeySource
from edge.rollout.pace import Pace
from edge.rollout.pusher import Pusher
from edge.rollout.reader import ReadCounts, Reader, answering
from edge.rollout.settings import RolloutSettings
from edge.state import State
from edge.teleoperators.base import NO_EVENTS, InOrder, TeleopEvents

if TYPE_CHECKING:
    from edge.engine import Dispatched, Engine
    from edge.recording import Recorder

_log = logging.getLogger(__name__)


class Ending(StrEnum):
    """Why a run is over."""

    STOPPED = "stopped"  # told to: a signal, or the stop event
    KEY = "key"  # told to: escape
    DURATION = "duration"
    EPISODES = "episodes"  # all of them are recorded
    ROBOT_DONE = "robot done"
    ENGINE_FAILED = "engine failed"
    ERROR = "error"
    INTERRUPTED = "interrupted"  # at once, because nothing else helped


class Phase(StrEnum):
    """Who moves the robot."""

    POLICY = "policy"
    HANDOVER = "handover"
    RESET = "reset"
    PAUSED = "paused"
    CORRECTING = "correcting"


@dataclass(frozen=True, slots=True)
class Tick:
    """What happened in one tick."""

    number: int
    phase: Phase
    reading: Reading | None  # the last one; it is new where the robot was read
    action: np.ndarray | None  # as the robot took it (in a dry run: would have got it); None: nothing was to be sent
    sent: bool  # no in a dry run
    emitted_policy_action: bool  # no where the action lies on the way between two of the policy
    dispatched: Dispatched | None  # where the policy's action comes from
    lateness_ms: float
    read_ms: float  # 0 where the robot was not read
    state: State


@dataclass
class Counts(ReadCounts):
    """Of a run so far."""

    ticks: int = 0
    sent: int = 0  # commands to the robot
    policy_actions: int = 0  # that the engine gave
    without_action: int = 0  # ticks of the policy in which nothing was to be sent
    frames: int = 0  # given to the recorder
    episodes: int = 0  # saved


@dataclass
class Control:
    """The robot, the engine and all that a strategy needs. Used by the control thread alone."""

    robot: Robot
    engine: Engine
    settings: RolloutSettings
    recorder: Recorder | None = None
    teleop: InOrder | None = None
    keys: KeySource = NO_KEYS
    on_tick: Callable[[Tick], None] | None = None
    stop: Event = field(default_factory=Event)
    counts: Counts = field(default_factory=Counts)
    pusher: Pusher = field(default_factory=Pusher)
    home: Pose | None = None  # where the robot stood at the start
    last_action: np.ndarray | None = None  # as it was sent
    reading: Reading | None = None

    def __post_init__(self) -> None:
        self.features = self.robot.features
        self.interpolator = Interpolator(self.settings.interpolation_multiplier)
        self.period_s = 1.0 / (self.settings.fps * self.settings.interpolation_multiplier)
        self.pace = Pace(self.period_s, self.stop)
        self._began_s = time.monotonic()
        self._escaped = False
        self.reader = Reader(self.robot, self.settings, self.counts)
        self._acted = False  # since it was read last
        self._dispatched: Dispatched | None = None
        self._task = ""
        self._starving = 0  # ticks until the policy is asked again, after it had nothing to say
        self._others = 0  # ticks of somebody else, since the policy drove
        self.open_frames = 0  # recorded, of an episode that is not saved yet

    # --- when it is over ------------------------------------------------------------------------------

    def begin(self) -> None:
        """The duration counts from here."""
        self._began_s = time.monotonic()
        self.pace.restart()

    @property
    def elapsed_s(self) -> float:
        """Since `begin`, by the monotonic clock."""
        return time.monotonic() - self._began_s

    def ending(self) -> Ending | None:
        """Why to stop now; None: go on."""
        if self.stop.is_set():
            return Ending.STOPPED
        if self._escaped:
            return Ending.KEY
        if self.engine.failed:
            return Ending.ENGINE_FAILED
        if self.settings.duration and self.elapsed_s >= self.settings.duration:
            return Ending.DURATION
        return None

    def robot_done(self) -> bool:
        """Whether the robot says that its episode is over. Raises RobotError."""
        with answering("say whether it is done"):
            return self.robot.done

    def pressed(self) -> list[str]:
        """Keys since the last call; escape ends the run."""
        keys = self.keys.poll()
        if ESCAPE in keys:
            self._escaped = True
        return keys

    def teleop_events(self) -> TeleopEvents:
        """What the teleoperator says since the last call."""
        return NO_EVENTS if self.teleop is None else self.teleop.events()

    def begin_episode(self) -> None:
        """A new episode for robot and engine; the engine asks from here on. Raises RobotError."""
        with answering("begin an episode"):
            self.robot.begin_episode()
        self.engage()

    def engage(self) -> None:
        """The policy drives from here on, and nothing from before counts: neither queued actions nor observations."""
        self.engine.reset()
        self.interpolator.reset()
        self.engine.resume()
        self._starving = self._others = 0
        self.pace.restart()

    # --- ticks ----------------------------------------------------------------------------------------

    def policy_tick(self) -> Tick:
        """Wait for the beat, then read and ask the engine where a new action is due, and send what is to be sent."""
        self.pace.wait()
        read_ms = 0.0
        if self._starving:  # the policy is asked `fps` times a second, whether it answers or not
            self._starving -= 1
        elif self.interpolator.needs_action:
            read_ms = self._read()
            if self.robot_done():  # what it shows now belongs to no further action
                return self._told(Phase.POLICY, None, False, None, read_ms)
            self.engine.notify_observation(self.reading)
            action = self.engine.get_action()
            self._dispatched = self.engine.dispatched
            if action is None:
                self._starving = self.settings.interpolation_multiplier - 1
            else:
                self.counts.policy_actions += 1
                self._task = self.engine.dispatched_task
                self.interpolator.add(action)
        command = self.interpolator.next()
        if command is None:
            self.counts.without_action += 1
            return self._told(Phase.POLICY, None, False, None, read_ms)
        return self._told(Phase.POLICY, self.send(command[0]), command[1], self._dispatched, read_ms)

    def other_tick(self, phase: Phase, action_of: Callable[[Reading], np.ndarray | None]) -> Tick:
        """Wait for the beat, and send what somebody else than the policy wants; the engine sees nothing of it.

        As with the policy, the robot is read `fps` times a second, and those ticks are the ones to record.
        """
        self.pace.wait()
        self.interpolator.reset()
        own = self._others % self.settings.interpolation_multiplier == 0
        self._others += 1
        read_ms = self._read() if own else 0.0
        action = action_of(self.reading)
        sent = None if action is None else self.send(action)
        return self._told(phase, sent, own, None, read_ms)

    def send(self, action: np.ndarray) -> np.ndarray:
        """Move the robot: float32 (actions,). Returns what it took. Raises RobotError, ContractError."""
        names = self.features.action_names
        if action.shape != (len(names),) or not np.isfinite(action).all():
            got = f"{action.shape} with {np.count_nonzero(~np.isfinite(action))} not finite"
            raise ContractError(f"want {len(names)} finite numbers to send", got, "check what drives the robot")
        if not self.settings.dry_run:
            with answering("move to what was sent"):
                action = self.robot.send(action)
        self.last_action = action
        return action

    def stand(self) -> Pose | None:
        """Where the robot stands now; None where it does not tell. Raises RobotError."""
        with answering("say where it stands"):
            return pose_of(self.features, self.robot.read())

    def stand_still(self) -> None:
        """Velocities zero, positions held. Raises RobotError."""
        if not self.settings.dry_run:
            with answering("stand still"):
                self.robot.stop()

    def go(self, there: Pose, duration_s: float, stop: Event) -> str:
        """Move smoothly from where it stands to a pose. Says how that ended. Raises RobotError."""
        here = filled(self.features, self.stand(), self.last_action)
        commands = None if here is None else way(self.features, here, there, self.last_action, duration_s)
        if commands is None:
            return "unknown: some joints have no safe value"
        return "reached" if follow(commands, self.send, stop) else "interrupted"

    def still(self) -> np.ndarray | None:
        """What holds the robot where it was sent last: velocities zero, the rest again; None before the first."""
        if self.last_action is None:
            return None
        moving = [is_velocity(name) for name in self.features.action_names]
        return np.where(moving, np.float32(0), self.last_action).astype(np.float32)

    def _read(self) -> float:
        """A new reading; how long it took, ms."""
        self.reading = self.reader.read(acting=self._acted)
        self._acted = False
        return self.reader.ms

    def _told(
        self, phase: Phase, action: np.ndarray | None, own: bool, dispatched: Dispatched | None, read_ms: float
    ) -> Tick:
        sent = action is not None and not self.settings.dry_run
        late_ms = self.pace.late_s * 1e3
        number, self.counts.ticks = self.counts.ticks, self.counts.ticks + 1
        self.counts.sent += sent
        self._acted = self._acted or sent
        tick = Tick(
            number, phase, self.reading, action, sent, own, dispatched, late_ms, read_ms, self.engine.state
        )  # fmt: skip
        self._show(tick)
        return tick

    def _show(self, tick: Tick) -> None:
        if self.on_tick is None:
            return
        try:
            self.on_tick(tick)
        except Exception:  # noqa: BLE001 - who only watches must not stop a robot
            _log.exception("the display failed and is left out from here on")
            self.on_tick = None

    # --- recording ------------------------------------------------------------------------------------

    def record(self, tick: Tick, **extra: Any) -> bool:
        """Give a tick to the recorder, if it moved the robot by an action of somebody's own. RecordingError."""
        if self.recorder is None or not (tick.sent and tick.emitted_policy_action):
            return False
        self.recorder.add(tick.reading, tick.action, tick.dispatched, extra)
        self.counts.frames += 1
        self.open_frames += 1
        return True

    def save_episode(self) -> bool:
        """Close the episode that is being recorded; no when nothing was. RecordingError."""
        if self.recorder is None or not self.open_frames:
            return False
        self.recorder.save_episode(self._task or self.engine.task)
        self.open_frames = 0
        self.counts.episodes += 1
        return True

    def discard_episode(self) -> None:
        """Forget the episode that is being recorded. RecordingError."""
        if self.recorder is not None and self.open_frames:
            self.recorder.discard_episode()
            self.open_frames = 0
