"""Servers that tests of the robot side kill, stop and start again: real processes, and daemons in this one."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edge.robots.base import RobotFeatures
from edge.settings import InferenceSettings, SafetySettings
from network.memory_transport import Hub, MemoryTransport
from network.transport import Transport
from serving.admission import Rules
from serving.control import ControlSettings
from serving.daemon import Daemon, ServiceSettings
from serving.policies.base import Policy
from serving.record import Recorder
from serving.wire.keys import Keys
from serving.work import PipelineSettings
from tests.edge.drive import features
from tests.edge.witness import SERVICE, WitnessPolicy
from tests.network.zenoh_nodes import REPO, free_port

if TYPE_CHECKING:
    from edge.engine import Engine

WAIT_S = 60.0  # far above what anything takes, on a machine that others use too
FACTORY = "tests.edge.witness:witness"
KEYS = Keys.of(FACTORY, "main", service=SERVICE)


class ServerProcess:
    """`serving up` with the policy of the tests, or with another model. Use it in a `with`.

    It listens on a port of its own, which stays the same from start to start, or is a client of `router`. `enter` are
    words before the command, such as those that enter a network namespace.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "a",
        router: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        options: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        enter: Sequence[str] = (),
        zenoh: dict[str, Any] | None = None,
        **manifest: Any,
    ) -> None:
        self.endpoint = router or f"tcp/{host}:{port or free_port()}"
        self._path, self._enter = folder / f"{name}.yaml", list(enter)
        network = {"mode": "client", "connect_endpoints": [router]} if router else {"mode": "peer"}
        if not router:
            network["listen_endpoints"] = [self.endpoint]
        self.manifest = {
            "model": model
            or {"repo_or_path": FACTORY, "family": "factory", "device": "cpu", "options": options or {}},
            "service_name": SERVICE, "server_id": name, "health_port": 0, "max_sessions": 4,
            "zenoh": {**network, **(zenoh or {})},
            **manifest,
        }  # fmt: skip
        self.log: list[str] = []
        self.ready_s = 0.0  # monotonic, when it said that it was ready, at its last start
        self.process: subprocess.Popen[str] | None = None
        self.facts: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()

    @property
    def keys(self) -> Keys:
        """The service's keys."""
        return Keys(self.facts["prefix"])

    def begin(self) -> ServerProcess:
        """Start it and do not wait."""
        self._path.write_text(yaml.safe_dump(self.manifest))
        words = [*self._enter, sys.executable, "-m", "serving.cli", "up", str(self._path), "--json"]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        self._events = queue.Queue()
        self._threads = [
            threading.Thread(target=self._hear, args=(self.process, self._events), daemon=True),
            threading.Thread(target=self._log, args=(self.process,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def ready(self) -> ServerProcess:
        """Wait until it serves."""
        event = self._events.get(timeout=WAIT_S)
        assert event is not None, f"the server ended early: {self.log[-20:]}"
        self.facts = event
        return self

    def start(self) -> ServerProcess:
        """Start it and wait until it serves."""
        return self.begin().ready()

    def kill(self) -> None:
        """As a crash: nothing is said to anybody. A stopped process can be killed too."""
        assert self.process is not None
        self.process.kill()
        self._ended()

    def hang(self) -> None:
        """It stands still, and its network with it."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it stood."""
        self._signal(signal.SIGCONT)

    def stop(self) -> int:
        """As an operator; the exit status."""
        self._signal(signal.SIGTERM)
        return self._ended()

    def ask_to_stop(self) -> None:
        """As an operator who does not wait: it drains."""
        self._signal(signal.SIGTERM)

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _ended(self) -> int:
        assert self.process is not None
        status = self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return status

    def _hear(self, process: subprocess.Popen[str], events: queue.Queue[dict[str, Any] | None]) -> None:
        for line in process.stdout or ():
            with suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == "ready":
                    self.ready_s = time.monotonic()
                    events.put(event)
        events.put(None)

    def _log(self, process: subprocess.Popen[str]) -> None:
        self.log.extend(line.rstrip() for line in process.stderr or ())

    def __enter__(self) -> ServerProcess:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()


def engine_for(
    *endpoints: str,
    dial: Callable[[], Transport] | None = None,
    fps: float = 30.0,
    keys: Keys = KEYS,
    robot: RobotFeatures | None = None,
    safety: dict[str, Any] | None = None,
    on_transition: Callable[..., None] | None = None,
    task: str = "",
    **inference: Any,
) -> Engine:
    """An engine that is not started, for the robot of the witness. `inference`: flags that are not the default."""
    from edge.engine import Engine

    given = {"zenoh_mode": "peer", "client_uuid": "robot-1", "connect_timeout_s": WAIT_S, **inference}
    if endpoints:
        given["connect_endpoint"] = list(endpoints)
    settings, safe = InferenceSettings(**given), SafetySettings(**(safety or {}))
    return Engine(settings, safe, robot or features(), keys, fps, task, dial=dial, on_transition=on_transition)


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Started and not paused; stopped at the end."""
    engine.start()
    try:
        engine.resume()
        yield engine
    finally:
        engine.stop()


class MemoryServer:
    """A daemon in this process, on a hub; it can end without a word and come back as another."""

    def __init__(self, hub: Hub, policy: Policy, **settings: Any) -> None:
        self.hub, self.policy = hub, policy
        self._settings = settings
        self.starts = 0
        self.daemon: Daemon | None = None

    def start(self) -> MemoryServer:
        """A new daemon, with no memory of the one before."""
        self.starts += 1
        given = {"rtc": self.policy.spec.rtc, "trained_fps": self.policy.spec.fps, **self._settings}
        keys = given.pop("keys", KEYS)
        server_id = given.pop("server_id", "replica-1")
        settings = ServiceSettings(
            keys,
            Rules(self.policy.spec, **given),
            PipelineSettings(batch_max=self.policy.spec.batch_max),
            ControlSettings(),
            server_id=server_id,
        )
        self.transport: Transport = MemoryTransport(self.hub)
        self.daemon = Daemon(self.policy, self.transport, settings, Recorder())
        self.daemon.start()
        return self

    def crash(self) -> None:
        """Its network is gone at once; what it was at goes nowhere."""
        self.transport.close()
        self.stop()

    def stop(self) -> None:
        """End it, whatever it was at."""
        if self.daemon is not None:
            if isinstance(self.policy, WitnessPolicy):
                self.policy.let_go()
            daemon, self.daemon = self.daemon, None
            daemon.stop()

    def __enter__(self) -> MemoryServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
