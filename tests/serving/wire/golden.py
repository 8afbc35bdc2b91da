"""Bytes that must never change: each vector is a message as a map, and its encoding by another MessagePack library."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from serving.wire import messages

_VECTORS = json.loads(Path(__file__).with_suffix(".json").read_text())


@dataclass(frozen=True)
class Vector:
    """A message and its bytes."""

    kind: type[msgspec.Struct]
    map: dict[str, Any]
    body: bytes


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _vectors(group: str) -> dict[str, Vector]:
    return {
        name: Vector(getattr(messages, v["kind"]), _plain(v["map"]), bytes.fromhex(v["hex"]))
        for name, v in _VECTORS[group].items()
    }


WHOLE = _vectors("messages")  # every field, in the order in which we write them
OF_SCHEMA_1 = _vectors("of_schema_1")  # what a peer sends that knows schema version 1 and nothing more
HEADERS: dict[str, dict[str, Any]] = _VECTORS["headers"]
JPEG = WHOLE["observation"].map["images"]["observation.images.front"]["data"]  # 8x8, pure red
