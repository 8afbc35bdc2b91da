"""Cameras that do not see: unplugged, of another size, or the same picture again and again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge.errors import RobotError
from edge.robots.base import Reading, RobotFeatures

FROZEN_AFTER_S = 2.0
LOOK_EVERY_S = 0.25
SAMPLES = 4096  # bytes of a picture that are compared before the whole of it is
LOOKS_MIN = 4  # equal pictures in a row, beside the time: a loop that stood still has seen nothing


def camera_gone(name: str, why: str) -> RobotError:
    """The error for a camera that does not answer."""
    return RobotError(f"want a picture from camera {name}", why, "check its cable and its USB port, then start again")


def check_reading(reading: Reading, features: RobotFeatures) -> None:
    """Raise RobotError unless a reading is what the features promise: names the joint or the camera. Microseconds."""
    states = len(features.state_names)
    if reading.state.shape != (states,):
        wanted = f"want a state of {states} numbers"
        raise RobotError(wanted, f"shape {reading.state.shape}", "look at the robot's driver")
    if not np.isfinite(reading.state).all():
        bad = [n for n, v in zip(features.state_names, reading.state, strict=True) if not np.isfinite(v)]
        raise RobotError("want finite numbers from every joint", f"NaN or infinity from {', '.join(bad)}", "check it")
    for name, size in features.cameras.items():
        image = reading.images.get(name)
        if image is None:
            raise camera_gone(name, "none")
        if image.shape != (*size, 3) or image.dtype != np.uint8:
            wanted = f"want uint8 pictures of {size[0]} x {size[1]} from camera {name} (height x width, RGB)"
            raise RobotError(wanted, f"{image.dtype} {image.shape}", "set the size that the robot was declared with")


@dataclass
class _Seen:
    """A camera's picture since it last changed."""

    picture: np.ndarray  # the first of the equal ones
    samples: np.ndarray
    acting_s: float  # on the clock of time spent acting
    looks: int = 1


@dataclass
class FrozenCameras:
    """Cameras whose picture has not changed while the robot was acting.

    A live camera's pictures always differ, by their noise alone. `note` costs a tick an assignment; `frozen` compares,
    about once in LOOK_EVERY_S and some 20 us a camera, and may be called from another thread. Time in which nothing is
    sent does not count: simulated and recorded robots stand still then, pictures and all.
    """

    frozen_after_s: float = FROZEN_AFTER_S
    look_every_s: float = LOOK_EVERY_S
    _latest: tuple[Reading, float] | None = None
    _acting_s: float = 0.0
    _noted_s: float | None = None
    _due_s: float = 0.0
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def note(self, reading: Reading, now_s: float, *, acting: bool = True) -> None:
        """The newest reading, and whether something was sent since the one before."""
        if acting and self._noted_s is not None:
            self._acting_s += now_s - self._noted_s
        self._noted_s = now_s
        self._latest = (reading, self._acting_s)

    def frozen(self, now_s: float) -> dict[str, float]:
        """Frozen cameras and for how many seconds of acting; {} between looks, so each is told about 4 times a second.

        Cheap to call at every tick; compares only when due.
        """
        latest = self._latest
        if latest is None or now_s < self._due_s:
            return {}
        self._due_s = now_s + self.look_every_s
        reading, acting_s = latest
        found = {name: self._look(name, image, acting_s) for name, image in reading.images.items()}
        return {name: still_s for name, still_s in found.items() if still_s >= self.frozen_after_s}

    def _look(self, name: str, picture: np.ndarray, acting_s: float) -> float:
        """How long a camera has shown this picture; 0 when it changed, or has not been looked at often enough."""
        seen, samples = self._seen.get(name), _sampled(picture)
        if seen is None or not np.array_equal(seen.samples, samples):
            self._seen[name] = _Seen(picture, samples, acting_s)
            return 0.0
        still_s = acting_s - seen.acting_s
        seen.looks += still_s > 0
        if still_s < self.frozen_after_s or seen.looks < LOOKS_MIN:
            return 0.0
        if picture is not seen.picture and not np.array_equal(picture, seen.picture):  # a change between the samples
            self._seen[name] = _Seen(picture, samples, acting_s)
            return 0.0
        return still_s


def _sampled(picture: np.ndarray) -> np.ndarray:
    """Some bytes from all over a picture: a copy, so that a buffer that is used again cannot look frozen."""
    flat = picture.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLES)].copy()
