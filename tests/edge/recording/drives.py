"""Made-up drives: every frame carries its own number in its state, its action and the brightness of its pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq

from edge.action_queue import Origin
from edge.engine import Dispatched
from edge.recording import DatasetSettings, Recorder, open_recorder
from edge.robots.base import Reading, RobotFeatures

FPS = 20.0
SIZE = (48, 64)  # height, width
ROBOT = RobotFeatures("arm", ("a.pos", "b.pos"), ("a.pos", "b.pos"), {"front": SIZE, "wrist": SIZE})
CAMERAS = ("observation.images.front", "observation.images.wrist")
LEVEL_OFF_MAX = 4.0  # of a picture that went through a codec


ORIGIN = Origin(
    session_id="session-7", seq_id=11, episode_id=3, task="", observed_s=0.0, received_s=0.1, queue_wait_ms=1.5,
    inference_ms=20.0,
)  # fmt: skip


def policy(row: int = 0, task: str = "") -> Dispatched:
    """An action of the policy."""
    return Dispatched(source="policy", step=row, task=task, row=row, origin=ORIGIN, age_ms=31.0)


def fallback(source: str = "repeat_last", task: str = "") -> Dispatched:
    """An action that was sent for want of one."""
    return Dispatched(source=source, step=0, task=task)


def level(number: int, camera: int = 0) -> int:
    """The brightness of a frame's picture."""
    return (40 + 7 * number + 30 * camera) % 200 + 20


def reading(number: int, size: tuple[int, int] = SIZE) -> Reading:
    images = {
        name: np.full((*size, 3), level(number, camera), np.uint8) for camera, name in enumerate(("front", "wrist"))
    }
    return Reading(np.array([number, -number], np.float32), images, 100.0 + number / FPS)


def drive(recorder: Recorder, first: int, frames: int, dispatched: Dispatched | None = None, **extra: Any) -> None:
    """Add frames first, first + 1, ..."""
    for number in range(first, first + frames):
        sent = np.array([number + 0.5, number], np.float32)
        recorder.add(reading(number), sent, dispatched or policy(number), extra)


def begin(root: Path, **settings: Any) -> Recorder:
    options = {"disk_reserve_mib": 0} | settings
    return open_recorder(DatasetSettings(root=root, **options), ROBOT, FPS)


def rows_of(root: Path) -> dict[str, list[Any]]:
    """All data columns of a dataset but images, in order."""
    tables = [pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))]
    names = [name for name in tables[0].column_names if not name.startswith("observation.images.")]
    return {name: [value for table in tables for value in table[name].to_pylist()] for name in names}


def episodes_of(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "meta/episodes").rglob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def info_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta/info.json").read_text())


def notes_of(root: Path) -> list[dict[str, Any]]:
    """What meta/ says of each episode."""
    notes = json.loads((root / "meta/cuebook_recording.json").read_text())["episodes"]
    return [notes[str(i)] for i in range(len(notes))]


def tasks_of(root: Path) -> list[str]:
    """The task of each frame."""
    table = pq.read_table(root / "meta/tasks.parquet").to_pydict()
    texts = dict(zip(table["task_index"], table["task"], strict=True))
    return [texts[number] for number in rows_of(root)["task_index"]]


def numbers_of(root: Path) -> list[list[int]]:
    """The frame numbers of each episode, as their states say."""
    states = rows_of(root)["observation.state"]
    return [
        [int(state[0]) for state in states[row["dataset_from_index"] : row["dataset_to_index"]]]
        for row in episodes_of(root)
    ]


def check_whole(root: Path) -> list[list[int]]:
    """Everything about a dataset agrees: metadata, rows and every single picture. Returns numbers_of."""
    from tasks.dataset.layout import open_dataset

    info, numbers, episodes = info_of(root), numbers_of(root), episodes_of(root)
    rows = rows_of(root)
    assert [row["episode_index"] for row in episodes] == list(range(info["total_episodes"]))
    assert rows["index"] == list(range(info["total_frames"])) and len(notes_of(root)) == len(episodes)
    assert [row["length"] for row in episodes] == list(map(len, numbers)) == [n["frames"] for n in notes_of(root)]
    assert rows["episode_index"] == [i for i, frames in enumerate(numbers) for _ in frames]
    assert [a[1] for a in rows["action"]] == [n for frames in numbers for n in frames], "an action of another frame"
    pictures: dict[Path, list[float]] = {}
    for number, row in zip(numbers, episodes, strict=True):
        for camera, name in enumerate(CAMERAS):
            place = {key: row[f"videos/{name}/{key}"] for key in ("chunk_index", "file_index")}
            path = root / info["video_path"].format(video_key=name, **place)
            if path not in pictures:
                pictures[path] = [f.to_ndarray(format="rgb24").mean() for f in av.open(str(path)).decode(video=0)]
            start = round(row[f"videos/{name}/from_timestamp"] * FPS)
            seen = pictures[path][start : start + len(number)]
            off = np.abs(np.array(seen) - [level(n, camera) for n in number])
            assert len(seen) == len(number) and off.max() < LEVEL_OFF_MAX, f"{name}: pictures of other frames"
    assert len(open_dataset(root).episodes()) == len(episodes)
    assert not [p.name for p in root.parent.iterdir() if p.name.startswith(".")], "something was left beside it"
    return numbers
