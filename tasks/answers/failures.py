"""What a failed request means and what to do: try again, ask differently, skip the question, or end the run."""

from __future__ import annotations

import enum
import logging
import random
import re
import threading
import time

from tasks.answers.client import CallError
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

BACKOFF_S_MAX = 60.0
RETRY_AFTER_S_MAX = 120.0
FIRST_FAILURES_MAX = 24  # so many questions failed and none was ever answered: the run ends
LOST_REQUESTS_MAX = 48  # so many requests without any HTTP answer, and never one before: the run ends
SERVER_FAILURES_MAX = 32  # so many questions in a row failed by the server's fault: the run ends
RETRY_LOG_EVERY_S = 5.0

_RETRIED = frozenset({408, 409, 425, 429})
_OVERFLOW = re.compile(
    r"context.{0,40}(length|size|window|exceed|overflow)|(exceed|longer than|reduce).{0,60}(context|max\w* model len)"
    r"|max_model_len|too many (input |prompt )?tokens|prompt is too long|at most \d+ image|too many images",
    re.IGNORECASE,
)
_FORMAT = re.compile(r"response_format|json_schema|json_object|structured|guided|grammar|json schema", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"model_not_found|unknown model|no such model|invalid model( name|\b.{0,80} passed)|is pinned to"
    r"|model\b.{0,160}(does not exist|doesn't exist|not found|not exist|is not (available|served|loaded))",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(r"insufficient_quota|billing_hard_limit|exceeded your current quota", re.IGNORECASE)


class Verdict(enum.Enum):
    """What a failed request calls for."""

    RETRY = "retry"  # the same again, later
    SHRINK = "shrink"  # fewer pictures
    FORMAT = "format"  # another response_format
    REFUSED = "refused"  # this request is not taken, whatever the reason
    FATAL = "fatal"  # no request will ever be taken


def judge(error: CallError) -> Verdict:
    """The meaning of a failed request."""
    status, message = error.status, error.message
    if status is None:
        return Verdict.RETRY
    if status in (401, 403) or is_wrong_model(error) or (status in (402, 429) and _NO_MONEY.search(message)):
        return Verdict.FATAL
    if status == 413 or (status in (400, 422, 500) and _OVERFLOW.search(message)):
        return Verdict.SHRINK
    if status in (400, 422, 500, 501) and _FORMAT.search(message):
        return Verdict.FORMAT
    if status in _RETRIED or (status >= 500 and status != 501):
        return Verdict.RETRY
    return Verdict.REFUSED


def is_wrong_model(error: CallError) -> bool:
    """The server has no model of that name."""
    return error.status in (400, 404, 422) and bool(_NO_MODEL.search(error.message))


def fatal(error: CallError, settings: VlmSettings) -> AnswererError:
    """The end of the run, in words."""
    where = settings.api_base
    if error.status in (401, 403):
        return AnswererError(f"access to {where}", str(error), "pass the server's key: --vlm.api_key=KEY")
    if is_wrong_model(error):
        remedy = "pass a model that the server has: --vlm.model_id=NAME"
        return AnswererError(f"model {settings.model_id} at {where}", str(error), remedy)
    return AnswererError(f"answers from {where}", str(error), "see the account at the provider of the server")


def pause_s(error: CallError, attempt: int, backoff_s: float) -> float:
    """Seconds before retry number `attempt` (0 is the first): doubling, jittered, at least what was asked for."""
    own = min(BACKOFF_S_MAX, backoff_s * 2**attempt) * random.uniform(0.5, 1.5)
    asked = min(RETRY_AFTER_S_MAX, error.retry_after_s or 0.0)
    return max(own, asked)


class Breaker:
    """Ends a run that gets nowhere. Thread-safe; every method raises AnswererError when it is time."""

    def __init__(self, settings: VlmSettings) -> None:
        self._where = f"{settings.api_base} ({settings.model_id})"
        self._lock = threading.Lock()
        self._answered = self._failed = self._failed_in_row = self._lost = 0
        self._alive = False

    def replied(self) -> None:
        """The server gave a reply, good or bad."""
        with self._lock:
            self._alive, self._failed_in_row = True, 0

    def answered(self) -> None:
        """A question got its answer."""
        with self._lock:
            self._answered += 1

    def lost(self, reason: str) -> None:
        """A request got no HTTP answer."""
        with self._lock:
            self._lost += 1
            over = not self._alive and self._lost >= LOST_REQUESTS_MAX
        if over:
            self._end(f"nothing to {LOST_REQUESTS_MAX} requests; the last: {reason}")

    def failed(self, reason: str, by_server: bool) -> None:
        """A question is given up."""
        with self._lock:
            self._failed += 1
            self._failed_in_row += by_server
            first = self._answered == 0 and self._failed >= FIRST_FAILURES_MAX
            row = self._failed_in_row >= SERVER_FAILURES_MAX
            failed = self._failed if first else self._failed_in_row
        if first or row:
            self._end(f"{failed} questions {'and no answer' if first else 'in a row failed'}; the last: {reason}")

    def _end(self, got: str) -> None:
        raise AnswererError(
            f"answers from {self._where}",
            got,
            "see the server's log; questions answered so far need not be asked again",
        )


class RetryLog:
    """Makes retries visible without flooding: one warning per few seconds that counts the rest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due, self._silent = 0.0, 0

    def note(self, label: str, error: CallError, wait_s: float) -> None:
        """One retry is coming."""
        now = time.monotonic()
        with self._lock:
            if now < self._due:
                self._silent += 1
                return
            silent, self._silent, self._due = self._silent, 0, now + RETRY_LOG_EVERY_S
        more = f" ({silent} more retries before)" if silent else ""
        log.warning("%s: %s; trying again in %.1f s%s", label, error, wait_s, more)
