"""The body of a chat request: what is asked, in the dialect that the server understands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from tasks.answers import messages, structured
from tasks.answers.question import Clip, Picture
from tasks.answers.structured import Dialect
from tasks.settings import VlmSettings


@dataclass(frozen=True)
class Ask:
    """One attempt at a question."""

    text: str
    pictures: Sequence[Picture]
    clips: Sequence[Clip]
    tokens_max: int
    correction: Sequence[messages.Message] = ()  # the bad reply before, and what was wrong with it


def build(ask: Ask, answer: type[BaseModel], rung: int, settings: VlmSettings, dialect: Dialect) -> dict[str, Any]:
    """The JSON body of a request."""
    body: dict[str, Any] = {
        "model": settings.model_id,
        "messages": [messages.user_message(ask.text, ask.pictures), *ask.correction],
        dialect.tokens_field: ask.tokens_max,
    }
    if dialect.sends_temperature:
        body["temperature"] = settings.temperature
    if (wanted := structured.response_format(answer, rung)) is not None:
        body["response_format"] = wanted
    if settings.reasoning_effort is not None:
        body["reasoning_effort"] = settings.reasoning_effort
    if settings.chat_template_kwargs is not None:
        body["chat_template_kwargs"] = settings.chat_template_kwargs
    return body
