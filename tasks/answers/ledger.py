"""What was asked, what came back and what it cost: one JSON line a call, appended as soon as the call is over.

The ledger is a record: it outlives runs, grows, and is what `replay` answers from and `tasks.ledger` sums up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prompts
from tasks.answers.identity import batch_digests, question_digest
from tasks.answers.question import PREVIEW_CHARS_MAX, UNFINISHED, Answerer, Question, Reply, Slots
from tasks.dataset.lock import NO_LOCKS_HERE
from tasks.errors import AnswererError

log = logging.getLogger(__name__)

LEDGER_NAME = "ledger.jsonl"  # inside the staging folder
REASON_CHARS_MAX = 1000
TAIL_BYTES = 1 << 16  # read at a time when looking for the last whole line


class Ledger:
    """Appends a line for each call. Thread-safe; several processes may append to one file."""

    def __init__(self, path: Path, run_id: str, model_id: str, needs_pictures: bool, vqa_types: frozenset[str] | None):
        self.path = path
        self._model = model_id
        self._constant = {
            "run_id": run_id,
            "model": model_id,
            "needs_pictures": needs_pictures,  # a replay must be asked the very same questions
            "vqa_types": None if vqa_types is None else sorted(vqa_types),
        }
        self._lock = threading.Lock()
        self._file: int | None = None
        self._asked: dict[int, tuple[str, int]] = {}  # by id of the question: its digest, its number among the same
        self._broken: str | None = None

    def check(self) -> None:
        """Raise AnswererError when lines cannot be written, or one could not: a run must not go on unrecorded."""
        with self._lock:
            if self._broken is None:
                try:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._open()
                except OSError as error:
                    self._broken = str(error)
            if self._broken is not None:
                raise AnswererError(
                    f"to record calls in {self.path}",
                    self._broken,
                    "free space, or pass another file: --vlm.record_path=FILE.jsonl; finished work is kept",
                )

    @contextmanager
    def asking(self, questions: Sequence[Question]) -> Iterator[None]:
        """While questions are asked together: the same question twice has two answers, told apart by their order."""
        found = dict(zip(map(id, questions), batch_digests(questions, self._model), strict=True))
        with self._lock:
            self._asked.update(found)
        try:
            yield
        finally:
            with self._lock:
                for key in found:
                    self._asked.pop(key, None)

    def note(self, question: Question, reply: Reply) -> None:
        """Append one call. Never raises: a failure is remembered, and raised by the next `check`."""
        try:
            line = self._line(question, reply)
            with self._lock:
                if self._broken is None:
                    self._append(line)
        except Exception as error:  # noqa: BLE001 the thread that answers must live; the run ends at the next check
            self._broken = f"{type(error).__name__}: {error}"
            log.error("%s cannot be written: %s", self.path, self._broken)

    def close(self) -> None:
        """Close the file. Idempotent; a call that ends later still is recorded."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _line(self, question: Question, reply: Reply) -> bytes:
        digest, twin = self._asked.get(id(question)) or (question_digest(question, self._model), 0)
        record: dict[str, Any] = {
            **self._constant,
            "digest": digest,
            "time": round(time.time(), 3),
            "name": question.name,
            "phase": question.phase,
            "episode": None if question.episode is None else question.episode.episode_index,
            "server": reply.server,
            "prompt": prompts.digest(question.name),
            "pictures": len(question.pictures) + len(question.clips),
            "picture_bytes": _picture_bytes(question),
            "tokens_in": reply.usage.tokens_in,
            "tokens_out": reply.usage.tokens_out,
            "latency_s": round(reply.usage.latency_s, 6),
            "attempts": reply.usage.requests,
            "outcome": outcome(reply),
            "reason": None if reply.reason is None else reply.reason[:REASON_CHARS_MAX],
            "preview": reply.preview[:PREVIEW_CHARS_MAX],
            "answer": None if reply.answer is None else reply.answer.model_dump(mode="json"),
        }
        if twin:
            record["twin"] = twin
        text = json.dumps(record, sort_keys=True, ensure_ascii=False)
        return text.encode("utf-8", "replace") + b"\n"  # no reader of JSON takes lone surrogates

    def _append(self, line: bytes) -> None:
        written = os.write(self._open(), line)  # one call a line: lines of other threads and processes never mix
        if written != len(line):
            raise OSError(errno.ENOSPC, f"wrote {written} of {len(line)} bytes")

    def _open(self) -> int:
        if self._file is None:
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                _drop_cut_line(file)
            except BaseException:
                os.close(file)
                raise
            self._file = file
        return self._file


def outcome(reply: Reply) -> str:
    """answered; skipped: no answer, and why; unknown: the answerer cannot know; lost: the run ended before."""
    if reply.answer is not None:
        return "answered"
    if reply.reason is None:
        return "unknown"
    return "lost" if reply.reason.startswith(UNFINISHED) else "skipped"


def _picture_bytes(question: Question) -> int:
    size = sum(len(p.jpeg) for p in question.pictures)
    for clip in question.clips:
        with contextlib.suppress(OSError):  # the cost of a clip that is gone meanwhile stays unknown
            size += clip.path.stat().st_size
    return size


def _drop_cut_line(file: int) -> None:
    """Remove what a killed run left of its last line, unless another process is writing: then all lines are whole.

    Whoever writes holds a shared lock.
    """
    if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
        size = os.fstat(file).st_size
        whole = _whole_bytes(file, size)
        if whole < size:
            os.ftruncate(file, whole)
    _lock(file, fcntl.LOCK_SH)


def _lock(file: int, how: int) -> bool:
    """False when another process holds it. Where there are no locks it counts as ours."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise
    return True


def _whole_bytes(file: int, size: int) -> int:
    """How many bytes the whole lines take."""
    end = size
    while end:
        start = max(0, end - TAIL_BYTES)
        cut = os.pread(file, end - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


class LedgerAnswerer:
    """Passes questions on to an answerer that notes its calls in a ledger, and ends the run when it cannot be kept."""

    def __init__(self, inner: Answerer, ledger: Ledger) -> None:
        self.inner, self.ledger = inner, ledger

    @property
    def model_id(self) -> str:
        """That of the answerer behind."""
        return self.inner.model_id

    @property
    def vqa_types(self) -> frozenset[str] | None:
        """Those of the answerer behind."""
        return self.inner.vqa_types

    @property
    def needs_pictures(self) -> bool:
        """As the answerer behind."""
        return self.inner.needs_pictures

    def preflight(self) -> None:
        """Raise AnswererError when nothing can be answered, or not be recorded."""
        self.ledger.check()
        self.inner.preflight()

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """The replies of the answerer behind. Raises AnswererError when a call could not be recorded."""
        self.ledger.check()
        with self.ledger.asking(questions):
            return self.inner.answer(questions)

    def slots(self) -> tuple[Slots, ...]:
        """Those of the answerer behind."""
        return self.inner.slots()

    def close(self) -> None:
        """Close the answerer behind, which may note calls until then, and the file. Idempotent."""
        self.inner.close()
        self.ledger.close()
