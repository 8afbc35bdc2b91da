"""The labels of one episode, whatever form they had: a text, and the frames for which it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

NONE = -1  # index of a frame without a label


@dataclass(frozen=True)
class Label:
    """A text that holds for the frames [start, stop) of an episode."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Found:
    """What an older form says of one episode: labels by start, never two on a frame."""

    labels: tuple[Label, ...] = ()
    unlabelled: int = 0  # frames that no label covered
    overlaps: int = 0  # labels that were cut off because the next one had begun
    hidden: int = 0  # labels left out because another one begins on the same frame

    @property
    def late(self) -> int:
        """Frames before the first label."""
        return self.labels[0].start if self.labels else 0


def from_indices(indices: np.ndarray, texts: Mapping[int, str]) -> Found:
    """Labels of an index per frame (int64, NONE for no label)."""
    edges = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
    runs = [(int(indices[start]), start, stop) for start, stop in pairwise(edges)]
    labels = [Label(texts[i], start, stop) for i, start, stop in runs if i != NONE]
    return Found(merged(labels), unlabelled=int((indices == NONE).sum()))


def from_spans(spans: Iterable[Label], frames: int) -> Found:
    """Labels of spans that may overlap or leave gaps: a label holds from its start until the next one's.

    Where two begin on one frame, the later in the list wins. A gap of one frame is none: some writers count the last
    frame of a span in, others do not.
    """
    ordered = sorted(spans, key=lambda s: s.start)
    covered = np.zeros(frames, dtype=bool)
    for span in ordered:
        covered[span.start : span.stop + 1] = True
    kept = [span for span, following in pairwise(ordered) if following.start > span.start] + ordered[-1:]
    cut = sum(following.start < span.stop for span, following in pairwise(kept))
    stops = [span.start for span in kept[1:]] + [frames]
    whole = [replace(span, stop=stop) for span, stop in zip(kept, stops, strict=True)]
    return Found(merged(whole), int((~covered).sum()), cut, len(ordered) - len(kept))


def merged(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Neighbours that say the same are one label, also across frames without any."""
    out: list[Label] = []
    for label in labels:
        if out and out[-1].text == label.text:
            out[-1] = replace(out[-1], stop=label.stop)
        else:
            out.append(label)
    return tuple(out)


def to_indices(labels: Iterable[Label], frames: int, index_of: Mapping[str, int]) -> np.ndarray:
    """The index of each frame's label, int64 (frames,), NONE where there is none."""
    indices = np.full(frames, NONE, dtype=np.int64)
    for label in labels:
        indices[label.start : label.stop] = index_of[label.text]
    return indices
