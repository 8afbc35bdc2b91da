"""The `edge` command as a process, and what it is driven against."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from edge.robots.base import Reading, RobotFeatures
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


class Arm:
    """Two joints that are driven by velocity, and no camera."""

    def __init__(self) -> None:
        self.features = RobotFeatures("arm", ("shoulder.pos", "elbow.pos"), ("shoulder.vel", "elbow.vel"))
        self.sent: list[np.ndarray] = []
        self.done = False

    def connect(self) -> None: ...

    def read(self) -> Reading:
        return Reading(np.zeros(2, np.float32), {}, time.monotonic())

    def send(self, action: np.ndarray) -> np.ndarray:
        self.sent.append(action)
        return action

    def begin_episode(self) -> None: ...

    def stop(self) -> None: ...

    def disconnect(self) -> None: ...


def arm() -> Arm:
    """--robot.type=tests.edge.commands:arm"""
    return Arm()
