"""Several services as processes of their own: started, watched, started again with growing patience, drained together.

A process that ends is started again, whatever ended it, but for one that refuses its manifest: it would refuse again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.console import DONE, FAILED, INTERRUPTED, USAGE
from serving.overrides import ServicePlan

SUPERVISED = "CUEBOOK_SUPERVISED"  # set for processes whose standard input ends with their supervisor
GRACE_S = 5.0  # beyond a service's own drain, before it is killed
LINE_MAX = 8192  # characters of one line of a process
# how a process ends that was told to: drained, or stopped before it was up
ASKED = (DONE, INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)

State = Literal["starting", "ready", "waiting", "refused", "draining", "stopped"]


def _command(plan: ServicePlan) -> list[str]:
    return [sys.executable, "-m", "serving.cli", "up", *plan.words(), "--json"]


@dataclass(frozen=True)
class Patience:
    """How long a process that ended waits before it is started again."""

    first_s: float = 1.0
    longest_s: float = 60.0
    factor: float = 2.0
    healthy_s: float = 30.0  # once it has run for so long, the next wait is the first one again


@dataclass
class Child:
    """One service and its process; changed by its own thread, read by whoever draws the table."""

    plan: ServicePlan
    state: State = "waiting"
    process: subprocess.Popen[str] | None = None
    restarts: int = 0
    exit_code: int | None = None  # of the last process that ended
    started_s: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)  # what it said when it was ready, and of its load since

    @property
    def up_s(self) -> float:
        """How long the process has run."""
        return time.monotonic() - self.started_s if self.state in ("starting", "ready", "draining") else 0.0


class Supervisor:
    """Runs services until `stop` is set. `on_line(name, line)` hears what they say, from any thread."""

    def __init__(
        self,
        plans: Sequence[ServicePlan],
        on_line: Callable[[str, str], None],
        patience: Patience | None = None,
        command: Callable[[ServicePlan], list[str]] = _command,
    ) -> None:
        self.children = [Child(plan) for plan in plans]
        self.stop = threading.Event()
        self._on_line, self._patience, self._command = on_line, patience or Patience(), command

    def run(self, on_tick: Callable[[], object] = lambda: None, tick_s: float = 0.5) -> int:
        """Supervise until `stop` is set or no service is left, then drain. The exit code."""
        threads = [
            threading.Thread(target=self._keep, args=(child,), name=f"keep-{child.plan.name}")
            for child in self.children
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                on_tick()
                if self.stop.wait(tick_s):
                    break
        finally:
            self.stop.set()
            for child in self.children:
                self._end(child)
            for thread in threads:
                while thread.is_alive():
                    on_tick()
                    thread.join(tick_s)
            on_tick()
        if all(child.state == "refused" for child in self.children):
            return USAGE
        return DONE if all(child.exit_code in ASKED for child in self.children) else FAILED

    # --- one service ---------------------------------------------------------------------------------------------

    def _keep(self, child: Child) -> None:
        """Start a service again and again. The thread of one child."""
        wait_s = self._patience.first_s
        while not self.stop.is_set():
            self._run_once(child)
            if child.exit_code == USAGE:
                child.state = "refused"
                self._on_line(child.plan.name, "refused its manifest: not started again")
                return
            if self.stop.is_set():
                break
            if time.monotonic() - child.started_s >= self._patience.healthy_s:
                wait_s = self._patience.first_s
            child.state = "waiting"
            self._on_line(child.plan.name, f"{ending(child.exit_code)}: starting again in {wait_s:g} s")
            if self.stop.wait(wait_s):
                break
            wait_s = min(wait_s * self._patience.factor, self._patience.longest_s)
            child.restarts += 1
        child.state = "stopped"

    def _run_once(self, child: Child) -> None:
        """Start the process, pass on what it says, and wait for its end."""
        child.state, child.started_s, child.facts = "starting", time.monotonic(), {}
        environment = {**os.environ, SUPERVISED: "1", "PYTHONUNBUFFERED": "1"}
        if child.plan.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = child.plan.gpu
        process = subprocess.Popen(
            self._command(child.plan),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            text=True, encoding="utf-8", errors="replace", bufsize=1,
            start_new_session=True,  # Ctrl-C is for the supervisor, which drains them in its own way
        )  # fmt: skip
        child.process = process
        if self.stop.is_set():  # it came between the start and the drain
            process.terminate()
        assert process.stdout is not None
        while line := process.stdout.readline(LINE_MAX):
            self._hear(child, line.rstrip("\n"))
        child.exit_code = process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _hear(self, child: Child, line: str) -> None:
        said = event_in(line)
        if said is None:
            self._on_line(child.plan.name, line)
        elif said.get("event") == "ready":
            child.facts = said
            child.state = "ready" if child.state == "starting" else child.state
            self._on_line(child.plan.name, f"ready at {said.get('prefix')}")
        elif said.get("event") == "load":
            child.facts = {**child.facts, **said}
        elif "message" in said:
            self._on_line(child.plan.name, str(said["message"]))

    def _end(self, child: Child) -> None:
        """Ask a process to drain, and see to it that it does not stay."""
        process = child.process
        if process is None or process.poll() is not None:
            return
        child.state = "draining"
        process.terminate()
        killer = threading.Timer(child.plan.manifest.drain_timeout_s + GRACE_S, process.kill)
        killer.daemon = True
        killer.start()


def event_in(line: str) -> dict[str, Any] | None:
    """What a process said for its supervisor; None for a line of its log."""
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and ("event" in said or "exit_code" in said) else None


def ending(code: int | None) -> str:
    """How a process ended, in words."""
    return f"ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


def watch_supervisor(asked: threading.Event) -> None:
    """In a supervised process: drain when the supervisor is gone, however it went."""
    if os.environ.get(SUPERVISED):

        def wait() -> None:
            with contextlib.suppress(OSError, ValueError):
                while os.read(0, 1024):
                    pass
            asked.set()

        threading.Thread(target=wait, name="watch-supervisor", daemon=True).start()
