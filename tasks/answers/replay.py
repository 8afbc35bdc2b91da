"""Answers recorded earlier: exact reruns, and runs without any model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from tasks.answers.identity import batch_digests
from tasks.answers.ledger import LEDGER_NAME
from tasks.answers.ledger_index import LedgerIndex, Recorder, read_index
from tasks.answers.question import Note, Question, Reply, Slots, unnoted
from tasks.errors import AnswererError

log = logging.getLogger(__name__)

NOT_RECORDED = "not in the recording"


class ReplayAnswerer:
    """Answers from a ledger, or from the ledger in a staging folder. The same settings give the same rows again."""

    def __init__(self, path: Path, model: str | None = None, note: Note = unnoted) -> None:
        self._path = path / LEDGER_NAME if path.is_dir() else path
        self._model, self._note = model, note

    @property
    def recorded_model(self) -> str:
        """Whose answers these are: what its prompts and coordinates were made for."""
        return self._recorder.model

    @property
    def model_id(self) -> str:
        """The recorded model's name, marked as replayed."""
        return f"replay:{self.recorded_model}"

    @property
    def needs_pictures(self) -> bool:
        """Whether the recorded answerer was shown pictures: they are part of a question's identity."""
        return self._recorder.needs_pictures

    @property
    def vqa_types(self) -> frozenset[str] | None:
        """The visual questions that the recorded answerer could be asked."""
        return self._recorder.vqa_types

    def preflight(self) -> None:
        """Raise AnswererError when the ledger is missing or empty, or holds answers of several other models."""
        log.info("replaying %d calls of %s", len(self._index), self.recorded_model)

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """The recorded reply of each question; skipped where there is none."""
        digests = batch_digests(questions, self.recorded_model)
        replies = [self._reply(question, *found) for question, found in zip(questions, digests, strict=True)]
        for question, reply in zip(questions, replies, strict=True):
            self._note(question, reply)
        return replies

    def slots(self) -> tuple[Slots, ...]:
        """There is no server."""
        return ()

    def close(self) -> None:
        """Nothing is held open."""

    def _reply(self, question: Question, digest: str, twin: int) -> Reply:
        episode = None if question.episode is None else question.episode.episode_index
        record = self._index.find(digest, episode, twin)
        if record is None:
            return Reply(None, NOT_RECORDED)
        if record["answer"] is None:
            return Reply(None, record.get("reason"), preview=record.get("preview") or "")
        try:
            return Reply(question.answer.model_validate(record["answer"]))
        except ValidationError as error:
            return Reply(None, f"the recorded answer does not fit: {error.errors(include_url=False)[0]['msg']}")

    @cached_property
    def _index(self) -> LedgerIndex:
        return read_index(self._path)

    @cached_property
    def _recorder(self) -> Recorder:
        recorders = self._index.recorders
        named = next((r for r in recorders if r.model == self._model), None)
        if named is None and len(recorders) > 1:
            raise AnswererError(
                f"the answers of {self._model or 'one model'} in {self._path}",
                f"answers of {', '.join(r.model for r in recorders)}",
                "say whose to replay: --vlm.model_id=NAME",
            )
        return named or recorders[0]
