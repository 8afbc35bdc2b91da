"""A request on its way through the pipeline, and how the pipeline works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from serving.policies.base import PolicySpec, Request
from serving.record import RequestRecord
from serving.session import Session
from serving.wire.header import Header
from serving.wire.limits import Limits


@dataclass
class Work:
    """A request under way."""

    session: Session
    header: Header
    record: RequestRecord
    prepared: Any = None
    raw: Any = None
    kind: Any = None  # requests of one kind share a batch
    since_s: float = 0.0  # when it began to wait for the policy


@dataclass(frozen=True)
class PipelineSettings:
    """How the pipeline works."""

    decode_threads: int = 2
    finish_threads: int = 2
    batch_max: int = 1
    max_wait_s: float = 0.005  # that a request waits for others still being decoded
    default_task: str = ""
    pinned_task: str | None = None
    deadline_default_s: float = 1.0  # of robots that do not say how long they can go on
    keep_bodies: bool = False  # for capture
    limits: Limits = field(default_factory=Limits)


def kind_of(request: Request, spec: PolicySpec) -> tuple[Any, ...]:
    """What requests of one batch have in common: the shapes, and delay and prefix where the policy wants that."""
    moments = (request.moment, *request.history)
    shapes = tuple(image.shape for moment in moments for _, image in sorted(moment.images.items()))
    if spec.mixed_delays:
        return shapes
    prefix = request.prefix_model if spec.prefix_form == "model" else request.prefix_robot
    return *shapes, request.delay_steps, 0 if prefix is None else len(prefix)


@contextmanager
def timed(record: RequestRecord, stage: str) -> Iterator[None]:
    """Note in a record how long a stage takes."""
    started_s = time.monotonic()
    try:
        yield
    finally:
        record.stages_s[stage] = time.monotonic() - started_s
