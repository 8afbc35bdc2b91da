"""The rules that one episode's written rows must keep, each finding with its remedy."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.coordinates import THOUSAND
from tasks.errors import RowError
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT, column_for_style
from tasks.report import Finding

Sizes = Mapping[str, tuple[int, int]]
THOUSANDTHS = "norm1000"  # value of an answer's `coordinates` where its numbers are no pixels
ONE_AT_A_TIME = frozenset({"subtask", "plan", "memory"})


def check_rows(
    episode: int,
    persistent: Sequence[Row],
    events: Sequence[Row],
    at: Sequence[int],
    timestamps: np.ndarray,
    sizes: Sizes,
) -> Iterator[Finding]:
    """Judge one episode's rows as read from disk; `at` is the frame of each event row."""
    for check, message, frame in (
        *_each(persistent, PERSISTENT, [None] * len(persistent), sizes),
        *_each(events, EVENTS, at, sizes),
        *_states(persistent, timestamps),
        *_moments(events, at),
    ):
        phase = "vqa" if check.startswith("vqa") else None
        yield Finding("error", check, message, _remedy(episode), episode=episode, phase=phase, row=frame)


def _remedy(episode: int) -> str:
    return f"annotate it again: --only_episodes={episode} --refresh=plan,interjections,vqa"


Problem = tuple[str, str, int | None]  # check, message, frame


def _each(rows: Sequence[Row], column: str, at: Sequence[int | None], sizes: Sizes) -> Iterator[Problem]:
    for row, frame in zip(rows, at, strict=True):
        try:
            row.check()
            if column_for_style(row.style) != column:
                raise RowError(f"want {row.style} rows in {column_for_style(row.style)}", column)
        except RowError as err:
            yield "row", f"{err.wanted}, found {err.got}", frame
            continue
        if row.camera is not None and row.camera not in sizes:
            yield "camera_unknown", f"want a camera of {', '.join(sizes) or 'none'}, found {row.camera}", frame
        elif row.style == "vqa" and row.role == "assistant":
            yield from (("vqa_answer", problem, frame) for problem in _answer(row, sizes))


def _answer(row: Row, sizes: Sizes) -> Iterator[str]:
    """What is wrong with a visual answer: JSON, and numbers inside the camera's own frame."""
    try:
        answer = json.loads(row.content or "")
    except ValueError:
        yield f"want JSON as answer, found {row.content!r}"
        return
    if not isinstance(answer, dict):
        yield f"want a JSON object as answer, found {row.content!r}"
        return
    unit = answer.get("coordinates", "pixel")
    if unit not in ("pixel", THOUSANDTHS):
        yield f"want coordinates {THOUSANDTHS} or pixels, found {unit!r}"
        return
    width, height = (THOUSAND, THOUSAND) if unit == THOUSANDTHS else sizes[row.camera or ""]
    for x, y in _points(answer):
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (x, y))
        if not numbers or not (0 <= x <= (width or x) and 0 <= y <= (height or y)):
            yield f"want a {unit} inside {width}x{height} of {row.camera}, found ({x}, {y})"
    for box in _boxes(answer):
        if len(box) == 4 and all(isinstance(v, int | float) for v in box) and (box[0] >= box[2] or box[1] >= box[3]):
            yield f"want a box as x_min, y_min, x_max, y_max, found {box}"


def _boxes(answer: dict[str, Any]) -> list[list[Any]]:
    found = answer.get("detections")
    detections = found if isinstance(found, list) else []
    boxes = [d.get("bbox") for d in detections if isinstance(d, dict)]
    return [b for b in boxes if isinstance(b, list)]


def _points(answer: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for box in _boxes(answer):
        yield from zip(box[0::2], box[1::2], strict=False)
    point = answer.get("point")
    if isinstance(point, list):
        yield from zip(point[0::2], point[1::2], strict=False)


def _states(rows: Sequence[Row], timestamps: np.ndarray) -> Iterator[Problem]:
    """Persistent rows: on frames, in order, one state of a kind at a time, a subtask from the first frame on."""
    keys = [(r.timestamp, r.style or "", r.role or "") for r in rows]
    if keys != sorted(keys):
        yield "persistent_order", "want persistent rows sorted by time, style and role", None
    frames = set(timestamps.tolist())
    for row in rows:
        if row.timestamp not in frames:
            yield "timestamp_off_frame", f"want a frame's timestamp on a {row.style} row, found {row.timestamp}", None
    for (style, t), count in Counter((r.style, r.timestamp) for r in rows if r.style in ONE_AT_A_TIME).items():
        if count > 1:
            yield "persistent_duplicate", f"want one {style} at a time, found {count} at {t} s", None
    starts = [r.timestamp for r in rows if r.style == "subtask"]
    planned = any(r.style in ONE_AT_A_TIME for r in rows)
    if planned and (not starts or min(starts) != float(timestamps[0])):
        got = f"the first one at {min(starts)} s" if starts else "no subtask"
        yield "subtask_start", f"want a subtask from the first frame ({float(timestamps[0])} s) on, found {got}", None


def _moments(rows: Sequence[Row], at: Sequence[int]) -> Iterator[Problem]:
    """Events of each frame: sorted, interjection and answer together, question and answer in pairs."""
    frames: dict[int, list[Row]] = defaultdict(list)
    for row, frame in zip(rows, at, strict=True):
        frames[frame].append(row)
    for frame, here in frames.items():
        keys = [(r.style or "", r.role or "", r.camera or "") for r in here]
        if keys != sorted(keys):
            yield "event_order", "want event rows sorted by style, role and camera", frame
        styles = Counter(r.style for r in here)
        if styles["interjection"] > 1:
            yield "interjection_duplicate", f"want one interjection a frame, found {styles['interjection']}", frame
        if styles[None] > 1:
            yield "speech_duplicate", f"want one speech a frame, found {styles[None]}", frame
        if styles["interjection"] and not styles[None]:
            yield "interjection_without_speech", "want the robot's answer beside an interjection, found none", frame
        if styles[None] and not styles["interjection"] and frame != 0:
            yield "speech_orphan", "want speech at the first frame or beside an interjection", frame
        yield from _pairs(here, frame)


def _pairs(here: Sequence[Row], frame: int) -> Iterator[Problem]:
    roles: dict[str | None, Counter[str]] = defaultdict(Counter)
    for row in here:
        if row.style == "vqa":
            roles[row.camera][row.role] += 1
    for camera, count in roles.items():
        if count != Counter(user=1, assistant=1):
            got = " and ".join(f"{n} by {role}" for role, n in sorted(count.items()))
            yield "vqa_pair", f"want one question and one answer on {camera}, found {got}", frame
