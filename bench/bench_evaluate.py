"""How good is `motion`, the answerer without a model? Generated datasets of several seeds, lengths and rates.

Datasets are made once in bench/work/evaluate and reused; every run annotates them afresh. The first line compares the
truth with itself: every measure must be 1.0.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common import WORK as BENCH_WORK
from bench.common import print_table
from tasks.dataset.generate import generate, truth_path
from tasks.evaluate.compare import evaluate
from tasks.evaluate.report import MEASURES, Evaluation
from tasks.evaluate.source import load

WORK = BENCH_WORK / "evaluate"
BAR = 0.9
SHOWN = (
    "boundary_f1_0.5s", "boundary_f1_1s", "boundary_f1_2s", "iou", "f1_50", "edit", "frame_accuracy", "label_token_f1",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One generated dataset; what is not said is the generator's default."""

    name: str
    arguments: dict[str, Any]


CASES = [
    *(Case(f"6 x 8 s, seed {seed}", {"seed": seed}) for seed in range(4)),
    Case("24 x 20 s", {"episodes": 24, "seconds": 20.0}),
    Case("24 x 20 s, seed 7", {"episodes": 24, "seconds": 20.0, "seed": 7}),
    Case("12 x 40 s, 30 fps", {"episodes": 12, "seconds": 40.0, "fps": 30, "seed": 3}),
    Case("12 x 6 s, 30 fps, 1 object", {"episodes": 12, "seconds": 6.0, "fps": 30, "moved": 1, "seed": 4}),
    Case("12 x 12 s, 3 objects", {"episodes": 12, "seconds": 12.0, "moved": 3, "seed": 5}),
]
SMALL = {"size": (64, 48), "noise": 0.0}  # motion looks at joints alone: pictures may be tiny


def annotated(root: Path) -> Evaluation:
    """Annotate with motion into a fresh folder and compare with the truth."""
    from flows.inline import annotate_inline
    from tasks.settings import AnnotateSettings

    output = root.with_name(f"{root.name}-motion")
    for path in (output, output.with_name(f".{output.name}.annotate_staging")):
        shutil.rmtree(path, ignore_errors=True)
    annotate_inline(AnnotateSettings(root=root, output=output))
    return evaluate(load(output), load(truth_path(root)))


def dataset(case: Case) -> Path:
    """The case's dataset, made when it is not there."""
    root = WORK / "".join(c if c.isalnum() else "-" for c in case.name)
    if not truth_path(root).exists():
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        generate(root, **{**SMALL, **case.arguments})
    return root


def main() -> None:
    """Measure all cases, print one table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows: list[list[object]] = []
    lowest = 1.0
    for case in CASES:
        root = dataset(case)
        truth = load(truth_path(root))
        itself = evaluate(truth, truth)
        wrong = [m.name for m in MEASURES if itself.micro(m.name) != 1.0]
        assert not wrong, f"truth against itself: {wrong}"
        began = time.perf_counter()
        found = annotated(root)
        took_s = time.perf_counter() - began
        values = {name: found.micro(name) or 0.0 for name in SHOWN}
        lowest = min(lowest, values["boundary_f1_1s"])
        rows.append([case.name, *values.values(), found.offset_s or 0.0, took_s])
    rows.append(["truth against itself", *[1.0] * len(SHOWN), 0.0, "-"])
    rows.append(["bar", "-", BAR, *["-"] * (len(SHOWN) - 2), "-", "-"])
    names = [
        "F1 0.5 s",
        "F1 1 s",
        "F1 2 s",
        "overlap",
        "F1@50",
        "edit",
        "per frame",
        "label words",
        "offset s",
        "run s",
    ]
    print_table("motion against the truth of generated datasets (episodes x seconds)", ["dataset", *names], rows)
    print(f"lowest boundary F1 at 1 s: {lowest:.3f}, bar {BAR}: {'met' if lowest >= BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
