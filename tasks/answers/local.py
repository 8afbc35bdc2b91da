"""Answers from a model in this process: many threads ask, one thread owns the model and answers in batches."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from tasks.answers.client import Completion
from tasks.answers.engine import Engine, TooBig, told
from tasks.answers.failures import FIRST_FAILURES_MAX
from tasks.answers.openai import PRIORITIES
from tasks.answers.question import Note, Question, Reply, Slots, Usage, unnoted
from tasks.answers.talk import Talk
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

GATHER_S = 0.02  # how long an idle model waits for more questions to fill a batch
CLOSE_WAIT_S = 10.0  # for the token being written; the thread ends by itself afterwards
ENGINE_FAILURES_MAX = 4  # so many questions in a row made the model fail: it is broken


def local_answerer(vlm: VlmSettings, note: Note = unnoted) -> LocalAnswerer:
    """The answerer of backend=transformers or vllm. Loads nothing yet."""
    if vlm.backend == "vllm":
        from tasks.answers.vllm_engine import VllmEngine

        return LocalAnswerer(VllmEngine(vlm), vlm, note)
    from tasks.answers.transformers_engine import TransformersEngine

    return LocalAnswerer(TransformersEngine(vlm), vlm, note)


@dataclass(order=True)
class _Turn:
    priority: int
    number: int  # first come, first served within a priority
    talk: Talk = field(compare=False)


class LocalAnswerer:
    """Asks a model in this process. Thread-safe: questions of all callers are gathered into batches."""

    vqa_types: frozenset[str] | None = None
    needs_pictures = True

    def __init__(self, engine: Engine, settings: VlmSettings, note: Note = unnoted) -> None:
        self.model_id = settings.model_id
        self._engine, self._settings, self._note = engine, settings, note
        self._cond = threading.Condition()
        self._queue: list[_Turn] = []
        self._numbers = itertools.count()
        self._open: set[Talk] = set()
        self._stop = threading.Event()
        self._over: AnswererError | None = None
        self._loaded: Future[None] = Future()
        self._worker: threading.Thread | None = None
        self._batch_max = engine.batch_max
        self._busy = 0
        self._answered = self._failed = self._broken = 0  # touched by the worker alone

    # ------------------------------------------------------------------ for callers

    def preflight(self) -> None:
        """Load the model. Raises AnswererError when that cannot be."""
        with self._cond:
            self._start()
        self._loaded.result()

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order. Raises AnswererError when the model is of no use, or after `close`."""
        talks = [Talk(question, self._settings, self._note) for question in questions]
        with self._cond:
            self._start()
            self._open.update(talks)
            for talk in talks:
                self._enqueue(talk)
        try:
            return [talk.future.result() for talk in talks]
        finally:  # after an error or Ctrl-C nobody waits for the rest
            with self._cond:
                self._open.difference_update(talks)
            for talk in talks:
                talk.future.cancel()

    def slots(self) -> tuple[Slots, ...]:
        """The device, with the questions it works on."""
        with self._cond:
            state = "down" if self._over is not None else "up" if self._loaded.done() else "starting"
            return (Slots(self._engine.name, state, self._busy, self._batch_max),)

    def close(self) -> None:
        """Fail the open questions, end the worker, which frees the model. Idempotent."""
        self._end(AnswererError("answers to the open questions", "the run was stopped", "run again: it resumes"))
        worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join(CLOSE_WAIT_S)
            if worker.is_alive():
                log.warning("the model on %s is still busy: it is freed when it is done", self._engine.name)

    # ------------------------------------------------------------------ under the lock

    def _start(self) -> None:
        """Raises what ended the run, if anything did."""
        if self._over is not None:
            raise AnswererError(*self._over.args)
        if self._worker is None:
            self._worker = threading.Thread(target=self._run, name="vlm-model", daemon=True)
            self._worker.start()

    def _enqueue(self, talk: Talk, number: int | None = None) -> None:
        priority = PRIORITIES.get(talk.question.phase, 1)
        heapq.heappush(self._queue, _Turn(priority, next(self._numbers) if number is None else number, talk))
        self._cond.notify_all()

    def _next(self) -> list[_Turn]:
        """The next batch: the most urgent questions, of one phase where unlike ones would only pad each other."""
        with self._cond:
            self._busy = 0
            self._cond.wait_for(lambda: self._queue or self._over is not None)
            self._cond.wait_for(lambda: len(self._queue) >= self._batch_max or self._over is not None, GATHER_S)
            batch: list[_Turn] = []
            while self._over is None and self._queue and len(batch) < self._batch_max:
                if batch and self._engine.pads and self._queue[0].priority != batch[0].priority:
                    break
                turn = heapq.heappop(self._queue)
                if not turn.talk.future.done():
                    batch.append(turn)
            self._busy = len(batch)
            return batch

    # ------------------------------------------------------------------ the worker

    def _run(self) -> None:
        try:
            self._engine.load()
            with self._cond:
                if self._over is None:
                    self._loaded.set_result(None)
            while self._over is None:
                if batch := self._next():
                    self._work(batch)
        except AnswererError as error:
            self._end(error)
        except Exception as error:  # a bug must reach the waiting callers, not kill the worker in silence
            log.exception("the thread of %s failed", self._engine.name)
            self._end(AnswererError(f"answers from {self._engine.name}", told(error), "please report this as a bug"))
        finally:
            self._engine.close()

    def _work(self, batch: list[_Turn]) -> None:
        if self._over is not None:
            return
        began = time.monotonic()
        try:
            completions = self._engine.generate([turn.talk.prompt for turn in batch], self._stop)
        except AnswererError:
            raise
        except TooBig as error:
            self._spend(batch, began)
            self._too_big(batch, error)
        except Exception as error:  # noqa: BLE001 libraries and models raise anything
            self._spend(batch, began)
            self._failure(batch, error)
        else:
            self._broken = 0
            self._spend(batch, began, completions)
            for turn, completion in zip(batch, completions, strict=True):
                self._after(turn, turn.talk.replied(completion, self._engine.name))

    def _spend(self, batch: list[_Turn], began: float, completions: Sequence[Completion] | None = None) -> None:
        latency_s = time.monotonic() - began
        for i, turn in enumerate(batch):
            done = completions[i] if completions is not None else Completion("", False, 0, 0)
            turn.talk.spend(Usage(1, done.tokens_in, done.tokens_out, latency_s))

    def _too_big(self, batch: list[_Turn], error: TooBig) -> None:
        if len(batch) == 1:
            self._after(batch[0], batch[0].talk.shrink(str(error), self._engine.name))
            return
        half = len(batch) // 2
        if error.memory:
            log.warning("%s; answering %d at once from now on", error, half)
            self._batch_max = half
        self._work(batch[:half])
        self._work(batch[half:])

    def _failure(self, batch: list[_Turn], error: Exception) -> None:
        """Prompts the model cannot take: each alone, since one of them or their being together may be the reason."""
        if len(batch) > 1:
            log.warning("%s fails with %d prompts at once: %s", self._engine.name, len(batch), told(error))
            failed = self._failed
            for turn in batch:
                self._work([turn])
            if self._failed == failed:
                log.warning("%s takes one prompt at a time", self._engine.name)
                self._batch_max = 1
            return
        self._broken += 1
        batch[0].talk.skip(told(error), self._engine.name)
        self._after(batch[0], True)
        if self._broken >= ENGINE_FAILURES_MAX:
            raise AnswererError(
                f"answers from {self.model_id} on {self._engine.name}",
                f"{self._broken} failures in a row; the last: {told(error)}",
                "take another model or device, or serve the model: --vlm.backend=openai --vlm.auto_serve",
            )

    def _after(self, turn: _Turn, over: bool) -> None:
        """Go on with a question, or count it."""
        if not over:
            with self._cond:
                self._enqueue(turn.talk, turn.number)
            return
        future = turn.talk.future
        if future.cancelled() or future.exception() is not None:
            return
        reply = future.result()
        self._answered += reply.answer is not None
        self._failed += reply.answer is None
        if self._answered == 0 and self._failed >= FIRST_FAILURES_MAX:
            raise AnswererError(
                f"usable answers from {self.model_id} on {self._engine.name}",
                f"{self._failed} questions and no answer; the last: {reply.reason}",
                "take a model that follows instructions, or install xgrammar so that answers are held to their schema",
            )

    def _end(self, error: AnswererError) -> None:
        """No question will be answered any more: every waiting caller is told at once."""
        with self._cond:
            if self._over is None:
                self._over = error
            if not self._loaded.done():
                self._loaded.set_exception(AnswererError(*error.args))
            self._stop.set()
            self._queue.clear()
            talks = list(self._open)
            self._cond.notify_all()
        for talk in talks:
            talk.fail(AnswererError(*error.args), self._engine.name)
