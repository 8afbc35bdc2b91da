"""LeRobot's robots and teleoperators driven by this project's protocol, on hardware that is none.

    python tests/compat/check_robots_lerobot.py CHECK...

A CHECK is one of the functions below. Run by a Python that has lerobot. The devices derive from LeRobot's own classes
and are registered as a user's plugin registers them.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.cameras import CameraConfig
from lerobot.robots import Robot, RobotConfig
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig, TeleopEvents
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from edge.errors import RobotError, SettingsError
from edge.robots.registry import make_robot
from edge.robots.watch import check_reading
from edge.teleoperators.base import InOrder
from edge.teleoperators.registry import make_teleop

CALIBRATION = Path(tempfile.mkdtemp())
SIZE = (24, 32)


@CameraConfig.register_subclass("none_at_all")
@dataclass(kw_only=True)
class NoneAtAllConfig(CameraConfig):
    grey: int = 0


class Part:
    """A bus or a camera: connected or not."""

    def __init__(self) -> None:
        self.is_connected, self.broken = False, False

    def connect(self) -> None:
        if self.broken:
            raise ConnectionError("no such device")
        self.is_connected = True

    def disconnect(self) -> None:
        self.is_connected = False


class Camera(Part):
    """Hands out its latest picture, as LeRobot's do."""

    def __init__(self, grey: int) -> None:
        super().__init__()
        self.picture = np.full((*SIZE, 3), grey, np.uint8)
        self.latest_timestamp = time.perf_counter()

    def read_latest(self) -> np.ndarray:
        if self.broken:
            raise TimeoutError("latest frame is too old")
        return self.picture


@RobotConfig.register_subclass("base_with_arm")
@dataclass(kw_only=True)
class BaseWithArmConfig(RobotConfig):
    port: str
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    limit: float = 10.0
    torque: bool = False
    calibrated: bool = True
    driver: str = "json"


class BaseWithArm(Robot):
    config_class = BaseWithArmConfig
    name = "base_with_arm"

    def __init__(self, config: BaseWithArmConfig) -> None:
        super().__init__(config)
        importlib.import_module(config.driver)
        self.config, self.bus = config, Part()
        self.cameras = {name: Camera(camera.grey) for name, camera in config.cameras.items()}
        self.at = {"lift.pos": 1.0, "grip.pos": 2.0, "x.vel": 0.0, "turn.vel": 0.0}
        self.sent: list[dict[str, float]] = []
        self.prompted = self.base_stopped = 0

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        pictures = {name: (*SIZE, 3) for name in self.cameras}
        return {**dict.fromkeys(self.at, float), **pictures, **({"front_depth": (*SIZE, 1)} if pictures else {})}

    @cached_property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(("grip.pos", "lift.pos", "x.vel", "turn.vel"), float)

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected and all(c.is_connected for c in self.cameras.values())

    @property
    def is_calibrated(self) -> bool:
        return self.config.calibrated

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        self.bus.connect()
        if calibrate and not self.is_calibrated:
            self.calibrate()
        for camera in self.cameras.values():
            camera.connect()

    def calibrate(self) -> None:
        self.prompted += 1

    def configure(self) -> None: ...

    @check_if_not_connected
    def get_observation(self) -> dict[str, Any]:
        return {**self.at, **{name: c.read_latest() for name, c in self.cameras.items()}}

    @check_if_not_connected
    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        sent = {name: float(np.clip(v, -self.config.limit, self.config.limit)) for name, v in action.items()}
        self.sent.append(sent)
        return sent

    def stop_base(self) -> None:
        self.base_stopped += 1

    @check_if_not_connected
    def disconnect(self) -> None:
        self.bus.disconnect()
        for camera in self.cameras.values():
            camera.disconnect()


@TeleoperatorConfig.register_subclass("leader_of_none")
@dataclass
class LeaderOfNoneConfig(TeleoperatorConfig):
    motors: bool = True


class LeaderOfNone(Teleoperator):
    config_class = LeaderOfNoneConfig
    name = "leader_of_none"

    def __init__(self, config: LeaderOfNoneConfig) -> None:
        super().__init__(config)
        self.config, self.bus, self.done = config, Part(), []
        self.action = {"lift.pos": 1.0, "grip.pos": 2.0, "x.vel": 3.0, "turn.vel": 4.0}

    @property
    def action_features(self) -> dict[str, Any]:
        names = {name: i for i, name in enumerate(self.action)}
        return {"dtype": "float32", "shape": (len(names),), "names": names}

    @property
    def feedback_features(self) -> dict[str, Any]:
        return {"lift.pos": float} if self.config.motors else {}

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected

    @property
    def is_calibrated(self) -> None:
        """LeRobot's keyboard says nothing here."""

    def connect(self) -> None:  # no `calibrate`, as on some of LeRobot's
        self.bus.connect()

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def enable_torque(self) -> None:
        self.done.append("on")

    def disable_torque(self) -> None:
        self.done.append("off")

    def get_action(self) -> dict[str, float]:
        return self.action

    def send_feedback(self, feedback: dict[str, float]) -> None:
        self.done.append(feedback)

    def get_teleop_events(self) -> dict[Any, bool]:
        return {TeleopEvents.IS_INTERVENTION: True, TeleopEvents.RERECORD_EPISODE: False, "success": True, "own": True}

    @check_if_not_connected
    def disconnect(self) -> None:
        self.bus.disconnect()


def robot(**options: Any):
    cameras = {name: {"type": "none_at_all", "grey": 7, "width": 32, "height": 24, "fps": 30} for name in ("a", "b")}
    every = {"port": "/dev/none", "cameras": cameras, "calibration_dir": str(CALIBRATION), **options}
    return make_robot(options.pop("kind", "base_with_arm"), {k: v for k, v in every.items() if k != "kind"})


