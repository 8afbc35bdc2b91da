"""Measures of subtask spans: where the cuts lie, how much spans overlap, and whether labels come in the same order.

Spans of one episode are ordered and do not overlap. All measures are in [0, 1], and 1 for equal spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.evaluate.assign import assign_in_order
from tasks.evaluate.labels import edit_distance, normalise, same, token_f1
from tasks.evaluate.score import Score
from tasks.segments import Span

TOLERANCES_S = (0.5, 1.0, 2.0)
OVERLAPS = (0.10, 0.25, 0.50)  # of F1@k, as in the literature on action segmentation (Lea et al. 2017)
TIE_BREAK = 1e-5  # of an overlap
SAME_TIME_S = 1e-3  # times are stored as float32: closer ones are the same


@dataclass(frozen=True)
class Matched:
    """Two spans that are each other's counterpart."""

    left: Span
    right: Span
    iou: float


# ------------------------------------------------------------------------------------------------ boundaries


def boundaries(spans: Sequence[Span], start_s: float, end_s: float) -> list[float]:
    """Times inside the episode at which a span starts or ends; where one ends as the next starts is one boundary."""
    out: list[float] = []
    for t in sorted(t for span in spans for t in (span.start, span.end)):
        if start_s + SAME_TIME_S < t < end_s - SAME_TIME_S and (not out or t - out[-1] > SAME_TIME_S):
            out.append(t)
    return out


def match_boundaries(left: Sequence[float], right: Sequence[float], tolerance_s: float) -> list[tuple[int, int]]:
    """As many pairs as possible within the tolerance, one to one; among those the pairs with the least distance."""
    if not left or not right:
        return []
    apart = np.abs(np.subtract.outer(np.asarray(left), np.asarray(right)))
    most = min(apart.shape)  # one more pair always outweighs any gain in distance
    return assign_in_order(np.where(apart <= tolerance_s + SAME_TIME_S, most + 1 - apart / (tolerance_s + 1), 0.0))


def boundary_scores(left: Sequence[float], right: Sequence[float], tolerance_s: float) -> tuple[Score, Score, Score]:
    """Precision of `left`, its recall of `right`, and F1. Without any boundary: 1.0 on both sides, 0.0 on one."""
    found = len(match_boundaries(left, right, tolerance_s))
    empty = 0.0 if left or right else 1.0
    return (
        Score(found, len(left), empty),
        Score(found, len(right), empty),
        Score(2 * found, len(left) + len(right), empty),
    )


def offsets(left: Sequence[float], right: Sequence[float], tolerance_s: float) -> list[float]:
    """How late each found boundary of `left` is, seconds; negative: early."""
    return [left[i] - right[j] for i, j in match_boundaries(left, right, tolerance_s)]


# ------------------------------------------------------------------------------------------------ overlap


def temporal_ious(left: Sequence[Span], right: Sequence[Span]) -> np.ndarray:
    """Common time by joint time of each pair, (left, right)."""
    if not left or not right:
        return np.zeros((len(left), len(right)))
    a, b = (np.array([(s.start, s.end) for s in spans]) for spans in (left, right))
    both = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    both = np.maximum(both, 0.0)
    either = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - both
    return both / np.maximum(either, 1e-12)


def match_spans(left: Sequence[Span], right: Sequence[Span]) -> list[Matched]:
    """The one-to-one matching with the largest sum of overlaps; of equal ones that with the most similar labels."""
    ious = temporal_ious(left, right)
    weights = ious.copy()
    for i, j in zip(*np.nonzero(ious), strict=True):
        a, b = left[i].text, right[j].text
        weights[i, j] += TIE_BREAK * (token_f1(a, b) + TIE_BREAK * same(a, b))
    return [Matched(left[i], right[j], float(ious[i, j])) for i, j in assign_in_order(weights)]


def overlap_scores(left: Sequence[Span], right: Sequence[Span], matched: Sequence[Matched]) -> dict[str, Score]:
    """`iou` counts spans without counterpart as 0; `iou_matched` leaves them out."""
    total = sum(m.iou for m in matched)
    empty = 0.0 if left or right else 1.0
    return {
        "iou": Score(2 * total, len(left) + len(right), empty),
        "iou_matched": Score(total, len(matched), empty),
    }


def segmental_f1(left: Sequence[Span], right: Sequence[Span], overlap: float, labelled: bool) -> Score:
    """F1@k: a span is found when a span of the other side (of the same label) overlaps it by at least k."""
    hits = temporal_ious(left, right) >= overlap - 1e-9
    if labelled:
        hits &= np.array([[same(a.text, b.text) for b in right] for a in left], bool).reshape(hits.shape)
    return Score(2 * len(assign_in_order(hits.astype(float))), len(left) + len(right), 0.0 if left or right else 1.0)


# ------------------------------------------------------------------------------------------------ labels in time


def edit_score(left: Sequence[Span], right: Sequence[Span]) -> Score:
    """1 - edit distance of the two label sequences / the longer one: order counts, time does not."""
    a, b = ([normalise(s.text) for s in spans] for spans in (left, right))
    longer = max(len(a), len(b))
    return Score(longer - edit_distance(a, b), longer, 1.0)


def active(spans: Sequence[Span], times: Sequence[float]) -> list[str | None]:
    """The normalised label at each time, None where there is none."""
    starts = np.array([s.start for s in spans])
    found = np.searchsorted(starts - SAME_TIME_S, times, side="right") - 1 if spans else np.full(len(times), -1)
    return [
        normalise(spans[i].text) if i >= 0 and t < spans[i].end - SAME_TIME_S else None
        for i, t in zip(found, times, strict=True)
    ]


def frame_scores(left: Sequence[Span], right: Sequence[Span], times: Sequence[float]) -> Score:
    """Share of frames with the same label; frames that neither side labels agree."""
    agreed = sum(a == b for a, b in zip(active(left, times), active(right, times), strict=True))
    return Score(agreed, len(times), 1.0)


def label_scores(matched: Sequence[Matched]) -> dict[str, Score]:
    """Agreement of the labels of matched spans."""
    return {
        "label_exact": Score(sum(same(m.left.text, m.right.text) for m in matched), len(matched)),
        "label_token_f1": Score(sum(token_f1(m.left.text, m.right.text) for m in matched), len(matched)),
    }
