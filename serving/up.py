"""`serving up`: one service in this process, or several as processes of their own."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from serving.console import err, out, say, say_json
from serving.overrides import ServicePlan
from serving.signals import interrupt_on_sigterm, stop_signals
from serving.supervisor import SUPERVISED, Child, Supervisor, ending, watch_supervisor

if TYPE_CHECKING:
    from rich.table import Table

    from serving.assemble import Service

STATE_COLOURS = {"ready": "green", "refused": "red", "waiting": "yellow", "draining": "yellow"}


def up_one(plan: ServicePlan, as_json: bool) -> int:
    """Serve in this process until told to stop. The exit code. Raises ServingError."""
    if plan.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = plan.gpu  # before torch looks
    interrupt_on_sigterm()
    from serving.check import ports_free

    ports_free(plan.manifest)  # known at once, not after minutes of loading
    asked = threading.Event()
    watch_supervisor(asked)
    from serving.assemble import assemble

    service = assemble(plan.manifest)
    gc.collect()
    gc.freeze()  # modules and the warm policy stay: looking through them for garbage would hold up some answers
    tick = _Load(service) if SUPERVISED in os.environ else lambda: None
    return service.run(lambda: _ready(plan, service, as_json), asked, tick)


def _ready(plan: ServicePlan, service: Service, as_json: bool) -> None:
    manifest, spec = plan.manifest, service.daemon.policy.spec
    health = f"http://{manifest.health_host}:{manifest.health_port}" if manifest.health_port else ""
    facts: dict[str, Any] = {
        "event": "ready",
        "service": plan.name,
        "prefix": service.daemon.settings.keys.prefix,
        "server_id": service.daemon.settings.server_id,
        "policy_type": spec.policy_type,
        "model_revision": spec.model_revision,
        "serving_mode": "shared" if spec.shared else "exclusive",
        "max_sessions": service.daemon.registry.sessions_max,
        "health": health,
        "pid": os.getpid(),
    }
    if as_json:
        say_json(facts)
        return
    places = f"{facts['max_sessions']} sessions" if spec.shared else "one session at a time"
    say(f"ready: {spec.policy_type} {manifest.model.repo_or_path}, {facts['serving_mode']}, {places}")
    say(f"  key     {facts['prefix']}")
    say(f"  replica {facts['server_id']}")
    network = manifest.zenoh
    say(f"  network {', '.join(network.connect_endpoints + network.listen_endpoints)} ({network.mode})")
    if health:
        say(f"  health  {health}/readyz, {health}/metrics")
    say("SIGTERM or Ctrl-C drains it")


class _Load:
    """Tells the supervisor how busy a service is, whenever that changes."""

    def __init__(self, service: Service) -> None:
        self._daemon, self._last = service.daemon, {}

    def __call__(self) -> None:
        daemon = self._daemon
        now = {"sessions": len(daemon.registry), "busy": round(daemon.load.busy_share(daemon.pipeline), 2)}
        if now != self._last:
            self._last = now
            say_json({"event": "load", **now})


def up_many(plans: Sequence[ServicePlan], as_json: bool) -> int:
    """Supervise a process for each service until told to stop. The exit code."""
    supervisor = Supervisor(plans, _speak if not as_json else _speak_json)
    with stop_signals(supervisor.stop), _table(supervisor, as_json) as tick:
        return supervisor.run(tick)


def _speak(name: str, line: str) -> None:
    (out if out.is_terminal else err).print(f"[{name}] {line}", highlight=False, markup=False, soft_wrap=True)


def _speak_json(name: str, line: str) -> None:
    sys.stderr.write(f"[{name}] {line}\n")


@contextmanager
def _table(supervisor: Supervisor, as_json: bool) -> Iterator[Any]:
    """A table that is always current on a terminal; elsewhere a line for each change."""
    if out.is_terminal and not as_json:
        from rich.live import Live

        with Live(status_table(supervisor.children), console=out, refresh_per_second=4) as live:
            yield lambda: live.update(status_table(supervisor.children))
        return
    last: dict[str, tuple[object, ...]] = {}

    def tick() -> None:
        for child in supervisor.children:
            now = (child.state, child.restarts, child.process.pid if child.process else None)
            if last.get(child.plan.name) != now:
                last[child.plan.name] = now
                _tell(child, as_json)

    yield tick


def _tell(child: Child, as_json: bool) -> None:
    pid = child.process.pid if child.process else None
    if as_json:
        facts = {"service": child.plan.name, "state": child.state, "pid": pid, "restarts": child.restarts}
        say_json({"event": "state", **facts, "exit_code": child.exit_code, "ready": child.facts or None})
    else:
        say(f"[{child.plan.name}] {child.state}, pid {pid}, {child.restarts} restarts")


def status_table(children: Sequence[Child]) -> Table:
    """One row a service."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("service", "gpu", "state", "pid", "up", "sessions", "busy", "restarts", "last end"):
        table.add_column(name, justify="left" if name in ("service", "state", "last end") else "right")
    for child in children:
        colour = STATE_COLOURS.get(child.state, "white")
        cells = (
            child.plan.name, child.plan.gpu or "-", Text(child.state, colour),
            str(child.process.pid) if child.up_s and child.process else "-", f"{child.up_s:.0f} s",
            f"{child.facts.get('sessions', 0)}/{child.facts.get('max_sessions', '-')}",
            f"{child.facts.get('busy', 0.0):.0%}", str(child.restarts),
            "-" if child.exit_code is None else ending(child.exit_code),
        )  # fmt: skip
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return table
