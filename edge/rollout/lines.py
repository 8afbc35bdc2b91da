"""Commands by line, from a terminal or from a program that holds the other end of standard input."""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections import deque

_log = logging.getLogger(__name__)

END = "quit"  # said when there will be no more lines
LINE_BYTES_MAX = 64 * 1024  # a longer one is no command
READ_BYTES = 4096
HELD_MAX = 64
JOIN_S = 1.0


class Lines:
    """A KeySource whose keys are whole lines; its end says `quit`."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd
        self._held: deque[str] = deque(maxlen=HELD_MAX)
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] | None = None

    @property
    def active(self) -> bool:
        """See KeySource."""
        return self._thread is not None

    def start(self) -> None:
        """Begin to listen; without standard input, nobody will say anything."""
        try:
            fd = sys.stdin.fileno() if self._fd is None else self._fd
            os.fstat(fd)
        except (AttributeError, OSError, ValueError):
            return
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._listen, args=(fd, self._wake[0]), name="lines", daemon=True)
        self._thread.start()

    def poll(self) -> list[str]:
        """Lines since the last call, without spaces at their ends and without empty ones."""
        lines = []
        while self._held:
            lines.append(self._held.popleft())
        return lines

    def stop(self) -> None:
        """Listen no longer. Twice is once."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        os.write(self._wake[1], b"x")
        thread.join(JOIN_S)
        for end in self._wake:
            os.close(end)

    def _listen(self, fd: int, wake: int) -> None:
        rest = b""
        try:
            while wake not in select.select([fd, wake], [], [])[0]:
                read = os.read(fd, READ_BYTES)
                *lines, rest = (rest + read).split(b"\n")
                self._keep(lines if read else [rest, END.encode()])
                if not read:
                    return
                if len(rest) > LINE_BYTES_MAX:
                    _log.warning("want a line of at most %d bytes, got a longer one: it is dropped", LINE_BYTES_MAX)
                    rest = b""
        except OSError as err:
            _log.warning("commands are no longer read: %s", err)
            self._keep([END.encode()])

    def _keep(self, lines: list[bytes]) -> None:
        self._held.extend(text for line in lines if (text := line.decode("utf-8", "replace").strip()))
