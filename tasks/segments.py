"""Subtask segments, pure: sampling and windows, cleaning what a model said, joining windows, one span per frame.

All functions are deterministic. `settle` is where the promise is kept that every frame has exactly one subtask.
"""

from __future__ import annotations

import logging
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tasks.dataset.episode import Episode
from tasks.language.rows import Row

log = logging.getLogger(__name__)

EMPTY_LABELS = frozenset({"none", "null", "nil", "nan", "n/a", "na", "nothing", "empty", "unknown", "undefined", "tbd"})
QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "„": "“"}
ROUNDING_S = 1e-6  # times closer than this are the same


@dataclass(frozen=True)
class Span:
    """One subtask; seconds."""

    text: str
    start: float
    end: float

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return self.end - self.start


# ------------------------------------------------------------------------------------------------ sampling, windows


def even_times(start_s: float, end_s: float, count: int) -> list[float]:
    """`count` evenly spread times, both ends included; the start alone when there is no room or count is 1."""
    if count <= 1 or end_s <= start_s:
        return [start_s]
    return [start_s + (end_s - start_s) * i / (count - 1) for i in range(count)]


def sample_times(times: Sequence[float], start_s: float, end_s: float, fps: float, count_max: int) -> list[float]:
    """Which times of [start_s, end_s] to show: `fps` per second, at most `count_max`; all frames if they are fewer."""
    inside = list(times[bisect_left(times, start_s - ROUNDING_S) : bisect_right(times, end_s + ROUNDING_S)])
    count = min(max(1, round((end_s - start_s) * fps) + 1), count_max)
    if inside and count >= len(inside):
        return inside
    return even_times(start_s, end_s, count) if count > 1 else [(start_s + end_s) / 2]


def windows(start_s: float, end_s: float, fps: float, frames_max: int, overlap_s: float) -> list[tuple[float, float]]:
    """Equal windows that overlap, as few as keep each within `frames_max` frames at `fps`.

    Equal lengths avoid a last window too short to show an event; the overlap lets an event cross a seam.
    """
    duration_s = end_s - start_s
    if round(duration_s * fps) + 1 <= frames_max:
        return [(start_s, end_s)]
    length_max_s = (frames_max - 1) / fps
    overlap_s = min(overlap_s, length_max_s / 2)
    count = max(2, math.ceil((duration_s - overlap_s) / (length_max_s - overlap_s) - ROUNDING_S))
    length_s = (duration_s + (count - 1) * overlap_s) / count
    starts = [start_s + i * (length_s - overlap_s) for i in range(count)]
    return [(s, s + length_s) for s in starts[:-1]] + [(starts[-1], end_s)]


# ------------------------------------------------------------------------------------------------ cleaning


def normalise_label(text: str) -> str:
    """A label as it is stored: no list mark, quotes or full stop around it, lower-case start unless an acronym.

    Texts that stand for "nothing" become "".
    """
    text = " ".join(text.split())
    while True:
        before = text
        text = re.sub(r"^(?:\d{1,3}[.)]|[-*•–])\s+", "", text).rstrip(" .,;:").strip()
        if len(text) > 1 and QUOTES.get(text[0]) == text[-1]:
            text = text[1:-1].strip()
        if text == before:
            break
    if text.casefold() in EMPTY_LABELS or not any(c.isalnum() for c in text):
        return ""
    first = text.split(" ", 1)[0]
    return text[0].lower() + text[1:] if len(first) == 1 or first[1].islower() else text


def clean(raw: Iterable[tuple[str, float, float]], lo_s: float, hi_s: float, touch_s: float = 0.0) -> list[Span]:
    """Usable segments in order of start, inside [lo_s, hi_s]; equal labels that touch are one segment.

    Dropped: times that are no numbers, labels that say nothing, segments wholly outside.
    """
    spans = []
    for text, start, end in raw:
        label = normalise_label(text)
        if not label or not (math.isfinite(start) and math.isfinite(end)):
            continue
        start, end = min(start, end), max(start, end)
        if start > hi_s or end < lo_s:
            continue
        spans.append(Span(label, max(start, lo_s), min(end, hi_s)))
    return merge_repeats(sorted(spans, key=lambda s: s.start), touch_s)


def merge_repeats(spans: Sequence[Span], touch_s: float) -> list[Span]:
    """Neighbours with the same label and at most `touch_s` between them become one; farther apart they are repeats."""
    out: list[Span] = []
    for span in spans:
        last = out[-1] if out else None
        if last and last.text == span.text and span.start - last.end <= touch_s + ROUNDING_S:
            out[-1] = replace(last, end=max(last.end, span.end))
        else:
            out.append(span)
    return out


def limit_count(spans: Sequence[Span], count_max: int) -> list[Span]:
    """At most `count_max` segments: the shortest is merged away until they fit."""
    return _merge_shortest(list(spans), lambda spans, _: len(spans) > count_max)


def limit_length(spans: Sequence[Span], min_s: float) -> list[Span]:
    """No segment shorter than `min_s`, unless it is the only one."""
    return _merge_shortest(list(spans), lambda _, shortest: shortest.length_s < min_s - ROUNDING_S)


def _merge_shortest(spans: list[Span], too_much: Callable[[list[Span], Span], bool]) -> list[Span]:
    while len(spans) > 1:
        i = min(range(len(spans)), key=lambda j: (spans[j].length_s, j))
        if not too_much(spans, spans[i]):
            break
        j = _absorber(spans, i)
        first, second = spans[min(i, j)], spans[max(i, j)]
        merged = Span(spans[j].text, first.start, max(first.end, second.end))
        spans[min(i, j) : max(i, j) + 1] = [merged]
    return spans


