"""The output of a server that we start: drained always, shown by line, kept in a bounded file."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

CHUNK_BYTES = 65536
LINE_BYTES_MAX = 4096  # longer lines are shown cut
TAIL_LINES = 30  # kept for error messages
FILE_BYTES_MAX = 8 * 2**20  # then it becomes FILE.1 and a new one is begun
PROGRESS_EVERY_S = 2.0  # of bars that redraw themselves
LINES_PER_S_MAX = 100  # what is more goes to the file alone

_END = re.compile(rb"\r?\n|\r(?!\Z)")  # a carriage return at the very end may be half of a line's end
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f]")
# One or two for each question: of no interest while all is well.
_REQUEST = re.compile(r'"(GET|POST|OPTIONS) /\S* HTTP/|\[Request received\]')


class LogFile:
    """A file of whole lines that never takes more than twice `FILE_BYTES_MAX`. A full disk does not end the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            self._give_up(error)

    def write(self, line: str) -> None:
        """Append one line."""
        if self._file is None:
            return
        data = line.encode("utf-8", "replace") + b"\n"
        try:
            if self._bytes + len(data) > FILE_BYTES_MAX:
                self._file.close()
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
                self._file, self._bytes = self.path.open("wb"), 0
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self._give_up(error)
        self._bytes += len(data)

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, error: OSError) -> None:
        log.warning("the log %s is not written on: %s", self.path, error)
        self._file = None


class LinePump:
    """A thread that reads a pipe to its end, whatever comes, and hands on whole lines."""

    def __init__(self, name: str, fd: int, file: LogFile | None, heard: Callable[[str], None]) -> None:
        self._name, self._fd, self._file, self._heard = name, fd, file, heard
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._second, self._shown, self._hidden = 0, 0, 0
        self._progress_due = 0.0
        self.hushed = False  # it was told to end: how it does so is only worth a line in the file
        self._thread = threading.Thread(target=self._run, name=f"log of {name}", daemon=True)
        self._thread.start()

    def tail(self, lines: int = TAIL_LINES) -> list[str]:
        """The last lines."""
        return list(self._tail)[-lines:]

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the output."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        rest = b""
        with os.fdopen(self._fd, "rb", buffering=0) as pipe:
            while chunk := pipe.read(CHUNK_BYTES):
                rest = self._take(rest + chunk)
        if rest:
            self._line(rest, redrawn=False)

    def _take(self, data: bytes) -> bytes:
        """Hand on the whole lines of `data`; what is left is the start of the next."""
        start = 0
        for end in _END.finditer(data):
            self._line(data[start : end.start()], redrawn=end.group() == b"\r")
            start = end.end()
        rest = data[start:]
        if len(rest) > LINE_BYTES_MAX and not rest.endswith(b"\r"):  # no end in sight: shown as far as it goes
            self._line(rest, redrawn=False)
            return b""
        return rest

    def _line(self, raw: bytes, redrawn: bool) -> None:
        text = _CONTROL.sub("", raw[:LINE_BYTES_MAX].decode("utf-8", "replace")).rstrip()
        if not text or (redrawn and not self._progress_is_due()):
            return
        self._tail.append(text)
        if self._file is not None:
            self._file.write(text)
        self._heard(text)
        self._show(text)

    def _progress_is_due(self) -> bool:
        now = time.monotonic()
        if now < self._progress_due:
            return False
        self._progress_due = now + PROGRESS_EVERY_S
        return True

    def _show(self, text: str) -> None:
        if self.hushed or _REQUEST.search(text):
            log.debug("%s: %s", self._name, text)
            return
        second = int(time.monotonic())
        if second != self._second:
            if self._hidden:
                where = f" in {self._file.path}" if self._file is not None else ""
                log.info("%s: (%d more lines%s)", self._name, self._hidden, where)
            self._second, self._shown, self._hidden = second, 0, 0
        self._shown += 1
        if self._shown <= LINES_PER_S_MAX:
            log.info("%s: %s", self._name, text)
        else:
            self._hidden += 1
