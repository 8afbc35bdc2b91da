"""What was sent beside what was recorded, control step by control step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.errors import RobotError


@dataclass(frozen=True)
class JointDifference:
    """How far one joint was sent from where it went when it was recorded, robot units."""

    name: str
    max: float
    mean: float


@dataclass(frozen=True)
class Comparison:
    """All control steps that ended. `differences[k]` belongs to recorded frame `frames[k]`."""

    steps: int  # control steps compared
    equal: int  # of those, with every joint equal bit by bit
    recorded: int  # frames of the episode
    joints: tuple[JointDifference, ...]
    worst: str  # "kLeftElbow at frame 17", "" when all are equal
    max: float
    mean: float
    tolerance: float | None
    frames: np.ndarray  # int64 (ticks,); the latest pass through the episode
    differences: np.ndarray  # float32 (ticks, actions), sent - recorded

    @property
    def within_tolerance(self) -> bool:
        """Whether no step was further off than allowed; true where nothing was asked."""
        return self.tolerance is None or self.max <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and the session summary; without the arrays."""
        joints = {j.name: {"max": j.max, "mean": j.mean} for j in self.joints}
        return {
            "steps": self.steps, "equal": self.equal, "recorded": self.recorded, "max": self.max, "mean": self.mean,
            "worst": self.worst, "tolerance": self.tolerance, "joints": joints,
        }  # fmt: skip

    def line(self) -> str:
        """In one line: `392 of 392 steps as recorded (393 frames)`."""
        same = f"{self.equal} of {self.steps} steps as recorded ({self.recorded} frames)"
        off = f"; off by {self.mean:.4g} on average, {self.max:.4g} most, {self.worst}"
        return same if self.equal == self.steps else same + off


class Comparer:
    """Counts differences as steps end. Memory: one float a joint and recorded frame, however long it runs."""

    def __init__(self, names: Sequence[str], recorded: np.ndarray, tolerance: float | None) -> None:
        self._names, self._recorded, self._tolerance = tuple(names), recorded, tolerance
        self._differences = np.full(recorded.shape, np.nan, np.float32)  # of the latest pass
        self._sum = np.zeros(recorded.shape[1])
        self._max = np.zeros(recorded.shape[1])
        self._steps = self._equal = 0
        self._worst = (0.0, "")

    def begin(self) -> None:
        """A new pass through the episode."""
        self._differences.fill(np.nan)

    def add(self, frame: int, sent: np.ndarray) -> None:
        """What a step sent. Raises RobotError when it is further off than the tolerance; it is counted all the same."""
        difference = sent - self._recorded[frame]
        off = np.abs(difference, dtype=np.float64)
        self._differences[frame] = difference
        self._sum += off
        np.maximum(self._max, off, out=self._max)
        self._steps += 1
        self._equal += bool((sent == self._recorded[frame]).all())
        joint = int(np.argmax(off))
        if off[joint] > self._worst[0]:
            self._worst = (float(off[joint]), f"{self._names[joint]} at frame {frame}")
        if self._tolerance is not None and not off[joint] <= self._tolerance:
            sides = f"{sent[joint]:.6g} instead of {self._recorded[frame, joint]:.6g}"
            raise RobotError(
                f"want actions within {self._tolerance:g} of the recorded ones",
                f"{self._names[joint]} at frame {frame}: {sides}",
                "look at what the server serves, or raise --robot.tolerance",
            )

    def result(self) -> Comparison:
        """Everything so far."""
        frames = np.flatnonzero(~np.isnan(self._differences).any(axis=1))
        mean = self._sum / max(self._steps, 1)
        joints = tuple(
            JointDifference(name, float(most), float(average))
            for name, most, average in zip(self._names, self._max, mean, strict=True)
        )
        return Comparison(
            self._steps, self._equal, len(self._recorded), joints, self._worst[1], float(self._max.max(initial=0.0)),
            float(mean.mean()) if len(mean) else 0.0, self._tolerance, frames, self._differences[frames].copy(),
        )  # fmt: skip
