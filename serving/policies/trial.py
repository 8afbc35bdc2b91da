"""Made-up requests of the shapes that a policy declares, for trying it before robots come."""

from __future__ import annotations

import numpy as np

from serving.policies.base import Camera, Moment, PolicySpec, Request

PICTURE_DEFAULT = (480, 640)  # height and width where a policy takes whatever comes


def trial_request(
    spec: PolicySpec, rng: np.random.Generator | None = None, *, task: str = "", prefix_rows: int = 0, delay: int = 0
) -> Request:
    """A whole request: random with a generator, zeros without; history and prefix as the policy declares them."""
    history = tuple(_moment(spec, rng) for _ in range(spec.history_frames - 1))
    prefix = _values(rng, (prefix_rows, spec.action_dim)) if prefix_rows else None
    return Request(
        moment=_moment(spec, rng),
        history=history,
        task=task,
        delay_steps=delay,
        prefix_model=prefix,
        prefix_robot=prefix,
        episode_start=True,
    )


def _moment(spec: PolicySpec, rng: np.random.Generator | None) -> Moment:
    state = _values(rng, (spec.state_dim,)) if spec.state_dim else None
    return Moment(state, {camera.name: _picture(camera, rng) for camera in spec.cameras})


def _values(rng: np.random.Generator | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32) if rng is None else rng.standard_normal(shape, dtype=np.float32)


def _picture(camera: Camera, rng: np.random.Generator | None) -> np.ndarray:
    height, width = camera.height or PICTURE_DEFAULT[0], camera.width or PICTURE_DEFAULT[1]
    if rng is None:
        return np.zeros((height, width, 3), np.uint8)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
