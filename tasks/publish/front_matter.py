"""The YAML block at the top of a dataset card: keys added, everything else left as its author wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from tasks.errors import PublishError

BLOCK = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
CARD_CHARS_MAX = 2_000_000  # a longer card is no text written by people


def split(card: str) -> tuple[str, str]:
    """(front matter without its fences, text below); the first is empty when the card has none."""
    if len(card) > CARD_CHARS_MAX:
        got = f"{len(card)} characters"
        raise PublishError(f"want a README.md of at most {CARD_CHARS_MAX} characters", got, "shorten it")
    found = BLOCK.match(card)
    return (found["yaml"], card[found.end() :]) if found else ("", card)


def join(front: str, body: str) -> str:
    """The card again."""
    return f"---\n{front.rstrip()}\n---\n\n{body.lstrip()}" if front.strip() else body


def read(front: str) -> dict[str, Any]:
    """What the front matter says; PublishError when it is no YAML mapping."""
    try:
        found = yaml.safe_load(front) if front.strip() else {}
    except yaml.YAMLError as err:
        got = " ".join(str(err).split())
        raise PublishError("want YAML front matter in README.md", got, "mend what stands between the ---") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        got = type(found).__name__
        raise PublishError("want keys and values in the front matter of README.md", got, "write key: value there")
    return found


def with_tags(front: str, tags: Sequence[str]) -> str:
    """The front matter with these tags among its own, none twice (letter case does not count)."""
    own = read(front).get("tags")
    mine = [own] if isinstance(own, str) else list(own) if isinstance(own, list) else []
    merged: dict[str, Any] = {}
    for tag in [*mine, *tags]:
        merged.setdefault(str(tag).casefold(), tag)
    return with_key(front, "tags", list(merged.values()))


def with_key(front: str, key: str, value: Any) -> str:
    """The front matter with one top-level key set; the rest keeps its order, quotes and comments where possible."""
    known = read(front)
    if key in known and known[key] == value:
        return front
    expected = {**known, key: value}
    block = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True)
    span = _span(front, key)
    if span is None:
        text = front.rstrip() + ("\n" if front.strip() else "") + block
    else:
        text = front[: span[0]] + block.rstrip("\n") + front[span[1] :]
    try:
        if read(text) == expected:
            return text
    except PublishError:
        pass  # an odd layout, a whole mapping in braces for one: written anew below
    return yaml.safe_dump(expected, sort_keys=False, allow_unicode=True)


def _span(front: str, key: str) -> tuple[int, int] | None:
    """Where a top-level key and its value stand."""
    node = yaml.compose(front, Loader=yaml.SafeLoader) if front.strip() else None
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            return name.start_mark.index, _end(value)
    return None


def _end(node: yaml.Node) -> int:
    """Where a value ends; a block's own mark lies behind the comments that follow it."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _end(node.value[-1])
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    return int(node.end_mark.index)
