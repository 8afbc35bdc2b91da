"""A robot whose recording is written down as arrays: what signals are read from when no parquet is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tasks.dataset.episode import Episode


class ArrayDataset:
    """The part of Dataset that signals look at. Counts reads."""

    def __init__(self, root: Path, names: Mapping[str, Sequence[str]], columns: Mapping[str, np.ndarray]) -> None:
        self.root = root
        self.info = SimpleNamespace(features={key: {} for key in columns})
        self._names, self._columns = names, columns
        self.reads = 0

    def feature_names(self, key: str) -> list[str]:
        return list(self._names.get(key, ()))

    def columns(self, episode: Episode, names: Sequence[str]) -> dict[str, np.ndarray]:
        self.reads += 1
        return {name: self._columns[name] for name in names}


def an_episode(frames: int, fps: float = 10.0, task: str = "", index: int = 0) -> Episode:
    times = (np.arange(frames) / fps).astype(np.float32)
    return Episode(index, task, times, np.arange(frames), Path("none.parquet"), 0, None, fps)


def steps(frames: int, *changes: tuple[int, float], start: float = 0.0, ramp: int = 3) -> np.ndarray:
    """A signal that goes to each value around the given frame, over `ramp` frames."""
    rows, values = [0], [start]
    for row, value in changes:
        rows += [row - ramp // 2, row + ramp - ramp // 2]
        values += [values[-1], value]
    return np.interp(np.arange(frames), rows, values)


def strokes(frames: int, *spans: tuple[int, int], size: float = 0.3) -> np.ndarray:
    """A joint that moves during the given spans of frames, there and back in turn, and rests between them."""
    out = np.zeros(frames)
    direction = size
    for a, b in spans:
        share = np.clip((np.arange(frames) - a) / (b - a), 0, 1)
        out += direction * share * share * (3 - 2 * share)
        direction = -direction
    return out


def arm(
    tmp_path: Path, gripper: np.ndarray | Mapping[str, np.ndarray], joint: np.ndarray | None = None
) -> ArrayDataset:
    """One joint "joint_0" and the given grippers, by name."""
    grippers = gripper if isinstance(gripper, Mapping) else {"gripper": gripper}
    frames = len(next(iter(grippers.values())))
    joint = np.zeros(frames) if joint is None else joint
    state = np.stack([joint, *grippers.values()], axis=1).astype(np.float32)
    return ArrayDataset(tmp_path, {"observation.state": ["joint_0", *grippers]}, {"observation.state": state})
