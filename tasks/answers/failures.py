"""What a failed request means and what to do: try again, ask differently, skip the question, or end the run."""

from __future__ import annotations

import enum
import logging
import random
import re
import threading
import time

from tasks.answers.client import CallError
from tasks.answers.dialect import names_optional
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


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# In the words of vLLM, SGLang, llama.cpp, transformers, TGI, Ollama, LM Studio and the hosted ones.
_OVERFLOW = _words(
    r"context.{0,40}(?<![a-z])(length|size|window|exceed|overflow)",
    r"(exceed|longer than|reduce).{0,60}(context|max\w* model len|maximum allowed length)",
    r"max_model_len|too many (input |prompt )?tokens|prompt is too long|request too large",
    r"max_new_tokens.{0,3} must be <= \d+\. given|inputs. must have less than \d+ tokens|max_tokens must be at least 1",
    r"too many images",
)
_COUNTED = _words(r"at most \d+ image", r"limit.mm.per.prompt")  # the number of pictures is learned
_REPLY_LIMIT = _words(  # of one reply, whatever was asked
    r"max_(completion_|new_)?tokens\W{0,3}(is too large|must be less than|value|: \d+ >)"
)
_FORMAT = _words(r"response_format|response_schema|json_schema|json_object|structured|guided|grammar|json schema")
_NO_MODEL = _words(
    r"model_not_found|unknown model|no such model|invalid model( name| identifier|\b.{0,80} passed)|is pinned to",
    r"model\b.{0,160}(does not exist|doesn't exist|not found|not exist|is not (available|served|loaded))",
    r"DeploymentNotFound|deployment\b.{0,60}does not exist",
)
_NO_KEY = _words(r"(invalid|incorrect|missing|no) api.?key|api.?key (is )?(not valid|invalid|missing)")
_NO_MONEY = _words(
    r"insufficient_quota|billing_hard_limit|exceeded your current quota|credit balance is too low",
    r"insufficient (credits?|balance|funds)",
)
_NO_FILES = _words(r"allowed.local.media.path|cannot load local files|file urls? (are|is) not (allowed|supported)")
_NO_CLIPS = _words(
    r"at most 0 video|videos? (input )?(is|are) not supported|not support video",
    r"(unsupported|unknown|invalid)\b.{0,40}video_url|video_url\W{0,3} is (not|only) ",
)
_NO_PICTURES = _words(
    r"at most 0 image|image inputs? (is|are) not supported|image_url is only supported",
    r"(does not|doesn't|that) support (the )?(image|vision|multi.?modal)|is not a multi.?modal model",
    r"(unsupported|unknown) (content part type|variant)\W{1,4}image_url",
)

_ENDS = (  # reasons, what was wanted, what to do
    (
        _NO_FILES,
        "clips read from files by {model} at {where}",
        "start the server with --allowed-local-media-path=FOLDER, or pass --vlm.video_as=data",
    ),
    (_NO_CLIPS, "clips watched by {model} at {where}", "show pictures instead: --plan.media=sheets"),
    (
        _NO_PICTURES,
        "pictures seen by {model} at {where}",
        "pass a vision model (--vlm.model_id=NAME), and start its server with pictures allowed",
    ),
)


class Verdict(enum.Enum):
    """What a failed request calls for."""

    RETRY = "retry"  # the same again, later
    SHRINK = "shrink"  # fewer pictures
    FORMAT = "format"  # another response_format
    REFUSED = "refused"  # this request is not taken as it is
    FATAL = "fatal"  # no request will ever be taken


def judge(error: CallError) -> Verdict:
    """The meaning of a failed request."""
    status, message = error.status, error.message
    if status is None:
        return Verdict.RETRY
    if _end_of(error) is not None:
        return Verdict.FATAL
    if status in (400, 422, 500) and _names_what_to_change(message):
        return Verdict.REFUSED
    if status == 413 or (status in (400, 422, 429, 500) and _OVERFLOW.search(message)):
        return Verdict.SHRINK
    if status in (400, 422, 500, 501) and _FORMAT.search(message):
        return Verdict.FORMAT
    if status in _RETRIED or (status >= 500 and status != 501):
        return Verdict.RETRY
    return Verdict.REFUSED


def _names_what_to_change(message: str) -> bool:
    """A field to leave out, or a limit to keep."""
    if names_optional(message) or _COUNTED.search(message):
        return True
    return bool(_REPLY_LIMIT.search(message)) and "context length" not in message


def is_wrong_model(error: CallError) -> bool:
    """The server has no model of that name."""
    return error.status in (400, 404, 422) and bool(_NO_MODEL.search(error.message))


def fatal(error: CallError, settings: VlmSettings, where: str | None = None) -> AnswererError:
    """The end of the run, in words. `where`: the server that was asked, when it is not the one of the settings."""
    wanted, remedy = _end_of(error) or ("answers from {where}", "see the server's log")
    said = wanted.replace("{where}", where or settings.api_base).replace("{model}", settings.model_id)
    return AnswererError(said, str(error), remedy)


def _end_of(error: CallError) -> tuple[str, str] | None:
    """(what was wanted, what to do) when no request will ever be taken."""
    status, message = error.status, error.message
    if status in (401, 403) or (status == 400 and _NO_KEY.search(message)):
        return "access to {where}", "pass the server's key: --vlm.api_key=KEY"
    if status == 402 or (status in (400, 429) and _NO_MONEY.search(message)):
        return "answers from {where}", "see the account at the provider of the server"
    if status not in (400, 404, 422, 500):
        return None
    for reasons, wanted, remedy in _ENDS:
        if reasons.search(message):
            return wanted, remedy
    if is_wrong_model(error):
        return "model {model} at {where}", "pass a model that the server has: --vlm.model_id=NAME"
    return None


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
