"""Robots in a process of their own: reads what to do from its input, one JSON line each, and says what came of it.

python -m bench.serving.robots ours tcp/127.0.0.1:7447 --robots 16
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from typing import Any, Protocol

import numpy as np

from bench.serving.task import CAMERAS, JOINTS, MODEL, REVISION, SERVICE, pictures
from bench.serving.trip import Trip
from serving.wire.keys import Keys

KEYS = Keys.of(MODEL, REVISION, service=SERVICE)
STATE = np.linspace(-1, 1, JOINTS, dtype=np.float32)
WARM_UP = 20


class Robot(Protocol):
    """What both kinds can."""

    def handshake(self) -> object: ...
    def encoded(self, images: Mapping[str, np.ndarray]) -> Mapping[str, Any]: ...
    def ask(self, state: np.ndarray, images: Mapping[str, Any]) -> Trip: ...
    def ask_until_answered(self, state: np.ndarray, images: Mapping[str, Any], lose: int) -> Trip: ...
    def leave(self) -> None: ...


class OurRobot:
    """The scripted client of the tests."""

    def __init__(self, endpoint: str, name: str, quality: int) -> None:
        from network.zenoh_settings import ZenohSettings
        from network.zenoh_transport import open_transport
        from tests.serving.client import Client

        if find_spec("cv2") is not None:  # as on robots whose cameras it reads; pictures are then shrunk by it
            import cv2

            cv2.setNumThreads(1)  # pictures are worked on at the same time already
        network = open_transport(ZenohSettings(mode="peer", connect_endpoints=[endpoint]))
        self._client = Client(network, KEYS, name, quality=quality)
        self.handshake, self.encoded, self.leave = self._client.handshake, self._client.encoded, self._client.leave

    def ask(self, state: np.ndarray, images: Mapping[str, Any]) -> Trip:
        """Ask once."""
        return _trip(self._client.ask(state, images))

    def ask_until_answered(self, state: np.ndarray, images: Mapping[str, Any], lose: int) -> Trip:
        """Ask again as soon as an answer is late."""
        return _trip(self._client.ask_until_answered(state, images, lose))


def _trip(exchange: Any) -> Trip:
    return Trip(exchange.round_trip_ms, exchange.sent.size, exchange.answer.size)


def make(kind: str, endpoint: str, name: str, quality: int) -> Robot:
    """A robot of one kind."""
    if kind == "reference":
        from bench.serving.reference_client import ReferenceClient

        return ReferenceClient(endpoint, KEYS, name)
    return OurRobot(endpoint, name, quality)


class Crew:
    """All robots of this process."""

    def __init__(self, robots: list[Robot]) -> None:
        self._robots = robots
        self._scenes = [dict(zip(CAMERAS, scene, strict=True)) for scene in zip(*map(pictures, range(2)), strict=True)]
        for robot in robots:
            robot.handshake()

    def trips(self, number: int) -> dict[str, Any]:
        """One robot asks again and again, with pictures that are not yet encoded."""
        robot, trips, lost = self._robots[0], [], 0
        for i in range(-WARM_UP, number):
            if i == 0:
                trips, cpu_s = [], time.process_time()
            try:
                trips.append(robot.ask(STATE, self._scenes[i % len(self._scenes)]))
            except TimeoutError:
                lost += 1
        cpu_ms = (time.process_time() - cpu_s) * 1e3 / number
        sent, received = (sum(getattr(t, f) for t in trips) / len(trips) for f in ("sent_bytes", "received_bytes"))
        return {"ms": [t.ms for t in trips], "cpu_ms": cpu_ms, "sent": sent, "received": received, "lost": lost}

    def load(self, seconds: float) -> dict[str, Any]:
        """All ask as fast as they are answered, with encoded pictures: real robots encode on machines of their own."""
        robots, barrier = self._robots, threading.Barrier(len(self._robots) + 1)
        taken: list[list[tuple[float, float]]] = [[] for _ in robots]  # when answered, and how long it took
        stop = threading.Event()

        def drive(robot: Robot, into: list[tuple[float, float]]) -> None:
            scenes = [robot.encoded(scene) for scene in self._scenes]
            barrier.wait()
            for i in count():
                if stop.is_set():
                    return
                with suppress(TimeoutError):  # lost: it is missing in what was answered
                    trip = robot.ask(STATE, scenes[i % len(scenes)])
                    into.append((time.monotonic(), trip.ms))

        threads = [threading.Thread(target=drive, args=pair) for pair in zip(robots, taken, strict=True)]
        for thread in threads:
            thread.start()
        barrier.wait()
        began_s = time.monotonic()
        time.sleep(seconds)
        end_s = time.monotonic()
        stop.set()
        for thread in threads:
            thread.join()
        inside = [[ms for at_s, ms in mine if at_s <= end_s] for mine in taken]
        return {
            "ms": [ms for mine in inside for ms in mine],
            "each": [len(mine) for mine in inside],
            "s": end_s - began_s,
        }

    def loss(self, times: int) -> dict[str, Any]:
        """How long until an answer when one observation is lost."""
        robot, scene = self._robots[0], self._scenes[0]
        usual = [robot.ask(STATE, scene).ms for _ in range(100)]
        return {"usual": usual, "ms": [robot.ask_until_answered(STATE, scene, 1).ms for _ in range(times)]}


def main() -> None:
    """Do what the input says until it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["ours", "reference"])
    parser.add_argument("endpoint")
    parser.add_argument("--robots", type=int, default=1)
    parser.add_argument("--quality", type=int, default=90)
    args = parser.parse_args()
    robots: list[Robot] = []
    try:
        robots += [make(args.kind, args.endpoint, f"robot-{i}", args.quality) for i in range(args.robots)]
        crew = Crew(robots)
        print("ready", flush=True)
        for line in sys.stdin:
            name, argument = json.loads(line)
            print(json.dumps(getattr(crew, name)(argument)), flush=True)
    finally:  # a process with an open Zenoh session may never end
        for robot in robots:
            robot.leave()


if __name__ == "__main__":
    main()
