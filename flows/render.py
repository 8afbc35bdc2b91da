"""An episode, a report and a run in the terminal. Takes data, gives rich renderables; settings are never read here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flows.timeline import SUBTASK_COLOURS, camera_name, timeline
from tasks.answers.question import Usage
from tasks.episode_view import EpisodeView, VisualQA, read_view
from tasks.ledger import Cost, Costs
from tasks.phase import PhaseReport
from tasks.report import Report

MIB = 1 << 20
WIDTH_MAX = 120  # longer lines are hard to read
FINDINGS_SHOWN_MAX = 50
SKIPS_SHOWN_MAX = 30
COSTS_SHOWN_MAX = 60
VQA_SHOWN_MAX = 40
BOXES_SHOWN_MAX = 3  # of one answer
ALWAYS_SHOWN = ("done", "rows", "seconds")  # in a summary; other columns only where there is anything to say
SEVERITY_STYLES = {"error": "bold red", "warning": "yellow"}


# ------------------------------------------------------------------------------------------------ one episode


def show_episode(console: Console, dataset_root: Path, episode_index: int, width: int | None = None) -> None:
    """Print an annotated episode: its header, a timeline, and tables of its rows. Raises as `read_view`."""
    view = read_view(dataset_root, episode_index)
    width = min(width or WIDTH_MAX, console.width)
    for part in episode_parts(view, width):
        console.print(part, width=width)


def episode_json(dataset_root: Path, episode: int) -> dict[str, Any]:
    """What `show_episode` shows, for machines. Raises as `read_view`."""
    return read_view(dataset_root, episode).to_json()


def episode_parts(view: EpisodeView, width: int) -> list[RenderableType]:
    """The sections of an episode's page that have anything to say."""
    if view.empty:
        hint = Text("No language rows yet: annotate this dataset with `annotate run`.", "yellow")
        return [_header(view), Padding(hint, (1, 1))]
    sections = [
        _subtasks(view),
        _plan(view),
        _memory(view),
        _rephrasings(view),
        _speech(view),
        _vqa(view),
        _others(view),
    ]
    shown = (Padding(section, (0, 1, 1, 1)) for section in sections if section is not None)
    return [_header(view), Padding(timeline(view, width - 2), (1, 1)), *shown]


def _header(view: EpisodeView) -> Panel:
    episode = view.episode
    cameras = [f"{camera_name(n)} {w}×{h}" for n, (w, h) in view.camera_sizes.items()]
    length_s = episode.frames / episode.fps
    facts = f"{length_s:.1f} s · {episode.frames} frames at {episode.fps:g} per second"
    facts += f" · {'cameras' if len(cameras) > 1 else 'camera'} {', '.join(cameras) or 'none'}"
    task = Text(episode.task or "(the dataset names no task)", "bold" if episode.task else "dim italic")
    return Panel(
        Group(task, Text(facts, "dim")),
        title=Text(f"episode {episode.episode_index}", "bold cyan"),
        title_align="left",
        border_style="cyan",
        box=box.ROUNDED,
    )


def _table(title: str, note: str = "", **options: Any) -> Table:
    """A quiet table: a title, a line under the column names, no frame."""
    return Table(
        title=Text(title, "bold"),
        title_justify="left",
        caption=Text(note, "dim") if note else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        header_style="dim",
        border_style="grey37",
        show_edge=False,
        **options,
    )


