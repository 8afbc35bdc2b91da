"""Which row is meant at a frame: the state in force, what happens now, the state before, the state after.

An episode's rows are sorted once into a table. Rows that a selector wants are picked once too; each lookup is then one
bisection over frame positions. Positions, not seconds: a float32 row time never lies "just after" its own frame.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tasks.errors import AmbiguousRowsError, RowError
from tasks.language.expression import Binding, Selector
from tasks.language.rows import FIELDS, Row
from tasks.language.styles import PERSISTENT, column_for_style

# Frames at which matching states begin, ascending, and the rows that begin there.
Track = tuple[list[int], list[tuple[Row, ...]]]
NO_ROWS: tuple[Row, ...] = ()
PLAIN_FIELDS = FIELDS - {"tool_calls"}
PLAIN_TYPES = frozenset({type(None), str, int, float, bool})


class EpisodeTable:
    """One episode's rows, looked up by frame: the 0-based position in the episode."""

    __slots__ = ("_events", "_persistent", "_tracks", "rephrasings")

    def __init__(self, persistent: Iterable[tuple[int, Row]], events: Iterable[tuple[int, Row]]) -> None:
        """Rows as (frame, row), in any order. A state counts from its frame on; an event on its frame alone."""
        self._persistent = sorted(persistent, key=_order)
        self._events: dict[int, list[Row]] = {}
        for frame, row in events:
            self._events.setdefault(frame, []).append(row)
        self._tracks: dict[Selector, Track] = {}
        self.rephrasings = tuple(
            r.content for _, r in self._persistent if r.style == "task_aug" and r.role == "user" and has_text(r)
        )

    @classmethod
    def at_fps(cls, persistent: Iterable[Row], events: Iterable[tuple[int, Row]], fps: float) -> EpisodeTable:
        """The table of a recording with evenly spaced frames: a state begins at the frame nearest to its time."""
        return cls(((nearest_frame(row.timestamp, fps), row) for row in persistent), events)

    def with_events(self, events: Iterable[tuple[int, Row]]) -> EpisodeTable:
        """The same states, shared, beside other events."""
        table = EpisodeTable((), events)
        table._persistent, table._tracks, table.rephrasings = self._persistent, self._tracks, self.rephrasings
        return table

    def track(self, selector: Selector) -> Track:
        """The states that a selector wants, by the frame at which they begin; rows of one time stand together."""
        track = self._tracks.get(selector)
        if track is None:
            frames: list[int] = []
            groups: list[tuple[Row, ...]] = []
            for frame, row in self._persistent:
                if not matches(row, selector):
                    continue
                if groups and frames[-1] == frame and groups[-1][0].timestamp == row.timestamp:
                    groups[-1] += (row,)
                else:
                    frames.append(frame)
                    groups.append((row,))
            track = self._tracks[selector] = (frames, groups)
        return track

    def events_at(self, frame: int) -> Sequence[Row]:
        """What happens at a frame."""
        return self._events.get(frame, NO_ROWS)

    @property
    def event_frames(self) -> list[int]:
        """Frames at which something happens, ascending."""
        return sorted(self._events)


def _order(item: tuple[int, Row]) -> tuple[int, float, str, str]:
    frame, row = item
    return frame, row.timestamp, row.style or "", row.role or ""


def nearest_frame(time_s: float, fps: float) -> int:
    """The frame whose time is nearest, the earlier one when two are equally near."""
    return math.ceil(time_s * fps - 0.5)


def has_text(row: Row) -> bool:
    """Whether a row says something in words."""
    return bool(row.content and row.content.strip())


def matches(row: Row, selector: Selector) -> bool:
    """Whether a row has every field that is asked for."""
    return (
        (selector.style is None or row.style == selector.style)
        and (selector.role is None or row.role == selector.role)
        and (selector.camera is None or row.camera == selector.camera)
        and (selector.tool_name is None or _calls(row, selector.tool_name))
    )


def _calls(row: Row, tool_name: str) -> bool:
    for call in row.tool_calls or ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and function.get("name") == tool_name:
            return True
    return False


# --- the four resolvers --------------------------------------------------------------------------------------------


def active_at(table: EpisodeTable, frame: int, selector: Selector) -> Row | None:
    """The state in force at a frame: the latest that began. Raises AmbiguousRowsError when several began at once."""
    frames, groups = table.track(selector)
    at = bisect_right(frames, frame)
    return _only(groups[at - 1], selector, frame) if at else None


