"""What a strategy is: how a run goes, tick by tick, and what becomes of an episode that is still open at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from edge.errors import SettingsError
from edge.rollout.control import Control, Ending
from edge.rollout.keys import Keyboard, KeySource
from edge.rollout.settings import StrategySettings


class Strategy:
    """Root of all strategies. One object drives one run."""

    name: ClassVar[str]
    records: ClassVar[bool | None] = True  # wants a dataset; no: refuses one; None: either
    listens: ClassVar[Callable[[], KeySource]] = Keyboard  # what makes its `keys`
    needs_teleop: ClassVar[bool] = False

    def __init__(self, settings: StrategySettings) -> None:
        self.settings = settings

    def check(self, dataset: bool, teleop: bool) -> None:
        """Raises SettingsError when something it needs is missing, or something is given that it would ignore."""
        if self.records and not dataset:
            raise SettingsError(f"want a dataset for strategy {self.name}", "none", "pass --dataset.repo_id=…")
        if dataset and self.records is False:
            remedy = "choose --strategy.type=sentry to record everything, or take --dataset away"
            raise SettingsError(f"want no dataset with strategy {self.name}: it records nothing", "one", remedy)
        if self.needs_teleop and not teleop:
            raise SettingsError(f"want a teleoperator for strategy {self.name}", "none", "pass --teleop.type=…")

    def run(self, control: Control) -> Ending:
        """Drive until it is over."""
        raise TypeError(f"{type(self).__name__} does not say how it drives")

    def finish(self, control: Control) -> None:
        """Keep what is recorded but not saved. Called once, when the robot stands still, however the run ended."""
        control.save_episode()


def over(control: Control) -> Ending | None:
    """Why a run of one episode ends now; None: go on."""
    return control.ending() or (Ending.ROBOT_DONE if control.robot_done() else None)
