"""What happened to one request: made once, written by one thread to metrics, audit and capture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from serving.log_limit import LineLimit

if TYPE_CHECKING:
    from serving.policies.base import SessionInfo
    from serving.session import Agreement

log = logging.getLogger(__name__)
log.addFilter(LineLimit())

STAGES = ("queue", "decode", "preprocess", "wait", "predict", "postprocess", "encode")
Stage = Literal["queue", "decode", "preprocess", "wait", "predict", "postprocess", "encode"]
OK = "ok"


@dataclass
class RequestRecord:
    """One request from mailbox to publish. Durations in seconds, all by this machine's monotonic clock."""

    session_id: str
    client: str
    seq_id: int
    episode_id: int
    superseded: int = 0
    batch: int = 0  # requests predicted together; 0: it did not get that far
    batch_number: int = 0  # which batch of this server, from 1 on
    batch_place: int = 0  # which request of the batch, from 0 on
    policy_reset: bool = False  # an exclusive policy forgot before this batch
    outcome: str = OK  # or `error: <code>: …`
    chunk_rows: int = 0
    stages_s: dict[str, float] = field(default_factory=dict)
    info: SessionInfo | None = None  # with `agreed`, what it takes to open such a session again
    agreed: Agreement | None = None
    request_header: bytes = b""
    request_body: bytes = b""
    reply_header: bytes = b""
    reply_body: bytes = b""  # b"" when nothing was sent

    @property
    def inference_s(self) -> float:
        """Preprocess, predict and postprocess: what a client is told as inference."""
        return sum(self.stages_s.get(stage, 0.0) for stage in ("preprocess", "predict", "postprocess"))

    @property
    def waited_s(self) -> float:
        """In the mailbox and for the policy: what a client is told as queue wait."""
        return sum(self.stages_s.get(stage, 0.0) for stage in ("queue", "wait"))

    @property
    def error_code(self) -> str:
        """Name of the code that a failed request was answered with; "" when it went well."""
        return error_code(self.outcome)


def error_code(outcome: str) -> str:
    """The code in `error: <code>: …`; "" when it went well."""
    return "" if outcome == OK else outcome.split(": ", 2)[1]


@dataclass(frozen=True)
class Drop:
    """A message that was not even tried."""

    reason: str  # one of a fixed set: a label of a metric
    client: str = ""


class Recorder:
    """Takes records from any thread, without waiting. This one forgets; metrics, audit and capture listen."""

    def __init__(self, *listeners: Callable[[RequestRecord | Drop], None]) -> None:
        self.listeners = listeners

    def __call__(self, record: RequestRecord | Drop) -> None:
        """Hand a record on; a listener that fails harms neither the others nor the request."""
        for listener in self.listeners:
            try:
                listener(record)
            except Exception:
                log.exception("a record was not written")
