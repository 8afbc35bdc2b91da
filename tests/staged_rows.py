"""A clean episode of staged rows, for tests that break one thing in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tasks.dataset.episode import Episode
from tasks.language.rows import Row
from tasks.report import Report
from tasks.settings import AnnotateSettings
from tasks.staging import Staging
from tasks.validate import validate

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
CAMERAS = {FRONT: (640, 480), WRIST: (320, 240)}
MODULES = ("plan", "interjections", "vqa")


def make_episode(index: int = 0, frames: int = 50) -> Episode:
    stamps = (np.arange(frames) / 10).astype(np.float32)
    return Episode(index, "sort the blocks", stamps, np.arange(frames), Path("data.parquet"), 0, index, 10.0)


T = make_episode().times


def vqa_pair(t: float, camera: str, **answer: object) -> list[Row]:
    content = json.dumps(answer, sort_keys=True)
    return [Row("user", "What is there?", "vqa", t, camera), Row("assistant", content, "vqa", t, camera)]


BOX = {"label": "block", "bbox_format": "xyxy", "bbox": [0, 10.5, 640, 480.0]}
BBOX = {"type": "bbox", "detections": [BOX], "image_size": [640, 480]}
THOUSANDTHS = {**BBOX, "coordinates": "norm1000", "detections": [{**BOX, "bbox": [0, 10, 1000, 1000]}]}
POINT = {"type": "keypoint", "label": "block", "point_format": "xy", "point": [320, 0], "image_size": [320, 240]}
COUNT = {"type": "count", "label": "blocks", "count": 0, "note": None}
ATTRIBUTE = {"type": "attribute", "label": "block", "attribute": "colour", "value": "blau – größer"}
SPATIAL = {"type": "spatial", "subject": "block", "relation": "left_of", "object": "tray"}


@dataclass
class Staged:
    """Rows of one episode, as they would be staged, and what the validator is told beside them."""

    plan: list[Row] = field(
        default_factory=lambda: [
            Row("user", "sort the blocks", "task_aug", T[0]),
            Row("user", "put the blocks away", "task_aug", T[0]),
            Row("assistant", "pick up the block", "subtask", T[0]),
            Row("assistant", "put it into the tray", "subtask", T[20]),
            Row("assistant", "1. pick up the block\n2. put it into the tray", "plan", T[0]),
            Row("assistant", "1. put it into the tray", "plan", T[20]),
            Row("assistant", "I picked up the block.", "memory", T[20]),
        ]
    )
    interjections: list[Row] = field(
        default_factory=lambda: [
            Row.speech("Sure.", T[0]),
            Row("user", "Into the tray, please.", "interjection", T[20]),
            Row.speech("On it.", T[20]),
        ]
    )
    vqa: list[Row] = field(
        default_factory=lambda: [
            *vqa_pair(T[0], FRONT, **BBOX),
            *vqa_pair(T[0], WRIST, **POINT),
            *vqa_pair(T[10], FRONT, **COUNT),
            *vqa_pair(T[10], WRIST, **ATTRIBUTE),
            *vqa_pair(T[20], FRONT, **SPATIAL),
        ]
    )
    settings: AnnotateSettings = field(default_factory=AnnotateSettings)
    modules: tuple[str, ...] = MODULES
    raw: dict[str, str] = field(default_factory=dict)  # module -> text appended to its file
    missing: tuple[str, ...] = ()
    cameras: dict[str, tuple[int, int]] = field(default_factory=lambda: dict(CAMERAS))

    def stage(self, root: Path, index: int = 0) -> Staging:
        """Write the files of episode `index`."""
        staging = Staging(root / "staging")
        for module in self.modules:
            rows = getattr(self, module)
            staging.path(index, module).parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(r.__dict__, ensure_ascii=False) + "\n" for r in rows)
            if module not in self.missing:
                staging.path(index, module).write_text(text + self.raw.get(module, ""), encoding="utf-8")
        return staging

    def judge(self, root: Path, index: int = 0) -> Report:
        """Stage, then validate."""
        staging = self.stage(root, index)
        return validate(staging, [make_episode(index)], {index: self.modules}, self.settings, self.cameras)


def swap(rows: list[Row], position: int, **changes: object) -> None:
    rows[position] = replace(rows[position], **changes)


def set_answer(s: Staged, position: int, base: dict, **changes: object) -> None:
    """Replace the answer of the pair at `position`; a change to None leaves the key out."""
    answer = {k: v for k, v in {**base, **changes}.items() if v is not None}
    swap(s.vqa, 2 * position + 1, content=json.dumps(answer))
