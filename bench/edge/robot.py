"""A robot in a process of its own: one engine, one control loop, one run; says what came of it as JSON.

    python -m bench.edge.robot '{"kind": "ours", "endpoint": "tcp/127.0.0.1:7447", "fps": 100, "seconds": 20}'

It says `acting` once the first action was sent, so that a benchmark can begin to harm the server or the network.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge.robots.base import Reading
from edge.state import State
from network.transport import Transport
from serving.wire.keys import Keys
from tests.edge.drive import Drive, Tick, features
from tests.edge.proxy import Proxy
from tests.edge.soundness import wrong_steps
from tests.edge.witness import ACTIONS, CAMERA, STATE, read

OURS, REFERENCE, NONE = "ours", "reference", "no engine"
NAME = "robot-1"
CAMERAS = ("front", "wrist")
FIRST_S = 30.0  # wait for the first action


@dataclass(frozen=True)
class Run:
    """What a robot is told to do."""

    kind: str
    endpoint: str = ""
    prefix: str = ""  # of the service's keys
    mode: str = "peer"  # client: through a router
    fps: float = 30.0
    paced: bool = False  # keep time as `edge run` does; else sleep from tick to tick
    seconds: float = 20.0
    cameras: int = 0  # of 640x480
    warm_up_s: float = 0.0  # after the first action, before anything counts
    lose_every_s: float = 0.0  # an observation, counted from the end of the warm-up; 0: none
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came of it. Times are monotonic seconds, which all processes of a host share."""

    late_ms: list[float]  # of each tick
    at_s: list[float]  # when each tick began
    acted: list[bool]
    states: list[str]
    wrong_steps: list[int]  # of each row at a wrong step: how many steps late
    forged: int  # chunks that nobody at the server made, of which rows were executed
    transitions: list[tuple[float, str, str]]  # when, from, to
    sent_s: list[float]  # when observations were sent, lost ones too
    lost_s: list[float]  # when one was sent that got lost
    counters: dict[str, int]
    p99_ms: float  # of answers, as the engine knows it
    cpu_share: float  # of a core
    rss_mib: float  # peak
    error: str = ""


class NoEngine:
    """The loop without an engine: what the machine and Python alone cost."""

    state = State.STREAMING
    failed = False

    def __init__(self) -> None:
        self._action = np.zeros(len(ACTIONS), np.float32)

    def start(self) -> None:
        """Nothing to start."""

    def resume(self) -> None:
        """Nothing to resume."""

    def notify_observation(self, reading: Reading) -> None:
        """Nobody looks."""

    def get_action(self, frame: object = None) -> np.ndarray:
        """Always the same."""
        return self._action

    def stop(self) -> None:
        """Nothing to stop."""


class Robot:
    """One engine, and notes of what it does."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.transitions: list[tuple[float, str, str]] = []
        self.sent_s: list[float] = []
        self.lost_s: list[float] = []
        self.proxy: Proxy | None = None
        self.lose = lambda: None
        self.engine = {OURS: self._ours, REFERENCE: self._reference, NONE: NoEngine}[run.kind]()

    def _changed(self, old: object, new: object, *_: object) -> None:
        self.transitions.append((time.monotonic(), str(old), str(new)))

    def _ours(self) -> Any:
        from edge.engine import Engine
        from edge.settings import InferenceSettings, SafetySettings
        from network.zenoh_transport import open_transport

        given = {
            "connect_endpoint": self.run.endpoint,
            "zenoh_mode": self.run.mode,
            "client_uuid": NAME,
            **self.run.settings,
        }
        settings = InferenceSettings(**given)

        def dial() -> Transport:
            self.proxy = Proxy(open_transport(settings.network(), settings.connect_timeout_s))
            self.sent_s = self.proxy.sent_s
            return self.proxy

        def lose() -> None:
            assert self.proxy is not None
            self.proxy.up.drop_next()

        self.lose = lose
        cameras = dict.fromkeys(CAMERAS[: self.run.cameras], (480, 640))
        watched = bool(self.run.lose_every_s) or self.run.settings != {}
        return Engine(
            settings, SafetySettings(), features(cameras), Keys(self.run.prefix), self.run.fps, "",
            dial=dial if watched else None, on_transition=self._changed,
        )  # fmt: skip

    def _reference(self) -> Any:
        from bench.edge.reference_engine import ReferenceEngine

        keys = {name: CAMERA if name == "front" else f"observation.images.{name}" for name in CAMERAS}
        cameras = {name: keys[name] for name in CAMERAS[: self.run.cameras]}
        engine = ReferenceEngine(
            self.run.endpoint, Keys(self.run.prefix), self.run.fps, name=NAME, mode=self.run.mode,
            action_names=list(ACTIONS), cameras=cameras, on_transition=self._changed,
        )  # fmt: skip
        engine._ask["state_dim"] = len(STATE)
        self.lose = lambda: setattr(self, "_lose_next", True)
        self._lose_next = False
        return engine

    def watch_reference(self) -> None:
        """Note what the re-created engine sends, and lose some of it."""
        link = self.engine._link
        put = link.put

        def noted(body: bytes, header: tuple[int, ...]) -> None:
            self.sent_s.append(time.monotonic())
            if self._lose_next:
                self._lose_next = False
                return
            put(body, header)

        link.put = noted

    def counters(self) -> tuple[dict[str, int], float]:
        """What the engine counted, and the p99 of answers that it knows, ms."""
        stats = getattr(self.engine, "stats", None)
        if stats is None:
            return {}, 0.0
        if self.run.kind == REFERENCE:
            return dict(stats), 0.0
        now = stats()
        return now.counters, now.latency_p99_ms


def scenes(cameras: int) -> list[dict[str, np.ndarray]]:
    """Pictures by the robot's own camera names; a few different ones."""
    if not cameras:
        return [{}]
    from bench.serving.task import pictures

    return [
        dict(zip(CAMERAS, scene, strict=False))
        for scene in zip(*(pictures(i) for i in range(cameras)), strict=True)
    ]  # fmt: skip


