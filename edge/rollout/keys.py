"""Keys that are pressed in the terminal while a robot is driven, read by a thread of their own.

The terminal gives each key at once and echoes none (cbreak); Ctrl-C still is a signal. It is put back as it
was when the reading ends, and at the exit of the process. Without a terminal, or in the background, there are no keys.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import sys
import threading
from collections import deque
from typing import Protocol

try:
    import termios
    import tty
except ImportError:  # Windows
    termios = tty = None

_log = logging.getLogger(__name__)

ESCAPE, LEFT, RIGHT = "esc", "left", "right"
NAMES = {b" ": "space", b"\t": "tab", b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace"}
ARROWS = {b"A": "up", b"B": "down", b"C": RIGHT, b"D": LEFT}
INTRODUCERS = (b"[", b"O")  # of an arrow, after escape
SEQUENCE_S = 0.05  # what follows escape within this belongs to it
HELD_MAX = 64  # keys that nobody asked for; older ones are forgotten
JOIN_S = 1.0


class KeySource(Protocol):
    """Where keys come from."""

    @property
    def active(self) -> bool:
        """Whether there will ever be a key."""

    def start(self) -> None:
        """Begin to listen."""

    def poll(self) -> list[str]:
        """Names of the keys since the last call, oldest first: "s", "space", "left". Never waits."""

    def stop(self) -> None:
        """Listen no longer, and put the terminal back. Twice is once."""


class _NoKeys:
    """Nobody presses anything."""

    active = False

    def start(self) -> None:
        """See KeySource."""

    def poll(self) -> list[str]:
        """See KeySource."""
        return []

    def stop(self) -> None:
        """See KeySource."""


NO_KEYS: KeySource = _NoKeys()


class Keyboard:
    """Keys of a terminal; standard input where no other is named."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd
        self._before: list | None = None  # the terminal's own settings
        self._held: deque[str] = deque(maxlen=HELD_MAX)
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] | None = None
        self._lock = threading.Lock()  # stop may be called by atexit while it is being called

    @property
    def active(self) -> bool:
        """See KeySource."""
        return self._before is not None

    def start(self) -> None:
        """Begin to listen; where there is no terminal, nothing happens."""
        fd = _terminal(self._fd)
        if fd is None or self.active:
            return
        self._fd = fd
        self._before = termios.tcgetattr(fd)
        atexit.register(self.stop)
        tty.setcbreak(fd, termios.TCSANOW)
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._listen, args=(fd, self._wake[0]), name="keys", daemon=True)
        self._thread.start()

    def poll(self) -> list[str]:
        """See KeySource."""
        keys = []
        while self._held:
            keys.append(self._held.popleft())
        return keys

    def stop(self) -> None:
        """See KeySource."""
        with self._lock:
            before, self._before = self._before, None
            if before is None:
                return
            with contextlib.suppress(termios.error):  # it was closed: nothing is left to put back
                termios.tcsetattr(self._fd, termios.TCSANOW, before)
            atexit.unregister(self.stop)
            os.write(self._wake[1], b"x")
            self._thread.join(JOIN_S)
            for end in self._wake:
                os.close(end)

    def _listen(self, fd: int, wake: int) -> None:
        read = _Reader(fd, wake)
        try:
            while (byte := read.byte(None)) is not None:
                name = _after_escape(read) if byte == b"\x1b" else NAMES.get(byte) or read.character(byte)
                if name:
                    self._held.append(name)
        except OSError as err:  # the terminal was closed
            _log.warning("keys are no longer read: %s", err)


class _Reader:
    """Bytes of a terminal, until it ends or somebody writes to `wake`."""

    def __init__(self, fd: int, wake: int) -> None:
        self._fd, self._wake = fd, wake

    def byte(self, timeout_s: float | None) -> bytes | None:
        """The next byte; None when there is none in time, or never will be."""
        ready, _, _ = select.select([self._fd, self._wake], [], [], timeout_s)
        if not ready or self._wake in ready:
            return None
        return os.read(self._fd, 1) or None

    def character(self, first: bytes) -> str:
        """The character that begins with a byte (UTF-8); "" for one that cannot be shown."""
        length = next((n for n, lead in ((4, 0xF0), (3, 0xE0), (2, 0xC0)) if first[0] >= lead), 1)
        rest = [self.byte(SEQUENCE_S) or b"" for _ in range(length - 1)]
        text = (first + b"".join(rest)).decode("utf-8", "ignore")
        return text if text.isprintable() else ""


def _after_escape(read: _Reader) -> str:
    """An arrow, escape alone, or "" for any other sequence, which is read to its end."""
    byte = read.byte(SEQUENCE_S)
    if byte is None:
        return ESCAPE
    if byte not in INTRODUCERS:
        return ""
    while (byte := read.byte(SEQUENCE_S)) is not None:
        if byte in ARROWS:
            return ARROWS[byte]
        if 0x40 <= byte[0] <= 0x7E:  # the last byte of a sequence, ECMA-48
            return ""
    return ""


def _terminal(fd: int | None) -> int | None:
    """The terminal's file descriptor, when there is one and this process may use it."""
    if termios is None:
        return None
    try:
        fd = sys.stdin.fileno() if fd is None else fd
        if not os.isatty(fd):
            return None
        try:
            return fd if os.tcgetpgrp(fd) == os.getpgrp() else None  # in the background, it would be stopped for it
        except OSError:
            return fd  # a terminal that controls no process, such as a test's
    except (AttributeError, OSError, ValueError):  # no standard input at all
        return None
