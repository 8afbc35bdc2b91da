"""Policies of many kinds, good and bad, as a user's own module would make them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from serving.policies.base import Camera, Chunk, PolicySpec, Request, SessionInfo

SPEC = PolicySpec(
    policy_type="example",
    model_repo="tests",
    model_revision="1",
    action_names=("a", "b"),
    action_dim=2,
    state_dim=2,
    cameras=(Camera("observation.images.front", 8, 8),),
    chunk_size=4,
    fps=10.0,
    shared=True,
    batch_max=4,
    mixed_delays=True,
    rtc=True,
    execution_horizon=2,
    prefix_form="robot",
)


class Session:
    """Hands states through."""

    def __init__(self, policy: Good) -> None:
        self.policy = policy

    def prepare(self, request: Request) -> Any:
        return request

    def finish(self, raw: np.ndarray) -> Chunk:
        return Chunk(model=raw, robot=raw * 2)

    def reset(self) -> None:
        self.policy.log.append("session reset")

    def close(self) -> None:
        self.policy.log.append("session close")


class Good:
    """The answer is the state, a hundredth more each row."""

    def __init__(self, **changes: Any) -> None:
        self.spec = replace(SPEC, **changes)
        self.log: list[Any] = []

    def open_session(self, info: SessionInfo) -> Session:
        self.log.append("open")
        return Session(self)

    def predict(self, batch: Sequence[Request]) -> Sequence[np.ndarray]:
        self.log.append(("predict", len(batch)))
        return [self.answer(request) for request in batch]

    def answer(self, request: Request) -> np.ndarray:
        rows = 0.01 * np.arange(self.spec.chunk_size, dtype=np.float32)
        return request.moment.state[None] + rows[:, None]

    def reset(self) -> None:
        self.log.append("policy reset")

    def close(self) -> None:
        self.log.append("policy close")


class Remembering(Good):
    """Answers with the mean of the last two states, whoever's they are."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.queue: deque[np.ndarray] = deque(maxlen=2)

    def answer(self, request: Request) -> np.ndarray:
        self.queue.append(super().answer(request))
        return np.mean(list(self.queue), axis=0)

    def reset(self) -> None:
        super().reset()
        self.queue.clear()


class Leaking(Good):
    """Centres a batch around its mean."""

    def predict(self, batch: Sequence[Request]) -> Sequence[np.ndarray]:
        answers = super().predict(batch)
        return [a - 0.1 * np.mean(answers, axis=0) for a in answers]


class OneDelay(Good):
    """Takes the prefix of the first request for all of them."""

    def predict(self, batch: Sequence[Request]) -> Sequence[np.ndarray]:
        prefix = next((r.prefix_robot for r in batch if r.prefix_robot is not None), np.zeros((1, 2), np.float32))
        return [answer + prefix[0] for answer in super().predict(batch)]


class Chance(Good):
    """Draws noise from the global generator, as a diffusion policy does."""

    def answer(self, request: Request) -> np.ndarray:
        return super().answer(request) + np.random.standard_normal((4, 2)).astype(np.float32)


class TorchChance(Good):
    """The same from torch's, for a whole batch at once."""

    def predict(self, batch: Sequence[Request]) -> Sequence[np.ndarray]:
        import torch

        noise = torch.randn(len(batch), 4, 2).numpy()
        return [a + n for a, n in zip(super().predict(batch), noise, strict=True)]


class Wrong(Good):
    """Gives what it is told to, whatever is asked."""

    def __init__(self, gives: Any, **changes: Any) -> None:
        super().__init__(**changes)
        self.gives = gives

    def predict(self, batch: Sequence[Request]) -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return [self.gives] * len(batch)


def make(gain: float = 1.0, *, model: Any = None, rtc: Any = None) -> Good:
    """A factory that takes an option and the settings."""
    policy = Good()
    policy.gain, policy.model, policy.rtc = gain, model, rtc
    return policy


def strict(*, size: int) -> Good:
    """A factory that must be told something."""
    return Good(chunk_size=size)


def raising() -> Good:
    """A factory that fails."""
    raise RuntimeError("no weights here")


def nothing() -> None:
    """A factory that forgets to return."""


class NoReset:
    """Lacks two methods."""

    spec = SPEC

    def open_session(self, info: SessionInfo) -> None: ...

    def predict(self, batch: Sequence[Any]) -> Sequence[Any]:
        return batch


def bad_names() -> Good:
    """Three names for two actions."""
    return Good(action_names=("a", "b", "c"))


not_callable = 3