def _section(title: str, numbers: Sequence[str], texts: Sequence[str]) -> Table:
    """A table of an episode's page: narrow columns of numbers, then texts that share the rest."""
    table = _table(title, expand=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in texts:
        table.add_column(name, ratio=1)
    return table


def _bullets(texts: Iterable[str]) -> Table:
    """A list whose wrapped lines stay indented."""
    grid = Table.grid(padding=(0, 1))
    for text in texts:
        grid.add_row(" •", Text(text))
    return grid


def _subtasks(view: EpisodeView) -> Table | None:
    if not view.subtasks:
        return None
    table = _section("Subtasks", ("#", "start", "end", "length"), ("subtask",))
    for i, s in enumerate(view.subtasks):
        number = Text(f" {i + 1} ", f"bold white on {SUBTASK_COLOURS[i % len(SUBTASK_COLOURS)]}")
        table.add_row(number, _s(s.start), _s(s.end), _s(s.length_s), Text(s.text))
    return table


def _plan(view: EpisodeView) -> RenderableType | None:
    if not view.plans:
        return None
    first, *later = view.plans
    lines = [Text(f"Plan at {first.time_s:.2f} s", "bold"), Padding(Text(first.text), (0, 2))]
    if later:
        times = ", ".join(f"{note.time_s:.2f}" for note in later)
        lines.append(Text(f" restated for what is left at {times} s", "dim"))
    return Group(*lines)


def _memory(view: EpisodeView) -> Table | None:
    if not view.memories:
        return None
    table = _section("Memory", ("time",), ("what the robot remembers",))
    for note in view.memories:
        table.add_row(_s(note.time_s), Text(note.text))
    return table


def _rephrasings(view: EpisodeView) -> RenderableType | None:
    if not view.rephrasings:
        return None
    return Group(Text("The task in other words", "bold"), _bullets(view.rephrasings))


def _speech(view: EpisodeView) -> Table | None:
    if not view.exchanges:
        return None
    table = _section("Speech", ("time",), ("person", "robot"))
    for x in view.exchanges:
        table.add_row(_s(x.time_s), Text(x.person or ""), Text(x.robot or ""))
    return table


def _vqa(view: EpisodeView) -> Table | None:
    if not view.vqa:
        return None
    hidden = len(view.vqa) - VQA_SHOWN_MAX
    note = f"and {hidden} more; --json gives all" if hidden > 0 else ""
    table = _table("Visual questions", note, expand=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("camera", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("question", ratio=5)
    table.add_column("answer", ratio=4)
    for q in view.vqa[:VQA_SHOWN_MAX]:
        question = Text(q.question) if q.question else Text("no question", "red")
        table.add_row(_s(q.time_s), Text(camera_name(q.camera)), Text(q.type), question, short_answer(q))
    return table


def _others(view: EpisodeView) -> Table | None:
    if not view.others:
        return None
    table = _section("Other rows", ("time",), ("style", "role", "camera", "content"))
    for r in view.others:
        cells = (r.style or "", r.role, camera_name(r.camera or ""), r.content or str(r.tool_calls))
        table.add_row(_s(r.timestamp), *map(Text, cells))
    return table


def short_answer(q: VisualQA) -> Text:
    """An answer in a few words; anything of no known shape as it stands."""
    answer = q.answer
    if answer is None:
        return Text("no answer", "red")
    try:
        return Text(_answer_words(answer))
    except (KeyError, TypeError, ValueError, AttributeError):
        return Text(str(answer), "red")


def _answer_words(answer: dict[str, Any]) -> str:
    kind = answer["type"]
    if kind == "bbox":
        found = answer["detections"]
        boxes = [f"{d['label']} [{_numbers(d['bbox'])}]" for d in found[:BOXES_SHOWN_MAX]]
        return "; ".join(boxes) + (f" and {len(found) - BOXES_SHOWN_MAX} more" if len(found) > BOXES_SHOWN_MAX else "")
    if kind == "keypoint":
        return f"{answer['label']} ({_numbers(answer['point'])})"
    if kind == "count":
        return f"{answer['label']}: {answer['count']}" + (f" ({answer['note']})" if answer.get("note") else "")
    if kind == "attribute":
        return f"{answer['label']}: {answer['attribute']} {answer['value']}"
    if kind == "spatial":
        return f"{answer['subject']} {answer['relation'].replace('_', ' ')} {answer['object']}"
    raise ValueError(kind)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.0f}" for v in values)


def _s(seconds: float) -> str:
    return f"{seconds:.2f}"


# ------------------------------------------------------------------------------------------------ a report


def findings_table(report: Report) -> Table:
    """Findings, errors first, each with where it is and what to do."""
    severity = {f.check: f.severity for f in report.findings}
    counts: Counter[str] = Counter()
    for check, count in report.by_check().items():
        counts[severity[check]] += count
    title = f"\n{_plural(counts['error'], 'error')}, {_plural(counts['warning'], 'warning')}"
    title += f" in {_plural(report.episodes_checked, 'episode')}, {_plural(report.rows_checked, 'row')}"
    worst = sorted(report.findings, key=lambda f: f.severity)
    hidden = counts.total() - min(len(worst), FINDINGS_SHOWN_MAX)
    caption = f"and {hidden:,} more: " + ", ".join(f"{n:,} {c}" for c, n in report.by_check().items()) + " in all"
    table = _table(title, caption if hidden > 0 else "", expand=True, padding=(0, 1, 0, 0))
    table.add_column("where and which rule", ratio=2)
    table.add_column("what was found, and what to do", ratio=5)
    for finding in worst[:FINDINGS_SHOWN_MAX]:
        rule = ("\n" + finding.check, SEVERITY_STYLES[finding.severity])
        remedy = ("\n→ " + finding.remedy if finding.remedy else "", "dim")
        table.add_row(Text.assemble(finding.where, rule), Text.assemble(finding.message, remedy))
    return table


# ------------------------------------------------------------------------------------------------ a run


def summary_table(reports: Sequence[PhaseReport], costs: Costs | None = None) -> Table:
    """What a run did, phase by phase. Requests, tokens and seconds are this run's own: cached phases cost nothing.

    `costs` is what the ledger says: it knows also of calls whose phase failed in the end, and of money.
    """
    table = _table("\nSummary", show_footer=True, footer_style="bold", padding=0)
    phases = list(dict.fromkeys(r.phase for r in reports))
    spent = None if costs is None or not costs.total.calls else costs
    total = _sums(reports, spent and spent.total)
    shown = [name for name, value in total.items() if value or name in ALWAYS_SHOWN]
    if "money" in shown:  # eighty columns hold no more; answered and skipped questions tell it, too
        shown = [name for name in shown if name != "asked"]
    table.add_column("phase", "total" if len(phases) > 1 else "", no_wrap=True)
    for name in shown:
        table.add_column(name, _cell(name, total[name]) if len(phases) > 1 else "", justify="right", no_wrap=True)
    for phase in phases:
        mine = [r for r in reports if r.phase == phase]
        sums = _sums(mine, spent and spent.by_phase.get(phase, Cost()))
        cells = {name: _cell(name, sums[name]) for name in shown}
        if sums["failed"]:
            cells["failed"].stylize("bold red")
        table.add_row(phase, *cells.values())
    return table


def _sums(reports: Sequence[PhaseReport], cost: Cost | None) -> dict[str, float]:
    status = Counter(r.status for r in reports)
    own = [r for r in reports if r.status != "cached"]
    usage = sum((r.usage for r in own), Usage())
    return {
        "done": status["done"],
        "cached": status["cached"],
        "failed": status["failed"],
        "rows": sum(r.rows for r in reports),
        "asked": sum(r.asked for r in reports),
        "answered": sum(r.answered for r in reports),
        "skipped": sum(len(r.skips) for r in reports),
        "requests": cost.attempts if cost else usage.requests,
        "tokens\nin": cost.tokens_in if cost else usage.tokens_in,
        "tokens\nout": cost.tokens_out if cost else usage.tokens_out,
        "money": (cost.money if cost else None) or 0.0,
        "seconds": round(sum(r.seconds for r in own), 1),
    }


def _cell(name: str, value: float) -> Text:
    return _money(value) if name == "money" else _count(value)


def _money(value: float | None) -> Text:
    """To the cent; small sums to three digits."""
    if not value:
        return Text("·", "dim")
    return Text(f"{value:,.2f}" if value >= 1 else f"{value:.3g}")


def _count(value: float) -> Text:
    """A number that fits a narrow column: 12,345, then 123k, then 1.2M."""
    if not value:
        return Text("·", "dim")
    if value >= 10_000_000:
        return Text(f"{value / 1e6:,.0f}M")
    if value >= 1_000_000:
        return Text(f"{value / 1e6:.1f}M")
    return Text(f"{value / 1e3:.0f}k" if value >= 100_000 else f"{value:,}")


def costs_table(costs: Costs, kind: str) -> Table:
    """What calls cost by `kind` (phase, episode, question, server, model or run), and in all."""
    groups = costs.by(kind)
    hidden = len(groups) - COSTS_SHOWN_MAX
    note = f"and {hidden:,} more" if hidden > 0 else ""
    table = _table(f"\nCosts by {kind}", note, show_footer=True, footer_style="bold", padding=(0, 1, 0, 0))
    total = _cost_cells(costs.total)
    shown = [name for name, cell in total.items() if cell.plain != "·"]
    table.add_column(kind, "total", overflow="fold")
    for name in shown:
        table.add_column(name, total[name], justify="right", no_wrap=True)
    for name, cost in list(groups.items())[:COSTS_SHOWN_MAX]:
        cells = _cost_cells(cost)
        table.add_row(Text(name or "(none)"), *(cells[column] for column in shown))
    return table


def _cost_cells(cost: Cost) -> dict[str, Text]:
    return {
        "calls": _count(cost.calls),
        "skipped": _count(cost.skipped),
        "lost": _count(cost.lost),
        "requests": _count(cost.attempts),
        "tokens\nin": _count(cost.tokens_in),
        "tokens\nout": _count(cost.tokens_out),
        "picture\nMiB": _count(round(cost.picture_bytes / MIB, 1)),
        "median\ns": _count(round(cost.latency_median_s, 2)),
        "p95\ns": _count(round(cost.latency_p95_s, 2)),
        "money": _money(cost.money),
    }


def ledger_line(costs: Costs, ledger: Path) -> Text:
    """Where the calls of a run are recorded, and what all runs of that ledger have cost so far."""
    words = f"calls are recorded in {ledger}"
    if costs.ledger.calls > costs.total.calls:
        everything = costs.ledger
        words += f"; all runs so far: {everything.attempts:,} requests, {everything.tokens_in:,} tokens in, "
        words += f"{everything.tokens_out:,} out"
        words += f", {_money(everything.money).plain} money" if everything.money else ""
    return Text(words)


def skips_table(reports: Sequence[PhaseReport]) -> Table:
    """What was left out: failed phases first, then unanswered questions, with the start of a reply that was no use."""
    failed = [
        (r.episode, r.phase, Text("all of it", "bold red"), r.error or "", "") for r in reports if r.status == "failed"
    ]
    skipped = [(s.episode, s.phase, Text(s.question), s.reason, s.preview) for r in reports for s in r.skips]
    left_out = failed + skipped
    hidden = len(left_out) - SKIPS_SHOWN_MAX
    title = f"\nLeft out: {_plural(len(failed), 'phase')}, {_plural(len(skipped), 'question')}"
    table = _table(title, f"and {hidden:,} more" if hidden > 0 else "", expand=True)
    table.add_column("episode", justify="right", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    table.add_column("question", no_wrap=True)
    table.add_column("reason", ratio=3)
    previews = any(preview for *_, preview in left_out)
    if previews:
        table.add_column("reply", ratio=2)
    for episode, phase, question, reason, preview in left_out[:SKIPS_SHOWN_MAX]:
        reply = [Text(preview, "dim")] if previews else []
        table.add_row(str(episode), phase, question, Text(reason), *reply)
    return table


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
