"""Measures of visual answers: one answer with another of the same type about the same frame and camera.

Answers about different things are not compared: None says so. Coordinates are pixels of one frame size for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.coordinates import THOUSAND
from tasks.evaluate.assign import assign
from tasks.evaluate.labels import same, token_f1
from tasks.evaluate.score import Score

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]
BOXES_MAX = 200  # of one answer
SAME_THING = 0.5  # token F1 of two labels from which on they name the same thing
FOUND_IOU = 0.5
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)  # answers of other tools
OPPOSITE = {"left_of": "right_of", "right_of": "left_of", "above": "below", "below": "above", "near": "near"}


def compare_answers(left: Mapping[str, Any], right: Mapping[str, Any], size: Size | None) -> dict[str, Score] | None:
    """Scores of two stored answers of one type; None when they are about different things or not well formed."""
    compare = _COMPARE.get(str(left.get("type")))
    if compare is None or left.get("type") != right.get("type"):
        return None
    try:
        return compare(left, right, size)
    except MALFORMED:
        return None


def box_scores(found: Sequence[Box], wanted: Sequence[Box], alike: np.ndarray | None = None) -> dict[str, Score]:
    """Overlap of the best one-to-one matching; boxes without counterpart count as 0. `alike`: pairs that may match."""
    ious = box_ious(found, wanted)
    if alike is not None:
        ious = ious * alike
    pairs = [float(ious[i, j]) for i, j in assign(ious)]
    both = len(found) + len(wanted)
    return {"iou": Score(2 * sum(pairs), both), "found_50": Score(2 * sum(p >= FOUND_IOU for p in pairs), both)}


def box_ious(left: Sequence[Box], right: Sequence[Box]) -> np.ndarray:
    """Common area by joint area, (left, right)."""
    a, b = (np.asarray(boxes, float).reshape(-1, 4) for boxes in (left, right))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0.0), axis=2)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0.0), axis=1) for x in (a, b)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-12)


def point_scores(distance_px: float, size: Size) -> dict[str, Score]:
    """Distance in pixels and as a share of the picture's diagonal, at most 1."""
    share = min(distance_px / float(np.hypot(*size)), 1.0)
    return {"distance_px": Score(distance_px, 1), "distance_share": Score(share, 1)}


def boxes_of(answer: Mapping[str, Any], size: Size | None) -> list[Box]:
    """The boxes of an answer in pixels of a frame of `size`."""
    found = answer["detections"]
    if len(found) > BOXES_MAX:
        raise ValueError(f"want at most {BOXES_MAX} boxes, got {len(found)}")
    return [tuple(_pixels(answer, d["bbox"], size)) for d in found]  # type: ignore[misc]


def point_of(answer: Mapping[str, Any], size: Size | None) -> tuple[float, float]:
    """The point of an answer in pixels of a frame of `size`."""
    x, y = _pixels(answer, answer["point"], size)
    return x, y


def _pixels(answer: Mapping[str, Any], numbers: Sequence[float], size: Size | None) -> list[float]:
    values = [float(n) for n in numbers]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"want finite numbers, got {values}")
    own = frame_size((answer,), None)
    counted = (THOUSAND, THOUSAND) if answer.get("coordinates") == "norm1000" else own or size
    target = size or own
    if not counted or not target:
        return values
    return [v * target[i % 2] / counted[i % 2] for i, v in enumerate(values)]


def frame_size(answers: Sequence[Mapping[str, Any]], known: Size | None) -> Size | None:
    """The frame's size: as the dataset says, else as an answer does."""
    told = (a.get("image_size") for a in answers)
    return known or next(((s[0], s[1]) for s in told if _is_size(s)), None)


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)


# ------------------------------------------------------------------------------------------------ two answers


def _alike(a: object, b: object) -> bool:
    return token_f1(str(a), str(b)) >= SAME_THING


def _boxes(left: Mapping[str, Any], right: Mapping[str, Any], size: Size | None) -> dict[str, Score] | None:
    names = [[d["label"] for d in answer["detections"]] for answer in (left, right)]
    alike = np.array([[_alike(a, b) for b in names[1]] for a in names[0]], bool)
    if not alike.any():
        return None
    return box_scores(boxes_of(left, size), boxes_of(right, size), alike)


def _points(left: Mapping[str, Any], right: Mapping[str, Any], size: Size | None) -> dict[str, Score] | None:
    size = frame_size((left, right), size)
    if size is None or not _alike(left["label"], right["label"]):
        return None
    apart = np.subtract(point_of(left, size), point_of(right, size))
    return point_scores(float(np.hypot(*apart)), size)


def _counts(left: Mapping[str, Any], right: Mapping[str, Any], _: Size | None) -> dict[str, Score] | None:
    if not _alike(left["label"], right["label"]):
        return None
    return {"exact": Score(int(left["count"]) == int(right["count"]), 1)}


def _attributes(left: Mapping[str, Any], right: Mapping[str, Any], _: Size | None) -> dict[str, Score] | None:
    if not (_alike(left["label"], right["label"]) and same(str(left["attribute"]), str(right["attribute"]))):
        return None
    return {"exact": Score(same(str(left["value"]), str(right["value"])), 1)}


def _relations(left: Mapping[str, Any], right: Mapping[str, Any], _: Size | None) -> dict[str, Score] | None:
    """ "A left of B" and "B right of A" say the same."""
    if _alike(left["subject"], right["subject"]) and _alike(left["object"], right["object"]):
        return {"exact": Score(left["relation"] == right["relation"], 1)}
    if _alike(left["subject"], right["object"]) and _alike(left["object"], right["subject"]):
        return {"exact": Score(OPPOSITE.get(left["relation"]) == right["relation"], 1)}
    return None


_COMPARE: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], Size | None], dict[str, Score] | None]] = {
    "bbox": _boxes,
    "keypoint": _points,
    "count": _counts,
    "attribute": _attributes,
    "spatial": _relations,
}
