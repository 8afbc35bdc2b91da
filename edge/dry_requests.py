"""What an answer takes, measured with made-up observations before any robot is energised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import LinkError
from edge.robots.base import Reading, RobotFeatures

if TYPE_CHECKING:
    from edge.engine import Engine

REQUESTS = 10
COLD = 1  # requests before them that are not counted
POLL_S = 0.0005
OCTAVES = (4, 8, 16, 32, 64)  # blocks of a made-up picture, pixels: about as hard for JPEG as a room
GRAIN = 6  # of a sensor, levels


@dataclass(frozen=True)
class Answered:
    """What one answer took, ms."""

    total_ms: float
    inference_ms: float
    queue_wait_ms: float


@dataclass(frozen=True)
class Latency:
    """What answers took, ms."""

    answers: tuple[Answered, ...]

    @property
    def p50_ms(self) -> float:
        """The usual one."""
        return float(np.percentile([a.total_ms for a in self.answers], 50))

    @property
    def p95_ms(self) -> float:
        """Of so few, the slowest but for rounding."""
        return float(np.percentile([a.total_ms for a in self.answers], 95, method="higher"))

    @property
    def inference_ms(self) -> float:
        """The server's own part, as usual."""
        return float(np.median([a.inference_ms for a in self.answers]))


def measure(engine: Engine, features: RobotFeatures, timeout_s: float, requests: int = REQUESTS) -> Latency:
    """Ask a started engine again and again, each time from an empty queue. Raises LinkError when no answer comes."""
    engine.resume()
    answers = []
    for number, reading in enumerate(_readings(features, COLD + requests)):
        engine.reset()
        answer = _ask(engine, reading, timeout_s)
        if number >= COLD:
            answers.append(answer)
    engine.pause()
    return Latency(tuple(answers))


def _ask(engine: Engine, reading: Reading, timeout_s: float) -> Answered:
    engine.notify_observation(reading)
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        engine.get_action()
        dispatched = engine.dispatched
        if dispatched is not None and dispatched.origin is not None:
            origin = dispatched.origin
            if origin.observed_s == reading.captured_s:
                took_ms = (origin.received_s - origin.observed_s) * 1e3
                return Answered(took_ms, origin.inference_ms, origin.queue_wait_ms)
        if engine.failed:
            raise engine.failure or LinkError("want an answer", "the engine failed", "see the log")
        time.sleep(POLL_S)
    remedy = "see the server's log: it tells why a request failed; serving status shows how busy it is"
    raise LinkError(f"want an answer within {timeout_s:g} s", "none", remedy)


def _readings(features: RobotFeatures, count: int) -> Iterator[Reading]:
    """Observations of the robot's sizes, each different, stamped as they are taken."""
    random = np.random.default_rng(0)
    pictures = {name: _picture(random, *size) for name, size in features.cameras.items()}
    for number in range(count):
        images = {name: np.roll(picture, number * 7, axis=1) for name, picture in pictures.items()}
        state = np.zeros(len(features.state_names), np.float32)
        yield Reading(state, images, time.monotonic())


def _picture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blobs of all sizes and some grain; uint8 (height, width, 3)."""
    total = np.full((height, width, 3), 128.0, np.float32)
    for block in OCTAVES:
        rows, columns = -(-height // block), -(-width // block)
        noise = random.normal(0, block / 2, (rows, columns, 3)).astype(np.float32)
        total += noise.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
    total += random.normal(0, GRAIN, total.shape).astype(np.float32)
    return np.clip(total, 0, 255).astype(np.uint8)
