"""What came of a run: one table for people, one JSON object for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edge.live import Live, Transition

if TYPE_CHECKING:
    from rich.console import Console

    from edge.rollout.summary import RolloutSummary

TRANSITIONS_SHOWN = 12


@dataclass(frozen=True)
class Summary:
    """See above. Times in s and ms, counts of ticks and messages."""

    ok: bool
    ending: str
    home: str  # how the way back to the initial position ended
    duration_s: float
    dry_run: bool
    control: dict[str, Any]  # ticks, commands, lateness
    engine: dict[str, Any]  # latency, counters, last state
    transitions: list[Transition]
    problems: list[str]
    about: dict[str, Any] = field(default_factory=dict)
    recording: dict[str, Any] | None = None
    comparison: dict[str, Any] | None = None  # with what a recorded robot did
    comparison_line: str = ""
    display_dropped: int = 0

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        values = asdict(self)
        values.pop("comparison_line")
        return values


def summarise(rollout: RolloutSummary, live: Live, *, dry_run: bool, dropped: int = 0, **more: Any) -> Summary:
    """From what the parts of a run say of themselves."""
    stats = live.engine.stats().as_dict() if live.engine is not None else {}
    control = {
        **asdict(rollout.counts),
        "overruns": rollout.overruns,
        "lateness_p50_ms": round(rollout.lateness.p50_ms, 3),
        "lateness_p99_ms": round(rollout.lateness.p99_ms, 3),
        "lateness_max_ms": round(rollout.lateness.max_ms, 3),
    }
    return Summary(
        ok=not rollout.failed,
        ending=str(rollout.ending),
        home=rollout.home,
        duration_s=round(rollout.duration_s, 3),
        dry_run=dry_run,
        control=control,
        engine=stats,
        transitions=list(live.transitions),
        problems=[str(problem) for problem in rollout.problems],
        about=dict(live.about),
        display_dropped=dropped,
        **more,
    )


def show(summary: Summary, console: Console) -> None:
    """Print it as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, said in rows(summary):
        table.add_row(Text(name), Text(said))
    console.print(table)
    if summary.transitions:
        console.print("[bold]states[/]")
        left_out = len(summary.transitions) - TRANSITIONS_SHOWN
        for change in summary.transitions[-TRANSITIONS_SHOWN:]:
            console.print(change.line(), highlight=False, markup=False, soft_wrap=True)
        if left_out > 0:
            console.print(f"({left_out} earlier ones: --json)", highlight=False)


def rows(summary: Summary) -> list[tuple[str, str]]:
    """Name and words of each line."""
    control, engine = summary.control, summary.engine
    counters = engine.get("counters", {})
    sent = f"{control['sent']} commands sent" if not summary.dry_run else "dry run: nothing was sent"
    found = [
        ("ended", f"{summary.ending} after {summary.duration_s:.1f} s; initial position: {summary.home}"),
        ("control", f"{control['ticks']} ticks, {sent}, {control['policy_actions']} actions of the policy"),
        (
            "lateness",
            f"p99 {control['lateness_p99_ms']:.2f} ms, max {control['lateness_max_ms']:.1f} ms, "
            f"{control['overruns']} ticks skipped",
        ),
    ]
    if engine:
        latency = ", ".join(f"{q} {engine[f'latency_{q}_ms']:.0f} ms" for q in ("p50", "p95", "p99"))
        asked = ", ".join(f"{counters[name]} {name}" for name in ("requests", "resends", "timeouts", "merges"))
        dropped = {name: counters[name] for name in ("stale_drops", "late_rows", "late_chunks", "foreign", "malformed")}
        more = {name: counters[name] for name in ("limited", "reconnects", "events")}
        found += [
            ("latency", latency),
            ("asked", asked),
            ("without", f"{counters['starved_ticks']} ticks without action, {counters['fallback_ticks']} of fallback"),
            ("dropped", _counted(dropped)),
            ("else", _counted(more)),
        ]
    if summary.recording is not None:
        found.append(("recorded", ", ".join(f"{name} {value}" for name, value in summary.recording.items())))
    if summary.comparison_line:
        found.append(("compared", summary.comparison_line))
    if summary.display_dropped:
        found.append(("display", f"{summary.display_dropped} ticks not shown"))
    return found + [("problem", problem) for problem in summary.problems]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n) or "nothing"
