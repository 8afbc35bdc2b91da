"""One question to a model in this process: what is said next, and when it is over."""

from __future__ import annotations

import logging
from concurrent.futures import Future, InvalidStateError

from tasks.answers.attempt import Attempt, Step
from tasks.answers.client import Completion
from tasks.answers.clip_frames import clip_frames
from tasks.answers.engine import Prompt
from tasks.answers.question import UNFINISHED, Note, Question, Reply, Usage
from tasks.answers.request import THOUGHT_TOKENS, thinks
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)


class Talk:
    """One question. The worker alone moves it on; `future` may be settled by any thread."""

    def __init__(self, question: Question, settings: VlmSettings, note: Note) -> None:
        self.question = question
        self.future: Future[Reply] = Future()
        self.cost = Usage()
        self._note = note
        pictures = (*question.pictures, *(p for clip in question.clips for p in clip_frames(clip)))
        self._attempt = Attempt(question, settings, pictures, THOUGHT_TOKENS * thinks(settings))

    @property
    def prompt(self) -> Prompt:
        """What is said next."""
        said = self._attempt
        return Prompt(said.text, said.pictures, self.question.answer, said.tokens_max, tuple(said.correction))

    def spend(self, usage: Usage) -> None:
        """Count an attempt, good or bad."""
        self.cost = self.cost + usage

    def replied(self, completion: Completion, server: str) -> bool:
        """Take the model's reply. False: it must be asked once more."""
        return self._ends(self._attempt.replied(completion), server)

    def shrink(self, reason: str, server: str) -> bool:
        """Say less, since the prompt was too big. False: it must be asked once more."""
        return self._ends(self._attempt.too_big(reason) or Step(reason=reason), server)

    def _ends(self, step: Step, server: str) -> bool:
        if step.answer is not None:
            self._settle(Reply(step.answer, usage=self.cost, server=server))
        elif step.reason is not None:
            self.skip(step.reason, server, step.preview)
        else:
            return False
        return True

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

    def _settle(self, reply: Reply) -> None:
        try:
            self.future.set_result(reply)
        except InvalidStateError:  # the run ended meanwhile
            return
        self._note(self.question, reply)
