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
from tasks.phase import PhaseReport
from tasks.report import Report

WIDTH_MAX = 120  # longer lines are hard to read
FINDINGS_SHOWN_MAX = 50
SKIPS_SHOWN_MAX = 30
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


def summary_table(reports: Sequence[PhaseReport]) -> Table:
    """What a run did, phase by phase. Requests, tokens and seconds are this run's own: cached phases cost nothing."""
    table = _table("\nSummary", show_footer=True, footer_style="bold", padding=0)
    phases = list(dict.fromkeys(r.phase for r in reports))
    total = _costs(reports)
    shown = [name for name, value in total.items() if value or name in ALWAYS_SHOWN]
    table.add_column("phase", "total" if len(phases) > 1 else "", no_wrap=True)
    for name in shown:
        table.add_column(name, _count(total[name]) if len(phases) > 1 else "", justify="right", no_wrap=True)
    for phase in phases:
        costs = _costs([r for r in reports if r.phase == phase])
        cells = {name: _count(costs[name]) for name in shown}
        if costs["failed"]:
            cells["failed"].stylize("bold red")
        table.add_row(phase, *cells.values())
    return table


def _costs(reports: Sequence[PhaseReport]) -> dict[str, float]:
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
        "requests": usage.requests,
        "tokens\nin": usage.tokens_in,
        "tokens\nout": usage.tokens_out,
        "seconds": round(sum(r.seconds for r in own), 1),
    }


def _count(value: float) -> Text:
    """A number that fits a narrow column: 12,345, then 123k, then 1.2M."""
    if not value:
        return Text("·", "dim")
    if value >= 10_000_000:
        return Text(f"{value / 1e6:,.0f}M")
    if value >= 1_000_000:
        return Text(f"{value / 1e6:.1f}M")
    return Text(f"{value / 1e3:.0f}k" if value >= 100_000 else f"{value:,}")


def skips_table(reports: Sequence[PhaseReport]) -> Table:
    """What was left out: failed phases first, then unanswered questions."""
    failed = [
        (r.episode, r.phase, Text("all of it", "bold red"), r.error or "") for r in reports if r.status == "failed"
    ]
    skipped = [(s.episode, s.phase, Text(s.question), s.reason) for r in reports for s in r.skips]
    left_out = failed + skipped
    hidden = len(left_out) - SKIPS_SHOWN_MAX
    title = f"\nLeft out: {_plural(len(failed), 'phase')}, {_plural(len(skipped), 'question')}"
    table = _table(title, f"and {hidden:,} more" if hidden > 0 else "", expand=True)
    table.add_column("episode", justify="right", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    table.add_column("question", no_wrap=True)
    table.add_column("reason", ratio=1)
    for episode, phase, question, reason in left_out[:SKIPS_SHOWN_MAX]:
        table.add_row(str(episode), phase, question, Text(reason))
    return table


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
