"""Answers from any OpenAI-compatible servers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from tasks.answers.client import CallError
from tasks.answers.endpoint import Endpoint, Router, at, external
from tasks.answers.exchange import Exchange, Line
from tasks.answers.failures import Breaker, RetryLog
from tasks.answers.pool import SHARED
from tasks.answers.preflight import TRIES, probe, unusable
from tasks.answers.question import Note, Question, Reply, Slots, unnoted
from tasks.answers.servers import Fleet
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

PRIORITIES = {"plan": 0, "interjections": 1, "vqa": 2}  # later phases of an episode wait for the earlier ones


class OpenAIAnswerer:
    """Asks servers over HTTP, and starts them when `auto_serve` is set.

    However many threads ask, and however many servers there are, at most `client_concurrency` requests are in flight.
    """

    vqa_types: frozenset[str] | None = None
    needs_pictures = True

    def __init__(self, settings: VlmSettings, note: Note = unnoted, log_dir: Path | None = None) -> None:
        """Ask nobody yet; `log_dir` is where logs of servers that we start go."""
        self.model_id = settings.model_id
        self._settings = settings
        self._router = Router(settings.client_concurrency)
        self._fleet = Fleet(settings, self._router, log_dir) if settings.auto_serve else None
        if self._fleet is None:
            self._router.add(external(settings))
        where = settings if self._fleet is None else at(settings, ", ".join(self._fleet.addresses))
        self._line = Line(settings, self._router, Breaker(where), RetryLog(), self._end, note)
        self._lock, self._adopting = threading.Lock(), threading.Lock()
        self._open: set[Exchange] = set()
        self._over: AnswererError | None = None
        SHARED.join(self, settings.client_concurrency)

    def preflight(self) -> None:
        """Start servers if asked to; raise AnswererError when no server can answer, or one refuses key or model."""
        if self._fleet is not None:
            self._fleet.start()
        else:
            self._check(self._router.endpoints)

    def _check(self, endpoints: Sequence[Endpoint]) -> None:
        """One of several servers may be away for now; a wrong key or model is an error on each."""
        absent: list[AnswererError] = []
        for endpoint in endpoints:
            try:
                probe(endpoint.client, endpoint.settings, TRIES)
            except CallError as error:
                absent.append(unusable(error, endpoint.settings))
                if error.status is not None or len(absent) == len(endpoints):
                    raise absent[0] from error
                self._router.leave_out(endpoint, error)

    def _adopt(self, fleet: Fleet) -> None:
        """Find the servers of the run in another process than the one that started them."""
        with self._adopting:
            if not self._router.endpoints and not fleet.find():
                raise AnswererError(
                    "the servers that this run has started",
                    f"nobody answers at {', '.join(fleet.addresses)}",
                    "start them by hand and pass their addresses (--vlm.api_base=URL,URL) when workers run on other "
                    "machines, or pass --executor.runner=threads",
                )

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order. Raises AnswererError when the servers are of no use, or after `close`."""
        if self._fleet is not None and not self._router.endpoints and questions:
            self._adopt(self._fleet)
        exchanges = [Exchange(question, self._line) for question in questions]
        with self._lock:
            if self._over is not None:
                raise AnswererError(*self._over.args)
            self._open.update(exchanges)
        try:
            for exchange in exchanges:
                SHARED.submit(self, PRIORITIES.get(exchange.question.phase, 1), exchange.step)
            return [exchange.future.result() for exchange in exchanges]
        finally:  # after an error or Ctrl-C nobody waits for the rest
            with self._lock:
                self._open.difference_update(exchanges)
            for exchange in exchanges:
                exchange.future.cancel()

    def slots(self) -> tuple[Slots, ...]:
        """The servers, with the requests in flight."""
        return self._router.slots()

    def close(self) -> None:
        """Fail the open questions, drop the queued ones, free the connections, end our servers. Idempotent."""
        self._end(AnswererError("answers to the open questions", "the run was stopped", "run again: it resumes"))
        SHARED.leave(self)
        self._router.close()  # first: a server that ends in order waits for its connections
        if self._fleet is not None:
            self._fleet.close()

    def _end(self, error: AnswererError) -> None:
        """No question will be answered any more: every waiting caller is told at once."""
        with self._lock:
            if self._over is None:
                self._over = error
            exchanges = list(self._open)
        for exchange in exchanges:
            exchange.fail(AnswererError(*error.args))
