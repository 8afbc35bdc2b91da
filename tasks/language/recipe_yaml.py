"""YAML read with its places: which line each key stands on, so that an error can point there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import RecipeError

NODES_MAX = 10_000  # aliases can make a small file huge
DEPTH_MAX = 30
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """Where a recipe came from: what it holds, and the line of each key where it is YAML."""

    data: Any
    name: str = ""
    lines: dict[Place, int] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """A place in words: `blend.chat.messages[1].stream (recipe.yaml, line 12)`."""
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        for end in range(len(place), -1, -1):
            if (line := self.lines.get(place[:end])) is not None:
                return f"{path or 'the top'} ({self.name}, line {line})"
        return f"{path or 'the top'} ({self.name})" if self.name else path or "the top"


def read_yaml(path: Path) -> Source:
    """Read a YAML file. Raises RecipeError when it cannot be read, is no YAML, or says a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise RecipeError("want a readable recipe file", f"{path}: {err}", "check the path") from err
    lines: dict[Place, int] = {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _walk(root, (), lines, path.name)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as err:
        raise RecipeError(f"want YAML in {path.name}", str(err), "mend the file") from err
    return Source(data, path.name, lines)


def _walk(node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if len(lines) > NODES_MAX or len(place) > DEPTH_MAX:
        got = "more (an alias that repeats itself?)"
        raise RecipeError(f"want at most {NODES_MAX} YAML nodes in {name}, nested {DEPTH_MAX} deep", got, "shorten it")
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _walk(item, (*place, i), lines, name)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if str(key.value) in seen:
                where = Source(None, name, {(): line}).where(())
                raise RecipeError(f"want each key once, at {where}", f"{key.value} a second time", "rename one of them")
            seen.add(str(key.value))
            lines[(*place, str(key.value))] = line
            _walk(value, (*place, str(key.value)), lines, name)
