"""What `plan.snap_to_motion_s` is worth: a model whose boundaries are off by chance, with and without snapping.

    python -m bench.bench_snapping

The true subtasks of a generated dataset are answered with normally distributed errors on every boundary, as a model
does that reads times from frames half a second apart; the rest of the run is the real one.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from unittest.mock import patch

from bench.bench_evaluate import SMALL, WORK
from bench.common import print_table
from flows.inline import annotate_inline
from tasks.answers.motion import MotionAnswerer
from tasks.answers.question import Note, Question, Reply, unnoted
from tasks.dataset.generate import generate, truth_path
from tasks.dataset.layout import Dataset
from tasks.evaluate.compare import evaluate
from tasks.evaluate.source import Source, load
from tasks.questions import Segment, Segments
from tasks.settings import AnnotateSettings, PlanSettings

ERRORS_S = (0.25, 0.5, 1.0)
REACHES_S = (0.0, 0.5, 1.0, 1.5)
SHOWN = ("boundary_f1_0.5s", "boundary_f1_1s", "boundary_f1_2s", "iou")
ROOT = WORK / "snapping"


class Unsure(MotionAnswerer):
    """Knows the true subtasks; its times are a little off."""

    def __init__(self, dataset: Dataset, truth: Source, error_s: float) -> None:
        super().__init__(dataset)
        self._truth, self._error_s = truth, error_s

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """As motion, but for subtasks."""
        return [self._guess(q) if q.name == "plan_subtasks" else super(Unsure, self).answer([q])[0] for q in questions]

    def _guess(self, question: Question) -> Reply:
        assert question.episode is not None
        index = question.episode.episode_index
        spans = self._truth.episodes[index].spans
        rng = random.Random(index)
        cuts = [s.start for s in spans[1:]]
        cuts = sorted(max(0.0, c + rng.gauss(0.0, self._error_s)) for c in cuts)
        edges = [question.episode.start_s, *cuts, question.episode.end_s]
        segments = [Segment(text=s.text, start=a, end=b) for s, a, b in zip(spans, edges, edges[1:], strict=False)]
        return Reply(Segments(subtasks=segments))


def measured(truth: Source, error_s: float, reach_s: float) -> list[float]:
    """Figures of one whole run."""
    output = ROOT.with_name("snapping-out")
    for path in (output, output.with_name(f".{output.name}.annotate_staging")):
        shutil.rmtree(path, ignore_errors=True)

    def make(_: AnnotateSettings, dataset: Dataset, note: Note = unnoted) -> Unsure:
        return Unsure(dataset, truth, error_s)

    plan = PlanSettings(snap_to_motion_s=reach_s)
    with patch("tasks.context.make_answerer", make):
        annotate_inline(AnnotateSettings(root=ROOT, output=output, phases=["plan"], plan=plan))
    found = evaluate(load(output), truth)
    return [found.micro(name) or 0.0 for name in SHOWN]


def main() -> None:
    """One table."""
    if not truth_path(ROOT).exists():
        generate(ROOT, episodes=12, seconds=20.0, seed=11, **SMALL)
    truth = load(truth_path(ROOT))
    rows = [
        [f"{error_s:g} s", "off" if reach_s == 0 else f"{reach_s:g} s", *measured(truth, error_s, reach_s)]
        for error_s in ERRORS_S
        for reach_s in REACHES_S
    ]
    names = ["error of the model", "snap_to_motion_s", "F1 0.5 s", "F1 1 s", "F1 2 s", "overlap"]
    print_table("boundaries moved to what the joints recorded (12 episodes of 20 s)", names, rows)


if __name__ == "__main__":
    main()
