"""What the tests of the network share: free ports, ears that wait, and routers in processes of their own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from network.transport import Sample
from serving.router import RouterSettings

WAIT_S = 10.0
REPO = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Heard:
    """Collects what a callback is called with; waits for it."""

    def __init__(self) -> None:
        self.items: list = []
        self._changed = threading.Condition()

    def __call__(self, *what: object) -> None:
        with self._changed:
            self.items.append(what[0] if len(what) == 1 else what)
            self._changed.notify_all()

    def until(self, enough: Callable[[list], bool], timeout_s: float = WAIT_S) -> bool:
        """Wait until the items satisfy a condition; False when they never do."""
        with self._changed:
            return self._changed.wait_for(lambda: enough(self.items), timeout_s)

    def wait(self, count: int = 1, timeout_s: float = WAIT_S) -> bool:
        """Wait for a number of items."""
        return self.until(lambda items: len(items) >= count, timeout_s)


class Bodies(Heard):
    """Ears for samples: keeps (key, body, attachment)."""

    def __call__(self, sample: Sample) -> None:
        super().__call__((sample.key, sample.body(), sample.attachment))


def until(true: Callable[[], object], timeout_s: float = WAIT_S) -> bool:
    """Wait for what no callback tells of; False when it never comes true."""
    end_s = time.monotonic() + timeout_s
    while not (done := true()) and time.monotonic() < end_s:
        time.sleep(0.02)
    return bool(done)


class RouterProcess:
    """A router that tests may kill."""

    def __init__(self, settings: RouterSettings) -> None:
        self.settings = settings
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        code = (
            "import sys, json; from serving.router import RouterSettings, run; "
            "run(RouterSettings(**json.loads(sys.argv[1])), on_ready=lambda: print('ready', flush=True))"
        )
        arguments = [sys.executable, "-c", code, json.dumps(self.settings.model_dump())]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=REPO)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready"

    def kill(self) -> None:
        """As a crash."""
        self.process.kill()
        self.process.wait(WAIT_S)
        self.process.stdout.close()

    def stop(self) -> int:
        """As an operator; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(WAIT_S)
        self.process.stdout.close()
        return status
