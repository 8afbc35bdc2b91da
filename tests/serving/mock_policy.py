"""A policy whose answers are known beforehand, and that can be held up, broken and watched at every step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.policies.base import Camera, Chunk, PolicySpec, Request, SessionInfo

WAIT_S = 10.0  # longer than anything here takes
ROWS, DIM = 6, 3
CAMERA = "observation.images.front"
SPEC = PolicySpec(
    policy_type="mock",
    model_repo="acme/mock",
    model_revision="0123abcd",
    action_names=("x", "y", "z"),
    action_dim=DIM,
    state_dim=DIM,
    cameras=(Camera(CAMERA),),
    chunk_size=ROWS,
    fps=30.0,
    shared=True,
)


def chunk_of(state: np.ndarray) -> np.ndarray:
    """What the mock answers in model space: state[j] + 0.01 t; float32 (ROWS, DIM)."""
    return state[None, :] + np.float32(0.01) * np.arange(ROWS, dtype=np.float32)[:, None]


class Gate:
    """A hook that holds up whoever comes while it is shut. Passes its argument on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shut = True
        self.entered = 0

    def __call__(self, value: Any) -> Any:
        with self._changed:
            self.entered += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._shut, WAIT_S), "a gate was never opened"
        return value

    def wait(self, times: int = 1) -> None:
        """Until so many have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.entered >= times, WAIT_S), f"{self.entered} of {times} came"

    def open(self) -> None:
        """Let all pass, from now on."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()


@dataclass(frozen=True)
class Prepared:
    """What the mock's sessions hand to predict."""

    client: str
    model: np.ndarray
    request: Request


class MockPolicy:
    """Calls are logged as (step, client); `hooks[step]` sees each call's value and may replace it, wait or raise.

    Steps and their values: open (SessionInfo), prepare (Prepared), predict (the batch's answers), finish (Chunk),
    forget (None, a session's reset), close (None, a session's end), reset (None, the policy's).
    """

    def __init__(self, **spec: Any) -> None:
        self.spec = replace(SPEC, **spec)
        self.hooks: dict[str, Callable[[Any], Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.batches: list[list[Prepared]] = []
        self.requests: list[tuple[str, Request]] = []
        self.closed = 0

    def gate(self, step: str) -> Gate:
        """Hold up a step from now on."""
        self.hooks[step] = gate = Gate()
        return gate

    def fail(self, step: str, error: Exception, when: Callable[[Any], bool] = lambda value: True) -> None:
        """Let a step raise."""

        def hook(value: Any) -> Any:
            if when(value):
                raise error
            return value

        self.hooks[step] = hook

    def count(self, step: str, client: str = "") -> int:
        """How often a step was called."""
        return sum(name == step and client in ("", who) for name, who in self.calls)

    def let_go(self) -> None:
        """Open every gate."""
        for hook in self.hooks.values():
            if isinstance(hook, Gate):
                hook.open()

    def call(self, step: str, client: str, value: Any) -> Any:
        """Log a call and run its hook."""
        self.calls.append((step, client))
        hook = self.hooks.get(step)
        return value if hook is None else hook(value)

    # --- the protocol ----------------------------------------------------------------------------------------------

    def open_session(self, info: SessionInfo) -> MockSession:
        self.call("open", info.client, info)
        return MockSession(self, info)

    def predict(self, batch: Sequence[Prepared]) -> Any:
        self.batches.append(list(batch))
        return self.call("predict", ",".join(item.client for item in batch), [item.model for item in batch])

    def reset(self) -> None:
        self.call("reset", "", None)

    def close(self) -> None:
        self.closed += 1


class MockSession:
    """One robot's processors: the one after the policy doubles."""

    def __init__(self, policy: MockPolicy, info: SessionInfo) -> None:
        self.policy, self.info = policy, info

    def prepare(self, request: Request) -> Prepared:
        self.policy.requests.append((self.info.client, request))
        state = request.moment.state
        model = chunk_of(np.zeros(DIM, np.float32) if state is None else state)
        return self.policy.call("prepare", self.info.client, Prepared(self.info.client, model, request))

    def finish(self, raw: Any) -> Chunk:
        return self.policy.call("finish", self.info.client, Chunk(raw, raw * 2))

    def reset(self) -> None:
        self.policy.call("forget", self.info.client, None)

    def close(self) -> None:
        self.policy.call("close", self.info.client, None)
