"""`edge watch`: how the running edges of this machine go, live."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edge.console import err, out, say_json
from edge.watch_socket import Watched

FORGET_S = 2.0  # a run that says nothing for so long is over
LOOK_EVERY_S = 1.0
READ_S = 0.25
FIRST_S = 1.0
STYLES = {
    "STREAMING": "green", "CONNECTING": "cyan", "DEGRADED": "yellow", "STALLED": "bold red", "RECONNECTING": "yellow",
    "DEAD": "bold white on red", "STOPPED": "dim",
}  # fmt: skip
DROPS = ("stale_drops", "late_rows", "foreign", "malformed", "limited")


def watch(client: str = "", *, as_json: bool = False, once: bool = False) -> bool:
    """Show the running edges whose id begins with `client`, until Ctrl-C or their end. Whether any was there."""
    watched = Watched(client)
    try:
        first = _read(watched, {}, FIRST_S)
        if not first:
            err.print(
                "[bold red]no edge runs here[/]" + (f" whose id begins with {client}" if client else ""),
                soft_wrap=True,
            )
            return False
        with contextlib.suppress(KeyboardInterrupt):
            _follow(watched, first, as_json, once)
    finally:
        watched.close()
    return True


def _follow(watched: Watched, seen: dict[str, dict[str, Any]], as_json: bool, once: bool) -> None:
    if once or (not as_json and not out.is_terminal):
        for now in seen.values():
            say_json(now) if as_json else out.print(view([now]))
        return
    if as_json:
        for now in seen.values():
            say_json(now)
        while watched.look():
            for now in watched.lines(READ_S):
                say_json(now)
        return
    from rich.live import Live

    with Live(view(list(seen.values())), console=out, auto_refresh=False) as live:
        looked_s = time.monotonic()
        while seen:
            if time.monotonic() - looked_s > LOOK_EVERY_S:
                looked_s = time.monotonic()
                watched.look()
            seen = _read(watched, seen, READ_S)
            live.update(view(list(seen.values())), refresh=True)


def _read(watched: Watched, seen: dict[str, dict[str, Any]], timeout_s: float) -> dict[str, dict[str, Any]]:
    """What is known of each run, newest; runs that fell silent are left out."""
    now_s = time.monotonic()
    for now in watched.lines(timeout_s) if watched.look() else ():
        seen[f"{now.get('client')}.{now.get('pid')}"] = {**now, "_heard_s": time.monotonic()}
    return {name: now for name, now in seen.items() if now_s - now["_heard_s"] < FORGET_S}


def view(runs: list[dict[str, Any]]) -> Group:
    """One row a robot, and the last change of each."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("robot", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("queue", "latency p50/p95", "age", "tick", "late", "asked", "again", "lost", "drops", "idle ticks"):
        table.add_column(name, justify="right", no_wrap=True)
    for now in runs:
        table.add_row(*_row(now))
    changes = [_change(now) for now in runs if now.get("last_transition")]
    return Group(table, *changes)


def _row(now: Mapping[str, Any]) -> list[Text]:
    counters = now.get("counters", {})
    state = str(now.get("state", now.get("stage", "")))
    cells = [
        f"{now.get('left_rows', 0)} = {now.get('left_s', 0.0):.1f} s",
        f"{now.get('latency_p50_ms', 0.0):.0f}/{now.get('latency_p95_ms', 0.0):.0f} ms",
        f"{now.get('age_ms', 0.0):.0f} ms",
        f"{now.get('tick_hz', 0.0):.1f} Hz",
        f"{now.get('lateness_ms', 0.0):.1f} ms",
        *(str(counters.get(name, 0)) for name in ("requests", "resends", "timeouts")),
        str(sum(counters.get(name, 0) for name in DROPS)),
        str(counters.get("starved_ticks", 0)),
    ]
    robot = f"{now.get('client', '')} ({now.get('robot_type', '')})"
    return [Text(robot), Text(state, STYLES.get(state, "")), *map(Text, cells)]


def _change(now: Mapping[str, Any]) -> Text:
    last = now["last_transition"]
    why = f": {last['why']}" if last["why"] else ""
    said = f"{now.get('client', '')} at {last['at_s']:.1f} of {now.get('elapsed_s', 0.0):.1f} s: "
    return Text(f"{said}{last['old']} -> {last['new']} ({last['event']}{why})", "dim")


def line(now: Mapping[str, Any]) -> str:
    """The same in one line, for the run's own terminal."""
    counters = now.get("counters", {})
    said = f"{now.get('elapsed_s', 0.0):.0f} s {now.get('state', now.get('stage', ''))}"
    said += f", {now.get('left_s', 0.0):.1f} s queued, p95 {now.get('latency_p95_ms', 0.0):.0f} ms"
    said += f", {now.get('ticks', 0)} ticks at {now.get('tick_hz', 0.0):.1f} Hz"
    notes = [(counters.get("starved_ticks", 0), "without action"), (counters.get("resends", 0), "asked again")]
    return said + "".join(f", {count} {what}" for count, what in notes if count)
