"""A control loop that notes every tick, for tests and benchmarks of engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.robots.base import Reading, RobotFeatures
from edge.rollout.pace import Pace, steady
from tests.edge.witness import ACTIONS, STATE, session_number

WAIT_S = 20.0
POLICY = "policy"
PICTURE = np.full((48, 64, 3), 90, np.uint8)


@dataclass(frozen=True, slots=True)
class Tick:
    """One pass of the control loop."""

    number: int
    due_s: float  # monotonic, as all times here
    began_s: float
    ended_s: float
    episode: int
    executed: int  # rows of the policy before this tick
    action: np.ndarray | None
    source: str  # of the action; "" when there is none
    session: int  # that the engine says the action is of
    row: int
    state: str  # of the engine, after the tick

    @property
    def late_s(self) -> float:
        """How late it began."""
        return self.began_s - self.due_s

    @property
    def acts(self) -> bool:
        """Whether the policy said what was sent."""
        return self.source == POLICY


def features(cameras: Mapping[str, tuple[int, int]] | None = None, **changes: Any) -> RobotFeatures:
    """The robot that the witness is a policy of."""
    return RobotFeatures(**{
        "robot_type": "witness", "state_names": STATE, "action_names": ACTIONS, "cameras": cameras or {}, **changes
    })  # fmt: skip


class Drive(threading.Thread):
    """A control thread over an engine: notify, get an action, note both, wait for the next tick.

    It sleeps from tick to tick; `paced`, it keeps time as `edge run` does. Jobs given to `do` run in the control
    thread, between two ticks, as a strategy's calls do.
    """

    def __init__(
        self, engine: Any, fps: float = 30.0, *, robot: int = 1, images: Sequence[Mapping[str, np.ndarray]] = ({},),
        on_tick: Callable[[Tick], None] | None = None, paced: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(name="control", daemon=True)
        self.engine, self.dt_s, self.robot = engine, 1 / fps, robot
        self.ticks: list[Tick] = []
        self.seen_s: list[float] = []  # when the observation of each tick was captured
        self.error: BaseException | None = None
        self.episode = 0
        self._images, self._on_tick, self._paced = images, on_tick, paced
        self._executed = 0
        self._jobs: list[Callable[[], None]] = []
        self._done = threading.Event()
        self._changed = threading.Condition()

    # --- the test's side -------------------------------------------------------------------------------------------

    def do(self, job: Callable[[], None]) -> None:
        """Run a job in the control thread; wait until it is done."""
        done = threading.Event()

        def run() -> None:
            job()
            done.set()

        with self._changed:
            self._jobs.append(run)
            ended = self._changed.wait_for(lambda: done.is_set() or not self.is_alive(), WAIT_S)
        assert ended and done.is_set(), self.error

    def reset(self) -> None:
        """A new episode."""

        def job() -> None:
            self.engine.reset()
            self.episode += 1

        self.do(job)

    def until(self, test: Callable[[Tick], bool], timeout_s: float = WAIT_S) -> Tick:
        """Wait for the next tick that satisfies a test. Ticks before the call do not count."""
        start = len(self.ticks)
        found: list[Tick] = []

        def looked() -> bool:
            nonlocal start
            while start < len(self.ticks):
                tick = self.ticks[start]
                start += 1
                if test(tick):
                    found.append(tick)
                    return True
            return not self.is_alive()

        with self._changed:
            in_time = self._changed.wait_for(looked, timeout_s)
        assert in_time and found, f"never in {timeout_s:g} s; {self.error!r}; last: {self.ticks[-3:]}"
        return found[0]

    def until_acts(self, number: int = 1, timeout_s: float = WAIT_S) -> Tick:
        """Wait for so many more actions of the policy."""
        for _ in range(number):
            tick = self.until(lambda tick: tick.acts, timeout_s)
        return tick

    def go_on(self, ticks: int) -> None:
        """Wait for so many more ticks, whatever they do."""
        end = len(self.ticks) + ticks
        self.until(lambda tick: tick.number >= end)

    def until_state(self, state: str, timeout_s: float = WAIT_S) -> Tick:
        """Wait until the engine is in a state at the end of a tick."""
        return self.until(lambda tick: tick.state == state, timeout_s)

    def end(self) -> None:
        """Stop the loop, and raise what it raised."""
        self._done.set()
        self.join(WAIT_S)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Drive:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._done.set()
        self.join(WAIT_S)
        if kind is None and self.error is not None:
            raise self.error

    # --- the control thread ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until told to stop; what is raised is kept in `error`."""
        try:
            self._loop()
        except BaseException as err:  # noqa: BLE001 - a control thread must never raise; the test says so
            self.error = err
        with self._changed:
            self._changed.notify_all()

    def _loop(self) -> None:
        with steady() if self._paced else nullcontext():
            wait = self._by_pace() if self._paced else self._by_sleep()
            while not self._done.is_set():
                with self._changed:
                    jobs, self._jobs = self._jobs, []
                for job in jobs:
                    job()
                self._tick(next(wait))

    def _by_pace(self) -> Iterator[float]:
        """When each tick was due, once it is."""
        pace = Pace(self.dt_s)
        while True:
            pace.wait()
            yield time.monotonic() - pace.late_s

    def _by_sleep(self) -> Iterator[float]:
        """The same."""
        due_s = time.monotonic()
        while True:
            yield due_s
            due_s += self.dt_s
            left_s = due_s - time.monotonic()
            if left_s > 0:
                time.sleep(left_s)
            elif left_s < -self.dt_s:
                due_s = time.monotonic()  # ticks that were missed are not made up for

    def _tick(self, due_s: float) -> None:
        began_s = time.monotonic()
        number, executed = len(self.ticks), self._executed
        state = np.array([number, self.episode, self.robot, executed], np.float32)
        self.seen_s.append(began_s)
        self.engine.notify_observation(Reading(state, self._images[number % len(self._images)], began_s))
        action = self.engine.get_action()
        source, session, row = self._said(action)
        self._executed += source == POLICY
        ended_s = time.monotonic()
        tick = Tick(
            number, due_s, began_s, ended_s, self.episode, executed, action, source, session, row,
            str(self.engine.state),
        )  # fmt: skip
        with self._changed:
            self.ticks.append(tick)
            self._changed.notify_all()
        if self._on_tick is not None:
            self._on_tick(tick)

    def _said(self, action: np.ndarray | None) -> tuple[str, int, int]:
        """Source, session and row of an action, as the engine has them."""
        if action is None:
            return "", 0, 0
        dispatched = getattr(self.engine, "dispatched", None)
        if dispatched is None:  # an engine that does not say
            return POLICY, -1, -1
        if dispatched.origin is None:
            return dispatched.source, -1, -1
        return dispatched.source, session_number(dispatched.origin.session_id), dispatched.row
