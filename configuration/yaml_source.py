"""YAML read with its places: which line each key stands on, so that an error can point there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

NODES_MAX = 10_000  # aliases can make a small file huge
DEPTH_MAX = 30
Place = tuple[str | int, ...]
Error = Callable[[str, str, str], Exception]  # (wanted, got, remedy)


@dataclass(frozen=True)
class Source:
    """Where settings came from: what they hold, and the line of each key where it is YAML."""

    data: Any
    name: str = ""
    lines: dict[Place, int] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """A place in words: `blend.chat.messages[1].stream (recipe.yaml, line 12)`."""
        path = dotted(place) or "the top"
        if line := self.line(place):
            return f"{path} ({self.name}, line {line})"
        return f"{path} ({self.name})" if self.name else path

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest key around it; 0 where nothing is known of lines."""
        return next((line for end in range(len(place), -1, -1) if (line := self.lines.get(place[:end]))), 0)


def dotted(place: Place) -> str:
    """A place as it is written in words: `messages[1].stream`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def read_yaml(path: Path, error: Error, kind: str = "settings file", remedy: str = "check the path") -> Source:
    """Read a YAML file. Raises `error` when it cannot be read, is no YAML, or says a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise error(f"want a readable {kind}", f"{path}: {err}", remedy) from err
    lines: dict[Place, int] = {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        wrong = None if root is None else _walk(root, (), lines, path.name)
        data = None if wrong else yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as err:  # ValueError: a date or a number that cannot be
        got = str(err).replace("<unicode string>", path.name)
        raise error(f"want YAML in {path.name}", got, "correct it there; text with : or # in it needs quotes") from err
    if wrong is not None:
        raise error(*wrong)
    return Source(data, path.name, lines)


def _walk(node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> tuple[str, str, str] | None:
    """Note the line of each key; what is wrong with them as (wanted, got, remedy), None when nothing is."""
    lines.setdefault(place, node.start_mark.line + 1)
    if len(lines) > NODES_MAX or len(place) > DEPTH_MAX:
        wanted = f"want at most {NODES_MAX} YAML nodes in {name}, nested {DEPTH_MAX} deep"
        return wanted, "more (an alias that repeats itself?)", "shorten it"
    wrong = None
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            wrong = wrong or _walk(item, (*place, i), lines, name)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here, line = (*place, str(key.value)), key.start_mark.line + 1
            if here[-1] in seen:
                where = Source(None, name, {here: line}).where(here)
                return f"want each key once, at {where}", f"{key.value} a second time", "rename one of them"
            seen.add(str(key.value))
            lines[here] = line
            wrong = wrong or _walk(value, here, lines, name)
    return wrong
