"""Where a running edge says how it goes: a Unix socket in the user's own runtime folder, one JSON object a line.

A reader that does not keep up is let go; nobody who watches can hold up a run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import selectors
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge.errors import EdgeError

log = logging.getLogger(__name__)

EVERY_S = 0.2
READERS_MAX = 8
LINE_BYTES_MAX = 64 << 10
PATH_BYTES_MAX = 107  # of a Unix socket's address
SUFFIX = ".sock"
FOLDER = "cuebook-edge"
CONNECT_S = 0.5
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]+")


def folder() -> Path:
    """This user's folder for such sockets, made where it is not there. Raises EdgeError when it is somebody else's."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime) / FOLDER if runtime else Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = base.lstat()
    except OSError as err:
        raise EdgeError("want a folder for sockets", f"{base}: {err.strerror}", "set XDG_RUNTIME_DIR") from err
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EdgeError("want a folder of our own", f"{base} is open to others", "remove it, or set XDG_RUNTIME_DIR")
    return base


def socket_path(client: str, pid: int) -> Path:
    """Where the run of a robot is heard: the id shortened where the address would get too long."""
    base = folder()
    end = f".{pid}{SUFFIX}"
    room = PATH_BYTES_MAX - len(os.fsencode(base)) - 1 - len(end)
    if room < 1:
        raise EdgeError("want a short path for sockets", str(base), "set XDG_RUNTIME_DIR to a shorter one")
    return base / (_FOREIGN.sub("-", client)[:room] + end)


class WatchServer:
    """Tells whoever connects how a run goes, a few times a second. Use it in a `with`."""

    def __init__(self, client: str, now: Callable[[], dict[str, Any]], every_s: float = EVERY_S) -> None:
        self._now, self._every_s = now, every_s
        self.path = socket_path(client, os.getpid())
        self._readers: list[socket.socket] = []
        self._stop = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="edge-watch", daemon=True)

    def __enter__(self) -> WatchServer:
        self.path.unlink(missing_ok=True)  # of a process with our number that is long gone
        self._listener.bind(str(self.path))
        self._listener.listen(READERS_MAX)
        self._listener.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(1.0)
        self.path.unlink(missing_ok=True)
        for reader in (*self._readers, self._listener):
            reader.close()

    def _serve(self) -> None:
        while not self._stop.wait(self._every_s):
            with contextlib.suppress(BlockingIOError):
                while len(self._readers) < READERS_MAX:
                    reader, _ = self._listener.accept()
                    reader.setblocking(False)
                    self._readers.append(reader)
            if not self._readers:
                continue
            try:
                line = json.dumps(self._now()).encode() + b"\n"
            except (TypeError, ValueError):
                log.exception("how it goes cannot be told")
                return
            self._readers = [reader for reader in self._readers if _sent(reader, line)]


def _sent(reader: socket.socket, line: bytes) -> bool:
    """Whether a reader took a whole line; one that did not is let go."""
    try:
        if reader.send(line) == len(line):
            return True
    except OSError:
        pass  # it left, or it does not read: either way it is let go below
    reader.close()
    return False


class Watched:
    """Connections to running edges."""

    def __init__(self, client: str = "") -> None:
        """`client`: only robots whose id begins so."""
        self._client = client
        self._open: dict[Path, socket.socket] = {}
        self._held: dict[Path, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self.look()

    def look(self) -> int:
        """Connect to runs that have come, forget those of dead processes; how many there are."""
        for path in sorted(folder().glob(f"*{SUFFIX}")):
            if path in self._open or not path.name.startswith(self._client):
                continue
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(CONNECT_S)
            try:
                connection.connect(str(path))
            except ConnectionRefusedError:  # killed: nobody took the socket away
                path.unlink(missing_ok=True)
                connection.close()
            except OSError as err:
                log.debug("cannot watch %s: %s", path, err)
                connection.close()
            else:
                self._open[path], self._held[path] = connection, b""
                self._selector.register(connection, selectors.EVENT_READ, path)
        return len(self._open)

    def lines(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """What has come within a time: at most one object a run and read."""
        for key, _ in self._selector.select(timeout_s):
            path = key.data
            try:
                data = self._open[path].recv(LINE_BYTES_MAX)
            except OSError:  # it was killed
                data = b""
            if not data or len(self._held[path]) > LINE_BYTES_MAX:
                self._forget(path)
                continue
            *whole, self._held[path] = (self._held[path] + data).split(b"\n")
            if whole:
                yield json.loads(whole[-1])

    def close(self) -> None:
        """Look away."""
        for path in list(self._open):
            self._forget(path)
        self._selector.close()

    def _forget(self, path: Path) -> None:
        self._selector.unregister(self._open[path])
        self._open.pop(path).close()
        self._held.pop(path)
