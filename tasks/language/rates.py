"""What a recipe really gives over a dataset: how often each component is drawn, could be drawn, and what it lacks.

A weight says what is wanted; a component that needs a rare row is drawn only where that row is. What can render changes
only where a row begins or an event happens, so it is worked out once for each stretch of frames between those.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from tasks.errors import AmbiguousRowsError
from tasks.language.expression import Selector
from tasks.language.render import Renderer
from tasks.language.resolve import EpisodeTable

CONTRADICTION = "one row: several contradict each other"  # named among what a component lacks
_ANY = Selector()


class Rows(Protocol):
    """Language rows by position among a dataset's episodes, as `tasks.language.row_store.RowStore` has them."""

    @property
    def episode_indices(self) -> Any: ...
    def __len__(self) -> int: ...
    def frames(self, position: int) -> int: ...
    def task(self, position: int) -> str: ...
    def table(self, position: int) -> EpisodeTable: ...


@dataclass
class ComponentRate:
    """One component of a recipe: what it should get and what it gets."""

    name: str
    weight: float  # as written, after it is shared out between cameras
    share: float  # of the sum of weights
    routed: bool  # goes before all others wherever it can render
    drawn: int = 0  # frames
    renderable: int = 0  # frames
    lacks: Counter[str] = field(default_factory=Counter)  # name -> frames where it would be needed and has nothing
    examples: list[tuple[int, int]] = field(default_factory=list)  # (episode_index, frame) where it was drawn


@dataclass
class Rates:
    """Counts over the frames looked at."""

    frames_total: int  # of all episodes
    components: dict[str, ComponentRate]
    frames: int = 0  # looked at
    nothing: int = 0  # frames on which no component can render
    task_only: int = 0  # of these, frames that have a task: a loader may fall back to it
    ambiguous: int = 0  # frames with rows that contradict each other
    first_ambiguous: str | None = None  # where, and which

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {**vars(self), "components": [vars(c) | {"lacks": dict(c.lacks)} for c in self.components.values()]}


@dataclass(frozen=True)
class Stretch:
    """What holds from one frame to the next at which anything changes."""

    able: tuple[str, ...]  # components that can render
    lacks: dict[str, tuple[str, ...]]  # what each of the others would need and has not
    contradiction: str | None  # rows that contradict each other, in words


def measure_rates(
    rows: Rows,
    renderer: Renderer,
    *,
    positions: Sequence[int] | None = None,
    frames_max: int | None = None,
    epoch: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Rates:
    """Render all frames of all episodes or of those at `positions`, or `frames_max` evenly spaced ones, and count.

    `progress(done, all)` is told after each episode.
    `renderer` must leave out what contradicts itself (`on_ambiguous="skip"`); such frames are counted.
    """
    total = sum(renderer.weights.values())
    wanted = range(len(rows)) if positions is None else positions
    rates = Rates(
        sum(rows.frames(i) for i in wanted),
        {c.name: ComponentRate(c.name, c.weight, c.weight / total, c.routed) for c in renderer.components},
    )
    chosen = list(_chosen(rows, wanted, rates.frames_total, frames_max))
    for done, (position, frames) in enumerate(chosen, 1):
        _count(rates, rows, renderer, position, frames, epoch)
        if progress is not None:
            progress(done, len(chosen))
    return rates


def _chosen(rows: Rows, wanted: Sequence[int], total: int, frames_max: int | None) -> Iterator[tuple[int, list[int]]]:
    """(position, frames) of the episodes with frames to look at."""
    count = total if frames_max is None else min(frames_max, total)
    at = np.linspace(0, total, count, endpoint=False).astype(np.int64)
    first = 0
    for position in wanted:
        end = first + rows.frames(position)
        mine = at[np.searchsorted(at, first) : np.searchsorted(at, end)] - first
        if len(mine):
            yield position, mine.tolist()
        first = end


def _count(rates: Rates, rows: Rows, renderer: Renderer, position: int, frames: list[int], epoch: int) -> None:
    """Add one episode's frames."""
    table, task, episode = rows.table(position), rows.task(position), int(rows.episode_indices[position])
    starts = changes(table)
    for _, stretch_frames in groupby(frames, key=lambda frame: bisect_right(starts, frame)):
        here = list(stretch_frames)
        stretch = stretch_at(renderer, table, here[0], task)
        _add(rates, stretch, len(here), episode)
        if not stretch.able:
            rates.nothing += len(here)
            rates.task_only += len(here) * bool(task or table.rephrasings)
            continue
        for frame in here:
            named = renderer.render_named(table, frame, episode=episode, epoch=epoch, task=task)
            if named is not None:
                component = rates.components[named[0]]
                component.drawn += 1
                if component.drawn.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, … time: few, yet from everywhere
                    component.examples.append((episode, frame))


def _add(rates: Rates, stretch: Stretch, frames: int, episode: int) -> None:
    """Count what holds for all frames of a stretch."""
    rates.frames += frames
    for name in stretch.able:
        rates.components[name].renderable += frames
    for name, lacking in stretch.lacks.items():
        rates.components[name].lacks.update(dict.fromkeys(lacking, frames))
    if stretch.contradiction is not None:
        rates.ambiguous += frames
        rates.first_ambiguous = rates.first_ambiguous or f"episode {episode}: {stretch.contradiction}"


def moments(table: EpisodeTable) -> set[int]:
    """Frames on which a state begins, or something happens."""
    return {*table.track(_ANY)[0], *table.event_frames}


def changes(table: EpisodeTable) -> list[int]:
    """Frames, ascending, at which what can render may change: those moments, and the frame after each."""
    at = moments(table)
    return sorted(at | {frame + 1 for frame in at})


def stretch_at(renderer: Renderer, table: EpisodeTable, frame: int, task: str) -> Stretch:
    """What can render around a frame, and what the rest lacks."""
    try:
        lacks, contradiction = renderer.missing(table, frame, task=task), None
    except AmbiguousRowsError as err:
        able = renderer.renderable(table, frame, task=task)
        lacks, contradiction = (
            {n: (CONTRADICTION,) for n in renderer.names if n not in able},
            f"{err.wanted}: {err.got}",
        )
    return Stretch(tuple(n for n in renderer.names if n not in lacks), lacks, contradiction)


def find_frame(rows: Rows, renderer: Renderer, name: str, positions: Iterable[int]) -> tuple[int, int] | None:
    """(position, frame) of the first frame on which a component can render; None when there is none at all."""
    for position in positions:
        table, task = rows.table(position), rows.task(position)
        for frame in (0, *changes(table)):
            if 0 <= frame < rows.frames(position) and name in renderer.renderable(table, frame, task=task):
                return position, frame
    return None
