"""What `meta/info.json` and a shard's own metadata must say once the language columns are there."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tasks.errors import DatasetError
from tasks.language.styles import EVENTS, PERSISTENT

# Without these entries a loader casts the shards to the old features and fails on the new columns.
LANGUAGE_FEATURE = {"dtype": "language", "shape": [1], "names": None}
SAY_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "say",
        "description": "Say a short sentence aloud to the person beside the robot.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "What to say."}},
            "required": ["text"],
        },
    },
}

_TEXT = {"dtype": "string", "_type": "Value"}
_HUB_COMMON = {"role": _TEXT, "content": _TEXT, "style": _TEXT}
_HUB_TAIL = {"camera": _TEXT, "tool_calls": {"feature": {"_type": "Json"}, "_type": "List"}}
_HUB_FEATURES = {
    PERSISTENT: {
        "feature": {**_HUB_COMMON, "timestamp": {"dtype": "float32", "_type": "Value"}, **_HUB_TAIL},
        "_type": "List",
    },
    EVENTS: {"feature": {**_HUB_COMMON, **_HUB_TAIL}, "_type": "List"},
}


def merge_info(info: Mapping[str, Any], dropped: Iterable[str]) -> dict[str, Any]:
    """info.json with the language features and the `say` tool; dropped columns leave its features, the rest stays."""
    merged = copy.deepcopy(dict(info))
    features = merged.setdefault("features", {})
    for name in dropped:
        features.pop(name, None)
    for column in (PERSISTENT, EVENTS):
        features[column] = copy.deepcopy(LANGUAGE_FEATURE)
    tools = merged.get("tools") or []
    if not declares_say(tools):
        merged["tools"] = [*tools, copy.deepcopy(SAY_TOOL)]
    return merged


def declares_say(tools: Any) -> bool:
    """Whether a tool catalogue has a function named `say`."""
    return any(isinstance(t, dict) and (t.get("function") or {}).get("name") == "say" for t in tools or [])


def merge_info_text(text: str, dropped: Iterable[str]) -> str:
    """The same on the file's text: indentation, escapes and last line end stay as they are."""
    return edit_info_text(text, lambda info: merge_info(info, dropped))


def edit_info_text(text: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    """The text of info.json after `edit`, which returns a new object; the same text where that says the same."""
    try:
        info = json.loads(text)
    except ValueError as err:
        raise DatasetError("want JSON in meta/info.json", str(err), "restore the file") from err
    merged = edit(info)
    if merged == info:
        return text
    indent = re.search(r"\n([ \t]+)\S", text)
    dumped = json.dumps(merged, indent=indent.group(1) if indent else None, ensure_ascii=text.isascii())
    return dumped + ("\n" if text.endswith("\n") else "")


def shard_metadata(old: Mapping[bytes, bytes] | None, kept: Iterable[str]) -> dict[bytes, bytes]:
    """Key-value metadata of a shard whose columns are now `kept` and the two language columns.

    Column lists that pandas and the datasets library keep there are brought in line; a list that cannot be read is
    dropped, because a wrong one makes readers fail.
    """
    names = set(kept)
    merged = {k: v for k, v in (old or {}).items() if k not in (b"ARROW:schema", b"huggingface", b"pandas")}
    for key, fit in ((b"huggingface", _fit_hub), (b"pandas", _fit_pandas)):
        if old is None or key not in old:
            continue
        try:
            merged[key] = json.dumps(fit(json.loads(old[key]), names)).encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return merged


def _fit_hub(meta: dict[str, Any], kept: set[str]) -> dict[str, Any]:
    features = {k: v for k, v in meta["info"]["features"].items() if k in kept}
    return {"info": {**meta["info"], "features": features | _HUB_FEATURES}}  # a fingerprint of the old rows is dropped


def _fit_pandas(meta: dict[str, Any], kept: set[str]) -> dict[str, Any]:
    return {**meta, "columns": [c for c in meta["columns"] if c["field_name"] in kept]}
