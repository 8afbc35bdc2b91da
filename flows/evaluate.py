"""The Prefect flow `evaluate`: an annotation compared with the truth or another annotation, its tables as artifacts.

A thin shell around `tasks.evaluate`, which the `annotate eval` command calls without Prefect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.evaluate.compare import evaluate as compare
from tasks.evaluate.report import Evaluation
from tasks.evaluate.source import load

TABLE_ROWS_MAX = 200
EPISODE_COLUMNS = ("boundary_f1_0.5s", "boundary_f1_1s", "boundary_f1_2s", "iou", "f1_50", "edit", "label_token_f1")


@flow(name="evaluate", persist_result=False)
def evaluate(
    root: Path,
    reference: Path,
    episodes: list[int] | None = None,
    missing_as_zero: bool = False,
    plots: Path | None = None,
) -> dict[str, Any]:
    """Compare an annotated dataset with the truth, or with another annotation of the same recordings.

    Args:
        root: annotated dataset folder.
        reference: truth.json, or another annotated dataset folder.
        episodes: episode indices; empty: all.
        missing_as_zero: episodes that root has not annotated count as 0 instead of being left out.
        plots: draw both timelines of each episode into this folder.
    """
    mine, other = load(root, episodes), load(reference, episodes)
    evaluation = compare(mine, other, missing_as_zero=missing_as_zero)
    if plots is not None:
        from tasks.evaluate.plot import plot_episodes

        list(plot_episodes(evaluation, mine, other, plots))
    _publish(evaluation)
    return evaluation.to_json()


def _publish(evaluation: Evaluation) -> None:
    measures = [
        {"measure": m.name, "pooled": evaluation.micro(m.name), "mean": evaluation.macro(m.name), "says": m.meaning}
        for m in evaluation.measures
    ]
    create_table_artifact(measures, key="evaluate-measures", description="subtasks")
    shown = sorted(evaluation.episodes, key=lambda e: e.value("boundary_f1_1s") or 0.0)[:TABLE_ROWS_MAX]
    rows = [{"episode": e.index, "task": e.task, **{n: e.value(n) for n in EPISODE_COLUMNS}} for e in shown]
    create_table_artifact(rows, key="evaluate-episodes", description="worst first")
    if evaluation.visual:
        visual = [{"type": kind, **v.to_json()} for kind, v in evaluation.visual.items()]
        create_table_artifact(visual, key="evaluate-vqa", description="visual answers")
    notes = "\n".join(f"- {w}" for w in evaluation.warnings) or "- every episode could be compared"
    sides = f"`{evaluation.root.path}` against `{evaluation.reference.path}`"
    create_markdown_artifact(f"# Evaluation\n\n{sides}\n\n{notes}\n", key="evaluate-notes")
