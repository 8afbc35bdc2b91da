"""Robots as processes, and a forger on their network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import REPO
from bench.edge.robot import FORGER, NAME, Result, Run, rss_mib
from network.zenoh_settings import ZenohSettings
from network.zenoh_transport import open_transport
from serving.router import RouterSettings
from serving.wire.header import Header, MessageType
from serving.wire.keys import Keys
from serving.wire.messages import ActionChunk, encode
from serving.wire.tensors import encode_tensor
from tests.edge.nodes import FACTORY, ServerProcess
from tests.edge.witness import ROWS, SERVICE, chunk_of
from tests.network.zenoh_nodes import RouterProcess, free_port

FORGED_PERIOD_S = 0.02
GUESSES = 40  # numbers of requests that a forger tries in each round
SLACK_S = 60.0


class RobotProcess:
    """One run of `bench.edge.robot`. Use it in a `with`: it acts inside."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> RobotProcess:
        words = [sys.executable, "-m", "bench.edge.robot", json.dumps(asdict(self._run))]
        self._process = subprocess.Popen(
            words, cwd=REPO, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        assert self._process.stdout is not None
        if "acting" not in self._process.stdout.readline():
            self._fail()
        self.acting_s = time.monotonic()
        return self

    def _fail(self) -> None:
        self._process.kill()
        self._log.seek(0)
        raise RuntimeError(f"{self._run.kind} gave up: {self._log.read()[-3000:]}")

    def result(self) -> Result:
        """Wait for its end."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self._fail()
        return Result(**json.loads(said))

    def __exit__(self, *_: object) -> None:
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()


@contextmanager
def served(wait_ms: float = 150.0, rows: int = ROWS, fps: float = 30.0, **server: Any) -> Iterator[ServerProcess]:
    """The policy of the tests, in a process of its own."""
    options = {"wait_ms": wait_ms, "rows": rows, "fps": fps, **server.pop("options", {})}
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder), options=options, trained_fps=fps, **server) as up,
    ):
        yield up


def run(at: ServerProcess, kind: str, **what: Any) -> Result:
    """A run that nothing happens in."""
    with RobotProcess(Run(kind, at.endpoint, at.keys.prefix, **what)) as robot:
        return robot.result()


@dataclass(frozen=True)
class Command:
    """What `edge run` said of itself, and what it took."""

    summary: dict[str, Any]
    cpu_share: float  # of a core, while it drove
    rss_mib: float  # peak


def edge_run(at: ServerProcess, seconds: float, fps: float) -> Command:
    """The command, driving the robot of `bench.edge.arm`."""
    words = [
        sys.executable, "-m", "edge.cli", "run", "--policy.path=x", f"--inference.service_model_id={FACTORY}",
        f"--inference.service_task={SERVICE}", "--robot.type=bench.edge.arm:arm", "--inference.zenoh_mode=peer",
        f"--inference.connect_endpoint={at.endpoint}", f"--fps={fps:g}", f"--duration={seconds:g}", "--json",
        "--frozen_camera=off", "--return_to_initial_position=false",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        time.sleep(0.6 * seconds)  # it drives by now, for as long as it was told
        before_s, began_s = cpu_s(process.pid), time.monotonic()
        time.sleep(0.3 * seconds)
        share = (cpu_s(process.pid) - before_s) / (time.monotonic() - began_s)
        peak_mib = rss_mib(process.pid)
        out, _ = process.communicate(timeout=SLACK_S)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"edge run ended with {process.returncode}: {log.read()[-3000:]} {out[-2000:]}")
    return Command(json.loads(out.strip().splitlines()[-1]), share, peak_mib)


def cpu_s(pid: int) -> float:
    """What a process has used so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def routed() -> Iterator[str]:
    """A router's endpoint: through it everybody reaches everybody."""
    router = RouterProcess(RouterSettings(listen_endpoints=[f"tcp/127.0.0.1:{free_port()}"]))
    try:
        yield router.settings.listen_endpoints[0]
    finally:
        router.kill()


class Forger(threading.Thread):
    """Knows the robot's key and the wire, hears nothing of ours, and guesses numbers. Use it in a `with`."""

    def __init__(self, endpoint: str, prefix: str) -> None:
        super().__init__(daemon=True)
        self._network = open_transport(ZenohSettings(connect_endpoints=[endpoint]))
        self._put = self._network.publisher(Keys(prefix).action(NAME), "action").put
        self._done = threading.Event()
        self.said = 0

    def run(self) -> None:
        """Chunk after chunk, each of its own number, for each number of a request that may be open."""
        first = 1
        while not self._done.wait(FORGED_PERIOD_S):
            for seq in range(first, first + GUESSES):
                self.said += 1
                state = np.array([self.said, 0, FORGER, 0], np.float32)
                tensor = encode_tensor(chunk_of(state, 1, 1, 0, ROWS))
                body = encode(ActionChunk(seq_id_echo=seq, chunk_model=tensor, chunk_robot=tensor))
                self._put(body, Header(1, MessageType.CHUNK, seq, 0, time.monotonic_ns(), 1).pack())

    def __enter__(self) -> Forger:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()
        self._network.close()
