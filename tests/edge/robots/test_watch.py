"""Cameras that do not see."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edge.errors import RobotError
from edge.robots.base import Reading, RobotFeatures
from edge.robots.watch import LOOK_EVERY_S, FrozenCameras, check_reading

FEATURES = RobotFeatures("arm", ("a.pos", "b.pos"), ("a.pos", "b.pos"), {"front": (480, 640), "wrist": (48, 64)})


def reading(seed: int, wrist: int = 0, state: tuple[float, ...] = (0.0, 1.0)) -> Reading:
    images = {
        "front": np.random.default_rng(seed).integers(0, 255, (480, 640, 3), np.uint8),
        "wrist": np.random.default_rng(wrist).integers(0, 255, (48, 64, 3), np.uint8),
    }
    return Reading(np.array(state, np.float32), images, time.monotonic())


def drive(watch: FrozenCameras, readings: list[Reading], *, acting: bool = True, period_s: float = 0.1) -> dict:
    found: dict[str, float] = {}
    for tick, seen in enumerate(readings):
        watch.note(seen, tick * period_s, acting=acting)
        found.update(watch.frozen(tick * period_s))
    return found


def test_a_camera_that_shows_the_same_for_seconds_is_named_and_the_others_are_not() -> None:
    found = drive(FrozenCameras(), [reading(seed, wrist=7) for seed in range(31)])
    assert set(found) == {"wrist"}
    assert 2.0 <= found["wrist"] <= 3.1


def test_a_live_camera_is_never_named_however_little_changes() -> None:
    base = reading(1)
    seen = []
    for tick in range(40):
        images = {name: image.copy() for name, image in base.images.items()}
        for image in images.values():
            image[5, 7, 1] = tick  # one byte, most likely between the samples
        seen.append(Reading(base.state, images, 0.0))
    assert drive(FrozenCameras(), seen) == {}


def test_it_thaws() -> None:
    watch = FrozenCameras()
    assert drive(watch, [reading(1)] * 30)
    watch.note(reading(2, wrist=2), 3.1)
    assert watch.frozen(3.1 + LOOK_EVERY_S) == {}


def test_a_robot_that_stands_still_may_look_at_the_same_scene() -> None:
    assert drive(FrozenCameras(), [reading(1)] * 100, acting=False) == {}


def test_a_loop_that_stood_still_has_not_seen_a_frozen_camera() -> None:
    watch = FrozenCameras()
    same = reading(1)
    watch.note(same, 0.0)
    watch.frozen(0.0)
    watch.note(same, 60.0)  # one long tick
    assert watch.frozen(60.0) == {}


def test_a_reused_buffer_is_not_taken_for_a_frozen_camera() -> None:
    watch, seen = FrozenCameras(), reading(1)
    for tick in range(40):
        seen.images["front"][:] = np.random.default_rng(tick).integers(0, 255, (480, 640, 3), np.uint8)
        seen.images["wrist"][:] = tick
        watch.note(seen, tick * 0.1)
        assert watch.frozen(tick * 0.1) == {}


def test_noting_is_next_to_nothing_and_looking_is_cheap() -> None:
    watch, seen = FrozenCameras(), reading(1)
    start = time.perf_counter()
    for tick in range(1000):
        watch.note(seen, tick * 0.001)
        watch.frozen(tick * 0.001)
    assert (time.perf_counter() - start) / 1000 < 50e-6  # a tick, both calls


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r.images.pop("wrist"), "camera wrist"),
        (lambda r: r.images.update(front=r.images["wrist"]), "480 x 640 from camera front"),
        (lambda r: r.images.update(wrist=r.images["wrist"].astype(np.float32)), "float32"),
        (lambda r: r.state.__setitem__(1, np.nan), "b.pos"),
    ],
)
def test_a_reading_that_is_not_as_promised_names_the_part(spoil, said: str) -> None:
    seen = reading(1)
    check_reading(seen, FEATURES)
    spoil(seen)
    with pytest.raises(RobotError, match=said):
        check_reading(seen, FEATURES)


def test_a_state_of_another_length_is_refused() -> None:
    with pytest.raises(RobotError, match="2 numbers"):
        check_reading(reading(1, state=(1.0, 2.0, 3.0)), FEATURES)
