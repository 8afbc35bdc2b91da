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
WAIT_S = 1.0  # for a first run
STYLES = {
    "STREAMING": "green", "CONNECTING": "cyan", "DEGRADED": "yellow", "STALLED": "bold red", "RECONNECTING": "yellow",
    "DEAD": "bold white on red", "STOPPED": "dim",
}  # fmt: skip
DROPS = {
    "stale_drops": "stale", "late_rows": "late", "late_chunks": "whole chunks late", "foreign": "foreign",
    "malformed": "malformed", "limited": "limited",
}  # fmt: skip


def watch(client: str = "", *, as_json: bool = False, once: bool = False, wait_s: float = WAIT_S) -> bool:
    """Show the running edges whose id begins with `client`, until Ctrl-C or their end. Whether any was there."""
    watched = Watched(client)
    try:
        first = _first(watched, wait_s)
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


def _first(watched: Watched, wait_s: float) -> dict[str, dict[str, Any]]:
    """What the first runs say that are heard; {} when there are none in time."""
    end_s = time.monotonic() + wait_s
    while not (found := _read(watched, {}, READ_S)) and time.monotonic() < end_s:
        if not watched.look():
            time.sleep(min(READ_S, wait_s))
    return found


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
    """A few lines a robot; narrow enough for any terminal."""
    return Group(*(part for now in runs for part in _block(now)))


def _block(now: Mapping[str, Any]) -> list[Text | Table]:
    counters = now.get("counters", {})
    state = str(now.get("state", now.get("stage", "")))
    title = Text.assemble(
        (f"{now.get('client', '')}", "bold"), f" ({now.get('robot_type', '')}, {now.get('task') or 'no task'})  ",
        (state, STYLES.get(state, "")), f"  {now.get('elapsed_s', 0.0):.0f} s",
    )  # fmt: skip
    drops = ", ".join(f"{counters[name]} {words}" for name, words in DROPS.items() if counters.get(name))
    latency = "/".join(f"{now.get(f'latency_{q}_ms', 0.0):.0f}" for q in ("p50", "p95", "p99"))
    cells = [
        ("queue", f"{now.get('left_s', 0.0):.1f} s, {now.get('left_rows', 0)} actions"),
        ("latency", f"{latency} ms (p50/p95/p99)"),
        ("age", f"{now.get('age_ms', 0.0):.0f} ms"),
        ("tick", f"{now.get('tick_hz', 0.0):.1f} Hz, {now.get('lateness_ms', 0.0):.1f} ms late"),
        ("asked", f"{counters.get('requests', 0)}, {counters.get('resends', 0)} again"),
        ("failed", f"{counters.get('timeouts', 0)} requests, {counters.get('starved_ticks', 0)} ticks without action"),
        ("drops", drops or "none"),
        ("server", str(now.get("server_id", "")) or "-"),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    for style in ("dim", "", "dim", ""):
        table.add_column(style=style, overflow="fold")
    for (a, left), (b, right) in zip(cells[::2], cells[1::2], strict=True):
        table.add_row(f"  {a}", Text(left), b, Text(right))
    return [title, table, *([_change(now)] if now.get("last_transition") else [])]


def _change(now: Mapping[str, Any]) -> Text:
    last = now["last_transition"]
    why = f": {last['why']}" if last["why"] else ""
    return Text(f"  at {last['at_s']:.1f} s {last['old']} -> {last['new']} ({last['event']}{why})", "dim")


def line(now: Mapping[str, Any]) -> str:
    """The same in one line, for the run's own terminal."""
    counters = now.get("counters", {})
    said = f"{now.get('elapsed_s', 0.0):.0f} s {now.get('state', now.get('stage', ''))}"
    said += f", {now.get('left_s', 0.0):.1f} s queued, p95 {now.get('latency_p95_ms', 0.0):.0f} ms"
    said += f", {now.get('ticks', 0)} ticks at {now.get('tick_hz', 0.0):.1f} Hz"
    notes = [(counters.get("starved_ticks", 0), "without action"), (counters.get("resends", 0), "asked again")]
    return said + "".join(f", {count} {what}" for count, what in notes if count)
