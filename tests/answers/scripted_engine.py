"""A model whose replies a test writes: nothing is loaded, everything is looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from tasks.answers.client import Completion
from tasks.answers.engine import Prompt

WAIT_S = 10.0


class ScriptedEngine:
    """Replies by a function of the prompt: text, a completion, or an error to raise."""

    name = "desk"

    def __init__(self, script: Callable[[Prompt], object], batch_max: int = 4, pads: bool = True) -> None:
        self.batch_max, self.pads = batch_max, pads
        self.batches: list[list[Prompt]] = []
        self.threads: set[int] = set()
        self.loads = self.closes = 0
        self.fails_to_load: Exception | None = None
        self.busy = threading.Event()  # a batch has begun
        self.go = threading.Event()  # let it end
        self.go.set()
        self._script = script

    @property
    def asked(self) -> list[Prompt]:
        """All prompts so far."""
        return [prompt for batch in self.batches for prompt in batch]

    def load(self) -> None:
        """Count."""
        self.threads.add(threading.get_ident())
        self.loads += 1
        if self.fails_to_load is not None:
            raise self.fails_to_load

    def generate(self, prompts: Sequence[Prompt], stop: threading.Event) -> list[Completion]:
        """What the script says, once `go` is set or `stop` is."""
        self.threads.add(threading.get_ident())
        self.batches.append(list(prompts))
        self.busy.set()
        while not (stop.is_set() or self.go.wait(0.01)):
            pass
        return [self._reply(prompt) for prompt in prompts]

    def close(self) -> None:
        """Count."""
        self.threads.add(threading.get_ident())
        self.closes += 1

    def _reply(self, prompt: Prompt) -> Completion:
        said = self._script(prompt)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Completion) else Completion(str(said), False, 10, 5)
