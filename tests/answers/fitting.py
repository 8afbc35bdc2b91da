"""Answers that fit a JSON schema and make sense for the prompt, without any model. Deterministic."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from tasks import questions

VERBS = ("pick up", "put", "push", "open", "close", "pour")
OBJECTS = ("red cube", "green ball", "blue box", "white tray")
THINGS = ("label", "subject", "object", "value")  # fields that hold a noun
SEGMENTS = 4


def answer_class(text: str) -> type[BaseModel]:
    """The answer whose keys the prompt shows; the one with the most keys when several fit."""
    asked = set(re.findall(r'"([A-Za-z_]+)":', text))
    fits = [(len(keys), c) for c in _answers() if (keys := _keys(c.model_json_schema())) <= asked]
    if not fits:
        raise LookupError(f"no answer has the keys {sorted(asked)}")
    return max(fits, key=lambda f: f[0])[1]


def _answers() -> list[type[BaseModel]]:
    found = vars(questions).values()
    return [c for c in found if isinstance(c, type) and issubclass(c, questions.Answer) and c is not questions.Answer]


def _keys(schema: dict[str, Any]) -> set[str]:
    models = [schema, *schema.get("$defs", {}).values()]
    shown = [key for m in models for key in m.get("properties", {}) if key != "note"]
    return set(shown)


def instance(schema: dict[str, Any], text: str) -> Any:
    """A value that fits the schema: subtasks spread over the [0, X] of the prompt, boxes inside a small picture."""
    return _value(schema, schema.get("$defs", {}), text, "answer", 0)


def _value(node: dict[str, Any], defs: dict[str, Any], text: str, name: str, number: int) -> Any:
    if "$ref" in node:
        return _value(defs[node["$ref"].rsplit("/", 1)[1]], defs, text, name, number)
    for fixed in ("const", "default"):
        if fixed in node and node[fixed] != []:
            return node[fixed]
    if "enum" in node:
        return node["enum"][0]
    if "anyOf" in node:
        return _value(node["anyOf"][0], defs, text, name, number)
    match node.get("type"):
        case "object":
            return {k: _value(v, defs, text, k, number) for k, v in node["properties"].items()}
        case "array":
            return _list(node, defs, text, name)
        case "string":
            thing = OBJECTS[(number + len(name)) % len(OBJECTS)]
            return thing if name in THINGS else f"{VERBS[number % len(VERBS)]} the {thing}"
        case "integer":
            return 1 + number
        case "number":
            return 1.0 + number
        case "boolean":
            return True
    return None


def _list(node: dict[str, Any], defs: dict[str, Any], text: str, name: str) -> list[Any]:
    if name == "bbox":
        return [10.0, 12.0, 40.0, 44.0]
    if name == "point":
        return [20.0, 24.0]
    if name == "subtasks":
        return _subtasks(text)
    wanted = re.search(r"exactly (\d+)", text)
    count = max(node.get("minItems", 0), int(wanted[1]) if wanted else 2)
    values = [_value(node["items"], defs, text, name, i) for i in range(min(count, node.get("maxItems", count)))]
    return [f"{v}, variant {i + 1}" if isinstance(v, str) else v for i, v in enumerate(values)]


def _subtasks(text: str) -> list[dict[str, Any]]:
    spans = re.findall(r"\[0(?:\.0+)?, ?([0-9]+(?:\.[0-9]+)?)\]", text)
    duration = float(spans[-1]) if spans else 8.0
    cuts = [round(duration * i / SEGMENTS, 3) for i in range(SEGMENTS + 1)]
    return [
        {"text": f"{VERBS[i % 2]} the {OBJECTS[i // 2]}", "start": cuts[i], "end": cuts[i + 1]} for i in range(SEGMENTS)
    ]
