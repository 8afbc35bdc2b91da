"""What is said next about one question, and what a reply means: the rules that all models share, wherever they run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from tasks.answers import budget, messages, structured
from tasks.answers.client import Completion
from tasks.answers.question import PREVIEW_CHARS_MAX, Picture, Question
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

SHRINKS_MAX = 4
COUNTS_PIXELS = frozenset({"vqa"})  # phases whose answers name places in a picture: it must stay as it is


@dataclass(frozen=True)
class Step:
    """What comes of a reply: an answer, or a reason to give the question up; with neither, it is asked once more."""

    answer: BaseModel | None = None
    reason: str | None = None
    preview: str = ""  # the start of a reply that could not be used


AGAIN = Step()


class Attempt:
    """One question: its next request. Not thread-safe: one thread at a time moves it on."""

    def __init__(self, question: Question, settings: VlmSettings, pictures: Sequence[Picture], extra_tokens: int = 0):
        self._question = question
        self._scales = question.phase not in COUNTS_PIXELS
        self.text = messages.prompt_text(question)
        self.pictures = budget.fit(pictures, settings.max_images, settings.max_pixels, scale=self._scales)
        self.tokens_max = (question.max_tokens or settings.max_new_tokens) + extra_tokens
        self.correction: list[messages.Message] = []  # the bad reply before, and what was wrong with it
        self._cut = ""  # the reply that ran out of tokens, while a longer one is asked for
        self._grown = False
        self._shrinks = 0

    def replied(self, completion: Completion) -> Step:
        """Take a reply. No server is believed that it fits; a cut one may be longer once, a bad one corrected once."""
        answer, problem = structured.read(completion.text, self._question.answer)
        if answer is not None:
            return Step(answer)
        if completion.cut and not self._grown:
            self._grown, self._cut = True, completion.text
            self.tokens_max *= 2
            log.info("%s: cut off, asking again with %d tokens", self._question.label, self.tokens_max)
            return AGAIN
        return self._miss(completion.text, problem + (" (cut off)" if completion.cut else ""))

    def too_big(self, reason: str) -> Step | None:
        """Say less next time. None when nothing is left to leave out."""
        if self._cut:  # the doubled token limit was too much: back to the reply there was
            text, self._cut = self._cut, ""
            self.tokens_max //= 2
            return self._miss(text, "the reply was cut off: answer more briefly")
        before = self.pictures
        after = budget.smaller(before, scale=self._scales) if self._shrinks < SHRINKS_MAX else None
        if after is None:
            return None
        log.warning(
            "%s: %s; asking with %d pictures in place of %d", self._question.label, reason, len(after), len(before)
        )
        self._shrinks += 1
        self.pictures = after
        return AGAIN

    def _miss(self, text: str, problem: str) -> Step:
        if not self.correction:
            self.correction = messages.correction(text, problem)
            return AGAIN
        return Step(reason=problem, preview=" ".join(text.split())[:PREVIEW_CHARS_MAX])
