"""One plan prompt of 60 frames: CPU seconds and bytes from the mp4 to the request body, ours and the reference's.

    python -m bench.bench_prompt [--runs 3]

A generated episode of 29.5 s, 640x480, 30 fps, AV1, shown at 2 frames a second: decode, sheets, JPEG, JSON body.
CPU is that of all threads, without imports; each run is a process that makes one other prompt first. With
CUEBOOK_REFERENCE_PYTHON (a Python with `lerobot[annotations]`) the reference makes the same prompt beside it; else
figures of an earlier run of it stand in for the bar.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.common import REPO, WORK, measure_self, print_table, reference_python

SECONDS, FPS, SIZE = 29.5, 30, (640, 480)
FRAMES = 60
CPU_FRACTION = 1 / 6
REFERENCE_CPU_S, REFERENCE_BYTES = 1.86, 1_920_000  # measured earlier on two busy cores, decoding by torchcodec
DATASET = WORK / "prompt-60-frames"


def workload() -> Path:
    """Two generated episodes, made once: the first warms up."""
    from tasks.dataset.generate import generate

    if not DATASET.exists():
        print(f"generating 2 episodes of {SECONDS} s (once, about a minute)", flush=True)
        generate(DATASET, episodes=2, seconds=SECONDS, fps=FPS, codec="av1", size=SIZE)
    return DATASET


def times_of(root: Path) -> tuple[str, list[list[float]]]:
    """The camera and, per episode, the times that a plan prompt shows."""
    from tasks.dataset.layout import open_dataset
    from tasks.looks import bounds, window_times
    from tasks.settings import AnnotateSettings

    dataset, settings = open_dataset(root), AnnotateSettings()
    times = []
    for episode in dataset.episodes():
        (window,) = bounds(episode, settings)
        times.append(window_times(episode, settings, *window))
    assert all(len(t) == FRAMES for t in times)
    return dataset.cameras[0], times


def ours(root: Path) -> dict[str, float]:
    """Our prompt of episode 1, after one of episode 0."""
    from tasks.dataset.layout import open_dataset

    dataset = open_dataset(root)
    return [our_prompt(dataset, episode) for episode in dataset.episodes()][-1]


def our_prompt(dataset: Any, episode: Any) -> dict[str, float]:
    """One prompt by the phase's own means, everything made afresh."""
    from tasks.answers import messages, request
    from tasks.answers.dialect import Dialect
    from tasks.dataset.frames import EpisodeFrames
    from tasks.looks import Looks, bounds, views, wanted_tiles
    from tasks.plan_questions import PlanQuestions
    from tasks.settings import AnnotateSettings
    from tasks.sheets import SheetMaker

    settings = AnnotateSettings()
    cameras = views(settings, dataset.cameras)
    stretches = bounds(episode, settings)
    marks = [time.process_time()]
    frames = EpisodeFrames(episode, wanted_tiles(episode, settings, dataset.cameras, stretches))
    looks = Looks(episode, settings, SheetMaker(frames, cameras, settings), WORK)
    frames.tiles(cameras[0], [episode.start_s], settings.plan.contact_sheet_frame_width)  # decodes all that is wanted
    marks.append(time.process_time())
    window = looks.at(*stretches[0])
    marks.append(time.process_time())
    question = PlanQuestions(episode, settings).segment(window, episode.task, "", settings.plan.max_steps)
    ask = request.Ask(messages.prompt_text(question), question.pictures, question.clips, question.max_tokens or 0)
    body = json.dumps(request.build(ask, question.answer, 0, settings.vlm, Dialect("bench"))).encode()
    marks.append(time.process_time())
    decode_s, sheets_s, body_s = (b - a for a, b in pairwise(marks))
    return {
        "decode_s": decode_s,
        "sheets_s": sheets_s,
        "body_s": body_s,
        "cpu_s": marks[-1] - marks[0],
        "frames": frames.decoded,
        "pictures": len(question.pictures),
        "bytes": len(body),
    }


def reference(python: str, root: Path) -> dict[str, Any]:
    """The reference's prompt of the same frames."""
    camera, times = times_of(root)
    script = REPO / "bench" / "reference_prompt.py"
    job = json.dumps({"camera": camera, "times": times})
    done = subprocess.run([python, script, root], input=job, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def row(name: str, got: dict[str, Any]) -> list[object]:
    """One line of the table."""
    steps = [got["decode_s"], got["sheets_s"], got["body_s"], got["cpu_s"]]
    return [name, *steps, int(got["frames"]), int(got["pictures"]), got["bytes"] / 1e6]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)  # the measured subprocess
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(args.ours)))
        return
    root, python = workload(), reference_python()
    mine = [measure_self(__file__, f"--ours={root}").result for _ in range(args.runs)]
    theirs = [reference(python, root) for _ in range(args.runs)] if python else []
    best = min(mine, key=lambda r: r["cpu_s"])
    other = min(theirs, key=lambda r: r["cpu_s"]) if theirs else None
    rows = [row("ours", best)] + ([row(f"reference, {other['decoder']}", other)] if other else [])
    columns = ["", "decode CPU s", "sheets", "body", "all", "frames", "pictures", "MB"]
    print_table(f"one prompt of {FRAMES} frames, {SIZE[0]}x{SIZE[1]} AV1, best of {args.runs}", columns, rows)
    cpu_s = other["cpu_s"] if other else REFERENCE_CPU_S
    size = other["bytes"] if other else REFERENCE_BYTES
    met = best["cpu_s"] <= cpu_s * CPU_FRACTION
    bar = [["CPU s", cpu_s * CPU_FRACTION, best["cpu_s"], f"1/{cpu_s / best['cpu_s']:.1f}", "met" if met else "MISSED"]]
    bar.append(["MB", size / 1e6, best["bytes"] / 1e6, f"1/{size / best['bytes']:.1f}", ""])
    print_table(
        f"bar (reference: {'measured beside' if other else 'earlier figures'})", ["", "bar", "got", "", ""], bar
    )
    (WORK / "prompt.json").write_text(json.dumps({"ours": mine, "reference": theirs}, indent=1))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
