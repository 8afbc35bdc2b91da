"""The body of a chat request: what is asked, in the dialect that the server understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from tasks.answers import budget, messages, structured
from tasks.answers.dialect import THINKING_OFF, Dialect
from tasks.answers.question import Clip, Picture
from tasks.settings import VlmSettings

THOUGHT_TOKENS = 4096  # on top of the answer's, when the model is to think


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
    pictures = budget.fit(ask.pictures, dialect.images_max, None)  # one picture, as phase vqa sends, stays as it is
    said = messages.user_message(ask.text, pictures, ask.clips, settings.video_as)
    body: dict[str, Any] = {
        "model": settings.model_id,
        "messages": [said, *ask.correction],
        dialect.tokens_field: _tokens_max(ask, settings, dialect),
        **{field: value for field, value in _optional(ask, settings).items() if dialect.sends(field)},
    }
    if (wanted := structured.response_format(answer, rung, dialect.bare_schema)) is not None:
        body["response_format"] = wanted
    return body


def _optional(ask: Ask, settings: VlmSettings) -> dict[str, object]:
    """The fields that not every server takes."""
    fields: dict[str, object] = {"temperature": settings.temperature}
    if settings.reasoning_effort is not None:
        fields["reasoning_effort"] = settings.reasoning_effort
    if template := _template_kwargs(settings):
        fields["chat_template_kwargs"] = template
    if ask.clips:
        own = settings.mm_processor_kwargs
        fps = max(clip.fps for clip in ask.clips)
        fields["mm_processor_kwargs"] = {"fps": fps, "do_sample_frames": True} if own is None else own
    return fields


def _template_kwargs(settings: VlmSettings) -> Mapping[str, object]:
    """What the chat template is told: not to think, unless the settings want it; nothing when they hold {}."""
    own = settings.chat_template_kwargs
    if settings.thinking or own == {}:
        return own or {}
    return {**THINKING_OFF, **(own or {})}


def thinks(settings: VlmSettings) -> bool:
    """Whether the model may think before it answers."""
    return bool((settings.chat_template_kwargs or {}).get("enable_thinking", settings.thinking))


def _tokens_max(ask: Ask, settings: VlmSettings, dialect: Dialect) -> int:
    wanted = ask.tokens_max + THOUGHT_TOKENS * (thinks(settings) or settings.reasoning_effort is not None)
    return wanted if dialect.tokens_max is None else min(wanted, dialect.tokens_max)
