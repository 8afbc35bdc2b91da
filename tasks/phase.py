"""What every phase is given and gives back: questions asked with their failures noted, rows staged with a receipt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel

from tasks.answers.question import Answerer, Question, Usage
from tasks.dataset.episode import Episode
from tasks.dataset.frames import EpisodeFrames
from tasks.dataset.signals import Signals
from tasks.language.rows import Row
from tasks.settings import AnnotateSettings
from tasks.staging import Staging

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skip:
    """A question that went unanswered: which, and why."""

    episode: int
    phase: str
    question: str
    reason: str
    preview: str = ""  # the start of the reply that could not be used


@dataclass
class PhaseReport:
    """What one phase of one episode did."""

    episode: int
    phase: str
    status: str = "done"  # done, cached, failed
    rows: int = 0
    asked: int = 0
    answered: int = 0
    skips: list[Skip] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, for receipts and Prefect results."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PhaseReport:
        """The report that `to_json` gave."""
        skips = [Skip(**s) for s in data.get("skips", [])]
        return cls(**{**data, "skips": skips, "usage": Usage(**data.get("usage", {}))})


@dataclass
class PhaseContext:
    """One phase at work on one episode."""

    episode: Episode
    settings: AnnotateSettings
    answerer: Answerer
    frames: EpisodeFrames  # pictures of this episode, each decoded once for all phases
    staging: Staging
    report: PhaseReport
    dataset_rows: list[Row] | None = None  # rows that the dataset already has, where a phase builds on them
    signals: Callable[[], Signals] | None = None  # reads what the joints recorded; None: nobody can tell

    def ask(self, questions: Sequence[Question]) -> list[Any]:
        """Typed answers in order, None where there is none; failures go into the report."""
        if not questions:
            return []
        replies = self.answerer.answer(questions)
        out: list[BaseModel | None] = []
        for question, reply in zip(questions, replies, strict=True):
            self.report.asked += 1
            self.report.usage = self.report.usage + reply.usage
            if reply.answer is not None:
                self.report.answered += 1
            elif reply.reason is not None:
                self.report.skips.append(
                    Skip(self.episode.episode_index, self.report.phase, question.name, reply.reason, reply.preview)
                )
            out.append(reply.answer)
        return out

    def reject(self, question: str, reason: str) -> None:
        """Count an answer that came as a skip after all: its shape was right, its content cannot be."""
        self.report.answered -= 1
        self.report.skips.append(Skip(self.episode.episode_index, self.report.phase, question, reason))

    def ask_one(self, question: Question) -> Any:
        """The typed answer or None."""
        return self.ask([question])[0]


@dataclass(frozen=True)
class Staged:
    """The rows of one phase of one episode and what later phases need to know of them."""

    rows: list[Row]
    facts: dict[str, Any] = field(default_factory=dict)
