"""Listing the episodes of an annotated shard: 1,000,000 frames in 2,000 episodes, 39 persistent rows on every frame.

python -m bench.bench_listing
CUEBOOK_REFERENCE_PYTHON=/path/to/python python -m bench.bench_listing --reference
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.common import WORK, measure, measure_self, print_table, reference_python

EPISODES, FRAMES, DIM, FPS = 2000, 500, 7, 30
PERSISTENT_ROWS = 39
REFERENCE = """
import json, sys, time
from pathlib import Path
from lerobot.annotations.steerable_pipeline.reader import iter_episodes
start, start_cpu = time.perf_counter(), time.process_time()
count = sum(1 for _ in iter_episodes(Path(sys.argv[1])))
wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
print(json.dumps({"episodes": count, "list_s": wall_s, "list_cpu_s": cpu_s}))
"""

_COMMON = [("role", pa.string()), ("content", pa.string()), ("style", pa.string())]
_TAIL = [("camera", pa.string()), ("tool_calls", pa.list_(pa.string()))]
PERSISTENT = pa.list_(pa.struct([*_COMMON, ("timestamp", pa.float32()), *_TAIL]))
EVENTS = pa.list_(pa.struct([*_COMMON, *_TAIL]))


def persistent_column(episode: int) -> pa.Array:
    """The episode's 39 rows, the same on each of its frames."""
    rows = [
        {
            "role": "assistant",
            "content": f"step {i} of episode {episode}: move the arm over the object, then close the gripper",
            "style": ("subtask", "plan", "memory")[i % 3],
            "timestamp": float(i // 3),
            "camera": None,
            "tool_calls": None,
        }
        for i in range(PERSISTENT_ROWS)
    ]
    values = pa.array(rows, PERSISTENT.value_type).take(np.tile(np.arange(PERSISTENT_ROWS), FRAMES))
    return pa.ListArray.from_arrays(
        pa.array(np.arange(FRAMES + 1, dtype=np.int32) * PERSISTENT_ROWS), values, PERSISTENT
    )


def events_column() -> pa.Array:
    """A visual question and its answer once a second."""
    one = {"role": "user", "content": "where is the cube?", "style": "vqa", "camera": "observation.images.front"}
    return pa.array(
        [[one, {**one, "role": "assistant", "content": "{}"}] if i % FPS == 0 else [] for i in range(FRAMES)], EVENTS
    )


def make_shard(root: Path) -> None:
    """Write the dataset; videos are only named, listing never opens them."""
    shutil.rmtree(root, ignore_errors=True)
    for part in ("data", "meta/episodes"):
        (root / part / "chunk-000").mkdir(parents=True)
    camera = "observation.images.front"
    scalar = {"dtype": "int64", "shape": [1], "names": None}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": EPISODES,
        "total_frames": EPISODES * FRAMES,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "observation.state": {"dtype": "float32", "shape": [DIM], "names": None},
            "action": {"dtype": "float32", "shape": [DIM], "names": None},
            camera: {"dtype": "video", "shape": [240, 320, 3], "names": ["height", "width", "channels"]},
            **{name: scalar for name in ("episode_index", "frame_index", "index", "task_index")},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0], "task": ["Put the cube into the box."]}), root / "meta/tasks.parquet")
    write_episodes(root, camera)
    write_data(root)


def write_episodes(root: Path, camera: str) -> None:
    """Episode metadata with a heavy statistics column, as real sets have."""
    first = np.arange(EPISODES) * FRAMES
    length_s = FRAMES / FPS
    columns = {
        "episode_index": np.arange(EPISODES),
        "length": np.full(EPISODES, FRAMES),
        "dataset_from_index": first,
        "dataset_to_index": first + FRAMES,
        "data/chunk_index": np.zeros(EPISODES, np.int64),
        "data/file_index": np.zeros(EPISODES, np.int64),
        f"videos/{camera}/chunk_index": np.zeros(EPISODES, np.int64),
        f"videos/{camera}/file_index": np.arange(EPISODES) // 100,
        f"videos/{camera}/from_timestamp": (np.arange(EPISODES) % 100) * length_s,
        f"videos/{camera}/to_timestamp": (np.arange(EPISODES) % 100 + 1) * length_s,
        "stats/observation.state/mean": [[0.5] * DIM] * EPISODES,
    }
    pq.write_table(pa.table(columns), root / "meta/episodes/chunk-000/file-000.parquet")


def write_data(root: Path) -> None:
    """One shard, one row group per episode."""
    rng = np.random.default_rng(0)
    events = events_column()
    writer = None
    for e in range(EPISODES):
        offsets = pa.array(np.arange(FRAMES + 1, dtype=np.int32) * DIM)
        walk = np.cumsum(rng.normal(0, 0.01, (2, FRAMES * DIM)), axis=1).astype(np.float32)
        table = pa.table(
            {
                "observation.state": pa.ListArray.from_arrays(offsets, pa.array(walk[0])),
                "action": pa.ListArray.from_arrays(offsets, pa.array(walk[1])),
                "timestamp": (np.arange(FRAMES) / FPS).astype(np.float32),
                "frame_index": np.arange(FRAMES),
                "episode_index": np.full(FRAMES, e),
                "index": np.arange(FRAMES) + e * FRAMES,
                "task_index": np.zeros(FRAMES, np.int64),
                "language_persistent": persistent_column(e),
                "language_events": events,
            }
        )
        writer = writer or pq.ParquetWriter(root / "data/chunk-000/file-000.parquet", table.schema)
        writer.write_table(table, row_group_size=FRAMES)
    writer.close()


def list_once(root: Path) -> None:
    """The measured part, in a process of its own."""
    from tasks.dataset.layout import open_dataset

    start, start_cpu = time.perf_counter(), time.process_time()
    episodes = open_dataset(root).episodes()
    listed_s, listed_cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    digests = {e.digest for e in episodes}
    digests_s = time.perf_counter() - start - listed_s
    assert len(digests) == len(episodes) == EPISODES
    print(
        json.dumps({"episodes": len(episodes), "list_s": listed_s, "list_cpu_s": listed_cpu_s, "digests_s": digests_s})
    )


def main() -> None:
    """Make the shard when it is not there, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", action="store_true", help="measure lerobot's reader too (takes minutes)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        list_once(args.child)
        return
    root = WORK / "listing"
    if not (root / "made").exists():
        make_shard(root)
        (root / "made").touch()
    rows = [("cuebook", measure_self(__file__, "--child", str(root)))]
    if args.reference and (python := reference_python()):
        rows.append(("reference", measure([python, "-c", REFERENCE, root])))
    columns = ["reader", "episodes", "listing s", "its CPU s", "peak MiB", "all digests s"]
    cells = [
        (n, m.result["episodes"], m.result["list_s"], m.result["list_cpu_s"], m.rss_mib, m.result.get("digests_s", "-"))
        for n, m in rows
    ]
    print_table(f"Listing {EPISODES * FRAMES:,} annotated frames (bar: 1 s, 400 MiB)", columns, cells)


if __name__ == "__main__":
    sys.exit(main())
