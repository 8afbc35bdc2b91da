"""Questions as chat messages: pictures first, as the JPEG bytes they are, and the prompt last."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import prompts
from tasks.answers.question import Picture, Question
from tasks.errors import AnswererError

REPLY_CHARS_MAX = 4000  # of a bad reply that is shown to the model again

Message = dict[str, Any]


@lru_cache(maxsize=64)  # describe and segment show the same sheets
def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def prompt_text(question: Question) -> str:
    """The prompt with its inputs. Raises AnswererError when a replaced prompt file cannot be filled."""
    try:
        return prompts.render(question.name, **question.inputs)
    except (OSError, KeyError, IndexError, ValueError) as error:
        given = ", ".join(f"{{{key}}}" for key in question.inputs) or "none"
        raise AnswererError(
            f"a prompt file {question.name} with the placeholders {given}",
            f"{type(error).__name__}: {error}",
            f"correct the file named by {prompts.OVERRIDE_PREFIX}{question.name.upper()}, braces of JSON doubled",
        ) from error


def user_message(text: str, pictures: Sequence[Picture]) -> Message:
    """The question: each picture behind its caption, then the text."""
    content: list[dict[str, Any]] = []
    for picture in pictures:
        if picture.caption:
            content.append({"type": "text", "text": picture.caption})
        content.append({"type": "image_url", "image_url": {"url": _data_url(picture.jpeg)}})
    content.append({"type": "text", "text": text})
    return {"role": "user", "content": content}


def correction(reply: str, problem: str) -> list[Message]:
    """The turns that show a bad reply to the model and ask for a better one."""
    return [
        {"role": "assistant", "content": reply[:REPLY_CHARS_MAX].strip() or "(nothing)"},
        {
            "role": "user",
            "content": f"That reply cannot be used: {problem}. Answer again with the bare JSON object only.",
        },
    ]


def thinned(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """Every second picture, with the first and the last always kept."""
    return (*pictures[:-1:2], *pictures[-1:])
