"""Texts that are hard to read, of any length: what a broken or malicious server may send."""

from __future__ import annotations

from collections.abc import Callable

DEPTH = 900  # of nested objects that the parser just takes
_NEST = '{"a":' * DEPTH + "%s" + "}" * DEPTH

SHAPES: dict[str, Callable[[int], str]] = {
    "open braces": lambda n: "{" * n,
    "braces opened, then closed": lambda n: "{" * (n // 2) + "}" * (n // 2),
    "empty objects": lambda n: "{}" * (n // 2),
    "objects": lambda n: '{"a":1}' * (n // 7),
    "broken objects": lambda n: '{"a":x}' * (n // 7),
    "shortest broken objects": lambda n: "{x}" * (n // 3),
    "one nest, broken inside": lambda n: '{"a":' * (n // 7) + "x" + "}" * (n // 7),
    "many nests": lambda n: _NEST % 1 * (n // len(_NEST) + 1),
    "many nests, broken inside": lambda n: _NEST % "x" * (n // len(_NEST) + 1),
    "quotes": lambda n: "{" + '"' * n,
    "quotes and lines": lambda n: "{" + '"\n' * (n // 2),
    "backslashes": lambda n: '{"' + "\\" * n,
    "escaped quotes": lambda n: '{"' + '\\"' * (n // 2),
    "unicode escapes": lambda n: '{"a":"' + "\\ud83d" * (n // 6) + '"}',
    "surrogates": lambda n: '{"a":"' + "\ud83d" * n + '"}',
    "brackets": lambda n: '{"a":' + "[" * n,
    "brackets opened, then closed": lambda n: '{"a":' + "[" * (n // 2) + "]" * (n // 2) + "}",
    "lists": lambda n: '{"a":[' + "[]," * (n // 3) + "[]]}",
    "objects in a list": lambda n: '{"a":[' + "{}," * (n // 3) + "{}]}",
    "objects in an open list": lambda n: '{"a":[' + "{}," * (n // 3) + "{}]",
    "fields": lambda n: "{" + ",".join(f'"{i}":1' for i in range(n // 10)) + "}",
    "digits": lambda n: '{"a":' + "1" * n + "}",
    "decimals": lambda n: '{"a":0.' + "1" * n + "}",
    "thoughts, tags swapped": lambda n: "</think><think>" * (n // 15),
    "thoughts, never closed": lambda n: "<think>" * (n // 7),
    "thoughts, almost": lambda n: "<think" * (n // 6),
    "less-than signs": lambda n: "<" * n,
    "spaces": lambda n: "{" + " " * n + "x",
    "lines": lambda n: "{" + "\n" * n + "x",
    "letters": lambda n: "x" * n,
}
