"""What a server and model accept, learned from refusals: one extra request a finding, kept while the process lives.

Nothing is stored across runs: that would save about three short requests a run, and a server that was upgraded since,
or another one at the same address, would be asked in the lesser way for ever.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from tasks.answers.structured import LADDER, OFF

log = logging.getLogger(__name__)

TOKENS_LEAST = 16  # a smaller limit in a refusal is no limit of tokens
THINKING_OFF: Mapping[str, object] = {"enable_thinking": False}

# Fields that a request can do without, and how a refusal names them. Tokenizers of Mistral take no template at all.
_OPTIONAL = {
    "chat_template_kwargs": re.compile(r"chat_template|enable_thinking", re.IGNORECASE),
    "mm_processor_kwargs": re.compile(r"mm_processor|do_sample_frames|bad_alloc", re.IGNORECASE),
    "reasoning_effort": re.compile(r"reasoning[_ .]effort", re.IGNORECASE),
    "temperature": re.compile(r"temperature", re.IGNORECASE),
}
_SCHEMA = re.compile(  # the schema is at fault, not the wish for one
    r"invalid[ _](json[ _])?schema\b|schema (contains|uses).{0,40}not supported"
    r"|(?<!json )\bschema\b.{0,60}(invalid|support)"
    r"|(fail|error|cannot|unable).{0,40}grammar|grammar.{0,40}(fail|error|too|invalid)|repetitions"
    r"|m(in|ax)(imum|Items|Length)|additional_?properties|anyOf|\bstrict\b|not permitted",
    re.IGNORECASE,
)
_TOKENS_MAX = re.compile(
    r"(?:at most|less than or equal to|no more than|up to|maximum of|>|<=|is \[\d+,)\W{0,3}(\d{2,7})\b", re.IGNORECASE
)
_IMAGES_MAX = re.compile(
    r"(?:at most|up to|no more than|maximum of|limit of) (\d+) images?\b|image=(\d+)\b", re.IGNORECASE
)


def names_optional(message: str) -> bool:
    """Whether a refusal names a field that a request can do without."""
    return any(names.search(message) for names in _OPTIONAL.values())


class Dialect:
    """What one server and model accept. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._rung = 0
        self._by_answer: dict[type[BaseModel], int] = {}
        self._proved: set[int] = set()  # rungs that gave a reply
        self._cleared = False
        self._refused: frozenset[str] = frozenset()
        self.tokens_field = "max_tokens"
        self.tokens_max: int | None = None  # of one reply
        self.images_max: int | None = None  # of one request
        self.bare_schema = False  # schemas without bounds

    # ------------------------------------------------------------------ response formats

    def rung(self, answer: type[BaseModel]) -> int:
        """The strictest rung not yet refused."""
        with self._lock:
            return max(self._rung, self._by_answer.get(answer, 0))

    def proved(self, rung: int) -> None:
        """The server gave a reply on this rung."""
        if rung not in self._proved:
            with self._lock:
                self._proved.add(rung)

    def refused(self, rung: int, answer: type[BaseModel], to: int | None = None) -> None:
        """The server refused this rung: for every answer, or for this one alone when the rung served others before."""
        lower = min(OFF, rung + 1 if to is None else to)
        with self._lock:
            if max(self._rung, self._by_answer.get(answer, 0)) >= lower:
                return  # another question met the same refusal first
            if rung in self._proved:
                self._by_answer[answer] = lower
            else:
                self._rung = lower
        log.warning("%s refuses response_format %s: using %s", self._name, LADDER[rung], LADDER[lower])

    def doubts(self, rung: int) -> bool:
        """Whether an unexplained refusal may be about the format: no reply ever came on this rung."""
        return not (rung == OFF or self._cleared or rung in self._proved)

    def cleared(self) -> None:
        """A question was refused without a format too: unexplained refusals have other reasons."""
        self._cleared = True

    # ------------------------------------------------------------------ fields

    def sends(self, field: str) -> bool:
        """Whether this field was never refused."""
        return field not in self._refused

    def adapt(self, message: str, body: Mapping[str, Any]) -> bool:
        """Learn from a refusal that names a part of `body`. False: there is none that can be changed."""
        with self._lock:
            named = [f for f, names in _OPTIONAL.items() if f in body and names.search(message)]
            for field in named:
                self._drop(field, body[field])
            adapts = (self._adapt_images, self._adapt_tokens, self._adapt_schema)
            return bool(named) or any(adapt(message, body) for adapt in adapts)

    def _drop(self, field: str, value: object) -> None:
        if field in self._refused:
            return  # another question met the same refusal first
        self._refused |= {field}
        ours = value == THINKING_OFF or field == "mm_processor_kwargs"
        level = logging.INFO if ours else logging.WARNING  # what the user asked for is not dropped in silence
        log.log(level, "%s takes no %s: going on without %s", self._name, field, value)

    def _adapt_images(self, message: str, body: Mapping[str, Any]) -> bool:
        """Some servers count pictures."""
        limit = _IMAGES_MAX.search(message)
        images_max = int(limit[1] or limit[2]) if limit else 0
        parts = (part for said in body["messages"] if isinstance(said["content"], list) for part in said["content"])
        if not 0 < images_max < sum(part["type"] == "image_url" for part in parts):
            return False
        if self.images_max is None or images_max < self.images_max:
            self.images_max = images_max
            log.warning("%s takes at most %d pictures in a request: --vlm.max_images", self._name, images_max)
        return True

    def _adapt_tokens(self, message: str, body: Mapping[str, Any]) -> bool:
        """Newer models want another field, and most have a limit."""
        if "max_completion_tokens" in message and "max_tokens" in body:
            self.tokens_field = "max_completion_tokens"
            log.info("%s wants max_completion_tokens", self._name)
            return True
        asked = body.get("max_tokens") or body.get("max_completion_tokens")
        limit = _TOKENS_MAX.search(message) if re.search(r"max(_completion|_new)?_tokens", message) else None
        if limit is None or asked is None or not TOKENS_LEAST <= int(limit[1]) < asked:
            return False
        self.tokens_max = min(int(limit[1]), self.tokens_max or asked)
        log.warning("%s gives at most %d tokens in a reply", self._name, self.tokens_max)
        return True

    def _adapt_schema(self, message: str, body: Mapping[str, Any]) -> bool:
        wanted = body.get("response_format") or {}
        if "strict" not in wanted.get("json_schema", {}) or not _SCHEMA.search(message):
            return False
        if not self.bare_schema:
            self.bare_schema = True
            log.info("%s: %s; asking with plainer schemas", self._name, message)
        return True


_dialects: dict[tuple[str, str], Dialect] = {}
_dialects_lock = threading.Lock()


def dialect_of(api_base: str, model_id: str) -> Dialect:
    """The one dialect of a server and model in this process."""
    with _dialects_lock:
        return _dialects.setdefault((api_base, model_id), Dialect(f"{model_id} at {api_base}"))
