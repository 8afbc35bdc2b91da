"""A robot with two cameras as `edge run --robot.type=bench.edge.arm:arm` drives it: what it measures is made up."""

from __future__ import annotations

import time
from itertools import count

import numpy as np

from bench.edge.robot import CAMERAS, scenes
from edge.robots.base import Reading, RobotFeatures
from tests.edge.drive import features


class CameraArm:
    """Nine joints, two cameras of 640x480; never done."""

    def __init__(self) -> None:
        self.features: RobotFeatures = features(dict.fromkeys(CAMERAS, (480, 640)))
        self.done = False
        self._scenes = scenes(len(CAMERAS))
        self._reads = count()

    def connect(self) -> None:
        """Nothing is energised."""

    def read(self) -> Reading:
        """Where it stands: which reading this is, as the policy of the tests wants it."""
        number = next(self._reads)
        state = np.array([number % (1 << 20), 0, 1, number % (1 << 20)], np.float32)
        return Reading(state, self._scenes[number % len(self._scenes)], time.monotonic())

    def send(self, action: np.ndarray) -> np.ndarray:
        """It moves at once."""
        return action

    def begin_episode(self) -> None:
        """As any other."""

    def stop(self) -> None:
        """It stands still already."""

    def disconnect(self) -> None:
        """Nothing was energised."""


def arm() -> CameraArm:
    """As the command line names it."""
    return CameraArm()
