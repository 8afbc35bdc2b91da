"""A scripted robot, engine, recorder, teleoperator and keys: they do what they are told, and all of it is on one list.

log = Log()
robot = FakeRobot(log, faults={"send": {3: OSError("bus")}})   # the fourth send raises
summary = Rollout(robot, FakeEngine(log), None, RolloutSettings()).run()
log.names()   # ["engine.start", "robot.connect", "robot.read", …]
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge.action_queue import Origin
from edge.engine import Dispatched
from edge.errors import EdgeError
from edge.recording import RecorderStats
from edge.robots.base import Reading, RobotFeatures
from edge.state import State
from edge.teleoperators.base import NO_EVENTS, TeleopEvents

JOINTS = ("a.pos", "b.pos")
Faults = Mapping[str, Mapping[int, BaseException]]  # call -> which of its calls raises what


def features(
    actions: Sequence[str] = JOINTS,
    states: Sequence[str] = JOINTS,
    cameras: Mapping[str, tuple[int, int]] | None = None,
) -> RobotFeatures:
    """Of a small arm."""
    return RobotFeatures("fake", tuple(states), tuple(actions), cameras or {})


@dataclass
class Log:
    """What was called, in order, over all parts of a run."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    hooks: dict[tuple[str, int], Callable[[], None]] = field(default_factory=dict)  # done at the n-th call

    def add(self, name: str, what: Any, faults: Faults, short: str) -> None:
        """Note a call, then raise what was planned for it."""
        number = self.counts[name]
        self.counts[name] += 1
        self.calls.append((name, what))
        if hook := self.hooks.get((name, number)):
            hook()
        if fault := faults.get(short, {}).get(number):
            raise fault

    def names(self) -> list[str]:
        """The calls, without repetition of the same one in a row."""
        names = [name for name, _ in self.calls]
        return [name for i, name in enumerate(names) if not i or names[i - 1] != name]

    def of(self, name: str) -> list[Any]:
        """What the calls of one kind were given."""
        return [what for called, what in self.calls if called == name]


class FakeRobot:
    """Goes at once where it is sent."""

    def __init__(
        self, log: Log, of: RobotFeatures | None = None, *, faults: Faults | None = None, start: Sequence[float] = (),
        read_s: float = 0.0, done_after: int | None = None, begin_resets_done: bool = True,
    ) -> None:  # fmt: skip
        self.features = of or features()
        self.log, self._faults, self._read_s = log, faults or {}, read_s
        self.position = dict.fromkeys(self.features.action_names, 0.0)
        self.position |= dict(zip(self.features.action_names, start, strict=False))
        self.connected = False
        self.standing = True  # since the last stop nothing was sent
        self._done_after, self._sent = done_after, 0
        self.picture = 0
        self.frozen = False
        self.broken: list[str] = []  # joints that tell nonsense

    def _call(self, name: str, what: Any = None) -> None:
        self.log.add(f"robot.{name}", what, self._faults, name)

    def connect(self) -> None:
        """Fails before it is energised, where it is told to fail."""
        self._call("connect")
        self.connected = True

    def read(self) -> Reading:
        """Where it was sent to."""
        self._call("read")
        assert self.connected
        time.sleep(self._read_s)
        told = {**self.position, **dict.fromkeys(self.broken, np.nan)}
        state = np.array([told.get(name, 0.0) for name in self.features.state_names], np.float32)
        self.picture += not self.frozen
        images = {n: np.full((*size, 3), self.picture % 256, np.uint8) for n, size in self.features.cameras.items()}
        return Reading(state, images, time.monotonic())

    def send(self, action: np.ndarray) -> np.ndarray:
        """Go there."""
        self._call("send", np.array(action))
        assert self.connected
        self.standing = False
        self._sent += 1
        self.position = dict(zip(self.features.action_names, map(float, action), strict=True))
        return action

    def begin_episode(self) -> None:
        """Count anew towards `done_after`."""
        self._call("begin_episode")
        self._sent = 0

    @property
    def done(self) -> bool:
        """After some actions, where that was said."""
        return self._done_after is not None and self._sent >= self._done_after

    def stop(self) -> None:
        """Stand still."""
        self._call("stop")
        self.standing = True

    def disconnect(self) -> None:
        """Let go."""
        self._call("disconnect")
        self.connected = False

    @property
    def safe(self) -> bool:
        """Whether it stands still and nobody holds it any more."""
        return self.standing and not self.connected

    @property
    def sent(self) -> np.ndarray:
        """float32 (sends, actions)."""
        return np.array(self.log.of("robot.send"), np.float32)