def refused(error: type[Exception], call: Any) -> str:
    try:
        call()
    except error as err:
        return str(err)
    raise AssertionError("it was not refused")


def driven() -> dict[str, Any]:
    """Features in LeRobot's order, readings and actions as vectors, what was really sent told."""
    made = robot(limit=5.0)
    features = made.features
    assert features.state_names == ("lift.pos", "grip.pos", "x.vel", "turn.vel"), features
    assert features.action_names == ("grip.pos", "lift.pos", "x.vel", "turn.vel"), features
    assert features.cameras == {"a": SIZE, "b": SIZE}, features
    made.connect()
    made.robot.cameras["b"].latest_timestamp -= 0.25
    reading = made.read()
    check_reading(reading, features)
    assert list(reading.state) == [1, 2, 0, 0]
    assert (reading.images["a"] == 7).all()
    assert 0.24 < time.monotonic() - reading.captured_s < 0.5
    sent = made.send(np.array([1, 2, 30, 4], np.float32))
    assert list(sent) == [1, 2, 5, 4]
    assert made.robot.sent[-1] == {"grip.pos": 1.0, "lift.pos": 2.0, "x.vel": 5.0, "turn.vel": 4.0}
    made.stop()
    made.stop()
    assert made.robot.sent[-1] == {"grip.pos": 1.0, "lift.pos": 2.0, "x.vel": 0.0, "turn.vel": 0.0}
    made.disconnect()
    made.disconnect()
    made.stop()
    assert len(made.robot.sent) == 3
    return {"prompted": made.robot.prompted}


def unmoved() -> dict[str, Any]:
    """Stopped before anything was sent: velocities zero, joints where they are."""
    made = robot(kind="lerobot:base_with_arm")
    made.connect()
    made.stop()
    (sent,) = made.robot.sent
    made.disconnect()
    return {"sent": sent}


def unplugged() -> dict[str, Any]:
    """A camera goes: it is named, the base stops, and the motors are let go all the same."""
    made = robot()
    made.connect()
    made.send(np.ones(4, np.float32))
    camera = made.robot.cameras["b"]
    camera.broken = True
    frozen = refused(RobotError, made.read)
    camera.is_connected = False  # now LeRobot's robot refuses everything
    gone = refused(RobotError, made.read)
    stopped = refused(RobotError, made.stop)
    made.disconnect()
    return {
        "frozen": frozen, "gone": gone, "stopped": stopped, "base_stopped": made.robot.base_stopped,
        "bus": made.robot.bus.is_connected, "other": made.robot.cameras["a"].is_connected,
    }  # fmt: skip


def absent() -> dict[str, Any]:
    """A camera that is not there when the robot is connected; then a robot that is not calibrated."""
    made = robot()
    made.robot.cameras["b"].broken = True
    camera = refused(RobotError, made.connect)
    assert not made.robot.bus.is_connected
    assert not made.robot.cameras["a"].is_connected
    made = robot()
    made.robot.bus.broken = True
    bus = refused(RobotError, made.connect)
    made = robot(calibrated=False, id="blue")
    calibration = refused(RobotError, made.connect)
    assert not made.robot.bus.is_connected
    return {"camera": camera, "bus": bus, "calibration": calibration, "prompted": made.robot.prompted}


def wrong() -> dict[str, Any]:
    """Nearest names of types and options."""
    camera = {"front": {"type": "none_at_al", "width": 1, "height": 1, "fps": 1}}
    return {
        "ours": refused(SettingsError, lambda: make_robot("datset", {})),
        "theirs": refused(SettingsError, lambda: make_robot("so101_folower", {})),
        "prefixed": refused(SettingsError, lambda: make_robot("lerobot:koch_folower", {})),
        "option": refused(SettingsError, lambda: robot(prot="x")),
        "missing": refused(SettingsError, lambda: make_robot("base_with_arm", {})),
        "value": refused(SettingsError, lambda: robot(torque="perhaps")),
        "camera": refused(SettingsError, lambda: robot(cameras=camera)),
        "unsized": refused(SettingsError, lambda: robot(cameras={"front": {"type": "none_at_all"}})),
        "driver": refused(RobotError, lambda: robot(driver="no_such_driver")),
        "teleop": refused(SettingsError, lambda: make_teleop("so101_leadr", {})),
    }


def teleoperated() -> dict[str, Any]:
    """A leader in the robot's order, led to a pose and let go; what it says beside its action."""
    made = make_teleop("leader_of_none", {"calibration_dir": str(CALIBRATION)})
    teleop = InOrder(made, robot().features.action_names)
    teleop.connect()
    assert list(teleop.read()) == [2, 1, 3, 4]
    events = teleop.events()
    assert teleop.can_follow
    assert teleop.follow(np.array([20, 10, 0, 0], np.float32))
    teleop.follow(np.array([21, 11, 0, 0], np.float32))
    teleop.release()
    teleop.release()
    done = made.device.done
    assert [done[0], done[-1], len(done)] == ["on", "off", 4], done
    made.device.action = {}
    assert teleop.read() is None
    teleop.disconnect()
    teleop.disconnect()
    limp = make_teleop("lerobot:leader_of_none", {"motors": False, "calibration_dir": str(CALIBRATION)})
    assert not limp.can_follow and not limp.follow(np.zeros(4, np.float32)) and not limp.device.done
    return {"led": done[1], "events": [events.intervention, events.success, events.rerecord]}


if __name__ == "__main__":
    for check in sys.argv[1:]:
        print(json.dumps({check: globals()[check]()}), flush=True)
