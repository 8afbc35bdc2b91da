"""What rows, turns and components mean, by plain scans of plain lists: slow, and easy to check by eye."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

from tasks.language.expression import CAMERA, Binding, Selector, parse_binding
from tasks.language.recipe import DEFAULTS, Recipe, Turn
from tasks.language.rows import Row
from tasks.language.styles import PERSISTENT, column_for_style

FRAMES = range(-4, 64)  # frames that the tests place rows on
MARK = re.compile(r"\$\$\{|\$\{(\w+)(?::-([^{}]*))?\}")


@cache
def nearest_frame(time_s: float, fps: float) -> int:
    """The frame whose time is nearest, the earlier of two."""
    return min(FRAMES, key=lambda f: (abs(Fraction(time_s) - Fraction(f) / Fraction(fps)), f))


@dataclass(frozen=True)
class Contradiction(Exception):
    """Several rows answer, and nothing says which is meant."""

    rows: int


@dataclass(frozen=True)
class Episode:
    """Rows as they are stored: states by their time, events by the frame that they stand on."""

    states: tuple[Row, ...]
    events: tuple[tuple[int, Row], ...]
    fps: float

    def begins(self, row: Row) -> int:
        """The frame on which a state begins."""
        return nearest_frame(row.timestamp, self.fps)


def wanted(row: Row, selector: Selector) -> bool:
    """Whether a row has all that is asked for."""
    asked = [getattr(selector, name) in (None, getattr(row, name)) for name in ("style", "role", "camera")]
    names = [c["function"]["name"] for c in row.tool_calls or () if isinstance(c, dict) and "name" in c["function"]]
    return all(asked) and (selector.tool_name is None or selector.tool_name in names)


def only(rows: Sequence[Row]) -> Row | None:
    """The one row, or none."""
    if len(rows) > 1:
        raise Contradiction(len(rows))
    return rows[0] if rows else None


def latest(rows: Sequence[Row]) -> list[Row]:
    """Those of the greatest time."""
    return [r for r in rows if r.timestamp == max(other.timestamp for other in rows)]


def active_at(episode: Episode, frame: int, selector: Selector) -> Row | None:
    return only(latest([r for r in episode.states if wanted(r, selector) and episode.begins(r) <= frame]))


def emitted_at(episode: Episode, frame: int, selector: Selector) -> Row | None:
    if selector.style is not None and column_for_style(selector.style) == PERSISTENT:
        return only(latest([r for r in episode.states if wanted(r, selector) and episode.begins(r) == frame]))
    return only([r for at, r in episode.events if at == frame and wanted(r, selector)])


def nth(episode: Episode, frame: int, selector: Selector, steps: int) -> Row | None:
    """The state some steps after (before, where negative) the one in force; rows of one time are one step."""
    rows = [r for r in episode.states if wanted(r, selector)]
    times = sorted({r.timestamp for r in rows})
    begun = {r.timestamp for r in rows if episode.begins(r) <= frame}
    at = len(begun) - 1 + steps  # -1: none is in force yet
    return only([r for r in rows if r.timestamp == times[at]]) if 0 <= at < len(times) else None


def resolve(episode: Episode, frame: int, binding: Binding) -> Row | None:
    """The row of any binding."""
    if binding.resolver == "active_at":
        return active_at(episode, frame, binding.selector)
    if binding.resolver == "emitted_at":
        return emitted_at(episode, frame, binding.selector)
    steps = binding.offset if binding.resolver == "nth_next" else -binding.offset
    return nth(episode, frame, binding.selector, steps)


# --- rendering -----------------------------------------------------------------------------------------------------


class CannotRenderError(Exception):
    """A text is missing that nothing makes optional."""


@dataclass(frozen=True)
class Scene:
    """One component at one frame, for one camera where it is repeated for several."""

    episode: Episode
    frame: int
    part: Recipe
    task: str | None  # as spoken at this frame: an override, a rephrasing, or the dataset's
    canonical_task: str | None
    camera: str | None = None

    def meaning(self, name: str) -> Binding | str:
        """What a name asks for; two names may ask the same."""
        if name not in (self.part.bindings or {}):
            return DEFAULTS.get(name, name)
        binding = parse_binding(self.part.bindings[name])
        if binding.selector.camera != CAMERA:
            return binding
        return replace(binding, selector=replace(binding.selector, camera=self.camera))

    def row(self, name: str) -> Row | str | None:
        meaning = self.meaning(name)
        if isinstance(meaning, Binding):
            return resolve(self.episode, self.frame, meaning)
        return {"task": self.task, "canonical_task": self.canonical_task, "camera": self.camera}[meaning] or None

    def text(self, name: str) -> str:
        """What a name says; "" when it says nothing."""
        row = self.row(name)
        text = (row.content if isinstance(row, Row) else row) or ""
        return text if text.strip() else ""

    def calls(self, name: str | None) -> list[Any]:
        row = None if name is None else self.row(name)
        return (row.tool_calls or []) if isinstance(row, Row) else []


def render(scene: Scene) -> dict[str, Any] | None:
    """The component's sample, None where it cannot render."""
    try:
        said = [(turn, message) for turn in scene.part.messages or () if (message := _message(turn, scene)) is not None]
    except CannotRenderError:
        return None
    if not any(turn.target or turn.stream == "low_level" for turn, _ in said):
        return None
    return {
        "messages": [message for _, message in said],
        "message_streams": [turn.stream for turn, _ in said],
        "target_message_indices": [i for i, (turn, _) in enumerate(said) if turn.target],
    }


