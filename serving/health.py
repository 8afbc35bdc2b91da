"""Is it alive, can it serve, how does it do: three pages over plain HTTP, for orchestrators and Prometheus.

Served by threads of its own, so that a hung policy can still be told. Whoever reaches the port is a stranger: requests
are bounded in bytes, time and number.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST

from serving.errors import ServingError
from serving.metrics import Metrics

if TYPE_CHECKING:
    from serving.daemon import Daemon

log = logging.getLogger(__name__)

HUNG_S = 20.0  # a batch that takes longer is taken for hung
SILENT_S = 20.0  # an idle policy's thread shows itself twice a second
CONTROL_HUNG_S = 120.0  # sessions may read files from a hub when they open
REQUEST_BYTES_MAX = 8 << 10
REQUEST_S = 5.0  # for a whole request to come in, and for its answer to go out
CONNECTIONS_MAX = 16
POLL_S = 0.1  # how soon a stop is noticed
JSON_TYPE = "application/json"


def problems(daemon: Daemon, hung_s: float = HUNG_S) -> list[str]:
    """What keeps a daemon from working; [] when nothing does. A full or draining daemon works."""
    pipeline, control, now_s = daemon.pipeline, daemon.control, time.monotonic()
    found = []
    if daemon.stopped.is_set():
        return ["the daemon has stopped"]
    if not pipeline.alive:
        found.append("a thread of the pipeline does not run")
    if not control.alive:
        found.append("the control thread does not run")
    busy_since_s = pipeline.busy_since_s
    if busy_since_s is not None and now_s - busy_since_s > hung_s:
        found.append(f"the policy has been at one batch for {now_s - busy_since_s:.0f} s: the device may hang")
    elif busy_since_s is None and pipeline.alive and now_s - pipeline.heartbeat_s > SILENT_S:
        found.append(f"the policy's thread gave no sign for {now_s - pipeline.heartbeat_s:.0f} s")
    if control.alive and now_s - control.heartbeat_s > CONTROL_HUNG_S:
        found.append(f"the control thread has been at one job for {now_s - control.heartbeat_s:.0f} s")
    if not daemon.transport.connected():
        found.append("the network is not there: no router answers")
    return found


class HealthServer:
    """Serves /healthz, /readyz and /metrics of a daemon. Port 0 picks a free one: see `port` after `start`."""

    def __init__(
        self, daemon: Daemon, metrics: Metrics, host: str = "127.0.0.1", port: int = 9100, hung_s: float = HUNG_S
    ) -> None:
        metrics.watch(daemon)
        self.host, self.port = host, port
        self._daemon, self._metrics, self._hung_s = daemon, metrics, hung_s
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind and serve. Raises ServingError when the address cannot be had."""
        pages = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics_page}
        try:
            self._server = _Server(self.host, self.port, pages)
        except OSError as err:
            wanted = f"want to serve health and metrics on {self.host}:{self.port}"
            remedy = "free the port, or set another health_port (0: no health server)"
            raise ServingError(wanted, f"{err.strerror or err}", remedy) from err
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="serving-health", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Twice is once."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        if self._thread is not None:
            self._thread.join()

    def _healthz(self) -> tuple[HTTPStatus, str, bytes]:
        return self._state("ok", problems(self._daemon, self._hung_s))

    def _readyz(self) -> tuple[HTTPStatus, str, bytes]:
        found = problems(self._daemon, self._hung_s)
        if self._daemon.control.draining:
            found.append("draining: no new sessions")
        elif not found and not self._daemon.ready:
            found.append("starting: the surface is not declared yet")
        return self._state("ready", found)

    def _state(self, good: str, found: list[str]) -> tuple[HTTPStatus, str, bytes]:
        daemon = self._daemon
        said: dict[str, Any] = {
            "status": "unavailable" if found else good,
            "problems": found,
            "server_id": daemon.settings.server_id,
            "service": daemon.settings.keys.prefix,
            "active_sessions": len(daemon.registry),
            "max_sessions": daemon.registry.sessions_max,
            "draining": daemon.control.draining,
            "heartbeat_age_s": round(time.monotonic() - daemon.pipeline.heartbeat_s, 3),
        }
        code = HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK
        return code, JSON_TYPE, json.dumps(said).encode() + b"\n"

    def _metrics_page(self) -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, CONTENT_TYPE_LATEST, self._metrics.page()


Page = Callable[[], tuple[HTTPStatus, str, bytes]]


class _Server(socketserver.ThreadingTCPServer):
    """A thread a connection, as http.server has it, without its reverse look-up of the host's name, which can hang."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, pages: dict[str, Page]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a connection; one too many is closed at once."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, then free its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is the other side's affair."""
        log.debug("a connection from %s broke", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "cuebook-serving", ""

    def setup(self) -> None:
        """Read through a bound of bytes and time."""
        super().setup()
        self.rfile = io.BufferedReader(_Bounded(self.connection))  # type: ignore[assignment]

    def handle(self) -> None:
        """One request; what is too long or too slow gets an answer where there is still one to give."""
        try:
            super().handle()
        except _TooLarge:
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", "GET"
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def do_GET(self) -> None:
        """A page, or 404."""
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", b"want /healthz, /readyz or /metrics\n")
        try:
            answer = page()
        except Exception:
            log.exception("the page %s could not be made", self.path)
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"the page could not be made\n")
        return self._send(*answer)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""
        log.debug(format, *args)

    def _send(self, code: HTTPStatus, kind: str, body: bytes) -> None:
        self.connection.settimeout(REQUEST_S)
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _TooLarge(Exception):
    """More bytes than a request may have."""


class _Bounded(io.RawIOBase):
    """A connection to read from, until so many bytes or so much time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end_s = time.monotonic() + REQUEST_S
        self._left = REQUEST_BYTES_MAX

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As a socket's, but raises _TooLarge or TimeoutError at the bound."""
        if self._left <= 0:
            raise _TooLarge
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count
