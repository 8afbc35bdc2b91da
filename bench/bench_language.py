"""From (episode, frame) to a rendered sample: time of one sample, and memory over 1,000,000 frames.

python -m bench.bench_language
CUEBOOK_REFERENCE_PYTHON=/path/to/python python -m bench.bench_language

The recipe with a memory over 39 persistent rows an episode. The reference renders the same rows by the same recipe in
the same run, the two in turn; its way from a frame's number to a sample is the cheapest of three, without pictures.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench import bench_listing, bench_writer
from bench.common import REPO, WORK, measure_self, print_table, reference_python

SMALL_EPISODES, SECONDS, FPS = 8, 20.0, 25  # 500 frames an episode, as bench_writer's rows want
SMALL, LARGE, CACHE = WORK / "language-small", WORK / "language-1m", WORK / "language-cache"
WARM, ROUNDS, SAMPLES = 200, 3, 20_000
SAMPLE_BAR_US, RATE_BAR, MEMORY_BAR_MIB = 40.0, 5.0, 200.0
MIB = 2**20

ASKED = {"role": "user", "content": "${task}", "stream": "high_level"}
SUBTASK = {"role": "assistant", "content": "${subtask}", "target": True, "if_present": "subtask"}
MEMORY_RECIPE = {  # in the words that both renderers know
    "blend": {
        "high_level_subtask": {"weight": 0.25, "messages": [ASKED, {**SUBTASK, "stream": "high_level"}]},
        "low_level_execution": {"weight": 0.60, "messages": [ASKED, {**SUBTASK, "stream": "low_level"}]},
        "memory_update": {
            "weight": 0.15,
            "bindings": {
                "prior_memory": "nth_prev(style=memory, offset=1)",
                "current_memory": "active_at(t, style=memory)",
                "completed_subtask": "nth_prev(style=subtask, offset=1)",
            },
            "messages": [
                ASKED,
                {**ASKED, "content": "Previous memory: ${prior_memory}", "if_present": "prior_memory"},
                {**ASKED, "content": "Completed subtask: ${completed_subtask}", "if_present": "completed_subtask"},
                {
                    "role": "assistant",
                    "content": "${current_memory}",
                    "stream": "high_level",
                    "target": True,
                    "if_present": "current_memory",
                },
            ],
        },
    }
}


# --- inputs, made once ---------------------------------------------------------------------------------------------


def make_inputs() -> None:
    """An annotated small dataset that any loader opens, and one of 1,000,000 frames without videos."""
    from tasks.dataset.generate import generate

    if not (SMALL / "done").exists():
        shutil.rmtree(SMALL, ignore_errors=True)
        generate(SMALL, episodes=SMALL_EPISODES, seconds=SECONDS, fps=FPS, size=(96, 64))
        staged = WORK / "language-small-staged"
        _stage(SMALL, staged)
        _annotate(SMALL, staged, None, SMALL_EPISODES)
        (SMALL / "done").touch()
    if not (LARGE / "done").exists():
        print("making 1,000,000 annotated frames (once, about a minute)", flush=True)
        shutil.rmtree(LARGE, ignore_errors=True)
        bench_writer.make_dataset()
        _annotate(bench_writer.DATASET, bench_writer.STAGING, LARGE, bench_writer.EPISODES)
        (LARGE / "meta/episodes/chunk-000").mkdir(parents=True)
        bench_listing.write_episodes(LARGE, bench_writer.CAMERA)
        tasks = {"task_index": list(range(7)), "task": [f"tidy up table {i}" for i in range(7)]}
        pq.write_table(pa.table(tasks), LARGE / "meta/tasks.parquet")
        (LARGE / "done").touch()


def _stage(root: Path, folder: Path) -> None:
    from tasks.dataset.layout import open_dataset
    from tasks.staging import Staging

    shutil.rmtree(folder, ignore_errors=True)
    staging = Staging(folder)
    for episode in open_dataset(root).episodes():
        for module, rows in bench_writer.rows_of_episode(episode.episode_index, episode.times).items():
            staging.write(episode.episode_index, module, rows, key="bench", facts={})


def _annotate(root: Path, staged: Path, output: Path | None, episodes: int) -> None:
    from tasks.dataset.layout import open_dataset
    from tasks.language.styles import MODULES
    from tasks.staging import Staging
    from tasks.write import write_dataset

    modules = {e: MODULES for e in range(episodes)}
    provenance = {"made_by": "bench"}
    write_dataset(
        open_dataset(root), Staging(staged), modules, output=output, provenance=provenance, drop_subtask_index=True
    )


# --- measured parts, each in a process of its own ------------------------------------------------------------------


def median_us(call: Callable[[Any], Any], arguments: Iterable[Any]) -> float:
    """Median time of one call."""
    arguments = list(arguments)
    for argument in arguments[:WARM]:
        call(argument)
    spans = []
    for argument in arguments:
        start = time.perf_counter()
        call(argument)
        spans.append(time.perf_counter() - start)
    return statistics.median(spans) * 1e6


def asked_of_both() -> dict[str, Any]:
    """The rows of one episode, its times, and the frames to fetch at random."""
    from tasks.dataset.layout import open_dataset
    from tasks.language.stored import episode_rows
    from tasks.language.styles import PERSISTENT, column_for_style

    dataset = open_dataset(SMALL)
    episode = dataset.episodes([3])[0]
    rows = [vars(r) for r in episode_rows(dataset, episode) if column_for_style(r.style) == PERSISTENT]
    assert len(rows) == 39
    draw = random.Random(0)
    indices = [draw.randrange(SMALL_EPISODES * episode.frames) for _ in range(2000)]
    asked = {"rows": rows, "times": episode.times, "task": episode.task, "indices": indices}
    return asked | {"recipe": MEMORY_RECIPE, "root": str(SMALL)}


def ours() -> dict[str, Any]:
    """Our times on what both are asked."""
    from tasks.language.recipe import load_recipe
    from tasks.language.render import Renderer
    from tasks.language.resolve import EpisodeTable, rows_of
    from tasks.language.view import LanguageDataset

    asked = asked_of_both()
    renderer = Renderer(load_recipe(MEMORY_RECIPE))
    table = EpisodeTable.at_fps(rows_of(asked["rows"]), [], FPS)
    task = asked["task"]
    frames = list(range(len(asked["times"]))) * 4
    view = LanguageDataset(SMALL, MEMORY_RECIPE, cache_dir=CACHE)
    return {
        "render_us": median_us(lambda frame: renderer.render(table, frame, episode=3, task=task), frames),
        "item_us": median_us(view.__getitem__, asked["indices"] * 4),
    }


def reference(python: str) -> dict[str, Any]:
    """The reference's times on the same."""
    done = subprocess.run(
        [python, REPO / "bench/reference_language.py"],
        input=json.dumps(asked_of_both()), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"the reference failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def large(traced: bool) -> dict[str, Any]:
    """Open the large dataset, take a sample of every episode, then samples at random; memory at each step."""
    from tasks.language.view import LanguageDataset

    if traced:
        tracemalloc.start()
    before_mib, start = _rss_mib(), time.perf_counter()
    view = LanguageDataset(LARGE, MEMORY_RECIPE, cache_dir=CACHE)
    opened = {"open_s": time.perf_counter() - start, "opened_mib": _rss_mib() - before_mib}
    draw = random.Random(0)
    episodes = list(range(bench_writer.EPISODES))
    draw.shuffle(episodes)
    start = time.perf_counter()
    for episode in episodes:
        view.sample(episode, draw.randrange(bench_writer.FRAMES))
    first_us = (time.perf_counter() - start) / len(episodes) * 1e6
    item_us = median_us(view.__getitem__, [draw.randrange(len(view)) for _ in range(SAMPLES)])
    objects_mib = tracemalloc.get_traced_memory()[1] / MIB if traced else None
    return opened | {
        "first_us": first_us,
        "item_us": item_us,
        "touched_mib": _rss_mib() - before_mib,
        "objects_mib": objects_mib,
        "file_mib": sum(p.stat().st_size for p in CACHE.glob("language/*.arrow")) / MIB,
        "frames": len(view),
    }


def _rss_mib() -> float:
    """Resident memory of this process, the pages of mapped row files left out."""
    kib, counted = 0, True
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            counted = not rest.endswith(".arrow")
        elif name == "Rss:" and counted:
            kib += int(rest.split()[0])
    return kib / 1024


# --- tables --------------------------------------------------------------------------------------------------------


def speed() -> None:
    """One sample, ours beside the reference's, in turn."""
    python = reference_python()
    mine, theirs = [], []
    for _ in range(ROUNDS):
        mine.append(measure_self(__file__, "--child", "ours").result)
        if python:
            theirs.append(reference(python))

    def middle(runs: list[dict[str, Any]], key: str) -> float:
        return statistics.median(run[key] for run in runs)

    rows = []
    for key, name, bar in (
        ("render_us", "rows in memory → sample", "not slower than the reference"),
        ("item_us", "frame's number → sample", f"{SAMPLE_BAR_US:.0f} us, {RATE_BAR:.0f} times the reference's rate"),
    ):
        us = middle(mine, key)
        if theirs:
            rows.append((name, us, middle(theirs, key), middle(theirs, key) / us, bar))
        else:
            rows.append((name, us, "-", "-", bar))
    print_table("One rendered sample, median", ("", "us", "reference us", "times faster", "bar"), rows)
    if theirs:
        print(f"the reference's item by: {theirs[0]['way']} (us: {theirs[0]['all']})")
    else:
        print("no reference: set CUEBOOK_REFERENCE_PYTHON to a Python that has lerobot")


def memory() -> None:
    """The view over the large dataset: first opening, later ones."""
    shutil.rmtree(CACHE, ignore_errors=True)
    runs = {name: measure_self(__file__, "--child", "large") for name in ("first opening", "second opening")}
    traced = measure_self(__file__, "--child", "traced").result["objects_mib"]
    rows = [
        (name, r["open_s"], r["opened_mib"], r["touched_mib"], m.rss_mib, r["first_us"], r["item_us"], r["file_mib"])
        for name, m in runs.items()
        for r in (m.result,)
    ]
    rows.append(("bar", "", "", MEMORY_BAR_MIB, "", "", SAMPLE_BAR_US, ""))
    columns = ("", "open s", "opened MiB", "all touched MiB", "peak MiB", "first sample us", "sample us", "file MiB")
    print_table(f"A view over {runs['first opening'].result['frames']:,} frames, 2,000 episodes", columns, rows)
    print(
        f"MiB are resident, beyond the process before opening and beyond the mapped file; Python objects: {traced:.0f}"
    )


def main() -> None:
    """Make the inputs where they are missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", choices=["ours", "large", "traced"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(ours() if args.child == "ours" else large(traced=args.child == "traced")))
        return
    make_inputs()
    speed()
    memory()


if __name__ == "__main__":
    main()
