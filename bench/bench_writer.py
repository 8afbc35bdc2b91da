"""Writing the language columns of 1,000,000 frames in 2,000 episodes: 228,000 staged rows into one shard.

python -m bench.bench_writer
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.common import WORK, measure_self, print_table

EPISODES, FRAMES, DIM, FPS = 2000, 500, 7, 30
CAMERA = "observation.images.front"
# The reference's writer on the same workload and this machine's size: two cores.
REFERENCE = {"wall_s": 82.0, "cpu_s": 47.0, "rss_mib": 7.4 * 1024}
WALL_BAR_S, RSS_BAR_MIB = REFERENCE["wall_s"] / 20, 800.0
DATASET, STAGING = WORK / "writer-dataset", WORK / "writer-staging"


def rows_of_episode(episode: int, times: list[float]) -> dict[str, list]:
    """39 persistent rows (8 subtasks, 8 plans, 7 memories, 16 rephrasings) and 75 events."""
    from tasks.language.rows import Row

    starts = [times[i * FRAMES // 8] for i in range(8)]
    plan = [Row("user", f"do task {episode} in way {k}, in other words", "task_aug", times[0]) for k in range(16)]
    for i, start in enumerate(starts):
        plan.append(Row("assistant", f"move object {episode % 97} to place {i}", "subtask", start))
        todo = "\n".join(f"{k}. move object {episode % 97} to place {k}" for k in range(i, 8))
        plan.append(Row("assistant", todo, "plan", start))
        if i:
            plan.append(Row("assistant", f"I moved object {episode % 97} to places up to {i - 1}.", "memory", start))
    speech = [Row.speech("I begin.", times[0])]
    for start in starts[1:4]:
        speech += [Row("user", "now the next one", "interjection", start), Row.speech("Sure, next one.", start)]
    vqa = []
    for k in range(34):
        t = times[k * (FRAMES // 34)]
        vqa.append(Row("user", f"how many cubes are there at step {k}?", "vqa", t, CAMERA))
        vqa.append(Row("assistant", json.dumps({"label": "cube", "count": k % 5}), "vqa", t, CAMERA))
    return {"plan": plan, "interjections": speech, "vqa": vqa}


def make_dataset() -> None:
    """The unannotated dataset, one shard, and its staged rows; made once."""
    from tasks.staging import Staging

    if (DATASET / "done").exists():
        return
    shutil.rmtree(DATASET, ignore_errors=True)
    shutil.rmtree(STAGING, ignore_errors=True)
    shard = DATASET / "data/chunk-000/file-000.parquet"
    shard.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    timestamps = (np.arange(FRAMES) / FPS).astype(np.float32)
    times = [float(t) for t in timestamps]
    staging, writer = Staging(STAGING), None
    for e in range(EPISODES):
        table = pa.table(
            {
                "observation.state": _vectors(rng),
                "action": _vectors(rng),
                "timestamp": timestamps,
                "frame_index": np.arange(FRAMES),
                "episode_index": np.full(FRAMES, e),
                "index": np.arange(FRAMES) + e * FRAMES,
                "task_index": np.full(FRAMES, e % 7),
            }
        )
        writer = writer or pq.ParquetWriter(shard, table.schema)
        writer.write_table(table)
        for module, rows in rows_of_episode(e, times).items():
            staging.write(e, module, rows, key="bench", facts={})
    writer.close()
    _write_info(DATASET)
    (DATASET / "done").touch()


def _vectors(rng: np.random.Generator) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=FRAMES * DIM).astype(np.float32)), DIM)


def _write_info(root: Path) -> None:
    scalar = {"shape": [1], "names": None}
    features = {n: {"dtype": "float32", "shape": [DIM], "names": None} for n in ("observation.state", "action")}
    features[CAMERA] = {"dtype": "video", "shape": [240, 320, 3], "names": ["height", "width", "channels"]}
    features["timestamp"] = {"dtype": "float32", **scalar}
    features |= {n: {"dtype": "int64", **scalar} for n in ("frame_index", "episode_index", "index", "task_index")}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": EPISODES,
        "total_frames": EPISODES * FRAMES,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))


def write_once() -> None:
    """The measured part, in a process of its own."""
    from tasks.dataset.layout import open_dataset
    from tasks.language.styles import MODULES
    from tasks.staging import Staging
    from tasks.write import write_dataset

    output = WORK / "writer-output"
    start = time.perf_counter()
    summary = write_dataset(
        open_dataset(output if output.exists() else DATASET),
        Staging(STAGING),
        {e: MODULES for e in range(EPISODES)},
        output=None if output.exists() else output,
        provenance={"made_by": "bench"},
        drop_subtask_index=True,
    )
    rows = summary.persistent_rows + summary.event_rows
    shard = output / "data/chunk-000/file-000.parquet"
    print(json.dumps({"write_s": time.perf_counter() - start, "rows": rows, "mib": shard.stat().st_size / 2**20}))


def check_once() -> None:
    """The check of the result, in a process of its own."""
    from tasks.check import check_dataset

    start = time.perf_counter()
    report = check_dataset(WORK / "writer-output")
    assert report.ok and report.rows_checked == 228_000, report.by_check()
    print(json.dumps({"check_s": time.perf_counter() - start}))


def main() -> None:
    """Measure a first write, a second one over its result, and the check of it."""
    if sys.argv[1:] == ["--once"]:
        return write_once()
    if sys.argv[1:] == ["--check"]:
        return check_once()
    make_dataset()
    shutil.rmtree(WORK / "writer-output", ignore_errors=True)
    rows = []
    for name in ("new dataset", "again, in place"):
        got = measure_self(__file__, "--once")
        rows.append((name, got.result["write_s"], got.wall_s, got.cpu_s, got.rss_mib, got.result["mib"]))
    check = measure_self(__file__, "--check")
    rows.append(("check", check.result["check_s"], check.wall_s, check.cpu_s, check.rss_mib, ""))
    rows.append(("reference, write", "", REFERENCE["wall_s"], REFERENCE["cpu_s"], REFERENCE["rss_mib"], ""))
    rows.append(("bar of a write", WALL_BAR_S, "", "", RSS_BAR_MIB, ""))
    title = f"{EPISODES * FRAMES:,} frames, {EPISODES:,} episodes, {got.result['rows']:,} rows written"
    print_table(title, ("", "seconds", "process s", "CPU s", "peak MiB", "shard MiB"), rows)


if __name__ == "__main__":
    main()
