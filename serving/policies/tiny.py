"""A very small exported policy with random weights: for tests, demos and trying a network of robots without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from serving.policies.options import checked
from serving.policies.policy_yaml import ACTION, STATE, PolicyFile
from serving.policies.write_exported import EXAMPLE_BATCH, write_exported

if TYPE_CHECKING:
    import torch

WIDTH = 64
BLEND = 0.9  # how much of a prefix's row stays in the answer


def make_tiny(
    folder: Path | str,
    *,
    state_dim: int = 7,
    action_dim: int = 7,
    cameras: Mapping[str, tuple[int, int]] | None = None,
    chunk_size: int = 50,
    fps: float = 30.0,
    action_names: Sequence[str] | None = None,
    batch_max: int = 16,
    batch_sizes: Sequence[int] = (),
    prefix_rows: int = 0,
    prefix_form: Literal["model", "robot"] = "model",
    history_frames: int = 1,
    history_step: int = 1,
    seed: int = 0,
) -> Path:
    """Export a small convolutional network into `folder` and return it; the same seed gives the same weights.

    `cameras` are (height, width) by name; one of 96 x 96 without. `batch_sizes` makes a program of each fixed size in
    place of one for any. With `prefix_rows` answers continue a prefix.
    """
    import torch

    cameras = {"observation.images.front": (96, 96)} if cameras is None else dict(cameras)
    names = [f"joint_{i}.pos" for i in range(action_dim)] if action_names is None else list(action_names)
    shapes = {
        "policy_type": "tiny",
        "program": "policy.pt2",
        "batch_max": max(batch_sizes, default=batch_max),
        "fps": fps,
        "chunk_size": chunk_size,
        "action": {"dim": action_dim, "names": names},
        "state": {"dim": state_dim} if state_dim else None,
        "cameras": [{"name": name, "height": size[0], "width": size[1]} for name, size in cameras.items()],
        "history": {"frames": history_frames, "step": history_step},
        "prefix": {"form": prefix_form, "rows": prefix_rows} if prefix_rows else None,
        "normalisation": {"features": _modes(state_dim, cameras)},
    }
    file = checked(PolicyFile, shapes, "shapes of a tiny policy")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(file)
        network(*(torch.zeros(EXAMPLE_BATCH, *file.shape(name)) for name in file.order))  # sizes its first layer
    rng = np.random.default_rng(seed)
    return write_exported(folder, file, network, _statistics(file, rng), list(batch_sizes))


def _modes(state_dim: int, cameras: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, str]]:
    state = {STATE: {"mode": "mean_std"}} if state_dim else {}
    return {**state, **{name: {"mode": "mean_std"} for name in cameras}, ACTION: {"mode": "min_max"}}


def _statistics(file: PolicyFile, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Numbers by feature and statistic, as training would have counted them."""
    low = rng.uniform(-2.0, -1.0, file.action.dim)
    out = {ACTION: {"min": low, "max": low + rng.uniform(2.0, 4.0, file.action.dim)}}
    if file.state:
        out[STATE] = {"mean": rng.normal(size=file.state.dim), "std": rng.uniform(0.5, 2.0, file.state.dim)}
    for camera in file.cameras:
        out[camera.name] = {"mean": np.full(3, 0.45), "std": np.full(3, 0.25)}
    return out


def _network(file: PolicyFile) -> torch.nn.Module:
    """Pictures through two convolutions, everything through two layers, out comes a chunk."""
    import torch
    from torch import nn

    values = file.chunk_size * file.action.dim
    state, cameras, prefix = file.state is not None, len(file.cameras), file.prefix

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = nn.Sequential(
                nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=4, padding=2), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            )  # fmt: skip
            self.think = nn.Sequential(nn.LazyLinear(WIDTH), nn.Tanh(), nn.Linear(WIDTH, values), nn.Tanh())

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            rest = list(inputs)
            seen = [rest.pop(0).flatten(1)] if state else []
            for _ in range(cameras):
                picture = rest.pop(0)
                moments = picture.reshape(-1, *picture.shape[-3:])  # moments of one robot side by side in the batch
                seen.append(self.look(moments).reshape(picture.shape[0], -1))
            chunk = self.think(torch.cat(seen, 1)).unflatten(1, (file.chunk_size, file.action.dim))
            return chunk if prefix is None else self._continued(chunk, *rest)

        def _continued(self, chunk: torch.Tensor, tail: torch.Tensor, rows: torch.Tensor, delay: torch.Tensor):
            """Rows of the prefix weigh in; those that are executed before the answer comes stay as they were."""
            padded = nn.functional.pad(tail, (0, 0, 0, file.chunk_size - tail.shape[1]))
            row = torch.arange(file.chunk_size, device=chunk.device)[None]
            kept = (row < delay[:, None]).to(chunk.dtype).clamp(min=BLEND)
            weight = (kept * (row < rows[:, None]))[..., None]
            return chunk * (1 - weight) + padded * weight

    return Tiny().eval()
