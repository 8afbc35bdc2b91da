"""The JSON Schema of manifest files, for editors: completion, and red lines before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.manifest import Manifest

SCHEMA = Path(__file__).with_name("manifest.schema.json")
DIALECT = "http://json-schema.org/draft-07/schema#"  # the newest that all editors with YAML support know
NULL = {"type": "null"}


def schema() -> dict[str, Any]:
    """What a manifest file may hold: one service, or several that share settings."""
    made = _plain(Manifest.model_json_schema())
    definitions, settings = made.pop("$defs"), made["properties"]
    own = {
        "name": {"type": "string", "description": "name of the service in logs and tables"},
        "gpu": {"type": ["integer", "string"], "description": "GPU of its process: CUDA_VISIBLE_DEVICES"},
    }
    definitions["Service"] = {
        "type": "object",
        "description": "what one service has of its own",
        "properties": {**own, **settings},
        "additionalProperties": False,
    }
    services = {
        "type": "array",
        "items": {"$ref": "#/definitions/Service"},
        "minItems": 1,
        "description": "several services, each a process of its own; what stands beside the list holds for all",
    }
    return {
        "$schema": DIALECT,
        "title": "Manifest of a policy service",
        "type": "object",
        "properties": {**settings, "services": services},
        "anyOf": [{"required": ["model", "zenoh"]}, {"required": ["services"]}],
        "additionalProperties": False,
        "definitions": definitions,
    }


def _plain(value: Any) -> Any:
    """Without the titles that only repeat names, and in the dialect's words."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value.replace("#/$defs/", "#/definitions/") if isinstance(value, str) else value
    kept = {k: _plain(v) for k, v in value.items() if not (k == "title" and isinstance(v, str))}
    if list(kept) == ["$ref", "description"] or set(kept) == {"$ref", "description"}:
        return {"allOf": [{"$ref": kept["$ref"]}], "description": kept["description"]}  # draft 7 reads $ref alone
    return kept


def text() -> str:
    """The file's text."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