def emitted_at(table: EpisodeTable, frame: int, selector: Selector) -> Row | None:
    """What begins or happens at just this frame. Raises AmbiguousRowsError when several rows do.

    A state counts on the frame nearest to its time, so within half a frame; of several there the latest.
    """
    if selector.style is not None and column_for_style(selector.style) == PERSISTENT:
        frames, groups = table.track(selector)
        at = bisect_right(frames, frame)
        return _only(groups[at - 1], selector, frame) if at and frames[at - 1] == frame else None
    here = table.events_at(frame)
    return _only([r for r in here if matches(r, selector)], selector, frame) if here else None


def nth_prev(table: EpisodeTable, frame: int, selector: Selector, offset: int = 1) -> Row | None:
    """The state `offset` before the one in force; None before the first. Raises AmbiguousRowsError."""
    frames, groups = table.track(selector)
    at = bisect_right(frames, frame) - 1 - offset
    return _only(groups[at], selector, frame) if at >= 0 else None


def nth_next(table: EpisodeTable, frame: int, selector: Selector, offset: int = 1) -> Row | None:
    """The state `offset` after the one in force, counted from the first when none is. Raises AmbiguousRowsError."""
    frames, groups = table.track(selector)
    at = bisect_right(frames, frame) - 1 + offset
    return _only(groups[at], selector, frame) if at < len(groups) else None


def resolve(table: EpisodeTable, frame: int, binding: Binding) -> Row | None:
    """The row that a parsed binding means at a frame."""
    return resolver(binding)(table, frame)


def resolver(binding: Binding) -> Callable[[EpisodeTable, int], Row | None]:
    """A binding as a function of table and frame."""
    selector, offset = binding.selector, binding.offset
    if binding.resolver == "active_at":
        return lambda table, frame: active_at(table, frame, selector)
    if binding.resolver == "emitted_at":
        return lambda table, frame: emitted_at(table, frame, selector)
    count = nth_prev if binding.resolver == "nth_prev" else nth_next
    return lambda table, frame: count(table, frame, selector, offset)


def _only(rows: Sequence[Row], selector: Selector, frame: int) -> Row | None:
    if len(rows) > 1:
        raise AmbiguousRowsError(
            f"want one row of {selector} at frame {frame}",
            f"{len(rows)} rows: {', '.join(repr(r.content or r.tool_calls)[:40] for r in rows[:3])}",
            "say more in the binding (role, camera, tool_name), or mend the labels (annotate check)",
        )
    return rows[0] if rows else None


# --- rows from elsewhere -------------------------------------------------------------------------------------------


def rows_of(raw: Iterable[Any] | None, timestamp: float = 0.0) -> list[Row]:
    """Rows from plain mappings, such as a loader's; None among them is skipped, JSON texts of tool calls are parsed.

    `timestamp` is given to rows that have none (events). Raises TypeError on anything that is no mapping.
    """
    return [_row(item, timestamp) for item in (raw if raw is not None else ()) if item is not None]


def _row(item: Any, timestamp: float) -> Row:
    if isinstance(item, Row):
        return item
    item = item.as_py() if hasattr(item, "as_py") else item
    if not isinstance(item, Mapping):
        raise TypeError(f"want language rows as mappings, got {type(item).__name__}: {item!r}")
    row = {name: scalar(item.get(name)) for name in PLAIN_FIELDS}
    time = timestamp if row["timestamp"] is None else row["timestamp"]
    calls = item.get("tool_calls")
    parsed = [call_of(c) for c in calls] if calls is not None else []
    return Row(row["role"], row["content"], row["style"], float(time), row["camera"], parsed or None)


def call_of(stored: Any) -> Any:
    """A tool call from its JSON text; what is no JSON stays as it is."""
    stored = scalar(stored)
    if not isinstance(stored, str):
        return stored
    try:
        return json.loads(stored)
    except ValueError:
        return stored


def scalar(value: Any) -> Any:
    """A plain value from an Arrow, NumPy or torch scalar, or from a list of one. Raises RowError on longer lists."""
    if type(value) in PLAIN_TYPES or isinstance(value, Mapping):
        return value
    if hasattr(value, "as_py"):  # Arrow
        return scalar(value.as_py())
    if hasattr(value, "item"):  # NumPy, torch
        try:
            return value.item()
        except (ValueError, RuntimeError) as err:
            raise _not_one(value) from err
    if isinstance(value, Sequence) and len(value) == 1:
        return scalar(value[0])
    raise _not_one(value)


def _not_one(value: Any) -> RowError:
    return RowError("want one value", f"{type(value).__name__}: {value!r}"[:200], "give a scalar, or a list of one")
