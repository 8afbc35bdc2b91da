"""The progress views: what a terminal and a log show of phases and servers."""

from __future__ import annotations

import io

from rich.console import Console

from flows.progress import LiveView, PlainView
from tasks.answers.question import Slots, Usage
from tasks.phase import PhaseReport

SERVERS = (Slots("server-0", "up", 5, 8), Slots("server-1", "down", 0, 8))


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def shown(view: LiveView) -> str:
    screen = console()
    screen.print(view)
    return screen.file.getvalue()  # type: ignore[attr-defined]


def report(**more) -> PhaseReport:
    return PhaseReport(0, "plan", usage=Usage(3, 10, 20), **more)


def test_the_live_view_shows_health_and_use_of_each_server():
    view = LiveView()
    view.start(2, ["plan"])
    view.watch(lambda: SERVERS)
    text = shown(view)
    assert "server-0" in text and "5/8" in text and "server-1" in text and "down" in text


def test_without_servers_there_is_no_table_of_them():
    view = LiveView()
    view.start(2, ["plan"])
    assert "server" not in shown(view) and "0/2" in shown(view)


def test_a_cached_phase_counts_no_requests():
    view = LiveView()
    view.start(2, ["plan"])
    view.report(report())
    view.report(report(status="cached"))
    text = shown(view)
    assert "2/2" in text and view.counts["plan"]["requests"] == 3


def test_plain_lines_tell_how_busy_the_servers_are_and_which_is_down():
    screen = console()
    view = PlainView(screen)
    view.start(1, ["plan"])
    view.watch(lambda: SERVERS)
    view.report(report())
    line = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "1/1 episodes" in line and "5 of 8 slots busy, server-1 down" in line


def test_a_failed_episode_is_named_at_once():
    screen = console()
    view = PlainView(screen)
    view.start(9, ["plan"])
    view.report(report(status="failed", error="no frames"))
    assert "episode 0 FAILED: no frames" in screen.file.getvalue()  # type: ignore[attr-defined]
