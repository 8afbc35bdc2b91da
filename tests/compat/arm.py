"""An arm as LeRobot knows robots, whose policy is the witness of the edge's tests: its actions say where they belong.

LeRobot finds the class beside its config by name, so both are in a module named after them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from lerobot.robots import Robot, RobotConfig

from tests.edge.witness import ACTIONS, STATE, Witness, read

STATES = tuple(f"{name}.pos" for name in STATE)
HEIGHT, WIDTH = 48, 64


@RobotConfig.register_subclass("arm")
@dataclass(kw_only=True)
class ArmConfig(RobotConfig):
    """`camera`: its name; "" for none."""

    camera: str = ""
    state_names: tuple[str, ...] = STATES


class Arm(Robot):
    """Notes all it is told. Its joints are not in the policy's order."""

    config_class = ArmConfig
    name = "arm"
    made: list[Arm] = []  # noqa: RUF012  # so that a test finds the one that LeRobot made

    def __init__(self, config: ArmConfig) -> None:
        super().__init__(config)
        self._config = config
        self.sent: list[dict[str, float]] = []
        self.read = 0
        self.policy_rows = 0  # sent so far that a witness made
        self.connects = self.disconnects = 0
        self.on_send: Callable[[int], None] = lambda count: None
        Arm.made.append(self)

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        camera = {self._config.camera: (HEIGHT, WIDTH, 3)} if self._config.camera else {}
        return {**dict.fromkeys(self._config.state_names, float), "effort.current": float, **camera}

    @cached_property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(sorted(ACTIONS), float)

    @property
    def is_connected(self) -> bool:
        return self.connects > self.disconnects

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def connect(self, calibrate: bool = True) -> None:
        self.connects += 1

    def disconnect(self) -> None:
        self.disconnects += 1

    def get_observation(self) -> dict[str, Any]:
        assert self.is_connected
        self.read += 1
        numbers = {"tick.pos": self.read, "episode.pos": 0, "robot.pos": 1, "step.pos": self.policy_rows}
        seen: dict[str, Any] = {name: float(value) for name, value in numbers.items()} | {"effort.current": 0.5}
        if self._config.camera:
            seen[self._config.camera] = np.full((HEIGHT, WIDTH, 3), self.read % 256, np.uint8)
        return seen

    @property
    def witnesses(self) -> list[Witness]:
        """What rows of a policy said, in the order they came; wrong ones raise AssertionError."""
        rows = [a for a in self.sent if "sum.pos" in a and a["sum.pos"] > 0]
        return [read(np.array([row[name] for name in ACTIONS], np.float32)) for row in rows]

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        assert self.is_connected
        new = not self.sent or action != self.sent[-1]  # a strategy that pauses sends the last one again
        self.sent.append(dict(action))
        self.policy_rows += new and "sum.pos" in action and action["sum.pos"] > 0
        self.on_send(len(self.sent))
        return action
