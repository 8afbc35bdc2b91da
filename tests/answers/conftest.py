"""Prompts, questions and answerers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tasks.answers import dialect
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers.question import Picture, Question
from tasks.questions import Count, Memory, Segments
from tasks.settings import VlmSettings
from tests.answers.bad_server import BadServer

PROMPTS = {
    "plan_memory": '{note} Reply as {{"memory": "..."}}.',
    "plan_subtasks": 'Seconds in [0, {duration}]. Reply as {{"subtasks": [{{"text": "...", "start": 0, "end": 1}}]}}.',
    "vqa_count": '{note} Reply as {{"label": "...", "count": 1}}.',
}


@pytest.fixture(autouse=True)
def prompt_files(tmp_path, monkeypatch):
    """Small prompts of known text in place of the shipped ones."""
    for name, text in PROMPTS.items():
        path = tmp_path / f"{name}.txt"
        path.write_text(text)
        monkeypatch.setenv(f"CUEBOOK_PROMPT_{name.upper()}", str(path))


def memory(note: object = "what next?", *pictures: Picture, **more: object) -> Question:
    return Question("plan_memory", Memory, {"note": note}, pictures, **more)


def subtasks(duration: float = 8.0, *pictures: Picture) -> Question:
    return Question("plan_subtasks", Segments, {"duration": duration}, pictures)


def count(note: object = "how many?", **more: object) -> Question:
    return Question("vqa_count", Count, {"note": note}, phase="vqa", **more)


def picture(number: int, caption: str = "") -> Picture:
    """Bytes that tell pictures apart; no server of these tests decodes them."""
    return Picture(b"\xff\xd8" + bytes([number]) * 30 + b"\xff\xd9", 16, 16, caption)


@pytest.fixture(autouse=True)
def unlearned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what servers of earlier tests were like: a new one may be given the same port."""
    monkeypatch.setattr(dialect, "_dialects", {})


Connect = Callable[..., OpenAIAnswerer]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes answerers with short time-outs, closed after the test."""
    made: list[OpenAIAnswerer] = []

    def make(server: BadServer | str, **settings: object) -> OpenAIAnswerer:
        base = server if isinstance(server, str) else server.api_base
        short = {"request_timeout_s": 5.0, "retry_backoff_s": 0.01, "max_retries": 2, "model_id": "test-vlm"}
        made.append(OpenAIAnswerer(VlmSettings(backend="openai", api_base=base, **{**short, **settings})))
        return made[-1]

    yield make
    for answerer in made:
        answerer.close()
