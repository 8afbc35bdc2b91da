"""Who serves, and how busy they are: every replica's Status, as a table or for machines."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from network.transport import Transport
from network.zenoh_settings import ZenohSettings
from serving.console import err, out, say_json
from serving.manifest import Manifest
from serving.overrides import asking
from serving.wire.errors import WireError
from serving.wire.keys import ROOT, Keys
from serving.wire.messages import Status, decode

log = logging.getLogger(__name__)

EVERY_SERVICE = f"{ROOT}/*/*/*"
ASK_S = 2.0


def of_service(manifest: Manifest, connect: Sequence[str]) -> tuple[ZenohSettings, str]:
    """How to ask about the service of a manifest: the network, and the prefix of its keys."""
    zenoh = asking(manifest.zenoh.model_dump(), connect)
    return ZenohSettings.model_validate(zenoh), manifest.keys().prefix


def ask(transport: Transport, prefix: str = EVERY_SERVICE, timeout_s: float = ASK_S) -> list[Status]:
    """The Status of every replica that answers, the same order each time."""
    found = []
    for body in transport.query(Keys(prefix).status, b"", timeout_s):
        try:
            found.append(decode(body, Status))
        except WireError as error:
            log.warning("an answer that is no status: %s", error)
    return sorted(found, key=lambda s: (s.model_repo, s.model_revision, s.server_id))


def table(statuses: Sequence[Status]) -> Table:
    """One row a replica."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("model", "replica", "mode"):
        shown.add_column(name, overflow="fold")
    for name in ("sessions", "busy", "wait p95"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("state", no_wrap=True)
    for status in statuses:
        shown.add_row(*_row(status))
    return shown


def _row(status: Status) -> list[Text]:
    state = Text("draining", "yellow") if status.draining else Text("ready", "green")
    if not status.warmed_up:
        state = Text("cold", "red")
    cells = [
        f"{status.model_repo}@{status.model_revision[:12]}", status.server_id or "-", status.serving_mode,
        f"{status.active_sessions}/{status.max_sessions}", f"{status.busy_share:.0%}", f"{status.wait_p95_ms:.1f} ms",
    ]  # fmt: skip
    return [*map(Text, cells), state]  # what a server says of itself is text, not markup


def as_json(statuses: Sequence[Status]) -> list[dict[str, Any]]:
    """The same for machines: every field that was sent."""
    return [msgspec.to_builtins(status) for status in statuses]


def show(look: Callable[[], list[Status]], every_s: float | None, machines: bool) -> list[Status]:
    """Print what a look finds; with `every_s` again and again, until interrupted. What was found last."""
    found = look()
    if every_s is None:
        _print(found, machines)
        return found
    with contextlib.suppress(KeyboardInterrupt), _screen(machines) as print_again:
        while True:
            started_s = time.monotonic()
            print_again(found)
            time.sleep(max(0.0, every_s - (time.monotonic() - started_s)))
            found = look()
    return found


def _print(found: list[Status], machines: bool) -> None:
    if machines:
        say_json(as_json(found))
    elif found:
        out.print(table(found))
    else:
        err.print("[bold red]nobody answered:[/] no server there, another prefix, or no right to ask", soft_wrap=True)


@contextlib.contextmanager
def _screen(machines: bool) -> Iterator[Callable[[list[Status]], object]]:
    """One table that is always current on a terminal; elsewhere one print after the other."""
    if machines or not out.is_terminal:
        yield lambda found: _print(found, machines)
        return
    from rich.live import Live

    with Live(console=out, auto_refresh=False) as live:
        yield lambda found: live.update(table(found) if found else "nobody answers", refresh=True)
