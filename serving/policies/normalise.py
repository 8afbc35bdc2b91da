"""Between the units of a robot and the numbers that a network was trained on.

The formulas are those of LeRobot's normaliser, its epsilon included, so that a checkpoint exported here sees what it
saw in training. Works on NumPy arrays and torch tensors alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Mode = Literal["identity", "mean_std", "min_max", "quantiles"]
NEEDED: Mapping[str, tuple[str, ...]] = {
    "identity": (),
    "mean_std": ("mean", "std"),
    "min_max": ("min", "max"),
    "quantiles": ("q01", "q99"),
}
EPSILON = np.float32(1e-8)  # in place of a width of zero


@dataclass(frozen=True)
class Normaliser:
    """One feature's transformation; without statistics it changes nothing."""

    mode: Mode = "identity"
    low: Any = None  # mean, or the lower end; float32, one a value, (3, 1, 1) for pictures
    high: Any = None  # standard deviation, or the upper end
    width: Any = None  # what is divided by

    @classmethod
    def of(cls, mode: Mode, low: np.ndarray, high: np.ndarray) -> Normaliser:
        """From statistics, float32."""
        if mode == "mean_std":
            return cls(mode, low, high, high + EPSILON)
        return cls(mode, low, high, np.where(high == low, EPSILON, high - low))

    def moved(self, move: Callable[[np.ndarray], Any]) -> Normaliser:
        """The same with its numbers elsewhere: `move` makes a tensor of an array."""
        if self.mode == "identity":
            return self
        return Normaliser(self.mode, *(move(values) for values in (self.low, self.high, self.width)))

    def forward(self, values: Any) -> Any:
        """Robot units to model space."""
        if self.mode == "identity":
            return values
        centred = (values - self.low) / self.width
        return centred if self.mode == "mean_std" else 2 * centred - 1

    def inverse(self, values: Any) -> Any:
        """Model space to robot units."""
        if self.mode == "identity":
            return values
        return values * self.high + self.low if self.mode == "mean_std" else (values + 1) / 2 * self.width + self.low


def statistics_hash(statistics: Mapping[str, Normaliser]) -> str:
    """SHA-256 of every feature's mode and numbers; the same wherever they are stored. "" when nothing is normalised."""
    content = hashlib.sha256()
    active = {name: s for name, s in statistics.items() if s.mode != "identity"}
    for name in sorted(active):
        item = active[name]
        content.update(f"{name}\0{item.mode}\0".encode())
        for values in (item.low, item.high):
            content.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return content.hexdigest() if active else ""
