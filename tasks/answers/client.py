"""HTTP to an OpenAI-compatible server: one kept-alive connection pool, typed failures, nothing retried here."""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import json
import os
import socket
import threading
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tasks.errors import AnswererError
from tasks.settings import VlmSettings

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 4.0  # below the 5 s after which common servers hang up on an idle connection
RESPONSE_BYTES_MAX = 8 * 2**20
MESSAGE_CHARS_MAX = 300
REFUSED = 400
ENV_PREFIX = "env:"  # keeps a key out of settings files and of the run parameters that Prefect stores


@dataclass(frozen=True)
class Completion:
    """The model's reply."""

    text: str  # "" when the server sent no choice, no message or no content
    cut: bool  # stopped by the token limit
    tokens_in: int
    tokens_out: int
    model: str = ""  # as the server calls it


class CallError(Exception):
    """A request without a reply: the server's status and words, or no status when there was no whole answer."""

    def __init__(
        self,
        status: int | None,
        message: str,
        retry_after_s: float | None = None,
        refused: bool = False,
        lost: bool = False,
    ):
        super().__init__(status, message)
        self.status, self.message, self.retry_after_s = status, message, retry_after_s
        self.refused = refused  # nobody listens there
        self.lost = lost or refused  # no connection, or it broke: not a slow answer

    def __str__(self) -> str:
        return self.message if self.status is None else f"HTTP {self.status}: {self.message}"


