"""Visual answers that are true: what an annotator without fault would say about a generated scene."""

from __future__ import annotations

import json
from typing import Any

from tasks.evaluate.scene import CHANGE_S
from tasks.evaluate.truth import TruthEpisode
from tasks.language.rows import Row

CAMERA = "observation.images.front"


def true_answers(episode: TruthEpisode, frame: int, time_s: float, size: tuple[int, int]) -> list[dict[str, Any]]:
    """One answer of every type that is true on that frame of the front camera."""
    thing, other = episode.things[0], episode.things[1]
    box, beside = episode.box(CAMERA, thing, frame), episode.box(CAMERA, other, frame)
    assert box and beside
    held = [e for e in episode.events if e.time_s <= time_s][-1:]
    closed = bool(held) and held[0].kind == "close"
    answers: list[dict[str, Any]] = [
        {
            "type": "bbox",
            "detections": [{"label": f"the {thing}", "bbox_format": "xyxy", "bbox": list(box)}],
            "image_size": list(size),
        },
        {
            "type": "keypoint",
            "label": thing,
            "point_format": "xy",
            "point": [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2],
            "image_size": list(size),
        },
        {
            "type": "count",
            "label": "objects",
            "count": sum(t.split()[-1] not in ("box", "tray") for t in episode.things),
        },
        {"type": "attribute", "label": thing, "attribute": "color", "value": thing.split()[0]},
        {
            "type": "spatial",
            "subject": thing,
            "relation": "left_of" if box[0] + box[2] < beside[0] + beside[2] else "right_of",
            "object": other,
        },
    ]
    if all(abs(e.time_s - time_s) > CHANGE_S for e in episode.events):
        value = "closed" if closed else "open"
        answers.append({"type": "attribute", "label": "gripper", "attribute": "state", "value": value})
    return answers


def vqa_rows(time_s: float, camera: str, answer: dict[str, Any]) -> list[Row]:
    """A question and its answer as stored."""
    return [
        Row("user", f"Which {answer['type']}?", "vqa", time_s, camera),
        Row("assistant", json.dumps(answer, sort_keys=True), "vqa", time_s, camera),
    ]
