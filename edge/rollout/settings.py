"""What `edge run` is told of the loop itself and of its strategy: `--fps=…`, `--duration=…`, `--strategy.…`."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configuration.refusal import refusal
from edge.errors import SettingsError

Key = Annotated[str, Field(min_length=1, max_length=16)]
Megabytes = Annotated[float, Field(gt=0, le=1_000_000)]


class RolloutSettings(BaseModel):
    """How fast, how long, and how a run ends."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    fps: float = Field(30.0, gt=0, le=1000, description="actions of the policy a second")
    duration: float = Field(0.0, ge=0, description="the run ends after this, s; 0: it goes on until it is stopped")
    interpolation_multiplier: int = Field(
        1,
        ge=1,
        le=64,
        description="commands to the robot for each action of the policy, on a line from one to the next",
    )
    return_to_initial_position: bool = Field(True, description="at the end, back to where the robot stood at the start")
    frozen_camera: Literal["auto", "stop", "warn", "off"] = Field(
        "auto", description="a camera that shows one picture for 2 s: auto: stop, but for recordings and simulations"
    )
    dry_run: bool = Field(False, description="ask and answer as always, but send the robot nothing")


class StrategySettings(BaseModel):
    """Unknown keys are refused: a misspelt setting must not be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def _apart(self, *names: str) -> None:
        """Refuse one key with two meanings."""
        seen: dict[str, str] = {}
        for name in names:
            if (key := getattr(self, name)) in seen:
                raise refusal(name, "want a key of its own", f"{key!r}, as {seen[key]} has", "choose another")
            seen[key] = name


class BaseSettings(StrategySettings):
    """The policy drives; nothing is recorded."""


class EpisodicSettings(StrategySettings):
    """Episodes of a given length, one after the other, with time between them to put things back."""

    num_episodes: int = Field(50, ge=1, le=1_000_000, description="episodes to record")
    episode_time_s: float = Field(60.0, gt=0, le=86_400, description="an episode ends after this")
    reset_time_s: float = Field(60.0, ge=0, le=86_400, description="time between two episodes")
    reset_to_initial_position: bool = Field(
        True, description="between episodes, back to where the robot stood at the start; a teleoperator goes before"
    )
    smooth_handover: bool = Field(
        True, description="a teleoperator takes over without a jerk: leader and robot meet before it does"
    )
    end_key: Key = Field("right", description="ends the episode, or the time between, early")
    rerecord_key: Key = Field("left", description="throws the episode away and records it again")

    @model_validator(mode="after")
    def _keys(self) -> EpisodicSettings:
        self._apart("end_key", "rerecord_key")
        return self


class SlicedSettings(StrategySettings):
    """A recording without end, cut into episodes whose videos have a given size."""

    target_video_file_size_mb: Megabytes = Field(200.0, description="about how large an episode's smallest video gets")
    upload_every_n_episodes: int = Field(
        5, ge=1, le=1_000_000, description="how often the dataset is pushed, if at all"
    )


class SentrySettings(SlicedSettings):
    """The policy drives and everything is recorded, in slices."""


class HighlightSettings(StrategySettings):
    """The policy drives; a key keeps what just happened and what follows."""

    ring_buffer_seconds: float = Field(10.0, gt=0, le=3600, description="how much of the past a key can keep")
    ring_buffer_max_memory_mb: Megabytes = Field(1024.0, description="most memory for the past")
    save_key: Key = Field("s", description="keeps the past and what follows; once more: the episode is saved")
    push_key: Key = Field("h", description="pushes the dataset now")

    @model_validator(mode="after")
    def _keys(self) -> HighlightSettings:
        self._apart("save_key", "push_key")
        return self


class DaggerSettings(SlicedSettings):
    """The policy drives until a human pauses it, corrects it through a teleoperator, and lets it go on."""

    num_episodes: int = Field(50, ge=1, le=1_000_000, description="corrections to record; with the rest: no limit")
    record_autonomous: bool = Field(False, description="record what the policy does too, in slices")
    smooth_handover: bool = Field(
        True, description="a teleoperator takes over without a jerk: leader and robot meet before it does"
    )
    pause_key: Key = Field("space", description="pauses the policy and lets it go on")
    correct_key: Key = Field("tab", description="begins and ends a correction, while paused")
    push_key: Key = Field("enter", description="pushes the dataset now")

    @model_validator(mode="after")
    def _keys(self) -> DaggerSettings:
        self._apart("pause_key", "correct_key", "push_key")
        return self


class InteractiveSettings(StrategySettings):
    """Somebody says by line when the policy drives and what it is to do: start, task, stop, reset, quit."""


SETTINGS: dict[str, type[StrategySettings]] = {
    "base": BaseSettings,
    "dagger": DaggerSettings,
    "episodic": EpisodicSettings,
    "highlight": HighlightSettings,
    "interactive": InteractiveSettings,
    "sentry": SentrySettings,
}


def strategy_settings(kind: str) -> type[StrategySettings]:
    """The options of a strategy. Raises SettingsError naming the nearest one."""
    if kind not in SETTINGS:
        close = difflib.get_close_matches(kind, SETTINGS, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"use one of {', '.join(SETTINGS)}"
        raise SettingsError("want a known strategy", repr(kind), remedy)
    return SETTINGS[kind]
