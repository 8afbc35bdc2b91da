"""A teleoperator as LeRobot knows them: a hand that stands still where no witness ever is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

from tests.edge.witness import ACTIONS

HAND = -3.0


@TeleoperatorConfig.register_subclass("leader")
@dataclass(kw_only=True)
class LeaderConfig(TeleoperatorConfig):
    """Nothing to set."""


class Leader(Teleoperator):
    """Always at HAND."""

    config_class = LeaderConfig
    name = "leader"

    def __init__(self, config: LeaderConfig) -> None:
        super().__init__(config)
        self._connected = False

    @cached_property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(sorted(ACTIONS), float)

    @property
    def feedback_features(self) -> dict[str, type]:
        return {}

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def disconnect(self) -> None:
        self._connected = False

    def get_action(self) -> dict[str, float]:
        return dict.fromkeys(self.action_features, HAND)

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """It feels nothing."""
