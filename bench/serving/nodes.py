"""The processes of a benchmark: a server of either kind, and robots against it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.common import REPO
from bench.serving.task import REVISION, SERVICE

TICKS = os.sysconf("SC_CLK_TCK")
OURS, REFERENCE = "ours", "reference"


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    kind: str
    endpoint: str
    pid: int

    def cpu_s(self) -> float:
        """What it has used so far, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def server(
    kind: str, *, wait_ms: float = 0.0, extra_ms: float = 0.0, batch_max: int = 1, side: int = 0
) -> Iterator[Server]:
    """A server in a process of its own. `side`: of the pictures that the policy works on; 0: as they come."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp/127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        if kind == REFERENCE:
            words = ["-m", "bench.serving.reference_server", endpoint, f"--wait-ms={wait_ms}", f"--extra-ms={extra_ms}"]
        else:
            options = {"wait_ms": wait_ms, "extra_ms": extra_ms, "batch_max": batch_max, "side": side}
            manifest = {
                "model": {"repo_or_path": "bench.serving.task:stub", "family": "factory", "options": options,
                          "revision": REVISION, "device": "cpu"},
                "service_name": SERVICE, "max_sessions": 64, "health_port": 0,
                "zenoh": {"mode": "peer", "listen_endpoints": [endpoint]},
            }  # fmt: skip
            path = Path(folder, "manifest.yaml")
            path.write_text(yaml.safe_dump(manifest))
            words = ["-m", "serving.cli", "up", str(path), "--json"]
        with _process(words) as process:
            yield Server(kind, endpoint, process.pid)


class Robots:
    """Robots of one process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, what: str, argument: float) -> dict[str, Any]:
        """One job of `bench.serving.robots.Crew`; what came of it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, argument]) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"the robots gave up at {what}")
        return json.loads(said)


@contextmanager
def robots(of: Server, number: int = 1, quality: int = 90, kind: str = "") -> Iterator[Robots]:
    """Robots against a server, of its own kind unless told otherwise."""
    words = ["-m", "bench.serving.robots", kind or of.kind, of.endpoint, f"--robots={number}", f"--quality={quality}"]
    with _process(words) as process:
        yield Robots(process)


@contextmanager
def _process(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said something: that it is ready."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if "ready" not in said:
                log.seek(0)
                raise RuntimeError(f"{' '.join(words)} ended early: {said}\n{log.read()[-2000:]}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
