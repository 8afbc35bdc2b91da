"""Text with `${name}` in it: parsed once, filled in for each sample."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.errors import RecipeError

_MARK = re.compile(r"\$\$\{|\$\{(?P<inside>[^{}]*)\}|(?P<open>\$\{)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_]\w*)(?::-(?P<default>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Slot:
    """A name to fill in; `default` stands where the name has no text (None: it must have one)."""

    name: str
    default: str | None = None


Template = tuple[str | Slot, ...]


def parse_template(text: str) -> Template:
    """Literal pieces and slots, in order; `$${` is a literal `${`. Raises RecipeError on a broken placeholder."""
    pieces: list[str | Slot] = []
    literal, end = "", 0
    for mark in _MARK.finditer(text):
        literal += text[end : mark.start()]
        end = mark.end()
        if mark.group() == "$${":
            literal += "${"
            continue
        inside = None if mark["open"] else _INSIDE.fullmatch(mark["inside"])
        if inside is None:
            got = text[mark.start() : mark.start() + 40]
            raise RecipeError("want placeholders like ${name} or ${name:-text}", repr(got), "write $${ for a plain ${")
        if literal:
            pieces.append(literal)
            literal = ""
        pieces.append(Slot(inside["name"], inside["default"]))
    literal += text[end:]
    return (*pieces, literal) if literal else tuple(pieces)


def names_in(template: Template) -> list[str]:
    """Names that a template fills in, in order."""
    return [piece.name for piece in template if isinstance(piece, Slot)]