def drive(run: Run) -> Result:
    """Do it."""
    robot = Robot(run)
    robot.engine.start()
    acting = threading.Event()

    def on_tick(tick: Tick) -> None:
        if tick.acts and not acting.is_set():
            acting.set()

    try:
        if run.kind == REFERENCE:
            robot.watch_reference()
        robot.engine.resume()
        with Drive(robot.engine, run.fps, images=scenes(run.cameras), on_tick=on_tick, paced=run.paced) as loop:
            if not acting.wait(FIRST_S):
                raise TimeoutError(f"no first action in {FIRST_S:g} s")
            return _measured(run, robot, loop)
    finally:
        robot.engine.stop()


def _measured(run: Run, robot: Robot, loop: Drive) -> Result:
    time.sleep(run.warm_up_s)
    first, cpu_s, began_s = len(loop.ticks), time.process_time(), time.monotonic()
    print("acting", flush=True)
    end_s = began_s + run.seconds
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, run.lose_every_s or left_s))
        if run.lose_every_s and end_s - time.monotonic() > run.lose_every_s / 2:
            at = len(robot.sent_s)
            robot.lose()
            _wait(lambda at=at: len(robot.sent_s) > at, run.seconds)
            robot.lost_s.append(robot.sent_s[at])
    cpu_share = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
    ticks = loop.ticks[first:]
    counters, p99_ms = robot.counters()
    steps = [] if run.kind == NONE else wrong_steps([t for t in ticks if not _is_forged(t)])
    return Result(
        late_ms=[1e3 * t.late_s for t in ticks], at_s=[t.began_s for t in ticks], acted=[t.acts for t in ticks],
        states=[t.state for t in ticks], wrong_steps=steps, forged=_forged(ticks) if run.kind != NONE else 0,
        transitions=robot.transitions, sent_s=robot.sent_s, lost_s=robot.lost_s, counters=counters, p99_ms=p99_ms,
        cpu_share=cpu_share, rss_mib=rss_mib(os.getpid()),
        error="" if loop.error is None else repr(loop.error),
    )  # fmt: skip


def rss_mib(pid: int) -> float:
    """The most memory that a process has had; what getrusage says begins with its parent's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _wait(test: Callable[[], bool], timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not test() and time.monotonic() < end_s:
        time.sleep(0.005)


FORGER = 666  # robot number in what a forger says


def _is_forged(tick: Tick) -> bool:
    return tick.acts and tick.action is not None and read(tick.action).robot == FORGER


def _forged(ticks: list[Tick]) -> int:
    """Different forged chunks of which something was executed: their tick is their number."""
    return len({read(t.action).tick for t in ticks if _is_forged(t) and t.action is not None})


def main() -> None:
    """One run."""
    print(json.dumps(asdict(drive(Run(**json.loads(sys.argv[1]))))), flush=True)


if __name__ == "__main__":
    main()
