"""What every benchmark asks: two cameras, seven joints, chunks of fifty rows; and a policy that only takes time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.policies.base import Camera, Chunk, PolicySpec, Request, SessionInfo

CAMERAS = ("observation.images.front", "observation.images.wrist")
HEIGHT, WIDTH = 480, 640
JOINTS, ROWS = 7, 50
ACTIONS = tuple(f"joint_{i}.pos" for i in range(JOINTS))
MODEL, REVISION, SERVICE = "bench.serving.task:stub", "main", "bench"
PICTURES = 8  # different ones of each camera, so that no cache answers
WAVES = 12
GRAIN = 3.0  # of a camera's sensor, in 1/255: JPEGs of about 68 kB, in the middle of what cameras give


def pictures(camera: int) -> list[np.ndarray]:
    """Scenes of smooth shapes with a sensor's noise, uint8 (480, 640, 3)."""
    return [_picture(camera * PICTURES + i) for i in range(PICTURES)]


def _picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    rgb = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for _ in range(WAVES):
        across, along = rng.uniform(0.006, 0.125, 2)
        rgb += rng.uniform(4, 18, 3) * np.sin((across * x + along * y)[..., None] + rng.uniform(0, 2 * np.pi, 3))
    rgb += rng.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    return np.clip(rgb, 0, 255).astype(np.uint8)


def answer(state: np.ndarray) -> np.ndarray:
    """float32 (50, 7): the state, going up."""
    return state[None].astype(np.float32) + np.float32(0.01) * np.arange(ROWS, dtype=np.float32)[:, None]


@dataclass(frozen=True)
class Pace:
    """How long the policy takes."""

    wait_ms: float = 0.0
    extra_ms: float = 0.0  # more for each further request of a batch

    def take(self, batch: int) -> None:
        """Be busy, off the CPU, as a GPU is."""
        total_s = (self.wait_ms + self.extra_ms * (batch - 1)) / 1e3
        if total_s > 0:
            time.sleep(total_s)


class StubPolicy:
    """Answers after a while."""

    def __init__(self, pace: Pace, batch_max: int, side: int) -> None:
        self._pace = pace
        self.spec = PolicySpec(
            policy_type="stub", model_repo=MODEL, model_revision=REVISION, action_names=ACTIONS, action_dim=JOINTS,
            state_dim=JOINTS, cameras=tuple(Camera(name, side or HEIGHT, side or WIDTH) for name in CAMERAS),
            chunk_size=ROWS, fps=30.0, shared=True, batch_max=batch_max, mixed_delays=True,
        )  # fmt: skip

    def open_session(self, info: SessionInfo) -> StubSession:
        """Nothing to keep."""
        return StubSession()

    def predict(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One answer each."""
        self._pace.take(len(batch))
        return [answer(state) for state in batch]

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to free."""


class StubSession:
    """Looks at the pictures' shapes and no further."""

    def prepare(self, request: Request) -> np.ndarray:
        """The state."""
        assert request.moment.state is not None and len(request.moment.images) == len(CAMERAS)
        return request.moment.state

    def finish(self, raw: np.ndarray) -> Chunk:
        """Both spaces are one."""
        return Chunk(raw, raw)

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to free."""


def stub(wait_ms: float = 0.0, extra_ms: float = 0.0, batch_max: int = 1, side: int = 0) -> StubPolicy:
    """The policy as a manifest names it; `side` is that of the pictures it works on, 0 for whole ones."""
    return StubPolicy(Pace(wait_ms, extra_ms), batch_max, side)
