"""Episodes of language rows made up for comparisons: every style, two cameras, the same in every Python."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any

FPS, FRAMES = 30, 120
CAMERAS = ("observation.images.front", "observation.images.wrist")
TASK = "tidy the table"
REPHRASINGS = ("clear the table", "please tidy up", "make the table tidy")


@dataclass(frozen=True)
class Episode:
    """Rows as a loader gives them: one list for all frames, and one list of events a frame."""

    persistent: list[dict[str, Any]]
    events: list[list[dict[str, Any]]]


def float32(value: float) -> float:
    """What is left of a number in a float32 column."""
    return struct.unpack("f", struct.pack("f", value))[0]


def row(style: str | None, content: str | None, role: str = "assistant", **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "style": style, "camera": None, "tool_calls": None, **fields}


def state(style: str, content: str | None, time_s: float, role: str = "assistant") -> dict[str, Any]:
    """A persistent row."""
    return row(style, content, role, timestamp=time_s)


def say(text: str) -> dict[str, Any]:
    """A speech atom."""
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": text}}}
    return row(None, None, tool_calls=[call])


def question(camera: str, text: str, answer: str) -> list[dict[str, Any]]:
    """A visual question and its answer."""
    return [row("vqa", text, "user", camera=camera), row("vqa", answer, camera=camera)]


def episode(seed: int, *, rephrasings: bool = False) -> Episode:
    """Six subtasks or so, memory and plan at their changes, and events on about every tenth frame."""
    draw = random.Random(seed).random
    starts = sorted({0, *(int(draw() * FRAMES) for _ in range(5))}) if seed % 2 else [7, 40, 41, 90]
    persistent = []
    for i, frame in enumerate(starts):
        time_s = float32(frame / FPS)
        persistent.append(state("subtask", f"subtask {seed}.{i}", time_s))
        persistent.append(state("plan", f"1. subtask {seed}.{i}\n2. the rest", time_s))
        if i:
            persistent.append(state("memory", f"{i} done", time_s))
    if rephrasings:
        persistent += [state("task_aug", text, 0.0, "user") for text in REPHRASINGS]
    events = [_events(draw, frame) for frame in range(FRAMES)]
    return Episode(persistent, [[say("On it."), *events[0]], *events[1:]])


def _events(draw: Any, frame: int) -> list[dict[str, Any]]:
    here: list[dict[str, Any]] = []
    if draw() < 0.08:
        here.append(row("interjection", f"wait at {frame}", "user"))
    if frame and draw() < 0.08:
        here.append(say(f"Sure, {frame}."))
    for camera in CAMERAS:
        if draw() < 0.1:
            here += question(camera, f"what is at {frame}?", '{"label": "cup"}')
    return here
