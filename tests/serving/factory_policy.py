"""Policies that tests name as module:function: instant, without weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import PolicyError
from serving.policies.base import Chunk, PolicySpec, Request, SessionInfo

SPEC = PolicySpec(
    policy_type="ramp", model_repo="tests/ramp", model_revision="main", action_names=("a", "b"), action_dim=2,
    state_dim=2, cameras=(), chunk_size=8, fps=30.0, shared=True, batch_max=4,
)  # fmt: skip


class RampSession:
    """chunk[t, j] = state[j] + 0.01 t; twice that for the robot."""

    def prepare(self, request: Request) -> np.ndarray:
        assert request.moment.state is not None
        return request.moment.state

    def finish(self, raw: np.ndarray) -> Chunk:
        return Chunk(raw, 2 * raw)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class RampPolicy:
    spec: PolicySpec = SPEC
    leaks: bool = False  # answers depend on who asked before
    said: list[str] = field(default_factory=list)

    def open_session(self, info: SessionInfo) -> RampSession:
        return RampSession()

    def predict(self, batch: Sequence[Any]) -> list[np.ndarray]:
        self.said.append(f"predict {len(batch)}")
        steps = 0.01 * np.arange(self.spec.chunk_size, dtype=np.float32)[:, None]
        leaked = np.float32(len(self.said) if self.leaks else 0)
        return [state[None] + steps + leaked for state in batch]

    def reset(self) -> None:
        self.said.append("reset")

    def close(self) -> None:
        self.said.append("close")


def shared() -> RampPolicy:
    """Many robots at a time."""
    return RampPolicy()


def broken() -> RampPolicy:
    """A checkpoint that cannot be loaded."""
    raise PolicyError("want weights", "a hole", "train again")


def stateful() -> RampPolicy:
    """One robot at a time: it declares that it keeps something between requests."""
    return RampPolicy(replace(SPEC, policy_type="stateful", shared=False, batch_max=1))


def leaky() -> RampPolicy:
    """Declares that robots may share it, and answers one with what another saw."""
    return RampPolicy(replace(SPEC, policy_type="leaky"), leaks=True)


def slow(marker: str) -> RampPolicy:
    """Takes a minute to load; the marker file says that it has begun."""
    Path(marker).write_text("loading")
    time.sleep(60)
    return RampPolicy()


class SteeperPolicy(RampPolicy):
    """The same name and shapes, other answers."""

    def predict(self, batch: Sequence[Any]) -> list[np.ndarray]:
        """Ten times as steep."""
        return [
            state[None] + 10 * (raw - state[None]) for state, raw in zip(batch, super().predict(batch), strict=True)
        ]


def steeper() -> SteeperPolicy:
    """What a wrong checkpoint would answer."""
    return SteeperPolicy()
