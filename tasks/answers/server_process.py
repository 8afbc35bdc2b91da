"""One server process: started behind a guard, its output read, its end noticed at once."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.answers.server_log import LinePump, LogFile
from tasks.errors import AnswererError

log = logging.getLogger(__name__)

STOP_S = 15.0  # between SIGINT and SIGKILL
GUARD_S = 15.0  # more, for the guard to be done
PUMP_S = 2.0
TAIL_SHOWN = 12
GUARD = Path(__file__).with_name("server_guard.py")
MARKERS = ("Uvicorn running", "Application startup complete", "Available routes are", "server is listening")


def find_program(name: str) -> str:
    """The program's path: as a shell would find it, or else installed beside this Python. Raises AnswererError."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        install = "pip install 'cuebook[vllm]'" if name == "vllm" else f"install {name}"
        raise AnswererError(
            f"the program {name} to start a server with",
            "it is not installed, or not on the PATH",
            f"{install}, or pass another command: --vlm.serve_command='... --port {{port}}'",
        )
    return found


class ServerProcess:
    """A running server. `ended` is set when it ends; `news` too, and when its log says that it may be ready."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], file: LogFile | None = None) -> None:
        self.name, self.command = name, list(command)
        self.ended, self.news = threading.Event(), threading.Event()
        self.pid = 0  # of the server, once it runs
        self.returncode: int | None = None
        program = find_program(self.command[0])
        output, output_end = os.pipe()
        report, report_end = os.pipe()
        try:
            self._guard = subprocess.Popen(
                [
                    sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(STOP_S), str(report_end),
                    program, *self.command[1:],
                ],
                stdin=subprocess.PIPE,
                stdout=output_end,
                stderr=output_end,
                pass_fds=(report_end,),
                start_new_session=True,  # Ctrl-C is for the run; the server goes when the run has gone
                env=dict(env),
            )  # fmt: skip
        except BaseException:
            os.close(output)
            os.close(report)
            raise
        finally:
            os.close(output_end)
            os.close(report_end)
        self._pump = LinePump(name, output, file, self._heard)
        threading.Thread(target=self._watch, args=(report,), name=f"end of {name}", daemon=True).start()

    def _heard(self, line: str) -> None:
        if any(marker in line for marker in MARKERS):
            self.news.set()

    def _watch(self, report: int) -> None:
        """The guard tells the server's process id, and later its return code; a guard that was killed tells nothing."""
        with os.fdopen(report, "rb") as lines:
            self.pid = int(lines.readline() or 0)
            code = lines.readline()
        if not code and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.returncode = int(code) if code else -signal.SIGKILL
        self.ended.set()
        self.news.set()

    @property
    def how_it_ended(self) -> str:
        """In words, for errors."""
        code = self.returncode
        if code is None:
            return "still running"
        if code >= 0:
            return f"ended with code {code}"
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"

    def last_lines(self) -> str:
        """The end of its log, for errors."""
        if self.ended.is_set():
            self._pump.join(PUMP_S)
        tail = self._pump.tail(TAIL_SHOWN)
        return "; its last lines:\n    " + "\n    ".join(tail) if tail else "; it said nothing"

    def let_go(self) -> None:
        """Have it ended: SIGINT to its group now, SIGKILL to whoever is left after `STOP_S`. Returns at once."""
        assert self._guard.stdin is not None
        if self.ended.is_set():  # by itself: what it said last is worth showing
            self._pump.join(PUMP_S)
        self._pump.hushed = True
        self._guard.stdin.close()

    def stop(self) -> None:
        """End it and wait until nobody is left. Idempotent."""
        ran = not self.ended.is_set()
        self.let_go()
        try:
            self._guard.wait(STOP_S + GUARD_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self._pump.join(PUMP_S)
        if ran and self.ended.wait(PUMP_S) and self.returncode == -signal.SIGKILL:
            log.warning("%s did not end within %g s after SIGINT and was killed", self.name, STOP_S)
