"""The plain run: the policy drives until it is stopped, and nothing is recorded."""

from __future__ import annotations

from edge.rollout.control import Control, Ending
from edge.rollout.strategy import Strategy, over


class Base(Strategy):
    """See above."""

    name = "base"
    records = False

    def run(self, control: Control) -> Ending:
        """Drive until it is over."""
        control.begin_episode()
        control.begin()
        while (ending := over(control)) is None:
            control.policy_tick()
            control.pressed()
        return ending
