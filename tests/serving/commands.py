"""The `serving` command as a process: lines of JSON to wait for, and no process left behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
SERVING = [sys.executable, "-m", "serving.cli"]
WAIT_S = 60.0  # far above what anything takes, on a machine that others use too


def free_port() -> int:
    """A port that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*words: str, cwd: Path = REPO, timeout_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [*SERVING, *words], capture_output=True, text=True, cwd=cwd, timeout=timeout_s, env=_environment(), check=False
    )


class Running:
    """A command that goes on until it is told to stop. Use it in a `with`."""

    def __init__(self, *words: str, cwd: Path = REPO) -> None:
        self.process = subprocess.Popen(
            [*SERVING, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=_environment()
        )
        self.events: list[dict[str, Any]] = []
        self.log: list[str] = []
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._read_events), threading.Thread(target=self._read_log)]
        for thread in self._threads:
            thread.start()

    def _read_events(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(json.loads(line) if line.startswith("{") else {"text": line.rstrip()})
        self._lines.put(None)

    def _read_log(self) -> None:
        self.log.extend(line.rstrip() for line in self.process.stderr or ())

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The next event that is wanted."""
        end_s = time.monotonic() + timeout_s
        while True:
            event = self._lines.get(timeout=max(0.01, end_s - time.monotonic()))
            assert event is not None, f"it ended early: {self.log}"
            self.events.append(event)
            if wanted(event):
                return event

    def stop(self, how: int = signal.SIGTERM, timeout_s: float = WAIT_S) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(timeout_s)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for thread in self._threads:
            thread.join(10)


def cpu_s(*words: str) -> float:
    """Processor time of a command that ends by itself: what it takes on a machine that is not busy."""
    code = f"""
import resource, subprocess
subprocess.run({[*SERVING, *words]!r}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    return float(done.stdout)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, timeout_s: float = WAIT_S) -> bool:
    """Whether a process ends in time."""
    end_s = time.monotonic() + timeout_s
    while alive(pid):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "COLUMNS": "200"}
