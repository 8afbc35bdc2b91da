"""Progress of a run: a live view on a terminal, plain lines elsewhere, nothing for machines."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.answers.question import Slots
from tasks.phase import PhaseReport

BAR_COLUMNS = 16
LINE_EVERY_S = 2.0  # plain lines: not one per episode when episodes take milliseconds
STATE_STYLES = {"up": "green", "starting": "yellow", "down": "bold red"}

Watch = Callable[[], Sequence[Slots]]


class Listener(Protocol):
    """Hears how a run goes."""

    def stage(self, name: str) -> None:
        """The run entered a stage, such as "opening" or "writing"."""

    def watch(self, slots: Watch) -> None:
        """Whom to ask how the servers are."""

    def start(self, episodes: int, phases: list[str]) -> None:
        """Phases begin."""

    def report(self, report: PhaseReport) -> None:
        """One phase of one episode ended."""


class Silent:
    """Hears nothing."""

    def stage(self, name: str) -> None: ...

    def watch(self, slots: Watch) -> None: ...

    def start(self, episodes: int, phases: list[str]) -> None: ...

    def report(self, report: PhaseReport) -> None: ...


class Tally:
    """Counts by phase; the base of the views. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.episodes = 0
        self.phases: list[str] = []
        self.now = "starting"
        self.counts: dict[str, Counter[str]] = {}
        self.slots: Watch = tuple

    def watch(self, slots: Watch) -> None:
        self.slots = slots

    def stage(self, name: str) -> None:
        with self.lock:
            self.now = name

    def start(self, episodes: int, phases: list[str]) -> None:
        with self.lock:
            self.episodes, self.phases = episodes, list(phases)
            self.counts = {p: Counter() for p in phases}
            self.began = time.monotonic()

    def report(self, report: PhaseReport) -> None:
        with self.lock:
            c = self.counts.setdefault(report.phase, Counter())
            c[report.status] += 1
            c["ended"] += 1
            c["skipped"] += len(report.skips)
            if report.status != "cached":
                c["requests"] += report.usage.requests
                c["tokens"] += report.usage.tokens_in + report.usage.tokens_out

    @property
    def eta_s(self) -> float | None:
        """Seconds left, from the rate so far; None before anything ended."""
        ended = sum(c["ended"] for c in self.counts.values())
        total = self.episodes * len(self.phases)
        return None if not ended else (time.monotonic() - self.began) / ended * (total - ended)


class PlainView(Tally):
    """One line now and then, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.said = 0.0

    def stage(self, name: str) -> None:
        super().stage(name)
        self.console.print(f"[annotate] {name}", highlight=False, markup=False)

    def report(self, report: PhaseReport) -> None:
        super().report(report)
        c = self.counts[report.phase]
        last = c["ended"] == self.episodes
        if report.status == "failed":
            line = f"[annotate] {report.phase}: episode {report.episode} FAILED: {report.error}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if last or time.monotonic() - self.said > LINE_EVERY_S:
            self.said = time.monotonic()
            line = f"[annotate] {report.phase}: {c['ended']}/{self.episodes} episodes, {c['cached']} cached, "
            line += f"{c['failed']} failed, {c['requests']} requests{_in_words(self.slots())}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _in_words(slots: Sequence[Slots]) -> str:
    """ "; 14 of 32 slots busy, server-1 down", or nothing where there are no servers."""
    if not slots:
        return ""
    up = [s for s in slots if s.state == "up"]
    words = f"; {sum(s.busy for s in up)} of {sum(s.limit for s in up)} slots busy"
    return words + "".join(f", {s.name} {s.state}" for s in slots if s.state != "up")


class LiveView(Tally):
    """Tables that redraw themselves: phases, and servers where there are any."""

    def __rich__(self) -> Group:
        servers = self._servers()
        return Group(self._phases(), servers) if servers.row_count else Group(self._phases())

    def _servers(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("server", "state", "", "busy"):
            table.add_column(name, justify="right" if name == "busy" else "left")
        for s in self.slots():
            bar = ProgressBar(total=max(1, s.limit), completed=s.busy, width=BAR_COLUMNS)
            table.add_row(s.name, Text(s.state, STATE_STYLES.get(s.state, "")), bar, f"{s.busy}/{s.limit}")
        return table

    def _phases(self) -> Table:
        eta = self.eta_s
        left = "" if eta is None else f", about {eta:.0f} s left"
        table = Table(title=Text(f"{self.now}{left}", style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
        for name in ("phase", "episodes", "", "cached", "failed", "requests", "tokens", "skipped"):
            table.add_column(name, justify="left" if name in ("phase", "") else "right", no_wrap=name == "phase")
        for phase in self.phases:
            c = self.counts[phase]
            bar = ProgressBar(total=max(1, self.episodes), completed=c["ended"], width=BAR_COLUMNS)
            numbers = [c["cached"], c["failed"], c["requests"], c["tokens"], c["skipped"]]
            table.add_row(phase, f"{c['ended']}/{self.episodes}", bar, *(f"{n:,}" for n in numbers))
        return table


_listener: Listener = Silent()


def listener() -> Listener:
    """Whoever hears the run of this process."""
    return _listener


@contextmanager
def view(console: Console, *, quiet: bool = False) -> Iterator[Listener]:
    """Show the progress of the runs inside."""
    global _listener
    before = _listener
    try:
        if quiet:
            _listener = Silent()
            yield _listener
        elif console.is_terminal:
            live = LiveView()
            _listener = live
            with Live(live, console=console, refresh_per_second=4, transient=True):
                yield live
        else:
            _listener = PlainView(console)
            yield _listener
    finally:
        _listener = before