def _absorber(spans: Sequence[Span], i: int) -> int:
    """The neighbour that takes segment `i` in: one with its label, else the shorter one, else the earlier one."""
    around = [j for j in (i - 1, i + 1) if 0 <= j < len(spans)]
    return min(around, key=lambda j: (spans[j].text != spans[i].text, spans[j].length_s, j))


# ------------------------------------------------------------------------------------------------ joining windows

_SAME_VERBS = (
    (re.compile(r"^(?:pick up|grasp|grab|take|lift|lift up)\b"), "pick"),
    (re.compile(r"^(?:put down|place|set down|set|lay|lay down|put)\b"), "put"),
)
_ARTICLES = frozenset({"the", "a", "an"})


def similar(a: str, b: str) -> bool:
    """Whether two labels name one event: the same verb, and no word of the shorter one is missing in the other."""
    verb_a, words_a = _words(a)
    verb_b, words_b = _words(b)
    return verb_a == verb_b and (words_a <= words_b or words_b <= words_a)


def _words(label: str) -> tuple[str, frozenset[str]]:
    label = label.casefold()
    for pattern, verb in _SAME_VERBS:
        label = pattern.sub(verb, label, count=1)
    words = re.findall(r"\w+", label)
    return (words[0] if words else "", frozenset(words) - _ARTICLES)


def join_windows(parts: Sequence[Sequence[Span]], bounds: Sequence[tuple[float, float]], touch_s: float) -> list[Span]:
    """One list from the segments of overlapping windows, all in episode time."""
    joined = list(parts[0])
    for right, (_, before_end), (start, _) in zip(parts[1:], bounds, bounds[1:], strict=False):
        joined = _join(joined, list(right), start, before_end, touch_s)
    return merge_repeats(joined, touch_s)


def _join(left: list[Span], right: list[Span], lo_s: float, hi_s: float, touch_s: float) -> list[Span]:
    """Cut where both windows see the same event, as near the middle of the overlap as can be; else in the middle.

    Up to the cut the left window counts, from there on the right one. An event that both see at the cut is one segment.
    """
    if not left or not right:
        return left or right
    cut_s, i, j = _seam(left, right, lo_s, hi_s)
    tail = right[max(j, 0) :]
    if i < 0:
        return tail
    head, last, first = left[:i], left[i], tail[0]
    if j >= 0 and similar(last.text, first.text) and first.start - last.end <= touch_s + ROUNDING_S:
        longer = max(last, first, key=lambda s: s.length_s)
        return [*head, Span(longer.text, last.start, max(last.end, first.end)), *tail[1:]]
    begin = max(first.start, min(cut_s, last.end))  # an event may not begin twice: the left window owns what is before
    return [*head, last, Span(first.text, begin, max(begin, first.end)), *tail[1:]]


def _seam(left: list[Span], right: list[Span], lo_s: float, hi_s: float) -> tuple[float, int, int]:
    """Where to cut in [lo_s, hi_s], and which segment of each side is running there (-1: none has begun yet)."""
    middle = (lo_s + hi_s) / 2
    starts_l, starts_r = [s.start for s in left], [s.start for s in right]
    edges = sorted({lo_s, hi_s, *(t for t in starts_l + starts_r if lo_s < t < hi_s)})
    best = (middle, bisect_right(starts_l, middle) - 1, bisect_right(starts_r, middle) - 1)
    best_distance = math.inf
    for a, b in pairwise(edges):
        i, j = bisect_right(starts_l, a) - 1, bisect_right(starts_r, a) - 1
        near = min(max(middle, a), b)
        if i >= 0 and j >= 0 and abs(near - middle) < best_distance and similar(left[i].text, right[j].text):
            best, best_distance = (near, i, j), abs(near - middle)
    return best


# ------------------------------------------------------------------------------------------------ one span per frame


def settle(spans: Sequence[Span], episode: Episode, min_s: float) -> list[Span]:
    """Spans whose starts are distinct frame times, the first at the first frame, without gaps, up to the last frame.

    Settling twice changes nothing.
    """
    return limit_length(stitch(distinct_frames(spans, episode), episode), min_s)


def distinct_frames(spans: Sequence[Span], episode: Episode) -> list[Span]:
    """Starts moved to frames, one each: where a frame is taken the next free one; without one the span is dropped."""
    out: list[Span] = []
    row = -1
    for k, span in enumerate(sorted(spans, key=lambda s: s.start)):
        row = max(episode.nearest(span.start), row + 1) if k else 0  # the first is in force from the first frame
        if row >= episode.frames:
            log.warning(
                "episode %d: no frame left for the subtask %r at %.2f s; dropped",
                episode.episode_index,
                span.text,
                span.start,
            )
            break
        start = episode.times[row]
        out.append(Span(span.text, start, max(start, span.end)))
    return out


def stitch(spans: Sequence[Span], episode: Episode) -> list[Span]:
    """Each span ends where the next begins, the last at the last frame: every frame has exactly one subtask."""
    ends = [s.start for s in spans[1:]] + [episode.end_s] if spans else []
    return [replace(span, end=end) for span, end in zip(spans, ends, strict=True)]


def spans_of(rows: Iterable[Row], end_s: float) -> list[Span]:
    """The spans that subtask rows stand for; the last one reaches to `end_s`."""
    subtasks = sorted((r for r in rows if r.style == "subtask" and r.content), key=lambda r: r.timestamp)
    ends = [r.timestamp for r in subtasks[1:]] + [end_s]
    return [Span(r.content or "", r.timestamp, max(r.timestamp, end)) for r, end in zip(subtasks, ends, strict=False)]