class ChatClient:
    """Sends chat requests. Thread-safe."""

    def __init__(self, settings: VlmSettings) -> None:
        import httpx

        self._httpx = httpx
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._sockets_lock = threading.Lock()
        self._closed = False
        self._base = settings.api_base.strip().rstrip("/")
        self._timeout_s = settings.request_timeout_s
        url = _url(self._base)
        self.address = f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
        key = _key(settings.api_key)
        if not (key.isascii() and key.isprintable()):  # the error of the HTTP library would show the key
            raise AnswererError("--vlm.api_key of printable ASCII characters", "other characters", "correct the key")
        connections = settings.client_concurrency
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            limits=httpx.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_S
            ),
            trust_env=not _is_loopback(url.host),  # a proxy cannot reach this machine's own server
        )

    def chat(self, body: dict[str, Any], timeout_s: float | None = None) -> Completion:
        """One reply, or CallError."""
        content = json.dumps(body, separators=(",", ":")).encode("ascii")
        return _completion(self._send("POST", "/chat/completions", timeout_s or self._timeout_s, content))

    def models(self, timeout_s: float) -> list[str]:
        """Names of the models the server lists, or CallError."""
        reply = self._send("GET", "/models", timeout_s)
        entries = reply.get("data") if isinstance(reply, dict) else None
        names = [e.get("id") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
        return [n for n in names if isinstance(n, str)]

    def close(self) -> None:
        """Close all connections, also under requests in flight: they fail at once. Idempotent."""
        with self._sockets_lock:
            self._closed = True
            for connection in self._sockets:
                _hang_up(connection)
        self._http.close()

    def _watch(self, event: str, info: dict[str, Any]) -> bool:
        """Note each new socket: closing a client does not wake the threads that read from it, a shutdown does."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return False
        connection = info["return_value"].get_extra_info("socket")
        with self._sockets_lock:
            self._sockets.add(connection)
            if self._closed:
                _hang_up(connection)
        return True

    def _send(self, method: str, path: str, timeout_s: float, content: bytes | None = None) -> Any:
        """The JSON of the reply. A kept connection that the server has just closed is replaced by a new one."""
        httpx = self._httpx
        deadline = time.monotonic() + timeout_s
        stale: Exception | None = None
        while True:
            exchange = _Progress()
            try:
                return self._send_once(exchange, method, path, deadline, timeout_s, content)
            except httpx.TimeoutException as error:
                lost = isinstance(error, httpx.ConnectTimeout)
                message = f"no answer within {timeout_s:g} s ({type(error).__name__})"
                raise CallError(None, message, lost=lost) from error
            except httpx.ConnectError as error:
                if stale is not None:  # not closed, then: the server died
                    raise CallError(None, f"broken connection: {stale}", lost=True) from error
                raise CallError(None, f"cannot connect: {error}", refused=True) from error
            except (httpx.RequestError, RuntimeError) as error:  # RuntimeError: closed under a request by close()
                if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) and exchange.was_stale:
                    stale = error
                    continue
                message = f"broken connection: {str(error) or type(error).__name__}"
                raise CallError(None, message, lost=True) from error

    def _send_once(
        self, exchange: _Progress, method: str, path: str, deadline: float, timeout_s: float, content: bytes | None
    ) -> Any:
        def watch(event: str, info: dict[str, Any]) -> None:
            exchange.connected |= self._watch(event, info)

        timeout = self._httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S), pool=None)
        request = self._http.build_request(
            method, self._base + path, content=content, timeout=timeout, extensions={"trace": watch}
        )
        response = self._http.send(request, stream=True)
        exchange.answered = True
        with contextlib.closing(response):
            raw = _read(response, deadline)
        if response.status_code != 200:
            raise CallError(response.status_code, _server_message(raw), _retry_after_s(response.headers))
        reply = _json(raw)
        if isinstance(reply, dict) and reply.get("error") and not reply.get("choices"):
            raise CallError(REFUSED, _server_message(raw))  # some servers call their refusals a success
        return reply


@dataclass
class _Progress:
    """How far a request came."""

    connected: bool = False  # on a connection of its own
    answered: bool = False

    @property
    def was_stale(self) -> bool:
        """Sent on a kept connection, and nothing came back: the server had most likely closed it before."""
        return not (self.connected or self.answered)


def _key(setting: str) -> str:
    """The key itself, or what the environment variable named by `env:NAME` holds."""
    name = setting.strip().removeprefix(ENV_PREFIX)
    if name == setting.strip():
        return name
    key = os.environ.get(name, "").strip()
    if not key:
        raise AnswererError(f"a key in the environment variable {name}", "nothing", f"export {name}=...")
    return key


def _url(api_base: str) -> httpx.URL:
    import httpx

    try:
        url = httpx.URL(api_base)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise AnswererError("--vlm.api_base like http://localhost:8000/v1", repr(api_base), "correct the URL")
    return url


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        connection.shutdown(socket.SHUT_RDWR)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(response: httpx.Response, deadline: float) -> bytes:
    """The body. A server that drips or never stops is cut off: the time-outs of the client only watch each read."""
    chunks, size = [], 0
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > RESPONSE_BYTES_MAX:
            raise CallError(response.status_code, f"the answer is longer than {RESPONSE_BYTES_MAX} bytes")
        if time.monotonic() > deadline:
            raise CallError(None, "the answer did not end in time")
    return b"".join(chunks)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8", "replace"))  # models emit broken UTF-8, some servers pass it on
    except (ValueError, RecursionError):
        return None


def _completion(reply: Any) -> Completion:
    reply = reply if isinstance(reply, dict) else {}
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    text = content if isinstance(content, str) else ""
    usage = reply.get("usage") if isinstance(reply.get("usage"), dict) else {}
    return Completion(
        text=text.encode("utf-8", "replace").decode("utf-8"),  # lone surrogates could be neither validated nor sent
        cut=choice.get("finish_reason") == "length",
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        model=reply["model"] if isinstance(reply.get("model"), str) else "",
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _server_message(raw: bytes) -> str:
    """The server's own words, in any of the shapes that are common."""
    body = _json(raw)
    found: Any = None
    if isinstance(body, dict):
        error = body.get("error")
        found = error.get("message") or error.get("code") if isinstance(error, dict) else error
        found = found or body.get("detail") or body.get("message")
        if isinstance(error, dict) and isinstance(error.get("code"), str) and error["code"] not in str(found):
            found = f"{found} ({error['code']})"
    text = found if isinstance(found, str) else json.dumps(found) if found else raw.decode("utf-8", "replace")
    return " ".join(text.split())[:MESSAGE_CHARS_MAX] or "(no message)"


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """The pause the server asks for, in seconds: a number or a date."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