def _message(turn: Turn, scene: Scene) -> dict[str, Any] | None:
    """One turn's message, None where it is left out."""
    if turn.if_present is not None and scene.row(turn.if_present) is None:
        return None
    if turn.if_absent is not None and scene.row(turn.if_absent) is not None:
        return None
    content, lost = _content(turn, scene)
    if lost:
        if turn.target or (turn.if_present is not None and scene.meaning(turn.if_present) in lost):
            return None
        raise CannotRenderError
    speaks = bool(content.strip()) if isinstance(content, str) else bool(content)
    learnable = not turn.target or isinstance(content, str) or any("text" in block for block in content or ())
    calls = scene.calls(turn.tool_calls_from)
    if not (speaks and learnable) and not calls:
        return None
    message: dict[str, Any] = {"role": turn.role}
    if speaks:
        message["content"] = content
    if calls:
        message["tool_calls"] = calls
    return message


def _content(turn: Turn, scene: Scene) -> tuple[Any, set[Any]]:
    """The content, and what it lacks."""
    if not isinstance(turn.content, list):
        return _filled(turn.content, scene)
    kept, missing = [], set()
    for block in turn.content:
        guard = block.get("if_present")
        if guard is not None and scene.row(guard) is None:
            continue
        made, lost = _filled({k: v for k, v in block.items() if k != "if_present"}, scene)
        if guard is not None and scene.meaning(guard) in lost:
            continue
        missing |= lost
        if not lost and made.get("text", "words").strip():
            kept.append(made)
    return kept, missing


def _filled(value: Any, scene: Scene) -> tuple[Any, set[Any]]:
    """A value with all texts in it filled in, and what they lack; what has a default is only then looked up."""
    lost = {scene.meaning(m[1]) for m in marks(value) if m[2] is None and not scene.text(m[1])}

    def fill(mark: re.Match[str]) -> str:
        return "${" if mark.group() == "$${" else scene.text(mark[1]) or mark[2]

    def walk(item: Any) -> Any:
        if isinstance(item, str):
            return MARK.sub(fill, item)
        if isinstance(item, Mapping):
            return {k: walk(v) for k, v in item.items()}
        return [walk(v) for v in item] if isinstance(item, list) else item

    return (None, lost) if lost else (walk(value), lost)


def marks(value: Any) -> Iterator[re.Match[str]]:
    """Placeholders in all texts of a value."""
    if isinstance(value, str):
        yield from (mark for mark in MARK.finditer(value) if mark[1])
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from marks(item)
