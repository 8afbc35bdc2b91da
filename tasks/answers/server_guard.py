"""The parent of one model server: ends it, with all its descendants, when the run lets go of a pipe or dies.

A run that is killed can end nothing, and Linux tells only the direct child: the workers of a model server would stay
and hold the GPU. So this small script stands between. It uses the standard library alone and imports nothing of ours:

    python -I -S server_guard.py PARENT_PID STOP_S REPORT_FD PROGRAM [ARGUMENT ...]

stdin: the pipe that says "stop" by its end. stdout, stderr: handed on to the server. REPORT_FD: gets two lines, the
server's process id and, as soon as it ends, its return code (negative: the signal that ended it).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
INTERRUPTS = 3  # within the time to end
LEFTOVER_S = 2.0  # for descendants to end by themselves once the server has
KILL_S = 10.0  # then even a killed process is not waited for: the kernel holds it in a driver
POLL_S = 0.02


def main() -> int:
    """Start the server, wait for its end or for the word to end it, and leave nobody behind."""
    parent, stop_s, report = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    wake = _wake_on_signals()
    if sys.platform == "linux":
        _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the server come here, even those that left its group
        _prctl(PR_SET_PDEATHSIG, signal.SIGHUP)  # a copy of the pipe may outlive the run in a forked process
    os.set_inheritable(report, False)
    try:
        server = subprocess.Popen(
            sys.argv[4:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_as_a_server_expects
        )
    except OSError as error:
        os.write(1, f"cannot start {sys.argv[4]}: {error}\n".encode())
        _tell(report, "0\n127\n")
        return 127
    _tell(report, f"{server.pid}\n")
    _let_go_of_output()
    family = Family(server.pid, report)
    try:
        while family.code is None and not _told_to_stop(wake, parent):
            family.reap()
    finally:
        family.end(stop_s)
    return family.code if family.code is not None and family.code >= 0 else 128 - (family.code or -signal.SIGKILL)


class Family:
    """The server, its process group, and orphans that came here."""

    def __init__(self, leader: int, report: int) -> None:
        self.leader, self._report = leader, report
        self.code: int | None = None  # of the server, once it has ended

    def reap(self) -> bool:
        """Take note of the dead. False when nobody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return self._group_lives()
            if pid == 0:
                return True
            if pid == self.leader:
                self.code = os.waitstatus_to_exitcode(status)
                _tell(self._report, f"{self.code}\n")

    def end(self, stop_s: float) -> None:
        """SIGINT and time to end in order, then SIGKILL for all who are left."""
        for _ in range(INTERRUPTS):  # as a person would: servers that wait for something then stop waiting
            if self.code is None:
                self._signal_group(signal.SIGINT)
                self._wait(stop_s / INTERRUPTS, lambda: self.code is not None)
        self._wait(LEFTOVER_S if self.code is not None else 0.0, lambda: False)
        deadline = time.monotonic() + KILL_S
        while self.reap() and time.monotonic() < deadline:
            self._signal_group(signal.SIGKILL)
            for pid in _children():
                _signal(os.kill, pid, signal.SIGKILL)
            time.sleep(POLL_S)

    def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while self.reap() and not enough() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _signal_group(self, number: int) -> None:
        _signal(os.killpg, self.leader, number)

    def _group_lives(self) -> bool:
        return _signal(os.killpg, self.leader, 0)


def _tell(report: int, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the run is dead: nobody wants to know
        os.write(report, text.encode())


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> bool:
    try:
        send(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _children() -> list[int]:
    """Direct children of this process, from Linux's process table; elsewhere none are known."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(name))
    return found


def _told_to_stop(wake: int, parent: int) -> bool:
    """Wait for a signal or for the end of the pipe."""
    ready, _, _ = select.select([0, wake], [], [])
    numbers = os.read(wake, 4096) if wake in ready else b""
    return 0 in ready or signal.SIGTERM in numbers or os.getppid() != parent


def _wake_on_signals() -> int:
    """A pipe that becomes readable with each signal. Handlers, not ignored signals: those would be inherited."""
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _as_a_server_expects() -> None:
    """In the server, before its program starts: SIGINT has its meaning even if the run was started without, and the
    server ends when this guard is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _let_go_of_output() -> None:
    """The pipe of the server's output shall end when the server's last process does."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    os._exit(main())
