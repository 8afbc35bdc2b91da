"""Motion signals of an episode: when grippers close and open, when the arm moves and rests.

Direction of a gripper: by its name or a known convention (joints.py); else the state at the start of the episode is
taken as open; when the start lies in the middle of the range, larger values are taken as open, as most recorders do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tasks.dataset.episode import Episode
from tasks.dataset.joints import GripperColumns, find_grippers

if TYPE_CHECKING:
    from tasks.dataset.layout import Dataset

CLOSED_FROM = 0.65  # closed fraction from which a gripper counts as closed ...
OPEN_UP_TO = 0.35  # ... and up to which it counts as open; between them it keeps what it was
GRIPPER_HOLD_S = 0.25  # a change that does not last this long is noise
MOTION_HOLD_S = 0.4  # the same for motion and rest
SPIKE_S = 0.1  # median filter over this time
SMOOTH_S = 0.3  # moving average of joint positions over this time
SETTLE_S = 0.2  # the start of an episode, as long as this, shows the state it starts in
RANGE_OF_DATASET = 0.2  # a gripper that uses less of the dataset's range than this does nothing
MOVING_FROM = 0.12  # of the episode's fast speed (95th percentile): from here the arm moves
RESTING_UP_TO = 0.06  # up to here it rests
# Units are not recorded, magnitudes tell: (largest magnitude, least stroke of a gripper, least travel of an arm).
_SCALES = (
    (0.12, 0.008, 0.004),
    (3.5, 0.12, 0.02),
    (float("inf"), 4.0, 1.5),
)  # metres; unit range or radians; per cent, degrees
_SOURCES = ("observation.state", "action")


@dataclass(frozen=True)
class Gripper:
    """One gripper or hand over the episode."""

    name: str  # in words: "gripper", "left gripper", "right hand"
    side: str  # "", "left", "right"
    closed: np.ndarray  # float (frames,): 0 open .. 1 closed; all NaN when it hardly moves, so that nobody can know
    times: np.ndarray  # float (frames,): seconds

    def closed_at(self, t: float) -> float:
        """Closed fraction at the frame nearest to `t`; NaN when unknown."""
        return float(self.closed[int(np.argmin(np.abs(self.times - t)))])


@dataclass(frozen=True)
class MotionEvent:
    """A change that the signals prove, at a frame's own time."""

    time_s: float
    kind: str  # "close", "open", "rest", "move"
    side: str = ""  # of the gripper; "" for the arm


@dataclass(frozen=True)
class Signals:
    """What an episode's joints tell without any picture."""

    grippers: tuple[Gripper, ...]
    events: tuple[MotionEvent, ...]  # in time order
    moving: np.ndarray  # bool (frames,)
    speed: np.ndarray | None  # float (frames,) of all joints but the grippers, smoothed; None: no joints were recorded

    def gripper_events(self) -> list[MotionEvent]:
        """Close and open events only."""
        return [e for e in self.events if e.kind in ("close", "open")]


def read_signals(dataset: Dataset, episode: Episode) -> Signals:
    """Signals of one episode. Raises DatasetError when its columns cannot be read."""
    step_s = _step_s(episode)
    grippers: dict[str, Gripper] = {}
    events: list[MotionEvent] = []
    speed: np.ndarray | None = None
    for key, values in _recorded(dataset, episode).items():
        names = dataset.feature_names(key)
        found = find_grippers(names) if len(names) == values.shape[1] else ()
        spans = _spans_of_dataset(dataset, key, values.shape[1])
        for columns in found:
            known = grippers.get(columns.side)
            if known is None or np.isnan(known.closed).all():  # the state is the truth; the command where it is mute
                gripper, changes = _read_gripper(columns, values, spans, episode, step_s)
                grippers[columns.side] = gripper
                events += changes
        if speed is None:
            fingers = [c for g in found for c in g.columns]
            speed = _speed(np.delete(values, fingers, axis=1), step_s)
    moving = np.zeros(episode.frames, bool) if speed is None else _moving(speed, step_s)
    events += _changes(moving, episode, ("rest", "move"), "")
    ordered = tuple(sorted(events, key=lambda e: (e.time_s, e.kind, e.side)))
    return Signals(tuple(grippers[s] for s in sorted(grippers)), ordered, moving, speed)


