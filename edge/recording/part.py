"""A part of the spool as an episode: its rows as arrays, its pictures one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edge.recording.columns import (
    ACTION,
    DRIVEN,
    INTEGERS,
    INTERVENTION,
    SESSION,
    SOURCE,
    STATE,
    TIMES,
    cameras_of,
)
from edge.recording.plan import EpisodeNote, Plan
from edge.recording.spool import INTERRUPTED, Begin, End, Frame, Record, records
from tasks.dataset.feature_stats import Stats, picture_stats


@dataclass(frozen=True)
class SpooledEpisode:
    """One part that holds at least one frame. Pictures stay on disk; what is held is some hundred bytes a frame."""

    path: Path
    plan: Plan
    begin: Begin
    end: End | None  # None: it was interrupted
    frames: Sequence[Frame]  # without packets
    counts: tuple[np.ndarray, ...]  # of each camera: added up histogram
    counted: int  # pictures in it

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def cameras(self) -> list[str]:
        return cameras_of(self.plan.features)

    @cached_property
    def tasks(self) -> list[str]:
        """The task of each frame."""
        default = (self.end.task if self.end else "") or self.plan.task
        return [frame.task or default for frame in self.frames]

    def columns(self) -> dict[str, Any]:
        """The values of each frame, cameras and LeRobot's bookkeeping left out."""
        columns: dict[str, Any] = {}
        if STATE in self.plan.features:
            columns[STATE] = _vectors([f.state for f in self.frames])
        columns[ACTION] = _vectors([f.action for f in self.frames])
        columns[SESSION] = [f.session for f in self.frames]
        columns[SOURCE] = [f.source for f in self.frames]
        columns[INTERVENTION] = np.array([f.intervention for f in self.frames], bool)
        for i, (name, dtype) in enumerate(INTEGERS.items()):
            columns[name] = np.array([f.numbers[i] for f in self.frames], dtype)
        for i, (name, dtype) in enumerate(TIMES.items()):
            columns[name] = np.array([f.times[i] for f in self.frames], dtype)
        name = next(reversed(TIMES))
        columns[name] = columns[name] - columns[name][0]
        return columns

    def packets(self, camera: int) -> Iterator[tuple[bytes, bool]]:
        """One camera's encoded pictures, as many as there are frames."""
        left = len(self.frames)
        for record in records(self.path):
            if isinstance(record, Begin):
                continue
            for packet in record.packets[camera]:
                if left:
                    yield packet
                    left -= 1

    def picture_stats(self) -> dict[str, Stats]:
        """Statistics of each camera."""
        pairs = zip(self.cameras, self.counts, strict=True)
        return {name: picture_stats(counts, self.counted) for name, counts in pairs}

    def note(self) -> EpisodeNote:
        """What is said of the episode."""
        return EpisodeNote(
            frames=len(self.frames),
            ended=self.end.how if self.end else INTERRUPTED,
            dropped_before=self.begin.dropped,
            fallback=sum(f.source not in DRIVEN for f in self.frames),
            intervention=sum(f.intervention for f in self.frames),
        )


def read_part(path: Path, plan: Plan) -> SpooledEpisode | None:
    """Read a part; None when it holds no whole frame."""
    cameras = len(cameras_of(plan.features))
    frames: list[Frame] = []
    begin, end = None, None
    packets, counts, counted = [0] * cameras, [np.zeros((3, 256), np.int64) for _ in range(cameras)], 0
    for record in records(path, tell=True):
        if isinstance(record, Begin):
            begin = record
            continue
        _count(record, packets)
        if isinstance(record, End):
            end = record
            continue
        frames.append(_slim(record))
        if record.counts and record.counts[0]:
            counted += 1
            for i, data in enumerate(record.counts):
                counts[i] += np.frombuffer(data, "<u4").reshape(3, 256)
    whole = min([len(frames), *packets])  # an encoder may have held the last ones
    if begin is None or not whole:
        return None
    return SpooledEpisode(path, plan, begin, end, frames[:whole], tuple(counts), counted)


def _count(record: Record, packets: list[int]) -> None:
    assert not isinstance(record, Begin)
    for i, camera in enumerate(record.packets):
        packets[i] += len(camera)


def _vectors(rows: Sequence[bytes]) -> np.ndarray:
    """float32 (frames, values); (frames,) for vectors of one, which LeRobot stores as scalars."""
    values = np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1)
    return values[:, 0] if values.shape[1] == 1 else values


def _slim(frame: Frame) -> Frame:
    return Frame(
        frame.state, frame.action, frame.task, frame.session, frame.source, frame.intervention, frame.numbers,
        frame.times, [], [],
    )  # fmt: skip
