"""Validation of 228,000 staged rows (2,000 episodes of three files), all checks, files read included.

The workload is written to bench/work/validate once and reused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from bench.common import WORK as BENCH_WORK
from bench.common import measure_self, print_table
from tasks.dataset.episode import Episode
from tasks.language.rows import Row
from tasks.settings import AnnotateSettings
from tasks.staging import Staging
from tasks.validate import validate

WORK = BENCH_WORK / "validate"
EPISODES = 2000
FRAMES = 500
FPS = 10.0
SUBTASKS = 10
EVENT_PAIRS = 18  # ticks; two cameras, question and answer each
CAMERAS = {"observation.images.front": (640, 480), "observation.images.wrist": (640, 480)}
MODULES = ("plan", "interjections", "vqa")
REFERENCE_S = 3.4
BAR_S = 1.5


def plan_rows(times: list[float]) -> list[Row]:
    """39 persistent rows: ten rephrasings, ten subtasks with their plans, nine memories."""
    starts = [times[i * FRAMES // SUBTASKS] for i in range(SUBTASKS)]
    texts = [f"pick up block {i} and put it into tray {i}" for i in range(SUBTASKS)]
    rows = [Row("user", f"sort the blocks into the trays, wording {i}", "task_aug", times[0]) for i in range(10)]
    for i, start in enumerate(starts):
        todo = "\n".join(f"{n}. {text}" for n, text in enumerate(texts[i:], 1))
        rows += [Row("assistant", texts[i], "subtask", start), Row("assistant", todo, "plan", start)]
        if i:
            rows.append(Row("assistant", f"I put {i} blocks into their trays.", "memory", start))
    return rows


def interjection_rows(times: list[float]) -> list[Row]:
    """A first utterance and one exchange at a subtask's start."""
    start = times[FRAMES // SUBTASKS]
    return [
        Row.speech("Sure, I sort the blocks.", times[0]),
        Row("user", "Now the second block, please.", "interjection", start),
        Row.speech("On it.", start),
    ]


def vqa_rows(times: list[float]) -> list[Row]:
    """72 rows: a question and its answer per tick and camera, all shapes in turn."""
    answers: list[dict[str, object]] = [
        {
            "type": "bbox",
            "detections": [{"label": "block", "bbox_format": "xyxy", "bbox": [10.0, 20.5, 110.0, 90.0]}],
            "image_size": [640, 480],
        },
        {"type": "keypoint", "label": "block", "point_format": "xy", "point": [52, 61.5], "image_size": [640, 480]},
        {"type": "count", "label": "blocks", "count": 4},
        {"type": "attribute", "label": "block", "attribute": "colour", "value": "blue"},
        {"type": "spatial", "subject": "block", "relation": "left_of", "object": "tray"},
    ]
    rows = []
    for tick in range(EVENT_PAIRS):
        t = times[tick * FRAMES // EVENT_PAIRS]
        answer = json.dumps(answers[tick % len(answers)], sort_keys=True)
        for camera in CAMERAS:
            rows += [
                Row("user", "Where is the block that is moved next?", "vqa", t, camera),
                Row("assistant", answer, "vqa", t, camera),
            ]
    return rows


def workload() -> tuple[Staging, list[Episode]]:
    """The staged files and their episodes."""
    stamps = (np.arange(FRAMES) / FPS).astype(np.float32)
    indices = np.arange(FRAMES)
    episodes = [
        Episode(e, "sort the blocks", stamps, indices, WORK / "data.parquet", e * FRAMES, e, FPS)
        for e in range(EPISODES)
    ]
    staging = Staging(WORK / "staging")
    done = WORK / "complete"
    if not done.exists():
        for episode in episodes:
            for module, make in zip(MODULES, (plan_rows, interjection_rows, vqa_rows), strict=True):
                staging.write(episode.episode_index, module, make(episode.times), key="bench", facts={})
        done.touch()
    return staging, episodes


def validate_often(runs: int) -> None:
    """Validate in this process, several times, and print the figures as JSON."""
    staging, episodes = workload()
    modules = {e.episode_index: MODULES for e in episodes}
    walls = []
    for _ in range(runs):
        start = time.perf_counter()
        report = validate(staging, episodes, modules, AnnotateSettings(), CAMERAS)
        walls.append(time.perf_counter() - start)
        assert report.ok and not report.warnings, report.findings[:3]
    print(json.dumps({"rows": report.rows_checked, "first_s": walls[0], "median_s": statistics.median(walls)}))


def main() -> None:
    """Make the workload when it is not there, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        validate_often(args.runs)
        return
    workload()
    m = measure_self(__file__, "--child", f"--runs={args.runs}")
    rows = [
        ("cuebook", m.result["first_s"], m.result["median_s"], m.cpu_s / args.runs, m.rss_mib),
        ("reference, fewer checks", REFERENCE_S, "-", "-", "-"),
        ("bar", BAR_S, "-", "-", "-"),
    ]
    title = f"Validation of {m.result['rows']:,} staged rows in {EPISODES * len(MODULES):,} files"
    print_table(title, ["validator", "first s", f"median s of {args.runs}", "CPU s", "peak MiB"], rows)


if __name__ == "__main__":
    main()