class FakeEngine:
    """Gives the rows of a script, one a call; None where the script says so, and at its end over again."""

    def __init__(
        self, log: Log, script: Sequence[Sequence[float] | None] = ((0.1, 0.2),), *, faults: Faults | None = None,
        task: str = "pick", source: str = "policy",
    ) -> None:  # fmt: skip
        self.log, self._script, self._faults, self._source = log, list(script), faults or {}, source
        self._step = 0
        self.task = self.dispatched_task = task
        self.dispatched: Dispatched | None = None
        self.failed, self.failure, self.failure_traceback = False, None, ""
        self.state = State.CONNECTING
        self.active = False
        self.ready = True
        self.notified: list[Reading] = []

    def _call(self, name: str, what: Any = None) -> None:
        self.log.add(f"engine.{name}", what, self._faults, name)

    def start(self) -> None:
        """Paused."""
        self._call("start")

    def pause(self) -> None:
        """Nobody may ask."""
        self._call("pause")
        self.active = False

    def resume(self) -> None:
        """Anybody may ask."""
        self._call("resume")
        self.active, self.state = True, State.STREAMING

    def reset(self) -> None:
        """Begin the script anew."""
        self._call("reset")
        self._step = 0

    def notify_observation(self, reading: Reading) -> None:
        """Noted."""
        self._call("notify")
        assert self.active
        self.notified.append(reading)

    def get_action(self, frame: object = None) -> np.ndarray | None:
        """The next row."""
        self._call("get_action")
        row = self._script[self._step % len(self._script)]
        self._step += 1
        if row is None:
            self.dispatched = None
            return None
        origin = Origin("session", self._step, 0, self.task, time.monotonic(), time.monotonic(), 0.0, 1.0)
        self.dispatched = Dispatched(self._source, self._step - 1, self.task, 0, origin)
        self.dispatched_task = self.task
        return np.array(row, np.float32)

    def fail(self, error: EdgeError | None) -> None:
        """Give up."""
        self.failed, self.failure, self.state = True, error, State.DEAD

    def set_task(self, task: str) -> None:
        """From the next action on."""
        self.task = task

    def stop(self) -> None:
        """Noted."""
        self._call("stop")
        self.state = State.STOPPED


@dataclass
class Frame:
    """What a recorder was given."""

    reading: Reading
    action: np.ndarray
    dispatched: Dispatched | None
    extra: dict[str, Any]


class FakeRecorder:
    """Keeps episodes in memory."""

    def __init__(self, log: Log, *, faults: Faults | None = None) -> None:
        self.log, self._faults = log, faults or {}
        self.open: list[Frame] = []
        self.episodes: list[list[Frame]] = []
        self.tasks: list[str] = []
        self.discarded = 0
        self.finalized = False
        self.waiting = 0  # frames that are not written yet

    def _call(self, name: str) -> None:
        self.log.add(f"recorder.{name}", None, self._faults, name)

    def add(self, reading: Reading, action: np.ndarray, dispatched: Dispatched | None, extra: dict[str, Any]) -> None:
        """One frame."""
        self._call("add")
        assert not self.finalized
        self.open.append(Frame(reading, np.array(action), dispatched, dict(extra)))

    def save_episode(self, task: str) -> None:
        """What is open becomes an episode."""
        self._call("save_episode")
        assert self.open
        self.episodes.append(self.open)
        self.tasks.append(task)
        self.open = []

    def discard_episode(self) -> None:
        """What is open is forgotten."""
        self._call("discard_episode")
        self.open = []
        self.discarded += 1

    def flush(self, timeout_s: float | None = None) -> bool:
        """All is written at once."""
        return True

    def stats(self) -> RecorderStats:
        """Only what waits."""
        return RecorderStats(len(self.open), 0, self.waiting, 0, 0, len(self.episodes), 0, 0.0, 0.0)

    def finalize(self) -> Path | None:
        """No more."""
        self._call("finalize")
        self.finalized = True
        return Path("dataset") if self.episodes else None


class FakeTeleop:
    """A leader in a person's hand."""

    def __init__(
        self, log: Log, names: Sequence[str] = JOINTS, *, pose: Sequence[float] | None = (1.0, 2.0),
        can_follow: bool = False, faults: Faults | None = None,
    ) -> None:  # fmt: skip
        self.action_names, self.can_follow = tuple(names), can_follow
        self.log, self._faults = log, faults or {}
        self.pose = None if pose is None else np.array(pose, np.float32)
        self.said: list[TeleopEvents] = []

    def _call(self, name: str, what: Any = None) -> None:
        self.log.add(f"teleop.{name}", what, self._faults, name)

    def connect(self) -> None:
        """Noted."""
        self._call("connect")

    def read(self) -> np.ndarray | None:
        """Its pose."""
        self._call("read")
        return self.pose

    def events(self) -> TeleopEvents:
        """What was planned."""
        return self.said.pop(0) if self.said else NO_EVENTS

    def follow(self, action: np.ndarray) -> bool:
        """Goes there."""
        self._call("follow", np.array(action))
        if self.can_follow:
            self.pose = np.array(action, np.float32)
        return self.can_follow

    def release(self) -> None:
        """Noted."""
        self._call("release")

    def disconnect(self) -> None:
        """Noted."""
        self._call("disconnect")


class FakeKeys:
    """Keys by the number of the poll: {3: "s"} presses s before the fourth one."""

    def __init__(self, script: Mapping[int, str | Sequence[str]] | None = None) -> None:
        self._script = dict(script or {})
        self.active = True
        self.polls = 0
        self.stopped = False
        self.more: list[str] = []

    def start(self) -> None:
        """Nothing to do."""

    def press(self, key: str) -> None:
        """Now."""
        self.more.append(key)

    def poll(self) -> list[str]:
        """What was planned for this call."""
        planned = self._script.get(self.polls, [])
        self.polls += 1
        more, self.more = self.more, []
        return [planned, *more] if isinstance(planned, str) else [*planned, *more]

    def stop(self) -> None:
        """Noted."""
        self.stopped = True
