"""How a server is asked for JSON: the answer's schema as `response_format`, and what a server is known to accept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from tasks.answers import json_text

log = logging.getLogger(__name__)

LADDER = ("json_schema", "json_object", "off")  # from the strictest format a server may know to none at all
OFF = len(LADDER) - 1
CANDIDATES_MAX = 8  # objects of one reply that are tried against the schema
PROBLEM_CHARS_MAX = 400


@lru_cache(maxsize=64)
def schema(answer: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of an answer, without the titles and docstrings that tell a decoder nothing."""
    return _bare(answer.model_json_schema())


def _bare(node: Any) -> Any:
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):  # keys here are names of fields, even if one is called "title"
            out[key] = {name: _bare(sub) for name, sub in value.items()}
        elif key in ("default", "const", "enum"):
            out[key] = value
        elif key not in ("title", "description"):
            out[key] = _bare(value)
    return out


@lru_cache(maxsize=128)
def response_format(answer: type[BaseModel], rung: int) -> dict[str, Any] | None:
    """The `response_format` of a rung of the ladder."""
    if LADDER[rung] == "json_schema":
        return {"type": "json_schema", "json_schema": {"name": answer.__name__, "schema": schema(answer)}}
    return {"type": "json_object"} if LADDER[rung] == "json_object" else None


def read(text: str, answer: type[BaseModel]) -> tuple[BaseModel | None, str]:
    """(typed answer, "") or (None, what is wrong with the reply). No server is believed that its JSON fits."""
    problem = "the reply holds no JSON object" if text.strip() else "the reply is empty"
    for number, value in enumerate(json_text.objects(text)):
        if number == CANDIDATES_MAX:
            break
        try:
            return answer.model_validate(value), ""
        except ValidationError as error:
            if number == 0:  # the likeliest object explains best
                problem = _problem(error)
    return None, problem


def _problem(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_input=False)[:3]:
        where = ".".join(str(p) for p in item["loc"]) or "answer"
        parts.append(f"{where}: {item['msg']}")
    return "; ".join(parts)[:PROBLEM_CHARS_MAX]


class Dialect:
    """What one server and model accept, learned from refusals. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._rung = 0
        self._by_answer: dict[type[BaseModel], int] = {}
        self._proved: set[int] = set()  # rungs that gave a reply
        self._cleared = False
        self.tokens_field = "max_tokens"
        self.sends_temperature = True

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

    def adapt(self, message: str, body: Mapping[str, Any]) -> bool:
        """Drop or rename the field of `body` that a refusal names, as newer models want. False: no such field."""
        if "max_completion_tokens" in message and "max_tokens" in body:
            self.tokens_field = "max_completion_tokens"
            log.info("%s wants max_completion_tokens", self._name)
            return True
        if "temperature" in message and "support" in message and "temperature" in body:
            self.sends_temperature = False
            log.warning("%s takes no temperature: vlm.temperature is not used", self._name)
            return True
        return False


_dialects: dict[tuple[str, str], Dialect] = {}
_dialects_lock = threading.Lock()


def dialect_of(api_base: str, model_id: str) -> Dialect:
    """The one dialect of a server and model in this process."""
    with _dialects_lock:
        return _dialects.setdefault((api_base, model_id), Dialect(f"{model_id} at {api_base}"))
