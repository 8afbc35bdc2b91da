"""Statistics of features: per episode in its metadata, merged over the dataset in meta/stats.json."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
PICTURE_PIXELS_MAX = 160 * 120  # larger pictures are thinned out: statistics need no more
COLOUR_MAX = 255.0

Stats = dict[str, np.ndarray]  # min, max, mean, std, count and the quantiles


def vector_stats(values: np.ndarray) -> Stats:
    """Statistics over the frames (first axis) of a numeric feature; scalars become vectors of one."""
    values = values.reshape(len(values), -1) if values.ndim == 1 else values
    wide = values.astype(np.float64)
    stats = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": wide.mean(axis=0),
        "std": wide.std(axis=0),
        "count": np.array([len(values)], dtype=np.int64),
    }
    return stats | dict(zip(QUANTILES, np.quantile(wide, list(QUANTILES.values()), axis=0), strict=True))


def picture_counts(picture: np.ndarray) -> np.ndarray:
    """How often each level occurs in each channel of a picture, thinned out: int64 (channels, levels).

    The picture is uint8 (height, width, 3), or uint16 (height, width) of a depth camera. Counts may be added up.
    """
    step = 1 + int((picture.shape[0] * picture.shape[1] / PICTURE_PIXELS_MAX) ** 0.5 - 1e-9)
    thin = picture[::step, ::step].reshape(-1, 1 if picture.ndim == 2 else picture.shape[2])
    levels = int(np.iinfo(picture.dtype).max) + 1
    return np.stack([np.bincount(thin[:, channel], minlength=levels) for channel in range(thin.shape[1])])


def picture_stats(counts: np.ndarray, pictures: int, scale: float = COLOUR_MAX) -> Stats:
    """Statistics per channel from added up counts: arrays of shape (channels, 1, 1)."""
    levels = np.arange(counts.shape[1]) / scale
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    cumulated = counts.cumsum(axis=1)

    def level(share: float) -> np.ndarray:
        return levels[(cumulated >= share * total[:, None]).argmax(axis=1)]

    stats = {
        "min": levels[(counts > 0).argmax(axis=1)],
        "max": levels[counts.shape[1] - 1 - (counts[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0.0)),
    }
    stats |= {name: level(share) for name, share in QUANTILES.items()}
    shaped = {name: value.reshape(-1, 1, 1) for name, value in stats.items()}
    return shaped | {"count": np.array([pictures], dtype=np.int64)}


class PictureStats:
    """Statistics per channel of a stream of pictures, from histograms: exact for 8-bit colours, in 0..1."""

    def __init__(self, every: int) -> None:
        self._every, self._seen, self._taken = every, 0, 0
        self._counts: np.ndarray | None = None  # (channels, levels)
        self._scale = COLOUR_MAX

    def add(self, picture: np.ndarray) -> None:
        """Count one picture, uint8 (height, width, 3) or uint16 (height, width) of a depth camera."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        self._taken += 1
        self._scale = COLOUR_MAX if picture.dtype == np.uint8 else 1.0
        counts = picture_counts(picture)
        self._counts = counts if self._counts is None else self._counts + counts

    def result(self) -> Stats:
        """Arrays of shape (channels, 1, 1)."""
        if self._counts is None:
            raise ValueError("statistics of no picture")
        return picture_stats(self._counts, self._taken, self._scale)


def merge_stats(a: Mapping[str, Stats], b: Mapping[str, Stats]) -> dict[str, Stats]:
    """Statistics of both parts together. Quantiles are weighted means, since the values themselves are gone."""
    return {key: _merge(a[key], b[key]) if key in a and key in b else (a.get(key) or b[key]) for key in {**a, **b}}


def _merge(a: Stats, b: Stats) -> Stats:
    count = a["count"] + b["count"]
    wa, wb = a["count"] / count, b["count"] / count
    mean = wa * a["mean"] + wb * b["mean"]
    variance = wa * (a["std"] ** 2 + (a["mean"] - mean) ** 2) + wb * (b["std"] ** 2 + (b["mean"] - mean) ** 2)
    merged = {
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": count,
    }
    return merged | {name: wa * a[name] + wb * b[name] for name in QUANTILES}
