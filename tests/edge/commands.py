"""The `edge` command as a process, and what it is driven against."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.serving.commands import REPO, WAIT_S, Running, _environment

EDGE = [sys.executable, "-m", "edge.cli"]


def run(*words: str, cwd: Path = REPO, timeout_s: float = WAIT_S, **env: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [*EDGE, *words], capture_output=True, text=True, cwd=cwd, timeout=timeout_s, check=False,
        env={**_environment(), **env},
    )  # fmt: skip


def start(*words: str, cwd: Path = REPO, **env: str) -> subprocess.Popen[str]:
    """A command that goes on; the test ends it."""
    return subprocess.Popen(
        [*EDGE, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**_environment(), **env},
    )


def replay_server(root: Path, port: int, folder: Path, *more: str) -> Running:
    """`serving up` that answers from a recording. Use it in a `with`, and wait until it is ready."""
    return Running(
        "up", f"--model.repo_or_path={root}", "--model.family=replay", "--model.device=cpu", "--health_port=0",
        "--zenoh.mode=peer", f"--zenoh.listen_endpoints=tcp/127.0.0.1:{port}", "--json", *more, cwd=folder,
    )  # fmt: skip
