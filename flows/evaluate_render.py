"""An evaluation and a sweep in the terminal. Takes data, gives rich renderables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tasks.evaluate.report import Coverage, EpisodeResult, Evaluation
from tasks.evaluate.segments import OVERLAPS, TOLERANCES_S

EPISODES_SHOWN_MAX = 30
DIFFERENT_LABELS_SHOWN_MAX = 8
PER_EPISODE = {
    "F1\n0.5 s": "boundary_f1_0.5s",
    "F1\n1 s": "boundary_f1_1s",
    "F1\n2 s": "boundary_f1_2s",
    "overlap": "iou",
    "F1@50": "f1_50",
    "edit": "edit",
    "per\nframe": "frame_accuracy",
    "label\nwords": "label_token_f1",
}


def evaluation_parts(evaluation: Evaluation) -> list[RenderableType]:
    """The sections of an evaluation that have anything to say."""
    parts: list[RenderableType | None] = [
        _coverage(evaluation),
        _measures(evaluation),
        _visual(evaluation),
        _episodes(evaluation),
        _differences(evaluation),
        _warnings(evaluation),
    ]
    return [Padding(part, (1, 1, 0, 1)) for part in parts if part is not None]


def figure(value: float | None) -> Text:
    """A measure with three decimals; a dot where there is no value."""
    if value is None:
        return Text("·", "dim")
    return Text(f"{value:.3f}", "green" if value >= 0.9 else "yellow" if value >= 0.5 else "red")


def _table(title: str, numbers: Iterable[str], first: str, last: Sequence[str] = ()) -> Table:
    table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, header_style="dim")
    table.show_edge, table.border_style = False, "grey37"
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, style="dim")
    return table


def _coverage(evaluation: Evaluation) -> Table:
    sides: tuple[tuple[str, Coverage], ...] = (("root", evaluation.root), ("reference", evaluation.reference))
    table = _table("Coverage", [name for name, _ in sides], "")
    rows: list[tuple[str, list[str]]] = [
        ("what it is", [c.kind if c.model is None else f"{c.kind}, by {c.model}" for _, c in sides]),
        ("episodes annotated", [f"{c.annotated} of {c.episodes}" for _, c in sides]),
        ("frames with a subtask", [_share(c.frames_with_subtask, c.frames) for _, c in sides]),
    ]
    if any(c.skipped is not None for _, c in sides):
        rows.append(("questions skipped, last run", [_skipped(c) for _, c in sides]))
    styles = sorted({*evaluation.root.rows, *evaluation.reference.rows})
    rows += [(f"{style} rows", [str(c.rows.get(style, 0)) for _, c in sides]) for style in styles]
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "·"


def _skipped(side: Coverage) -> str:
    if side.skipped is None:
        return "·"
    share = side.skipped_share
    return str(side.skipped) if share is None else f"{side.skipped} of {side.asked} ({share:.1%})"


def _measures(evaluation: Evaluation) -> Group:
    n = len(evaluation.episodes)
    title = f"Subtasks, {n} {'episode' if n == 1 else 'episodes'} pooled (mean of episodes)"
    cuts = _table(title, [f"within {t:g} s" for t in TOLERANCES_S], "boundaries")
    for name in ("precision", "recall", "f1"):
        cuts.add_row(
            "F1" if name == "f1" else name, *(_both(evaluation, f"boundary_{name}_{t:g}s") for t in TOLERANCES_S)
        )
    spans = _table("", [f"by {100 * k:g} %" for k in OVERLAPS], "spans that overlap")
    spans.title = None
    for shown, suffix in (("same label", ""), ("any label", "_unlabelled")):
        spans.add_row(f"F1, {shown}", *(_both(evaluation, f"f1_{100 * k:g}{suffix}") for k in OVERLAPS))
    rest = _table("", ["value"], "measure", ["what it says"])
    rest.title = None
    told = {m.name: m.meaning for m in evaluation.measures}
    for name, meaning in told.items():
        if not name.startswith(("boundary_", "f1_")):
            rest.add_row(name, _both(evaluation, name), meaning)
    if evaluation.offset_s is not None:
        rest.add_row("boundary offset", f"{evaluation.offset_s:.2f} s", "mean distance of boundaries found within 2 s")
    return Group(cuts, "", spans, "", rest)


def _both(evaluation: Evaluation, name: str) -> Text:
    micro, macro = evaluation.micro(name), evaluation.macro(name)
    text = figure(micro)
    if micro is not None and macro is not None and abs(micro - macro) >= 0.0005:
        text = Text.assemble(text, (f" ({macro:.3f})", "dim"))
    return text


def _visual(evaluation: Evaluation) -> Table | None:
    if not evaluation.visual:
        return None
    known = evaluation.reference.kind == "truth"
    table = _table("Visual answers", ["root", "reference", "compared"], "type", ["mean values"])
    table.columns[-1].style = ""
    for kind, v in evaluation.visual.items():
        found = "   ".join(f"{name.replace('_', ' ')} {score.value:.3f}" for name, score in v.scores.items())
        reference = "truth" if known else str(v.reference)
        table.add_row(kind, str(v.root), reference, str(v.compared), found or Text("·", "dim"))
    return table


def _episodes(evaluation: Evaluation) -> Table:
    worst = evaluation.worst()
    marked = {e.index for e in worst}
    shown = sorted(evaluation.episodes, key=lambda e: e.index)
    title = "Episodes"
    if len(shown) > EPISODES_SHOWN_MAX:
        shown, title = worst or shown[:EPISODES_SHOWN_MAX], "Worst episodes (all are in --json and --out)"
    table = _table(title, PER_EPISODE, "#", ["task"])
    for episode in shown:
        table.add_row(
            Text(str(episode.index), "bold red" if episode.index in marked else ""),
            *(figure(episode.value(name)) for name in PER_EPISODE.values()),
            Text(episode.task, overflow="ellipsis", no_wrap=True),
        )
    if worst and len(worst) < len(evaluation.episodes):
        named = ", ".join(str(e.index) for e in worst)
        table.caption = Text(f"worst by boundary F1 at 1 s: {named}", "dim")
        table.caption_justify = "left"
    return table


def _differences(evaluation: Evaluation) -> Table | None:
    """Matched spans with different labels: what label agreement is made of."""
    from tasks.evaluate.labels import same

    found: list[tuple[EpisodeResult, str, str]] = [
        (e, m.left.text, m.right.text)
        for e in evaluation.episodes
        for m in e.matched
        if not same(m.left.text, m.right.text)
    ]
    if not found:
        return None
    table = _table(f"Matched spans with different labels: {len(found)}", [], "#", ["root", "reference"])
    for episode, mine, other in found[:DIFFERENT_LABELS_SHOWN_MAX]:
        table.add_row(str(episode.index), Text(mine), Text(other))
    if len(found) > DIFFERENT_LABELS_SHOWN_MAX:
        table.caption = Text(f"and {len(found) - DIFFERENT_LABELS_SHOWN_MAX} more in --json", "dim")
        table.caption_justify = "left"
    return table


def _warnings(evaluation: Evaluation) -> Text | None:
    if not evaluation.warnings:
        return None
    return Text("\n".join(evaluation.warnings), "yellow")


# ------------------------------------------------------------------------------------------------ a sweep

SWEEP_MEASURES = {"F1\n0.5 s": "boundary_f1_0.5s", "F1\n1 s": "boundary_f1_1s", "F1\n2 s": "boundary_f1_2s",
                  "F1@50": "f1_50", "label\nwords": "label_token_f1"}  # fmt: skip
SWEEP_COSTS = {"skipped": "skipped", "requests": "requests", "tokens\nin": "tokens_in", "tokens\nout": "tokens_out",
               "money": "money"}  # fmt: skip


def sweep_table(report: dict[str, Any]) -> Table:
    """Variants, best first; costs only where there are any."""
    rank_by, variants = report["rank_by"], report["variants"]
    measures = {**({} if rank_by in SWEEP_MEASURES.values() else {rank_by: rank_by}), **SWEEP_MEASURES}
    costs = {shown: key for shown, key in SWEEP_COSTS.items() if any(v[key] for v in variants)}
    table = _table(f"\n{len(variants)} of {report['planned']} variants, ranked by {rank_by}", [], "#")
    table.add_column("variant", ratio=1)
    for shown in (*measures, *costs, "seconds"):
        table.add_column(shown, justify="right", no_wrap=True)
    for v in variants:
        name = Text(v["name"], "bold" if v["rank"] == 1 and not v["failure"] else "")
        if v["failure"]:
            name.append(f"\nfailed: {v['failure']}", "red")
        found = v["measures"] or {}
        cells = [figure(found.get(key)) for key in measures.values()]
        cells += [Text(f"{v[key] or 0:,.4g}" if key == "money" else f"{v[key]:,}") for key in costs.values()]
        table.add_row(str(v["rank"]), name, *cells, f"{v['seconds']:.1f}")
    return table
