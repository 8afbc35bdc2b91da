"""Any robot of an installed lerobot: `--robot.type=so101_follower --robot.port=/dev/ttyACM0 --robot.cameras={…}`.

State and action are all the numbers that LeRobot's robot names, in its order, as `lerobot-record` writes them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge.errors import RobotError
from edge.robots.base import Reading, RobotFeatures, is_velocity
from edge.robots.factory import check_action
from edge.robots.lerobot_types import Family, camera_at_fault, connect, let_go, make_device, names_of
from edge.robots.watch import camera_gone

log = logging.getLogger(__name__)

FLAG = "--robot."


def make(kind: str, options: Mapping[str, Any], ours: tuple[str, ...] = ()) -> LeRobotRobot:
    """The robot, not connected. Raises SettingsError, RobotError."""
    family = Family("lerobot.robots", "RobotConfig", "make_robot_from_config", FLAG, ours)
    return LeRobotRobot(make_device(family, kind, options), kind)


class LeRobotRobot:
    """One of LeRobot's robots, driven by vectors."""

    def __init__(self, robot: Any, kind: str) -> None:
        """`robot` is a lerobot.robots.Robot. Raises RobotError for features that are no numbers and pictures."""
        self.robot, self.kind = robot, kind
        self.features = _features(robot, kind)
        self._rates = np.array([is_velocity(name) for name in self.features.action_names])
        self._sent: np.ndarray | None = None
        self._connected = False

    def connect(self) -> None:
        """Energise it. It must be calibrated: nobody is asked at a prompt. Raises RobotError."""
        connect(self.robot, self.kind, FLAG)
        self._sent, self._connected = None, True

    def read(self) -> Reading:
        """Joints and pictures. Raises RobotError naming the camera or the joint that does not answer."""
        captured_s = self._oldest_s()
        observed = self._observe()
        images = {}
        for name in self.features.cameras:
            image = observed.get(name)
            if not isinstance(image, np.ndarray):
                raise camera_gone(name, "none")
            images[name] = image if image.base is None else image.copy()  # a view of a driver's buffer may change
        return Reading(self._numbers(observed), images, captured_s)

    def send(self, action: np.ndarray) -> np.ndarray:
        """Move. Returns what LeRobot's robot says that it sent, within its own `max_relative_target`. RobotError."""
        check_action(action, self.features)
        self._sent = self._command(self.features.action_names, action)
        return self._sent

    def begin_episode(self) -> None:
        """Nothing: the world is as it is."""

    @property
    def done(self) -> bool:
        """Never: the world goes on."""
        return False

    def stop(self) -> None:
        """Velocities to zero; joints of other kinds keep the goal that they were sent last, and nothing is sent to a
        robot that has no velocities. Raises RobotError when the base cannot be told."""
        if not self._connected or not self._rates.any():
            return
        try:
            self._command(*self._still())
        except RobotError:
            if callable(stop_base := getattr(self.robot, "stop_base", None)):
                stop_base()  # asks for no camera
            raise

    def disconnect(self) -> None:
        """De-energise it as LeRobot does, also when one of its cameras is gone."""
        if self._connected:
            self._connected = False
            let_go(self.robot)

    def _still(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names and values that stop it: what was sent last, velocities zero; before that, where it is measured."""
        names = self.features.action_names
        if self._sent is not None:
            return names, np.where(self._rates, np.float32(0), self._sent)
        measured = self._measured()
        known = [i for i, name in enumerate(names) if self._rates[i] or name in measured]
        values = [0.0 if self._rates[i] else measured[names[i]] for i in known]
        return tuple(names[i] for i in known), np.array(values, np.float32)

    def _measured(self) -> dict[str, float]:
        try:
            return dict(zip(self.features.state_names, self._numbers(self._observe()).tolist(), strict=True))
        except RobotError as err:
            log.warning("stopping without knowing where the joints are: %s", err)
            return {}

    def _observe(self) -> Mapping[str, Any]:
        try:
            return self.robot.get_observation()
        except Exception as err:
            got = f"{type(err).__name__}: {err}"
            if name := camera_at_fault(self.robot):
                raise camera_gone(name, got) from err
            raise RobotError(f"want a reading of {self.kind}", got, "check its power and its bus") from err

    def _numbers(self, observed: Mapping[str, Any]) -> np.ndarray:
        names = self.features.state_names
        if missing := [n for n in names if n not in observed]:
            raise RobotError("want every joint in a reading", f"no {', '.join(missing)}", "check these motors")
        return np.array([observed[n] for n in names], np.float32)

    def _command(self, names: tuple[str, ...], action: np.ndarray) -> np.ndarray:
        asked = dict(zip(names, action.tolist(), strict=True))
        try:
            sent = self.robot.send_action(asked) or asked
        except Exception as err:
            got = f"{type(err).__name__}: {err}"
            raise RobotError(f"want {self.kind} to take an action", got, "check its power and its bus") from err
        return np.array([sent.get(name, asked[name]) for name in names], np.float32)

    def _oldest_s(self) -> float:
        """When the oldest picture that is about to be read was captured: LeRobot's cameras hand out their latest."""
        taken = [getattr(c, "latest_timestamp", None) for c in (getattr(self.robot, "cameras", None) or {}).values()]
        age_s = time.perf_counter() - min((t for t in taken if isinstance(t, float)), default=time.perf_counter())
        return time.monotonic() - max(age_s, 0.0)


def _features(robot: Any, kind: str) -> RobotFeatures:
    observed, numbers, cameras, other = robot.observation_features, [], {}, []
    for name, what in observed.items():
        if what in (float, int):
            numbers.append(name)
        elif isinstance(what, tuple) and len(what) == 3 and what[2] == 3 and None not in what:
            cameras[name] = (int(what[0]), int(what[1]))
        else:
            other.append(f"{name} {what}")
    if other:
        log.warning("not sent to the policy: %s", ", ".join(other))
    return RobotFeatures(kind, tuple(numbers), names_of(robot.action_features, kind), cameras)
