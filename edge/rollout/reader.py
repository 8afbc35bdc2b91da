"""Reads the robot and watches it read: how long it takes, whether it is whole, and whether its cameras still see."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge.errors import EdgeError, RobotError
from edge.robots.base import Reading, Robot
from edge.robots.watch import FrozenCameras, camera_gone, check_reading
from edge.rollout.settings import RolloutSettings

_log = logging.getLogger(__name__)


@dataclass
class ReadCounts:
    """Of a run so far."""

    reads: int = 0
    slow_reads: int = 0  # that took longer than a tick has
    read_max_ms: float = 0.0


class Reader:
    """Reads one robot. Used by the control thread alone."""

    def __init__(self, robot: Robot, settings: RolloutSettings, counts: ReadCounts) -> None:
        self.counts = counts
        self.ms = 0.0  # what the last reading took
        self._robot = robot
        self._tick_s = 1.0 / (settings.fps * settings.interpolation_multiplier)
        self._stop_when_frozen = _stops(settings.frozen_camera, robot)
        self._cameras = None if settings.frozen_camera == "off" else FrozenCameras()
        self._told: set[str] = set()  # what was warned of

    def read(self, acting: bool) -> Reading:
        """What the robot sees now; `acting`: something was sent since the last one. Raises RobotError."""
        began_s = time.monotonic()
        with answering("be read"):
            reading = self._robot.read()
        now_s = time.monotonic()
        check_reading(reading, self._robot.features)
        self._count(now_s - began_s)
        if self._cameras is not None:
            self._cameras.note(reading, now_s, acting=acting)
            for name, still_s in self._cameras.frozen(now_s).items():
                self._frozen(name, still_s)
        return reading

    def _count(self, read_s: float) -> None:
        counts, self.ms = self.counts, 1e3 * read_s
        counts.reads += 1
        counts.read_max_ms = max(counts.read_max_ms, self.ms)
        if read_s <= self._tick_s:
            return
        counts.slow_reads += 1
        if self._first("slow"):
            _log.warning(
                "reading the robot took %.0f ms and a tick has %.0f ms, so ticks are skipped: lower --fps",
                self.ms, 1e3 * self._tick_s,
            )  # fmt: skip

    def _frozen(self, name: str, still_s: float) -> None:
        why = f"the same one for {still_s:.1f} s while the robot was moved"
        if self._stop_when_frozen:
            raise camera_gone(name, why)
        if self._first(name):
            _log.warning("camera %s shows the same picture for %.1f s: check it", name, still_s)

    def _first(self, what: str) -> bool:
        first = what not in self._told
        self._told.add(what)
        return first


def _stops(setting: str, robot: Robot) -> bool:
    """Whether a frozen camera ends the run. Robots with a rate of their own play or simulate: pictures may stand."""
    return setting == "stop" or (setting == "auto" and robot.features.fps is None)


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Whatever a robot raises becomes a RobotError that says what was asked of it."""
    try:
        yield
    except EdgeError:
        raise
    except Exception as err:
        got = f"{type(err).__name__}: {err}"
        raise RobotError(f"want the robot to {what}", got, "check its power, cables and cameras") from err
