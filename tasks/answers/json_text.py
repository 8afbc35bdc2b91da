"""Finds the JSON object in what a model wrote: thoughts, prose, code fences and cut-off text around it do no harm.

Every step is linear in the length of the text, and the text is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

TEXT_CHARS_MAX = 262_144  # of a longer text the end is read: the answer comes last
PARSED_TIMES_MAX = 8  # the parser may see each character this often, so that nested broken objects stay linear

_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_MARK = re.compile(r'\\.|[{}"\n]', re.DOTALL)


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of the text, the likeliest answer first: the whole text, else the last object that parses."""
    text = text[-TEXT_CHARS_MAX:].strip()
    whole = _parsed(text)
    if whole is None:
        text = without_thoughts(text).strip()
        whole = _parsed(text)
    if whole is not None:
        yield whole
        return
    found = False
    for newline_ends_string in (False, True):  # the second reading heals a stray quote in the prose
        for value in _last_first(text, newline_ends_string):
            found = True
            yield value
        if found:
            return


def without_thoughts(text: str) -> str:
    """The text outside of think blocks. Before a lone closing tag and after a lone opening one, all is thought."""
    kept: list[str] = []
    position, thinking = 0, False
    for tag in _THINK.finditer(text):
        if not tag[1]:
            if not thinking:
                kept.append(text[position : tag.start()])
            thinking = True
            continue
        if not thinking:
            kept.clear()
        position, thinking = tag.end(), False
    if not thinking:
        kept.append(text[position:])
    return "".join(kept)


def _last_first(text: str, newline_ends_string: bool) -> Iterator[dict[str, Any]]:
    budget = PARSED_TIMES_MAX * len(text)
    before = len(text)  # objects inside one that was taken start after it
    for start, end in reversed(_braces(text, newline_ends_string)):
        if start > before:
            continue
        budget -= end - start
        if budget < 0:
            return
        value = _parsed(text[start:end])
        if value is not None:
            before = start
            yield value


def _braces(text: str, newline_ends_string: bool) -> list[tuple[int, int]]:
    """All balanced pairs of braces outside of strings, in the order in which they close."""
    pairs: list[tuple[int, int]] = []
    opened: list[int] = []
    in_string = False
    for mark in _MARK.finditer(text):
        c = mark[0]
        if in_string:
            in_string = not (c == '"' or (c == "\n" and newline_ends_string))
        elif c == '"':
            in_string = bool(opened)  # quotes in the prose mean nothing
        elif c == "{":
            opened.append(mark.start())
        elif c == "}" and opened:
            pairs.append((opened.pop(), mark.end()))
    return pairs


def _parsed(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text, strict=False)  # models do write raw line breaks inside strings
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
