"""All strategies by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.rollout.base import Base
from edge.rollout.dagger import Dagger
from edge.rollout.episodic import Episodic
from edge.rollout.highlight import Highlight
from edge.rollout.interactive import Interactive
from edge.rollout.sentry import Sentry
from edge.rollout.settings import StrategySettings, strategy_settings
from edge.rollout.strategy import Strategy

# name -> (settings, what drives)
STRATEGIES: dict[str, tuple[type[StrategySettings], type[Strategy]]] = {
    kind.name: (strategy_settings(kind.name), kind) for kind in (Base, Dagger, Episodic, Highlight, Interactive, Sentry)
}


def make_strategy(kind: str, options: Mapping[str, Any]) -> Strategy:
    """A strategy by name and options. Raises SettingsError, pydantic's ValidationError."""
    settings = strategy_settings(kind).model_validate(dict(options))
    return STRATEGIES[kind][1](settings)
