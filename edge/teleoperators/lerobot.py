"""Any teleoperator of an installed lerobot: `--teleop.type=so101_leader --teleop.port=/dev/ttyACM1`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge.errors import RobotError
from edge.robots.lerobot_types import Family, connect, let_go, make_device, names_of
from edge.teleoperators.base import NO_EVENTS, TeleopEvents

FLAG = "--teleop."
EVENTS = {  # LeRobot's name of an event: ours
    "is_intervention": "intervention",
    "terminate_episode": "end_episode",
    "success": "success",
    "failure": "failure",
    "rerecord_episode": "rerecord",
}


def make(kind: str, options: Mapping[str, Any], ours: tuple[str, ...] = ()) -> LeRobotTeleoperator:
    """The device, not connected. Raises SettingsError, RobotError."""
    family = Family("lerobot.teleoperators", "TeleoperatorConfig", "make_teleoperator_from_config", FLAG, ours)
    return LeRobotTeleoperator(make_device(family, kind, options), kind)


class LeRobotTeleoperator:
    """One of LeRobot's devices, read as vectors."""

    def __init__(self, device: Any, kind: str) -> None:
        """`device` is a lerobot.teleoperators.Teleoperator. Raises RobotError when its actions have no names."""
        self.device, self.kind = device, kind
        self.action_names = names_of(device.action_features, kind)
        self._connected = self._led = False

    @property
    def can_follow(self) -> bool:
        """Whether it takes feedback and its motors can be switched on and off."""
        switches = ("enable_torque", "disable_torque")
        return bool(self.device.feedback_features) and all(callable(getattr(self.device, s, None)) for s in switches)

    def connect(self) -> None:
        """Open it. It must be calibrated: nobody is asked at a prompt. Raises RobotError."""
        connect(self.device, self.kind, FLAG)
        self._connected, self._led = True, False

    def read(self) -> np.ndarray | None:
        """What the person wants; None where the device says nothing. Raises RobotError."""
        action = self._ask(self.device.get_action, "an action")
        if not action:
            return None
        if missing := [n for n in self.action_names if action.get(n) is None]:
            raise RobotError(f"want every joint from {self.kind}", f"no {', '.join(missing)}", "check these motors")
        return np.array([action[n] for n in self.action_names], np.float32)

    def events(self) -> TeleopEvents:
        """What was pressed, on devices that have LeRobot's events. Raises RobotError."""
        ask = getattr(self.device, "get_teleop_events", None)
        if not callable(ask):
            return NO_EVENTS
        said = self._ask(ask, "its events")
        found = {EVENTS.get(str(getattr(key, "value", key))): bool(value) for key, value in said.items()}
        found.pop(None, None)
        return TeleopEvents(**found)  # type: ignore[arg-type]

    def follow(self, action: np.ndarray) -> bool:
        """Lead the device to a pose, its motors switched on. Raises RobotError."""
        if not self.can_follow:
            return False
        if not self._led:
            self._ask(self.device.enable_torque, "its motors on")
            self._led = True
        wanted = dict(zip(self.action_names, action.tolist(), strict=True))
        self._ask(lambda: self.device.send_feedback(wanted), "to follow")
        return True

    def release(self) -> None:
        """Motors off. Raises RobotError."""
        if self._led:
            self._led = False
            self._ask(self.device.disable_torque, "its motors off")

    def disconnect(self) -> None:
        """Let go of it."""
        if self._connected:
            self._connected = False
            let_go(self.device)

    def _ask(self, call: Any, what: str) -> Any:
        try:
            return call()
        except Exception as err:
            got = f"{type(err).__name__}: {err}"
            raise RobotError(f"want {what} from {self.kind}", got, "check its power and its cable") from err
