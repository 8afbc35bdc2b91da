"""A Prefect server for the length of one command, where none is configured.

Prefect can start one by itself, but then this process imports the whole server (two CPU seconds) and the server's last
words at the end of a run fill the terminal. Here it starts while this process still imports, and writes to a log file.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tasks.errors import AnnotateError

START_S = 120.0  # a busy machine takes more than Prefect's own 20 s
STOP_S = 5.0
POLL_S = 0.05
LOG_TAIL_CHARS = 600
PR_SET_PDEATHSIG = 1
# As Prefect starts its own temporary server: no UI, no background services that one run has no use for.
SERVER_ENV = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
# Checking the database's form costs a CPU second at each start: done once for each version of Prefect.
PREPARED_ENV = {"PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false", "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false"}


def is_configured() -> bool:
    """Whether the environment or a Prefect profile names a server. Reads the profile only when there is one."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    if not (home / "profiles.toml").exists() and not Path("prefect.toml").exists():
        return False
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


@contextmanager
def server() -> Iterator[EmbeddedServer | None]:
    """A server that is starting; None when one is configured. `ready` it before the first flow run."""
    if is_configured():
        yield None
        return
    embedded = EmbeddedServer()
    try:
        yield embedded
    finally:
        embedded.stop()


def _end_with_parent() -> None:
    """Have Linux end this process when the command is killed; elsewhere a killed command leaves its server behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class EmbeddedServer:
    """A server process on a free loopback port. Its database is the user's own, so that runs show up later."""

    def __init__(self) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
        home.mkdir(parents=True, exist_ok=True)
        self.log_path = home / "cuebook-server.log"
        self._database, self._mark = home / "prefect.db", home / "cuebook-prepared"
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app",
                    "--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error", "--lifespan", "on",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
                start_new_session=True,  # Ctrl-C is for the run; the server goes when the run has gone
                env={**os.environ, **SERVER_ENV, **(PREPARED_ENV if self._is_prepared() else {})},
            )  # fmt: skip
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{self.port}/api"

    def _is_prepared(self) -> bool:
        """Whether this version of Prefect has brought this very database into its form."""
        try:
            return self._mark.read_text() == self._form()
        except OSError:
            return False

    def _form(self) -> str:
        if any(f"PREFECT_{kind}_DATABASE_CONNECTION_URL" in os.environ for kind in ("API", "SERVER")):
            raise FileNotFoundError("the database is not the one of this folder")
        return f"{importlib.metadata.version('prefect')} {self._database.stat().st_ino}"

    def ready(self) -> None:
        """Wait until it answers. Raises AnnotateError with the end of its log."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(POLL_S)
        else:
            self._fail()
        with contextlib.suppress(OSError):  # a database elsewhere: prepared anew each time
            self._mark.write_text(self._form())

    def _fail(self) -> NoReturn:
        tail = self.log_path.read_text(errors="replace")[-LOG_TAIL_CHARS:]
        raise AnnotateError(
            "want the embedded Prefect server to start",
            f"no answer after {START_S:.0f} s, or it ended: …{tail}",
            f"see {self.log_path}, set PREFECT_API_URL to a running server, or use --engine=inline",
        )

    def stop(self) -> None:
        """End it. What it has not yet written of the run's history is lost; the dataset and staged rows are not."""
        os.environ.pop("PREFECT_API_URL", None)
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
