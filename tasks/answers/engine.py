"""What a model in this process must be able to do, and what is said to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from tasks.answers.client import Completion
from tasks.answers.messages import Message
from tasks.answers.question import Picture
from tasks.answers.request import thinks
from tasks.settings import VlmSettings

NO_CUDNN_VARIABLE = "CUEBOOK_DISABLE_CUDNN"  # some cuDNN builds fail in the convolutions of vision towers
YES = ("1", "true", "yes")
INSTALL = "pip install 'cuebook[{extra}]'"
MESSAGE_CHARS_MAX = 300


@dataclass(frozen=True)
class Prompt:
    """One attempt at a question, ready for a model."""

    text: str
    pictures: tuple[Picture, ...]
    answer: type[BaseModel]
    tokens_max: int
    correction: tuple[Message, ...] = ()  # the bad reply before, and what was wrong with it


class TooBig(Exception):
    """The prompts do not fit: into the context of the model, or (`memory`) all at once into the device."""

    def __init__(self, reason: str, memory: bool = False) -> None:
        super().__init__(reason, memory)
        self.reason, self.memory = reason, memory

    def __str__(self) -> str:
        return self.reason


class Engine(Protocol):
    """A model. Every method is called by one thread only, but for the attributes."""

    name: str  # of the device
    batch_max: int  # prompts it takes at once
    pads: bool  # prompts of one batch are padded to one length, so that unlike ones are better kept apart

    def load(self) -> None:
        """Make ready. Raises AnswererError."""

    def generate(self, prompts: Sequence[Prompt], stop: threading.Event) -> list[Completion]:
        """One completion per prompt; whatever was written so far when `stop` is set.

        Raises TooBig, AnswererError when the model is of no use any more, and anything else for prompts it cannot take.
        """

    def close(self) -> None:
        """Free the model. Idempotent."""


def template_kwargs(settings: VlmSettings, template: str | None = None) -> Mapping[str, Any]:
    """What the chat template is told; of thinking only one that may know of it. {} in the settings tells it nothing."""
    own = settings.chat_template_kwargs
    if own == {} or (template is not None and "enable_thinking" not in template):
        return own or {}
    return {"enable_thinking": settings.thinking, **(own or {})}


def is_constrained(settings: VlmSettings) -> bool:
    """Whether answers are held to their schema while they are written; thoughts would not fit it."""
    return settings.structured != "off" and not thinks(settings)


def disable_cudnn_if_asked() -> None:
    """Turn cuDNN off when the environment says so."""
    if os.environ.get(NO_CUDNN_VARIABLE, "").lower() in YES:
        import torch

        torch.backends.cudnn.enabled = False


def told(error: BaseException) -> str:
    """An error of a library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MESSAGE_CHARS_MAX]
