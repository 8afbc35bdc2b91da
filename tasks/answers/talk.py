"""One question to a model in this process: what is said next, and when it is over."""

from __future__ import annotations

import logging
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace

from tasks.answers import budget, messages, structured
from tasks.answers.client import Completion
from tasks.answers.clip_frames import clip_frames
from tasks.answers.engine import Prompt, thinks
from tasks.answers.question import UNFINISHED, Note, Question, Reply, Usage
from tasks.answers.request import THOUGHT_TOKENS
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

SHRINKS_MAX = 4
PREVIEW_CHARS_MAX = 200


class Talk:
    """One question. The worker alone moves it on; `future` may be settled by any thread."""

    def __init__(self, question: Question, settings: VlmSettings, note: Note) -> None:
        self.question = question
        self.future: Future[Reply] = Future()
        self.cost = Usage()
        self._note = note
        self._rescaled = question.phase != "vqa"  # answers of that phase are pixels of the picture that was sent
        pictures = (*question.pictures, *(p for clip in question.clips for p in clip_frames(clip)))
        self._prompt = Prompt(
            messages.prompt_text(question),
            budget.fit(pictures, settings.max_images, settings.max_pixels, scale=self._rescaled),
            question.answer,
            (question.max_tokens or settings.max_new_tokens) + THOUGHT_TOKENS * thinks(settings),
        )
        self._cut = ""  # the reply that ran out of tokens, while a longer one is asked for
        self._grown = False
        self._shrinks = 0

    @property
    def prompt(self) -> Prompt:
        """What is said next."""
        return self._prompt

    def spend(self, usage: Usage) -> None:
        """Count an attempt, good or bad."""
        self.cost = self.cost + usage

    def replied(self, completion: Completion, server: str) -> bool:
        """Take the model's reply. False: it must be asked once more."""
        answer, problem = structured.read(completion.text, self.question.answer)
        if answer is not None:
            self._settle(Reply(answer, usage=self.cost, server=server))
            return True
        if completion.cut and not self._grown:
            self._grown, self._cut = True, completion.text
            self._prompt = replace(self._prompt, tokens_max=self._prompt.tokens_max * 2)
            log.info("%s: cut off, asking again with %d tokens", self.question.label, self._prompt.tokens_max)
            return False
        return self._miss(completion.text, problem + (" (cut off)" if completion.cut else ""), server)

    def shrink(self, reason: str, server: str) -> bool:
        """Say less, since the prompt was too big. False: it must be asked once more."""
        if self._cut:  # the doubled token limit was too much: back to the reply there was
            text, self._cut = self._cut, ""
            self._prompt = replace(self._prompt, tokens_max=self._prompt.tokens_max // 2)
            return self._miss(text, "the reply was cut off: answer more briefly", server)
        before = self._prompt.pictures
        after = budget.smaller(before, scale=self._rescaled) if self._shrinks < SHRINKS_MAX else None
        if after is None:
            self.skip(reason, server)
            return True
        log.warning("%s: %s; asking with %d of %d pictures", self.question.label, reason, len(after), len(before))
        self._shrinks += 1
        self._prompt = replace(self._prompt, pictures=after)
        return False

    def skip(self, reason: str, server: str, preview: str = "") -> None:
        """Give the question up."""
        log.info("%s: skipped: %s", self.question.label, reason)
        self._settle(Reply(None, reason, self.cost, server, preview))

    def fail(self, error: BaseException, server: str) -> None:
        """Settle with an error, unless settled before. What it cost is not lost with it."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return
        if self.cost.requests:
            self._note(self.question, Reply(None, f"{UNFINISHED}: {error}", self.cost, server))

    def _miss(self, text: str, problem: str, server: str) -> bool:
        """The reply is no answer: one correction, then the question is skipped."""
        if not self._prompt.correction:
            self._prompt = replace(self._prompt, correction=tuple(messages.correction(text, problem)))
            return False
        self.skip(problem, server, " ".join(text.split())[:PREVIEW_CHARS_MAX])
        return True

    def _settle(self, reply: Reply) -> None:
        try:
            self.future.set_result(reply)
        except InvalidStateError:  # the run ended meanwhile
            return
        self._note(self.question, reply)
