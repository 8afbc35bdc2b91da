"""Finds the JSON object in what a model wrote: thoughts, prose, code fences and cut-off text around it do no harm.

Replies are hostile input. Every step is linear, and what is read, scanned and parsed is bounded, whatever the text
holds: of a text longer than the bounds the end is read, where answers are, and then the front, where a model answers
that loses itself afterwards. What lies between is not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

END_CHARS_MAX = 196_608  # read at the end of a reply; 32,000 tokens of thoughts before the answer are about 130,000
FRONT_CHARS_MAX = 65_536  # read at the front of a longer one
MARKS_MAX = (
    12_288  # braces, quotes, backslashes and line breaks of each part; the longest real answers have about 4,000
)
PARSED_CHARS_MAX = END_CHARS_MAX  # that the parser sees of each part, all attempts together
ATTEMPTS_MAX = 200  # of the parser, on each part
LAST_MAX = 6  # objects offered from the end
FIRST_MAX = 2  # objects offered from the front, when none of the last is taken

_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_MARK = re.compile(r'\\.|[{}"\n]', re.DOTALL)
_MARKS = ("{", "}", '"', "\\", "\n")


class _Allowance:
    """What the parser may still do on one part of a text."""

    def __init__(self) -> None:
        self._chars, self._attempts = PARSED_CHARS_MAX, ATTEMPTS_MAX

    def grants(self, chars: int) -> bool:
        """Whether so many characters may be parsed; they are counted."""
        self._chars -= chars
        self._attempts -= 1
        return self._chars >= 0 and self._attempts >= 0


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of the text, the likeliest answer first: the whole text, else the last ones, then the first."""
    text = text.strip()
    if len(text) <= END_CHARS_MAX:
        whole = _parsed(text)
        bare = text if whole is not None else without_thoughts(text).strip()
        if whole is None and bare != text:
            whole = _parsed(bare)
        if whole is not None:
            yield whole
            return
        end = front = bare
    else:
        end, front = (without_thoughts(t) for t in (text[-END_CHARS_MAX:], text[:FRONT_CHARS_MAX]))
    yield from _offered(end, front)


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


def _offered(end: str, front: str) -> Iterator[dict[str, Any]]:
    """The last objects of `end`, then the first ones of `front` that were not offered yet."""
    found = 0
    for value in islice(_found(end, last_first=True), LAST_MAX):
        found += 1
        yield value
    if found == LAST_MAX or front is not end or _is_dense(end):
        yield from islice(_found(front, last_first=False), FIRST_MAX)


def _is_dense(text: str) -> bool:
    """Whether the text is not scanned in one piece. Counts at the speed of C."""
    return sum(text.count(mark) for mark in _MARKS) > MARKS_MAX


def _found(text: str, last_first: bool) -> Iterator[dict[str, Any]]:
    """The outermost objects of the end or of the front, one after another."""
    while _is_dense(text):
        half = len(text) // 2
        text = text[half:] if last_first else text[:half]
    found, allowance = False, _Allowance()
    for newline_ends_string in (False, True):  # the second reading heals a stray quote in the prose
        pairs = _braces(text, newline_ends_string)
        for value in _parsed_pairs(text, pairs[::-1] if last_first else sorted(pairs), allowance):
            found = True
            yield value
        if found:
            return


def _parsed_pairs(text: str, pairs: Sequence[tuple[int, int]], allowance: _Allowance) -> Iterator[dict[str, Any]]:
    """The objects among the pairs of braces, in their order, without those inside one that was taken."""
    taken = (0, 0)
    for start, end in pairs:
        if taken[0] <= start and end <= taken[1]:
            continue
        if not allowance.grants(end - start):
            return
        value = _parsed(text[start:end])
        if value is not None:
            taken = start, end
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
