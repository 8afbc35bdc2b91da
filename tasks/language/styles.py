"""Which styles exist, in which column each lives, and which belong to one camera's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks.errors import RowError

Column = Literal["language_persistent", "language_events"]
PERSISTENT: Column = "language_persistent"
EVENTS: Column = "language_events"


@dataclass(frozen=True)
class Style:
    """One kind of row."""

    name: str
    column: Column
    roles: tuple[str, ...]  # roles a row of this style may have
    needs_camera: bool = False


_STYLES: dict[str, Style] = {
    s.name: s
    for s in (
        Style("subtask", PERSISTENT, ("assistant",)),
        Style("plan", PERSISTENT, ("assistant",)),
        Style("memory", PERSISTENT, ("assistant",)),
        Style("task_aug", PERSISTENT, ("user",)),
        Style("motion", PERSISTENT, ("user", "assistant")),
        Style("interjection", EVENTS, ("user",)),
        Style("vqa", EVENTS, ("user", "assistant"), needs_camera=True),
        Style("trace", EVENTS, ("user", "assistant"), needs_camera=True),
    )
}

# Which styles each staged module makes. A rerun of a module replaces just these rows. None is the speech atom.
MODULE_STYLES: dict[str, tuple[str | None, ...]] = {
    "plan": ("subtask", "plan", "memory", "task_aug"),
    "interjections": ("interjection", None),
    "vqa": ("vqa",),
}
MODULES: tuple[str, ...] = tuple(MODULE_STYLES)


def styles() -> tuple[Style, ...]:
    """All registered styles."""
    return tuple(_STYLES.values())


def style(name: str) -> Style:
    """The style of that name, or RowError."""
    try:
        return _STYLES[name]
    except KeyError:
        raise RowError("want a registered style", repr(name), f"use one of {', '.join(_STYLES)}") from None


def register_style(new: Style) -> None:
    """Add a project's own style. Raises RowError when the name is taken by a different one."""
    if _STYLES.setdefault(new.name, new) != new:
        raise RowError("want a new style name", f"{new.name!r}, which is registered otherwise", "choose another name")


def column_for_style(name: str | None) -> Column:
    """The column that holds rows of a style; None (a tool call) is an event."""
    return EVENTS if name is None else style(name).column


def check_camera(name: str | None, camera: str | None) -> None:
    """Raise RowError unless the camera is set exactly for the styles that speak about one camera's pixels."""
    needs = name is not None and style(name).needs_camera
    if needs and not camera:
        raise RowError(f"want a camera on a {name} row", repr(camera), "name the camera whose picture it speaks about")
    if not needs and camera is not None:
        raise RowError(f"want no camera on a {name or 'speech'} row", repr(camera), "set camera to null")
