"""How a server is asked for JSON: the answer's schema as `response_format`, and how the reply is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from tasks.answers import json_text

LADDER = ("json_schema", "json_object", "off")  # from the strictest format a server may know to none at all
OFF = len(LADDER) - 1
PROBLEM_CHARS_MAX = 400
ITEMS_MAX = 16  # of arrays whose length a server is told
NUMBER_MAX = 1_000_000  # a decoder may write digits for ever into a number without bounds

_NOTES = ("title", "description", "default", "examples")  # they tell a decoder nothing, and some servers refuse them
_COSTLY = ("maxLength", "pattern", "format")
_RANGES = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_BOUNDS = (*_COSTLY, *_RANGES, "minLength", "minItems", "maxItems")


@lru_cache(maxsize=64)
def schema(answer: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of an answer for a decoder: all is bounded, every field is written, there are no others.

    No references and no constants, which not every server's grammar compiler takes.
    """
    full = answer.model_json_schema()
    return _plain(full, full.get("$defs", {}))


def _plain(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """One node of a schema: references put in place, notes left out."""
    if "$ref" in node:
        return _plain(defs[node["$ref"].rsplit("/", 1)[1]], defs)
    out = {key: value for key, value in node.items() if key not in (*_NOTES, "const", "$defs")}
    if "const" in node:
        out["enum"] = [node["const"]]
    if "anyOf" in node:
        out["anyOf"] = [_plain(choice, defs) for choice in node["anyOf"]]
    match node.get("type"):
        case "object":
            out["properties"] = {name: _plain(field, defs) for name, field in node["properties"].items()}
            out |= {"required": list(node["properties"]), "additionalProperties": False}
        case "array":
            out["items"] = _plain(node["items"], defs)
        case "integer" | "number":
            out = {"minimum": -NUMBER_MAX, "maximum": NUMBER_MAX, **out}
    return out


@lru_cache(maxsize=128)
def wire_schema(answer: type[BaseModel], bare: bool = False) -> dict[str, Any]:
    """The schema that servers are sent: strings and lists may be of any length, and nothing has bounds when `bare`.

    Lengths are checked in the reply, since grammar compilers take too long for them. With 100,000 tokens, xgrammar
    needs 9 s for one string with `maxLength` (else 0.1 s), outlines 78 s for a list of up to 200 objects (else 0.5 s),
    and llama.cpp refuses what repeats 2000 times. What does not end meets the token limit of the request. Hosted
    servers take few bounds or none: they are asked with the bare schema.
    """
    return _without(schema(answer), _BOUNDS if bare else _COSTLY)


def _without(node: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_without(item, keys) for item in node]
    if not isinstance(node, dict):
        return node
    out = {}
    for key, value in node.items():
        if key == "properties":  # keys here are names of fields
            out[key] = {name: _without(field, keys) for name, field in value.items()}
        elif key not in keys and not (key == "maxItems" and value > ITEMS_MAX):
            out[key] = _without(value, keys)
    return out


@lru_cache(maxsize=192)
def response_format(answer: type[BaseModel], rung: int, bare: bool = False) -> dict[str, Any] | None:
    """The `response_format` of a rung of the ladder."""
    if LADDER[rung] != "json_schema":
        return {"type": "json_object"} if LADDER[rung] == "json_object" else None
    wanted = {"name": answer.__name__, "schema": wire_schema(answer, bare)}
    return {"type": "json_schema", "json_schema": wanted if bare else {**wanted, "strict": True}}


def read(text: str, answer: type[BaseModel]) -> tuple[BaseModel | None, str]:
    """(typed answer, "") or (None, what is wrong with the reply). No server is believed that its JSON fits."""
    problem = ""
    for value in json_text.objects(text):
        for candidate in _unwrapped(value):
            try:
                return answer.model_validate(candidate), ""
            except ValidationError as error:
                problem = problem or _problem(error)  # the likeliest object explains best
    if not text.strip():
        return None, "the reply is empty"
    return None, problem or "the reply holds no JSON object"


def _unwrapped(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The object, and the one inside when there is nothing else in it: models like to wrap their answer."""
    yield value
    if len(value) == 1 and isinstance(inner := next(iter(value.values())), dict):
        yield inner


def _problem(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_input=False)[:3]:
        where = ".".join(str(p) for p in item["loc"]) or "answer"
        parts.append(f"{where}: {item['msg']}")
    return "; ".join(parts)[:PROBLEM_CHARS_MAX]
