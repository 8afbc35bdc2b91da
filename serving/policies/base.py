"""What the daemon knows of a policy: what it declares, and the three steps of a request.

`prepare` and `finish` run on pools of CPU threads, at most one request of a session at a time. `predict` runs on the
one thread that owns the policy. So a policy needs no locks of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

PrefixForm = Literal["", "model", "robot"]


@dataclass(frozen=True)
class Camera:
    """A picture that a policy looks at."""

    name: str  # canonical key, observation.images.front
    height: int = 0  # pixels that the policy works on; 0: whatever comes
    width: int = 0


@dataclass(frozen=True)
class PolicySpec:
    """What a policy declares. Nothing of it is guessed later."""

    policy_type: str
    model_repo: str
    model_revision: str
    action_names: tuple[str, ...]  # column j of a chunk drives action_names[j]; () when the policy does not know
    action_dim: int
    state_dim: int  # 0: no state
    cameras: tuple[Camera, ...]
    chunk_size: int  # rows of a chunk
    fps: float  # control rate of the training data, Hz
    shared: bool  # answers depend on the request alone: many robots may share it
    batch_max: int = 1  # requests that one predict takes
    mixed_delays: bool = False  # requests of one batch may differ in delay and prefix
    rtc: bool = False  # continues a prefix
    execution_horizon: int = 0  # rows of a prefix that it reads
    prefix_form: PrefixForm = ""
    history_frames: int = 1  # moments that it looks at, the current one included
    history_step: int = 1  # control steps between two of them
    checkpoint_hash: str = ""
    normalisation_hash: str = ""


@dataclass(frozen=True)
class Moment:
    """What a robot saw at one control step."""

    state: np.ndarray | None  # float32 (state_dim,), robot units
    images: Mapping[str, np.ndarray]  # uint8 RGB (height, width, 3) by camera name


@dataclass(frozen=True)
class Request:
    """One observation to answer, decoded and checked."""

    moment: Moment
    history: Sequence[Moment] = ()  # earlier moments, oldest first
    task: str = ""
    robot_type: str = ""
    delay_steps: int = 0  # control steps until the answer takes over
    prefix_model: np.ndarray | None = None  # float32 (rows, action_dim), the tail not yet executed, model space
    prefix_robot: np.ndarray | None = None  # the same rows, robot space
    episode_start: bool = False


@dataclass(frozen=True)
class Chunk:
    """What to do next, in both spaces; float32 (rows, action_dim)."""

    model: np.ndarray
    robot: np.ndarray


@dataclass(frozen=True)
class SessionInfo:
    """Who asks."""

    session_id: str
    client: str
    robot_type: str = ""
    action_names: tuple[str, ...] = ()
    task: str = ""
    rtc: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


class PolicySession(Protocol):
    """One robot's own state beside the policy: its processors, never shared."""

    def prepare(self, request: Request) -> Any:
        """What predict needs of one request. Raises PredictError on what the policy cannot take."""

    def finish(self, raw: Any) -> Chunk:
        """The chunk of what predict gave for the last prepared request."""

    def reset(self) -> None:
        """A new episode begins."""

    def close(self) -> None:
        """The robot is gone."""


class Policy(Protocol):
    """A loaded policy."""

    spec: PolicySpec

    def open_session(self, info: SessionInfo) -> PolicySession:
        """State for one more robot; called on the control thread, may take its time."""

    def predict(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Answers to prepared requests, one each, in order; at most `spec.batch_max`, of one shape.

        Without `spec.mixed_delays` all of a batch have the same delay and prefix rows.
        """

    def reset(self) -> None:
        """Forget what earlier requests left behind. Never called on a shared policy."""

    def close(self) -> None:
        """Free the device."""
