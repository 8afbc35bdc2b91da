"""The actions that are still to be executed, aligned by control step: a row is played at its own step or never.

Row j of a chunk is meant for step `first_step + j`. The queue counts steps as rows are executed; while a robot holds,
its count stands still. So nothing is trimmed of a chunk that comes to an idle robot, and nothing is played late.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

HISTORY_STEPS = 128  # executed steps that a prefix may reach back: as long as an observation waits to be sent, and more


@dataclass(frozen=True, slots=True)
class Origin:
    """Where rows come from."""

    session_id: str
    seq_id: int
    episode_id: int
    task: str
    observed_s: float  # monotonic, of this robot: when the observation was captured
    received_s: float  # monotonic, of this robot
    queue_wait_ms: float  # at the server
    inference_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Actions for the steps from `first_step` on. Its arrays are not written to afterwards, by nobody."""

    robot: np.ndarray  # float32 (rows, actions), robot units
    model: np.ndarray | None  # the same rows as the policy sees them; None when they were not sent
    first_step: int  # the step of its observation
    origin: Origin

    @property
    def end(self) -> int:
        """The first step after it."""
        return self.first_step + len(self.robot)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """An action to execute now."""

    action: np.ndarray  # float32 (actions,); the caller's own
    step: int
    row: int  # of its chunk
    origin: Origin


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The queue at one moment, and the rows from some step on; None when there are none."""

    step: int
    left: int
    prefix_model: np.ndarray | None  # (rows, actions); None too when one of the rows has no model space
    prefix_robot: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of a chunk, in rows."""

    taken: int
    late: int  # for steps that were already executed
    replaced: int  # queued before, now gone
    overlap: int  # for steps that the queue holds rows for, which it keeps

    @property
    def all_late(self) -> bool:
        """Whether it came after all the steps that it was meant for: latency is longer than a chunk."""
        return self.late > 0 and not self.taken and not self.overlap


class Mode(Enum):
    """What a chunk does to rows that are queued."""

    REPLACE = auto()  # the chunk continues them (RTC): it takes their place
    APPEND = auto()  # they are played first


class ActionQueue:
    """Chunks in the order they are played. Any thread; the lock is held for microseconds and never across I/O.

    Each chunk reaches further than the one before it, and none begins after `step`: whichever is played next has a
    row for `step`. A chunk stays whole, so that it can step in earlier when the one before it turns stale.
    """

    def __init__(self, mode: Mode) -> None:
        self._lock = threading.Lock()
        self._mode = mode
        self._step = 0
        self._chunks: deque[Chunk] = deque()
        self._since = 0  # step that the first chunk is played from
        self._played: deque[tuple[Chunk, int, int]] = deque()  # chunk, from step, to step; without gaps, up to `_since`

    @property
    def step(self) -> int:
        """The step that the next row executed belongs to."""
        return self._step

    @property
    def mode(self) -> Mode:
        """What a chunk does to rows that are queued."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        with self._lock:
            if self._chunks and mode is not self._mode:
                raise RuntimeError(f"want an empty queue to change its mode, got {self._left()} rows: clear it first")
            self._mode = mode

    def left(self) -> int:
        """Rows that are queued."""
        with self._lock:
            return self._left()

    def fresh_s(self, now_s: float, dt_s: float, age_max_s: float) -> float:
        """How long rows last, in seconds, before the queue is empty or the newest of them are too old."""
        with self._lock:
            if not self._chunks:
                return 0.0
            expires_s = self._chunks[-1].origin.observed_s + age_max_s
            return max(0.0, min(self._left() * dt_s, expires_s - now_s))

    def pop(self, now_s: float, age_max_s: float) -> tuple[Row | None, int]:
        """The row of this step, which is executed now, and how many steps lost their row because it was too old.

        A row is too old when its observation is older than `age_max_s`; a newer chunk that has the step takes its
        place. Dropping does not move the step.
        """
        dropped = 0
        with self._lock:
            while self._chunks:
                chunk = self._chunks[0]
                step = self._step
                if now_s - chunk.origin.observed_s > age_max_s:
                    self._retire()
                    if not self._chunks:  # else the next one reaches further, and has all of its steps
                        dropped += chunk.end - step
                    continue
                row = step - chunk.first_step
                self._step = step + 1
                if row + 1 == len(chunk.robot):
                    self._retire()
                break
            else:
                return None, dropped
        return Row(chunk.robot[row].copy(), step, row, chunk.origin), dropped

    def snapshot(self, from_step: int, rows_max: int) -> Snapshot:
        """The queue, and at most `rows_max` rows from `from_step` on, all of one moment.

        `from_step` may lie up to HISTORY_STEPS back, for an observation that waited: the rows that were executed since
        lead the prefix, so that its first row belongs to the observation. None where they are no longer known.
        """
        with self._lock:
            step, left = self._step, self._left()
            spans = self._spans()
        wanted = range(from_step, min(from_step + rows_max, step + left))
        if not wanted or not spans or spans[0][1] > from_step:
            return Snapshot(step, left, None, None)
        cut = [(chunk, max(start, wanted.start), min(stop, wanted.stop)) for chunk, start, stop in spans]
        cut = [(chunk, start - chunk.first_step, stop - chunk.first_step) for chunk, start, stop in cut if start < stop]
        robot = np.concatenate([chunk.robot[start:stop] for chunk, start, stop in cut])
        model = [chunk.model[start:stop] for chunk, start, stop in cut if chunk.model is not None]
        return Snapshot(step, left, np.concatenate(model) if len(model) == len(cut) else None, robot)

    def merge(self, chunk: Chunk) -> Merged:
        """Take the rows of a chunk whose steps are still to come.

        A chunk that has none changes nothing (see `Merged.all_late`), and neither does one that answers an older
        observation than the rows it would replace. Raises ValueError for a chunk that begins after this step.
        """
        with self._lock:
            if chunk.first_step > self._step:
                raise ValueError(f"want a chunk of step {self._step} or before, got one of step {chunk.first_step}")
            rows = len(chunk.robot)
            late = min(rows, self._step - chunk.first_step)
            left = self._left()
            if self._mode is Mode.APPEND:
                overlap = min(rows - late, left)
                replaced = 0
            elif self._chunks and chunk.first_step < self._chunks[-1].first_step:
                overlap, replaced = rows - late, 0
            else:
                overlap, replaced = 0, left
            taken = rows - late - overlap
            if not taken:
                return Merged(0, late, 0, overlap)
            if replaced:
                self._retire()
                self._chunks.clear()
            self._chunks.append(chunk)
            return Merged(taken, late, replaced, overlap)

    def clear(self) -> int:
        """Drop all rows, and what is known of executed ones; how many were queued. The step goes on counting."""
        with self._lock:
            left = self._left()
            self._chunks.clear()
            self._played.clear()
            self._since = self._step
            return left

    # --- with the lock held ----------------------------------------------------------------------------------------

    def _left(self) -> int:
        return self._chunks[-1].end - self._step if self._chunks else 0

    def _retire(self) -> None:
        """Take the first chunk off, and remember which of its rows were executed."""
        chunk = self._chunks.popleft()
        if self._since < self._step:
            self._played.append((chunk, self._since, self._step))
            while self._played[0][2] <= self._step - HISTORY_STEPS:
                self._played.popleft()
        self._since = self._step

    def _spans(self) -> list[tuple[Chunk, int, int]]:
        """Which steps were, are and will be played from which chunk; without gaps."""
        spans = list(self._played)
        start = self._since
        for chunk in self._chunks:
            spans.append((chunk, start, chunk.end))
            start = chunk.end
        return spans
