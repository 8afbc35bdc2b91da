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
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".") or "the top"
        if line := self.line(place):
            return f"{path} ({self.name}, line {line})"
        return f"{path} ({self.name})" if self.name else path

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest key around it; 0 where nothing is known of lines."""
        return next((line for end in range(len(place), -1, -1) if (line := self.lines.get(place[:end]))), 0)


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
    except RecipeError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as err:  # ValueError: a date or a number that cannot be
        got = str(err).replace("<unicode string>", path.name)
        raise RecipeError(
            f"want YAML in {path.name}", got, "correct it there; text with : or # in it needs quotes"
        ) from err
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
            here, line = (*place, str(key.value)), key.start_mark.line + 1
            if here[-1] in seen:
                where = Source(None, name, {here: line}).where(here)
                raise RecipeError(f"want each key once, at {where}", f"{key.value} a second time", "rename one of them")
            seen.add(str(key.value))
            lines[here] = line
            _walk(value, here, lines, name)
