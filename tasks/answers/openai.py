"""Answers from any OpenAI-compatible server."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tasks.answers.client import ChatClient
from tasks.answers.exchange import Exchange, Line
from tasks.answers.failures import Breaker, RetryLog
from tasks.answers.pool import SHARED
from tasks.answers.preflight import preflight
from tasks.answers.question import Note, Question, Reply, Slots, unnoted
from tasks.answers.structured import dialect_of
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

PRIORITIES = {"plan": 0, "interjections": 1, "vqa": 2}  # later phases of an episode wait for the earlier ones


class OpenAIAnswerer:
    """Asks a server over HTTP. However many threads ask, at most `client_concurrency` requests are in flight."""

    vqa_types: frozenset[str] | None = None
    needs_pictures = True

    def __init__(self, settings: VlmSettings, note: Note = unnoted) -> None:
        self.model_id = settings.model_id
        self._settings = settings
        self._client = ChatClient(settings)
        dialect = dialect_of(settings.api_base, settings.model_id)
        self._line = Line(settings, self._client, dialect, Breaker(settings), RetryLog(), self._end, note)
        self._lock = threading.Lock()
        self._open: set[Exchange] = set()
        self._over: AnswererError | None = None
        SHARED.join(self, settings.client_concurrency)

    def preflight(self) -> None:
        """Raise AnswererError when the server is down, refuses the key or does not have the model."""
        preflight(self._client, self._settings)

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order. Raises AnswererError when the server is of no use, or after `close`."""
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
        """The server, with the requests in flight."""
        return ()

    def close(self) -> None:
        """Fail the open questions, drop the queued ones and free the connections. Idempotent."""
        self._end(AnswererError("answers to the open questions", "the run was stopped", "run again: it resumes"))
        SHARED.leave(self)
        self._client.close()

    def _end(self, error: AnswererError) -> None:
        """No question will be answered any more: every waiting caller is told at once."""
        with self._lock:
            if self._over is None:
                self._over = error
            exchanges = list(self._open)
        for exchange in exchanges:
            exchange.fail(AnswererError(*error.args))
