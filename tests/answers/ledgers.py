"""Answerers that keep a ledger, for the tests of ledger and replay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.answers.ledger import Ledger, LedgerAnswerer
from tasks.answers.question import Note, Question, Reply, Usage, unnoted
from tasks.dataset.episode import Episode
from tasks.questions import Memory

USAGE = Usage(requests=2, tokens_in=30, tokens_out=7, latency_s=0.25)


def episode(index: int) -> Episode:
    times = np.arange(4, dtype=np.float32)
    return Episode(index, "task", times, np.arange(4), Path("data.parquet"), 0, 0, 1.0)


class Counting:
    """Answers with a number that grows, so that no two answers are alike."""

    model_id = "counting"
    vqa_types = frozenset({"count"})
    needs_pictures = False

    def __init__(self) -> None:
        self.asked = 0
        self.note: Note = unnoted

    def preflight(self) -> None: ...

    def close(self) -> None: ...

    def slots(self) -> tuple[()]:
        return ()

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        replies = [self._reply(question) for question in questions]
        for question, reply in reversed(list(zip(questions, replies, strict=True))):  # calls may end in any order
            self.note(question, reply)
        return replies

    def _reply(self, question: Question) -> Reply:
        self.asked += 1
        if question.inputs.get("note") == "unknown":
            return Reply(None)
        if question.inputs.get("note") == "broken":
            return Reply(None, "the server was down", USAGE, "http://a/v1", "<html> it broke")
        return Reply(Memory(memory=f"answer {self.asked}"), usage=USAGE, server="http://a/v1")


def keeping(path: Path, run_id: str = "run-1", inner: Counting | None = None) -> LedgerAnswerer:
    """An answerer that keeps a ledger."""
    inner = inner or Counting()
    ledger = Ledger(path, run_id, inner.model_id, inner.needs_pictures, inner.vqa_types)
    inner.note = ledger.note
    return LedgerAnswerer(inner, ledger)


def recorded(
    path: Path, *batches: Sequence[Question], run_id: str = "run-1", inner: Counting | None = None
) -> list[list[Reply]]:
    """Ask in batches, keep a ledger, and close it."""
    answerer = keeping(path, run_id, inner)
    answerer.preflight()
    replies = [answerer.answer(batch) for batch in batches]
    answerer.close()
    answerer.close()
    return replies
