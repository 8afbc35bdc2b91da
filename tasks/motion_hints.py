"""What the joints recorded, for a model that sees pictures only: facts in words, and times where boundaries belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from tasks.answers.motion_segments import stroke_end
from tasks.dataset.episode import Episode
from tasks.dataset.signals import CLOSED_FROM, OPEN_UP_TO, Gripper, Signals
from tasks.segments import ROUNDING_S, Span

FACTS_MAX = 40  # of one window: a signal that flickers tells nothing, and a prompt must stay readable
REST_MIN_S = 0.5  # shorter rests are no news


# ------------------------------------------------------------------------------------------------ facts


def facts(signals: Signals, episode: Episode, start_s: float, end_s: float) -> list[str]:
    """What happened in [start_s, end_s], a line each in order of time; times count from `start_s`."""
    found = [(0.0, f"{_at(0.0)}: the {g.name} is {state}") for g in signals.grippers if (state := _state(g, start_s))]
    names = {g.side: g.name for g in signals.grippers}
    found += [
        (e.time_s - start_s, f"{_at(e.time_s - start_s)}: the {names[e.side]} {e.kind}s")
        for e in signals.gripper_events()
        if start_s < e.time_s <= end_s
    ]
    room = max(0, FACTS_MAX - len(found))
    rests = [(max(a, start_s) - start_s, min(b, end_s) - start_s) for a, b in rests_of(signals, episode)]
    rests = sorted((r for r in rests if r[1] - r[0] >= REST_MIN_S), key=lambda r: r[0] - r[1])[:room]
    found += [(a, f"{a:.2f}-{_at(b)}: the arm rests") for a, b in rests]
    return [line for _, line in sorted(found, key=lambda f: f[0])[:FACTS_MAX]]


def rests_of(signals: Signals, episode: Episode) -> list[tuple[float, float]]:
    """From when to when the arm rests; empty when no joints were recorded."""
    if signals.speed is None or not signals.moving.any():
        return []
    edges = [episode.start_s, *(e.time_s for e in signals.events if e.kind in ("rest", "move")), episode.end_s]
    resting = not signals.moving[0]
    return [stretch for i, stretch in enumerate(pairwise(edges)) if (i % 2 == 0) == resting]


def _at(time_s: float) -> str:
    return f"{time_s:.2f} s"


def _state(gripper: Gripper, time_s: float) -> str:
    """Of a gripper; "" where it is between the two or unknown."""
    closed = gripper.closed_at(time_s)
    return "closed" if closed >= CLOSED_FROM else "open" if closed <= OPEN_UP_TO else ""


# ------------------------------------------------------------------------------------------------ boundaries


def boundary_times(signals: Signals, episode: Episode) -> list[float]:
    """When something was over, in order of time: a gripper's change with the lift or retreat after it, or a movement.

    A rest in which a gripper closes or opens is the middle of an event.
    """
    changes = [e.time_s for e in signals.gripper_events()]
    strokes = [stroke_end(signals, episode, t, later) for t, later in pairwise([*changes, episode.end_s])]
    rests = [a for a, b in rests_of(signals, episode) if a > episode.start_s and not any(a <= t <= b for t in changes)]
    return sorted({*strokes, *rests})


def snap(
    spans: Sequence[Span], times: Sequence[float], reach_s: float, min_s: float, start_s: float, end_s: float
) -> list[Span]:
    """Spans whose boundaries lie at the nearest of `times` within `reach_s`; the closest pairs are served first.

    A time takes one boundary at most; boundaries keep their order, and no span gets shorter than `min_s` by it. The
    first span begins at `start_s`, the last one ends at `end_s`, as they will in the end.
    """
    if not spans:
        return []
    edges = [start_s, *(s.start for s in spans[1:]), end_s]
    inner = range(1, len(spans))
    pairs = sorted((abs(t - edges[i]), i, t) for i in inner for t in times if abs(t - edges[i]) <= reach_s)
    moved: set[int] = set()
    taken: set[float] = set()
    for _, i, t in pairs:
        if i not in moved and t not in taken and _fits(edges[i - 1 : i + 2], t, min_s):
            edges[i] = t
            moved.add(i)
            taken.add(t)
    return [replace(s, start=a, end=max(a, b)) for s, (a, b) in zip(spans, pairwise(edges), strict=True)]


def _fits(edges: Sequence[float], t: float, min_s: float) -> bool:
    """Whether the boundary between two spans may move to `t`: both stay long enough, or become no shorter."""
    start, now, end = edges
    return t - start >= min(min_s, now - start) - ROUNDING_S and end - t >= min(min_s, end - now) - ROUNDING_S
