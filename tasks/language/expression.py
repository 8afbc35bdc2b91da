"""What a binding asks for: `nth_prev(style=memory, offset=1)`, parsed and checked once, when a recipe is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from tasks.errors import RecipeError, RowError
from tasks.language.styles import PERSISTENT, column_for_style, style, styles

Resolver = Literal["active_at", "emitted_at", "nth_prev", "nth_next"]
RESOLVERS: tuple[str, ...] = get_args(Resolver)
COUNTING = ("nth_prev", "nth_next")  # resolvers that take an offset
SELECTORS = ("style", "role", "tool_name", "camera")
ROLES = ("user", "assistant", "system", "tool")
OFFSET_MAX = 9999
EXAMPLE = "write it like active_at(t, style=subtask) or nth_prev(style=memory, offset=1)"
CAMERA = "${camera}"  # stands for each camera where a component is repeated for several

_CALL = re.compile(r"\s*(?P<name>\w+)\s*\((?P<arguments>.*)\)\s*", re.DOTALL)
_ARGUMENT = re.compile(r"""(?P<key>\w+)\s*=\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^\s"',()=]+))""")


@dataclass(frozen=True, slots=True)
class Selector:
    """Which rows count; a field that is None is not asked for."""

    style: str | None = None
    role: str | None = None
    tool_name: str | None = None
    camera: str | None = None

    def __str__(self) -> str:
        asked = ((name, getattr(self, name)) for name in SELECTORS)
        return ", ".join(f"{name}={value}" for name, value in asked if value is not None) or "any row"


@dataclass(frozen=True, slots=True)
class Binding:
    """One parsed expression."""

    resolver: Resolver
    selector: Selector
    offset: int = 1  # rows back or ahead; nth_prev and nth_next only

    @property
    def of_events(self) -> bool:
        """Whether it looks at the frame's event rows, not at the episode's states."""
        return self.resolver == "emitted_at" and column_for_style(self.selector.style) != PERSISTENT


def parse_binding(text: str) -> Binding:
    """Parse an expression. Raises RecipeError with what is wrong and how to write it."""
    call = _CALL.fullmatch(text)
    if call is None:
        raise RecipeError("want a binding like resolver(key=value, …)", repr(text), EXAMPLE)
    name = call["name"]
    if name not in RESOLVERS:
        raise RecipeError(f"want a resolver of {', '.join(RESOLVERS)}", repr(name), _nearest(name, RESOLVERS))
    values = _arguments(call["arguments"], name)
    offset = _offset(values.pop("offset", "1"))
    selector = Selector(**values)
    _check(name, selector)
    return Binding(name, selector, offset)  # type: ignore[arg-type]


def _arguments(text: str, resolver: str) -> dict[str, str]:
    """Keyword arguments as texts; a bare `t` says nothing, the time is always the sample's own."""
    known = (*SELECTORS, "offset") if resolver in COUNTING else SELECTORS
    values: dict[str, str] = {}
    for part in _split(text):
        if part == "t":
            continue
        argument = _ARGUMENT.fullmatch(part)
        if argument is None:
            raise RecipeError("want arguments like key=value, parted by commas", repr(part), EXAMPLE)
        key = argument["key"]
        if key == "offset" and resolver not in COUNTING:
            raise RecipeError(f"want no offset in {resolver}", repr(part), "use nth_prev or nth_next to count rows")
        if key not in known:
            raise RecipeError(f"want an argument of {', '.join(known)}", repr(key), _nearest(key, known))
        if key in values:
            raise RecipeError("want each argument once", f"{key} twice in {resolver}({text})", "leave one out")
        values[key] = next(v for v in argument.group("double", "single", "bare") if v is not None)
        if not values[key]:
            raise RecipeError(f"want a value for {key}", repr(part), "leave the argument out to accept any value")
    return values


def _split(text: str) -> list[str]:
    """Arguments parted at commas outside quotes."""
    if not text.strip():
        return []
    return [part.strip() for part in re.split(r""",(?=(?:[^"']|"[^"]*"|'[^']*')*$)""", text)]


def _offset(text: str) -> int:
    digits_max = len(str(OFFSET_MAX))
    if not text.isascii() or not text.isdecimal() or len(text) > digits_max or int(text) < 1:
        got = repr(text[: digits_max + 1])
        raise RecipeError(f"want offset as a whole number, 1 to {OFFSET_MAX}", got, "the row in force is active_at")
    return int(text)


def _check(resolver: str, selector: Selector) -> None:
    """States have to be asked for by a style that is a state; any other style or role must at least exist."""
    name, roles = selector.style, ROLES
    for key in SELECTORS:
        value = getattr(selector, key) or ""
        if "${" in value and (key, value) != ("camera", CAMERA):
            raise RecipeError(f"want {key} in plain words", repr(value), f"write camera={CAMERA} alone")
    if name is not None:
        try:
            kind = style(name)
        except RowError:
            known = [s.name for s in styles()]
            raise RecipeError(f"want a style of {', '.join(known)}", repr(name), _nearest(name, known)) from None
        if selector.camera is not None and not kind.needs_camera:
            raise RecipeError(f"want no camera with style {name}", repr(selector.camera), "its rows have no camera")
        roles = tuple(dict.fromkeys((*kind.roles, *ROLES)))
    if selector.role is not None and selector.role not in roles:
        raise RecipeError(f"want a role of {', '.join(roles)}", repr(selector.role), _nearest(selector.role, roles))
    if resolver == "emitted_at":
        return
    if name is None:
        raise RecipeError(f"want a style in {resolver}", "none", f"write {resolver}(style=subtask), for example")
    if column_for_style(name) != PERSISTENT:
        got = f"{name}, which happens at one instant"
        raise RecipeError(f"want a style that stays in force in {resolver}", got, f"use emitted_at(t, style={name})")


def _nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else EXAMPLE
