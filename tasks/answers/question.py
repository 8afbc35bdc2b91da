"""The seam between phases and models: a Question goes out, a typed answer or None comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from tasks.dataset.episode import Episode

PICTURE_DIGEST_BYTES = 16
UNFINISHED = "not finished"  # how the reason begins when the run ended before the question was over


@dataclass(frozen=True)
class Picture:
    """One encoded picture. Encoded once, sent as it is, however many questions use it."""

    jpeg: bytes
    width: int
    height: int
    caption: str = ""  # text sent just before the picture ("previous segment")

    @cached_property
    def digest(self) -> str:
        """Identity of its bytes, made once however many questions show it."""
        return hashlib.blake2b(self.jpeg, digest_size=PICTURE_DIGEST_BYTES).hexdigest()


@dataclass(frozen=True)
class Clip:
    """A video file to watch: one camera's stretch of an episode, re-encoded as H.264 so that any server can read it."""

    path: Path
    digest: str  # of what it shows: source video, stretch, size
    seconds: float
    width: int
    height: int
    fps: float  # frames per second that the model should look at
    caption: str = ""


@dataclass(frozen=True)
class Question:
    """Everything asked at once of a model: prompt name, inputs, pictures, and the shape of the answer."""

    name: str  # stem of the prompt file and key of the answer in a replay store
    answer: type[BaseModel]
    inputs: Mapping[str, Any]  # the prompt's placeholders
    pictures: tuple[Picture, ...] = ()
    phase: str = "plan"
    episode: Episode | None = None  # recorded signals, for answerers that look at motion rather than pictures
    window_s: tuple[float, float] | None = None  # episode time the question covers; None: all of it
    max_tokens: int | None = None  # reply limit; None: the answerer's own
    clips: tuple[Clip, ...] = ()

    @property
    def label(self) -> str:
        """For logs and reports."""
        where = "" if self.episode is None else f" of episode {self.episode.episode_index}"
        return f"{self.phase}/{self.name}{where}"


@dataclass(frozen=True)
class Usage:
    """What a call cost. Counts add up."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    latency_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.latency_s + other.latency_s,
        )


@dataclass(frozen=True)
class Reply:
    """The outcome of one question. `answer` None means skip; `reason` then says why, unless there is nothing wrong."""

    answer: BaseModel | None
    reason: str | None = None  # None with no answer: the answerer cannot know, which is no failure
    usage: Usage = field(default_factory=Usage)  # of all attempts
    server: str = ""  # who answered: a server's address, or the device of a model in this process
    preview: str = ""  # the start of a reply that could not be used


PREVIEW_CHARS_MAX = 200
Note = Callable[[Question, Reply], None]  # told of each call when it is over, from any thread; must not raise


def unnoted(question: Question, reply: Reply) -> None:
    """A note that nobody keeps."""


@dataclass(frozen=True)
class Slots:
    """How busy a server is, for the progress view."""

    name: str
    state: str  # starting, up, down
    busy: int
    limit: int


class Answerer(Protocol):
    """Anything that answers questions. Thread-safe: phases of many episodes ask at once."""

    model_id: str  # part of every cache key
    vqa_types: frozenset[str] | None  # the visual question types it can answer; None: all
    needs_pictures: bool  # False: phases need not decode any video

    def preflight(self) -> None:
        """Raise AnswererError when no question can be answered. Called before any decoding."""

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order. Raises AnswererError only when going on makes no sense."""

    def slots(self) -> tuple[Slots, ...]:
        """Health and use of each server, now; empty where there is none."""

    def close(self) -> None:
        """Free connections and threads, end servers that were started. Idempotent."""