def _recorded(dataset: Dataset, episode: Episode) -> dict[str, np.ndarray]:
    """State, then action: float64 (frames, dim) with gaps filled; a column without any finite value becomes 0."""
    keys = [k for k in _SOURCES if k in dataset.info.features]
    columns = dataset.columns(episode, keys) if keys else {}
    out = {}
    for key in keys:
        values = np.array(columns[key], dtype=np.float64)
        out[key] = _fill(values.reshape(len(values), -1))
    return out


def _fill(values: np.ndarray) -> np.ndarray:
    """The same array with every NaN or infinity replaced by a line between its neighbours in time."""
    rows = np.arange(len(values))
    for c in np.flatnonzero(~np.isfinite(values).all(axis=0)):
        good = np.isfinite(values[:, c])
        values[:, c] = np.interp(rows, rows[good], values[good, c]) if good.any() else 0.0
    return values


def _step_s(episode: Episode) -> float:
    """Seconds from frame to frame."""
    step = float(np.median(np.diff(episode.timestamps))) if episode.frames > 1 else 0.0
    return step if step > 0 else 1.0 / max(episode.fps, 1e-3)


def _spans_of_dataset(dataset: Dataset, key: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each column in the whole dataset; NaN where its statistics are missing."""
    try:
        stats = json.loads((dataset.root / "meta" / "stats.json").read_text(encoding="utf-8"))[key]
        low, high = (np.array(stats[k], np.float64).reshape(dim) for k in ("min", "max"))
    except (OSError, ValueError, KeyError, TypeError):  # statistics only sharpen thresholds
        return np.full(dim, np.nan), np.full(dim, np.nan)
    return low, high


def _read_gripper(
    columns: GripperColumns,
    values: np.ndarray,
    spans: tuple[np.ndarray, np.ndarray],
    episode: Episode,
    step_s: float,
) -> tuple[Gripper, list[MotionEvent]]:
    """Closed fraction and its changes; a gripper that hardly moves has neither."""
    times = np.array(episode.times)
    index = list(columns.columns)
    raw = _median(_one_signal(values[:, index], columns.opens_upward), _taps(SPIKE_S, step_s))
    low, high = np.percentile(raw, (1, 99))
    lows, highs = spans[0][index], spans[1][index]
    magnitude = np.fmax(np.abs(values[:, index]).max(), np.fmax(np.abs(lows).max(), np.abs(highs).max()))
    least = np.fmax(_scale(magnitude)[1], RANGE_OF_DATASET * np.mean(highs - lows))
    if not high - low >= least:
        return Gripper(columns.name, columns.side, np.full(episode.frames, np.nan), times), []
    fraction = np.clip((raw - low) / (high - low), 0.0, 1.0)
    settle = max(1, round(SETTLE_S / step_s))
    closed = 1.0 - fraction if _opens_upward(columns, fraction, settle) else fraction
    first = bool(np.median(closed[:settle]) >= CLOSED_FROM)
    shut = _hold(_hysteresis(closed, OPEN_UP_TO, CLOSED_FROM, first), _taps(GRIPPER_HOLD_S, step_s))
    shut = _begin_opening_early(shut, closed)
    return Gripper(columns.name, columns.side, closed, times), _changes(shut, episode, ("open", "close"), columns.side)


def _begin_opening_early(shut: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """Let go means leaving the closed level, not being wide open: a slow hand opens long after the object is free."""
    out = shut.copy()
    for row in np.flatnonzero(shut[:-1] & ~shut[1:]) + 1:
        firm = np.flatnonzero(closed[:row] >= CLOSED_FROM)
        out[firm[-1] + 1 if len(firm) else row : row] = False
    return out


def _opens_upward(columns: GripperColumns, fraction: np.ndarray, settle: int) -> bool:
    if columns.opens_upward is not None:
        return columns.opens_upward
    start = float(np.median(fraction[:settle]))
    return not start < 1.0 - CLOSED_FROM


def _one_signal(fingers: np.ndarray, opens_upward: bool | None) -> np.ndarray:
    """Mean of the fingers; mirrored ones (equal stroke, other sign) are turned round unless the direction is known."""
    if fingers.shape[1] > 1 and opens_upward is None:
        centred = fingers - fingers.mean(axis=0)
        widest = centred[:, int(np.argmax(np.ptp(fingers, axis=0)))]
        fingers = fingers * np.where(centred.T @ widest < 0, -1.0, 1.0)
    return fingers.mean(axis=1)


def _speed(joints: np.ndarray, step_s: float) -> np.ndarray | None:
    """How fast the joints move together, smoothed (frames,); 0 where they stay in place; None without joints."""
    frames, dim = joints.shape
    if dim == 0:
        return None
    smooth = _average(joints, _taps(SMOOTH_S, step_s))
    if frames < 3 or np.ptp(smooth, axis=0).max() < _scale(np.abs(joints).max())[2]:
        return np.zeros(frames)
    steps = np.linalg.norm(np.gradient(smooth, axis=0), axis=1) / step_s
    return _median(steps, _taps(SMOOTH_S, step_s))  # a wrapped angle is one spike


def _moving(speed: np.ndarray, step_s: float) -> np.ndarray:
    """Where the arm moves; bool (frames,)."""
    fast = float(np.percentile(speed, 95))
    if fast <= 0:
        return np.zeros(len(speed), bool)
    states = _hysteresis(speed, RESTING_UP_TO * fast, MOVING_FROM * fast, bool(speed[0] >= MOVING_FROM * fast))
    return _hold(states, _taps(MOTION_HOLD_S, step_s))


def _changes(state: np.ndarray, episode: Episode, kinds: tuple[str, str], side: str) -> list[MotionEvent]:
    """One event per change; `kinds` names the change to False and to True."""
    rows = np.flatnonzero(np.diff(state.astype(np.int8))) + 1
    return [MotionEvent(episode.times[r], kinds[int(state[r])], side) for r in rows]


def _scale(magnitude: float) -> tuple[float, float, float]:
    return next((s for s in _SCALES if magnitude <= s[0]), _SCALES[-1])


def _taps(seconds: float, step_s: float) -> int:
    """An odd number of frames that cover this time."""
    return max(1, round(seconds / step_s)) | 1


def _windows(values: np.ndarray, taps: int) -> np.ndarray:
    """(frames, ..., taps): each frame's neighbourhood, edges repeated."""
    pad = [(taps // 2, taps // 2)] + [(0, 0)] * (values.ndim - 1)
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, pad, mode="edge"), taps, axis=0)


def _median(values: np.ndarray, taps: int) -> np.ndarray:
    return np.median(_windows(values, taps), axis=-1)


def _average(values: np.ndarray, taps: int) -> np.ndarray:
    return _windows(values, taps).mean(axis=-1)


def _hysteresis(values: np.ndarray, low: float, high: float, first: bool) -> np.ndarray:
    """True from `high` on, False down to `low`, else as before; bool (frames,)."""
    mark = np.where(values >= high, 1, np.where(values <= low, 0, -1))
    last = np.maximum.accumulate(np.where(mark >= 0, np.arange(len(mark)), -1))
    return np.where(last >= 0, mark[np.maximum(last, 0)] == 1, first)


def _hold(state: np.ndarray, frames_min: int) -> np.ndarray:
    """The same states without runs shorter than `frames_min`: such a run takes the state before it."""
    out = state.copy()
    edges = np.flatnonzero(np.diff(state.astype(np.int8))) + 1
    for start, end in pairwise([*edges, len(state)]):
        if end - start < frames_min:
            out[start:end] = out[start - 1]
    return out
