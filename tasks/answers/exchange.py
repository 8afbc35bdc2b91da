"""One question on its way to an answer: a small state machine that sends one request a step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from tasks.answers.attempt import Attempt, Step
from tasks.answers.client import CallError, Completion
from tasks.answers.endpoint import Endpoint, Router
from tasks.answers.failures import Breaker, RetryLog, Verdict, fatal, judge, pause_s
from tasks.answers.question import UNFINISHED, Note, Question, Reply, Usage
from tasks.answers.request import Ask, build
from tasks.answers.structured import LADDER, OFF
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

WAIT_S = 0.5  # between looks for a server, while one is being started
MOVES_MAX = 3  # to another server after a lost connection; further ones cost a retry each
DEATHS_MAX = 2  # servers that ended while they had the question: it may be the reason, so no third one gets it


@dataclass(frozen=True)
class Line:
    """What all questions of a run share."""

    settings: VlmSettings
    router: Router
    breaker: Breaker
    retries: RetryLog
    end: Callable[[AnswererError], None]  # ends the run for every open question
    note: Note  # told of every question that is over


class Exchange:
    """One question. `step` is run by one thread at a time; `future` may be settled by any."""

    def __init__(self, question: Question, line: Line) -> None:
        self.question = question
        self.future: Future[Reply] = Future()
        self._ending = threading.Lock()
        self._line = line
        self._attempt = Attempt(question, line.settings, question.pictures)
        self._doubtful = False  # asked without a format to see whether the format was refused
        self._retries = self._moves = self._deaths = 0
        self._usage = Usage()
        self._endpoint: Endpoint | None = None  # asked last
        self._failed_at: Endpoint | None = None  # another one is better

    def step(self) -> float | None:
        """Send one request. None: the question is settled; else the seconds to wait before the next step."""
        if self.future.done():
            return None
        try:
            endpoint = self._line.router.take(self._failed_at, self._endpoint if self._doubtful else None)
            if endpoint is None:
                return WAIT_S
            self._doubtful = self._doubtful and endpoint is self._endpoint  # a doubt is about one server
            self._endpoint = endpoint
            try:
                return self._send(endpoint)
            finally:
                self._line.router.release(endpoint)
        except AnswererError as error:
            self._line.end(error)
        except Exception as error:  # noqa: BLE001 a bug must reach the waiting caller, not kill the worker
            self.fail(error)
        return None

    def fail(self, error: BaseException) -> None:
        """Settle with an error, unless settled before."""
        with self._ending:
            if self.future.done():
                return
            if self._usage.requests:  # what it cost is not lost with it
                self._line.note(self.question, self._reply(None, f"{UNFINISHED}: {error}"))
            with suppress(InvalidStateError):  # nobody waits any more
                self.future.set_exception(error)

    def _send(self, endpoint: Endpoint) -> float | None:
        rung = self._rung(endpoint)
        body = self._body(endpoint, rung)
        began = time.monotonic()
        try:
            completion = endpoint.client.chat(body)
        except CallError as error:
            self._spend(began)
            if error.status is not None:
                self._line.router.replied(endpoint)
            return self._after_error(error, endpoint, rung, body)
        self._spend(began, completion)
        self._line.router.replied(endpoint)
        self._line.breaker.replied()
        if self._doubtful:
            self._doubtful = False
            endpoint.dialect.refused(self._asked_rung(endpoint), self.question.answer, to=OFF)
        endpoint.dialect.proved(rung)
        return self._after_reply(completion)

    def _rung(self, endpoint: Endpoint) -> int:
        return OFF if self._doubtful else self._asked_rung(endpoint)

    def _asked_rung(self, endpoint: Endpoint) -> int:
        wish = self._line.settings.structured
        return endpoint.dialect.rung(self.question.answer) if wish == "auto" else LADDER.index(wish)

    def _body(self, endpoint: Endpoint, rung: int) -> dict[str, Any]:
        said = self._attempt
        ask = Ask(said.text, said.pictures, self.question.clips, said.tokens_max, said.correction)
        return build(ask, self.question.answer, rung, endpoint.settings, endpoint.dialect)

    def _spend(self, began: float, completion: Completion | None = None) -> None:
        usage = Usage(requests=1, latency_s=time.monotonic() - began)
        if completion is not None:
            usage = replace(usage, tokens_in=completion.tokens_in, tokens_out=completion.tokens_out)
        self._usage = self._usage + usage

    # ------------------------------------------------------------------ replies

    def _after_reply(self, completion: Completion) -> float | None:
        step = self._attempt.replied(completion)
        if step.answer is not None:
            self._line.breaker.answered()
            return self._settle(self._reply(step.answer))
        return self._go_on(step)

    def _go_on(self, step: Step) -> float | None:
        """Ask once more, or skip the question: the model's fault, not the server's."""
        return 0.0 if step.reason is None else self._skip(step.reason, by_server=False, preview=step.preview)

    # ------------------------------------------------------------------ failures

    def _after_error(self, error: CallError, endpoint: Endpoint, rung: int, body: dict[str, Any]) -> float | None:
        verdict = judge(error)
        if verdict is Verdict.FATAL:
            raise fatal(error, endpoint.settings)
        if verdict is Verdict.RETRY:
            return self._retry(error, endpoint)
        if verdict is Verdict.SHRINK and (step := self._attempt.too_big(str(error))) is not None:
            return self._go_on(step)
        if verdict is not Verdict.SHRINK and self._ask_differently(error, verdict, endpoint, rung, body):
            return 0.0
        if error.status == 500:
            return self._retry(error, endpoint)
        return self._skip(str(error), by_server=True)

    def _retry(self, error: CallError, endpoint: Endpoint) -> float | None:
        self._failed_at = endpoint
        if error.status is None:
            elsewhere = self._line.router.failed(endpoint, error)
            self._deaths += endpoint.died and not error.refused
            if self._deaths >= DEATHS_MAX:
                return self._skip(f"{self._deaths} servers ended while they had the question", by_server=True)
            if elsewhere and self._moves < MOVES_MAX:
                self._moves += 1
                log.info("%s: %s: %s; going to another server", self.question.label, endpoint.name, error)
                return 0.0
            self._line.breaker.lost(str(error))
        settings = self._line.settings
        if self._retries >= settings.max_retries:
            return self._skip(f"{error} (after {self._retries} retries)", by_server=True)
        wait_s = pause_s(error, self._retries, settings.retry_backoff_s)
        self._retries += 1
        self._line.retries.note(self.question.label, error, wait_s)
        return wait_s

    def _ask_differently(
        self, error: CallError, verdict: Verdict, endpoint: Endpoint, rung: int, body: dict[str, Any]
    ) -> bool:
        dialect = endpoint.dialect
        if dialect.adapt(error.message, body):
            return True
        if self._doubtful:  # refused without a format too: the format was not the reason
            self._doubtful = False
            dialect.cleared()
            return False
        if self._line.settings.structured != "auto":
            return False
        if verdict is Verdict.FORMAT and rung != OFF:
            dialect.refused(rung, self.question.answer)
            return True
        self._doubtful = error.status in (400, 422) and dialect.doubts(rung)
        return self._doubtful

    # ------------------------------------------------------------------ the end

    def _skip(self, reason: str, by_server: bool, preview: str = "") -> None:
        log.info("%s: skipped: %s", self.question.label, reason)
        self._line.breaker.failed(reason, by_server)  # may end the run, for this question too
        self._settle(self._reply(None, reason, preview))

    def _reply(self, answer: BaseModel | None, reason: str | None = None, preview: str = "") -> Reply:
        server = self._endpoint.settings.api_base if self._endpoint is not None else ""
        return Reply(answer, reason, self._usage, server, preview)

    def _settle(self, reply: Reply) -> None:
        with self._ending:
            if self.future.done() and not self.future.cancelled():  # the run ended meanwhile
                return
            self._line.note(self.question, reply)  # first: who waits for the reply may then sum up the ledger
            with suppress(InvalidStateError):  # nobody waits any more
                self.future.set_result(reply)
