"""Answers recorded earlier: exact reruns, and runs without any model."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

import prompts
from tasks.answers.question import Answerer, Question, Reply, Slots
from tasks.errors import AnswererError

log = logging.getLogger(__name__)

DIGEST_BYTES = 16
NOT_RECORDED = "not in the recording"


def question_digest(question: Question, model: str) -> str:
    """Identity of all that shapes an answer: prompt, inputs, pictures, answer schema, model."""
    parts = [
        question.name,
        json.dumps(dict(question.inputs), sort_keys=True, default=str),
        prompts.digest(question.name),
        *(f"{_picture_digest(p.jpeg)}:{p.caption}" for p in question.pictures),
        _schema_digest(question.answer),
        model,
    ]
    return _blake(json.dumps(parts).encode())


def _blake(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


@lru_cache(maxsize=64)
def _picture_digest(jpeg: bytes) -> str:
    return _blake(jpeg)


@lru_cache(maxsize=64)
def _schema_digest(answer: type[BaseModel]) -> str:
    return _blake(json.dumps(answer.model_json_schema(), sort_keys=True).encode())


class RecordingAnswerer:
    """Passes questions on and appends every reply to a file, one JSON line each."""

    def __init__(self, inner: Answerer, path: Path) -> None:
        self.model_id = inner.model_id
        self.vqa_types = inner.vqa_types
        self.needs_pictures = inner.needs_pictures
        self._inner, self._path = inner, path
        self._lock = threading.Lock()
        self._file: int | None = None

    def preflight(self) -> None:
        """Raise AnswererError when nothing can be answered, or not be recorded."""
        self._inner.preflight()
        with self._lock:
            self._open()

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """The replies of the answerer behind."""
        replies = self._inner.answer(questions)
        for question, reply in zip(questions, replies, strict=True):
            self._append(self._line(question, reply))
        return replies

    def slots(self) -> tuple[Slots, ...]:
        """Those of the answerer behind."""
        return self._inner.slots()

    def close(self) -> None:
        """Close the file and the answerer behind. Idempotent."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
        self._inner.close()

    def _line(self, question: Question, reply: Reply) -> bytes:
        record = {
            "digest": question_digest(question, self.model_id),
            "model": self.model_id,
            "needs_pictures": self.needs_pictures,  # a replay must be asked the very same questions
            "vqa_types": None if self.vqa_types is None else sorted(self.vqa_types),
            "name": question.name,
            "phase": question.phase,
            "episode": None if question.episode is None else question.episode.episode_index,
            "answer": None if reply.answer is None else reply.answer.model_dump(mode="json"),
            "reason": reply.reason,  # a skip is replayed as a skip
        }
        return (json.dumps(record, sort_keys=True) + "\n").encode()

    def _append(self, line: bytes) -> None:
        with self._lock:
            try:
                os.write(self._open(), line)  # one call a line: a kill cuts at most the last one
            except OSError as error:
                raise _unwritable(self._path, error) from error

    def _open(self) -> int:
        if self._file is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _drop_cut_line(self._path)
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            except OSError as error:
                raise _unwritable(self._path, error) from error
        return self._file


def _drop_cut_line(path: Path) -> None:
    """Remove what a killed run left of its last line, so that the next line starts on its own."""
    if not path.exists():
        return
    with path.open("rb+") as f:
        data = f.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            f.truncate(whole)


def _unwritable(path: Path, error: OSError) -> AnswererError:
    return AnswererError(f"to record answers in {path}", str(error), "pass another file: --vlm.record_path=FILE.jsonl")


class ReplayAnswerer:
    """Answers from a recording. The same settings give the same rows again."""

    def __init__(self, path: Path, model: str | None = None) -> None:
        self._path, self._model = path, model

    @property
    def model_id(self) -> str:
        """The recorded model's name, marked as replayed."""
        return f"replay:{self._recorded_model}"

    @property
    def needs_pictures(self) -> bool:
        """Whether the recorded answerer was shown pictures: they are part of a question's identity."""
        return bool(self._first.get("needs_pictures", True))

    @property
    def vqa_types(self) -> frozenset[str] | None:
        """The visual questions that the recorded answerer could be asked."""
        types = self._first.get("vqa_types")
        return None if types is None else frozenset(types)

    def preflight(self) -> None:
        """Raise AnswererError when the recording is missing, empty or damaged."""
        log.info("replaying %d answers of %s", len(self._records), self._recorded_model)

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """The recorded reply of each question; skipped where there is none."""
        return [self._reply(question) for question in questions]

    def slots(self) -> tuple[Slots, ...]:
        """There is no server."""
        return ()

    def close(self) -> None:
        """Nothing is held open."""

    def _reply(self, question: Question) -> Reply:
        digest = question_digest(question, self._recorded_model)
        episode = None if question.episode is None else question.episode.episode_index
        record = self._records.get((digest, episode)) or self._records.get((digest, None))
        if record is None:
            return Reply(None, NOT_RECORDED)
        if record["answer"] is None:
            return Reply(None, record.get("reason"))
        try:
            return Reply(question.answer.model_validate(record["answer"]))
        except ValidationError as error:
            return Reply(None, f"the recorded answer does not fit: {error.errors(include_url=False)[0]['msg']}")

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        return _read(self._path)

    @cached_property
    def _recorded_model(self) -> str:
        models = list(dict.fromkeys(str(line["model"]) for line in self._lines))
        if self._model in models:
            return str(self._model)
        if len(models) > 1:
            raise AnswererError(
                f"the answers of {self._model or 'one model'} in {self._path}",
                f"answers of {', '.join(models)}",
                "say whose to replay: --vlm.model_id=NAME",
            )
        return models[0]

    @cached_property
    def _first(self) -> dict[str, Any]:
        return next(line for line in self._lines if line["model"] == self._recorded_model)

    @cached_property
    def _records(self) -> Mapping[tuple[str, int | None], dict[str, Any]]:
        """By question and episode, and by question alone: the same question may be asked of several episodes."""
        found: dict[tuple[str, int | None], dict[str, Any]] = {}
        for line in self._lines:
            for key in ((line["digest"], line.get("episode")), (line["digest"], None)):
                if line["answer"] is not None or found.get(key, line)["answer"] is None:
                    found[key] = line  # a later answer replaces an earlier one; a failure never does
        return found


def _read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a recording."""
    remedy = "record one with --vlm.record_path, or pass another: --vlm.replay_path=FILE.jsonl"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise AnswererError(f"a recording of answers at {path}", str(error), remedy) from error
    lines = raw.split(b"\n")
    lines.pop()  # what follows the last line break was cut by a kill, or is nothing
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not (
                isinstance(record, dict) and isinstance(record["digest"], str) and {"model", "answer"} <= set(record)
            ):
                raise KeyError("digest, model or answer")
        except (ValueError, KeyError) as error:
            raise AnswererError(f"a recorded answer in line {number} of {path}", repr(error), remedy) from error
        records.append(record)
    if not records:
        raise AnswererError(f"recorded answers in {path}", "an empty file", remedy)
    return records
