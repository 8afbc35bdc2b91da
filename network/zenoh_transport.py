"""The network over Zenoh. Callbacks run directly on its threads; nothing here ever waits for a slow reader.

Direct callbacks (`indirect=False`) are marked unstable upstream, hence the pinned minor version. The others would start
a thread each that keeps a process from ending, and would queue 256 bodies before anything is dropped.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import zenoh
from zenoh.handlers import Callback, FifoChannel

from network.errors import TransportError
from network.gate import Gate
from network.transport import Kind, Query, Sample
from network.zenoh_config import must_connect, node_config, to_zenoh
from network.zenoh_settings import ENCRYPTED, ZenohSettings, address_of, protocol_of

log = logging.getLogger(__name__)

OPEN_S = 10.0
ATTEMPT_MS = 1000  # one try; between two a signal is heard
PROBE_S = 0.5  # to find out why nobody answered
QUERY_MIN_S = 0.001
ANSWERS_MAX = 256

DROP = zenoh.CongestionControl.DROP  # blocking would stall the policy for 5 s on one dead robot, then cut its link
QUALITIES: dict[Kind, dict[str, Any]] = {
    "observation": {
        "reliability": zenoh.Reliability.BEST_EFFORT, "congestion_control": DROP, "express": True,
        "priority": zenoh.Priority.DATA,
    },
    "action": {
        "reliability": zenoh.Reliability.RELIABLE, "congestion_control": DROP, "express": True,
        "priority": zenoh.Priority.INTERACTIVE_HIGH,
    },
}  # fmt: skip
# its own queue, so that a question does not stand behind observations; the answer comes back the same way
QUESTION = {"congestion_control": DROP, "express": True, "priority": zenoh.Priority.INTERACTIVE_LOW}


def open_transport(settings: ZenohSettings, timeout_s: float = OPEN_S) -> ZenohTransport:
    """A session with the network; waits for the other side and tries again until `timeout_s` is over.

    A peer that listens comes up alone and goes on trying in the background. Raises TransportError.
    """
    end_s = time.monotonic() + timeout_s
    attempt = 0
    while True:
        left_ms = max(1, int((end_s - time.monotonic()) * 1e3))
        config = to_zenoh(node_config(_turned(settings, attempt), min(ATTEMPT_MS, left_ms)))
        try:
            return ZenohTransport(zenoh.open(config), settings)
        except zenoh.ZError as err:
            if not must_connect(settings):
                raise _cannot_listen(settings, err) from err
            if time.monotonic() >= end_s:
                raise _nobody_answers(settings, timeout_s) from err
        attempt += 1


def _turned(settings: ZenohSettings, attempt: int) -> ZenohSettings:
    """Another endpoint first at each attempt: Zenoh would try the first one alone until the attempt's time is up."""
    endpoints = settings.connect_endpoints
    if settings.mode != "client" or len(endpoints) < 2:
        return settings
    first = attempt % len(endpoints)
    return settings.model_copy(update={"connect_endpoints": endpoints[first:] + endpoints[:first]})


class ZenohTransport:
    """One Zenoh session. See Transport."""

    def __init__(self, session: zenoh.Session, settings: ZenohSettings) -> None:
        self._session, self._settings = session, settings
        self._gate = Gate(settings.rx_message_bytes_max)
        self._closing = threading.Lock()
        self._closed = False
        self._declared: set[_Declared] = set()  # Zenoh undeclares a token that nobody holds

    def publisher(self, key: str, kind: Kind) -> ZenohPublisher:
        """See Transport."""
        with _as_transport_error(f"a publisher on {key}"):
            return ZenohPublisher(key, self._session.declare_publisher(key, **QUALITIES[kind]))

    def subscribe(self, key_expr: str, on_sample: Callable[[Sample], None]) -> _Declared:
        """See Transport."""

        def take(sample: zenoh.Sample) -> None:
            self._take(sample, on_sample)

        with _as_transport_error(f"a subscriber on {key_expr}"):
            handler = Callback(take, indirect=False)
            return self._keep(self._session.declare_subscriber(key_expr, handler, allowed_origin=zenoh.Locality.REMOTE))

    def queryable(self, key_expr: str, on_query: Callable[[Query], None]) -> _Declared:
        """See Transport."""

        def take(question: zenoh.Query) -> None:
            self._take_question(question, key_expr, on_query)

        with _as_transport_error(f"a queryable on {key_expr}"):
            handler = Callback(take, indirect=False)
            return self._keep(self._session.declare_queryable(key_expr, handler, allowed_origin=zenoh.Locality.REMOTE))

    def query(self, key: str, body: bytes, timeout_s: float) -> list[bytes]:
        """See Transport. Raises TransportError when closed."""
        self._gate.refuse_inside("questions")
        with _as_transport_error(f"an answer on {key}"):
            replies = self._session.get(
                key, FifoChannel(ANSWERS_MAX), payload=body, timeout=max(QUERY_MIN_S, timeout_s),
                target=zenoh.QueryTarget.ALL, consolidation=zenoh.ConsolidationMode.NONE, **QUESTION,
            )  # fmt: skip
            return self._answers(key, replies)

    def _answers(self, key: str, replies: Iterable[zenoh.Reply]) -> list[bytes]:
        answers: list[bytes] = []
        for reply in replies:  # blocks until everybody is done or time is up
            sample = reply.ok
            if sample is None or not self._gate.admits(str(sample.key_expr), len(sample.payload)):
                continue  # an error: time is up
            if len(answers) == ANSWERS_MAX:
                self._gate.drop("too_many_answers", key)
                break
            answers.append(sample.payload.to_bytes())
        return answers

    def token(self, key: str) -> _Declared:
        """See Transport."""
        with _as_transport_error(f"a liveliness token on {key}"):
            return self._keep(self._session.liveliness().declare_token(key))

    def watch(self, key_expr: str, on_change: Callable[[str, bool], None]) -> _Declared:
        """See Transport."""

        def take(sample: zenoh.Sample) -> None:
            key = str(sample.key_expr)
            if self._gate.admits(key, 0):
                self._gate.call(on_change, key, sample.kind == zenoh.SampleKind.PUT)

        with _as_transport_error(f"the liveliness of {key_expr}"):
            handler = Callback(take, indirect=False)
            return self._keep(self._session.liveliness().declare_subscriber(key_expr, handler, history=True))

    def alive(self, key_expr: str, timeout_s: float) -> list[str]:
        """See Transport. Raises TransportError when closed."""
        self._gate.refuse_inside("questions")
        with _as_transport_error(f"the liveliness of {key_expr}"):
            replies = self._session.liveliness().get(
                key_expr, FifoChannel(ANSWERS_MAX), timeout=max(QUERY_MIN_S, timeout_s)
            )
            keys = {str(r.ok.key_expr) for r in replies if r.ok is not None}
        return sorted(key for key in keys if self._gate.admits(key, 0))

    def connected(self) -> bool:
        """See Transport."""
        if self._closed:
            return False
        if self._settings.listen_endpoints:
            return True
        info = self._session.info
        return bool(info.routers_zid() or info.peers_zid())  # a client may also go straight to a peer that listens

    def drops(self) -> dict[str, int]:
        """How many messages were dropped before a callback saw them, by reason."""
        return self._gate.drops()

    def close(self) -> None:
        """See Transport. From inside a callback it returns at once; Zenoh would wait for that very callback."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self._gate.inside:
            threading.Thread(target=self._close, name="zenoh-close", daemon=True).start()
        else:
            self._close()

    def _close(self) -> None:
        try:
            self._session.close()
        except zenoh.ZError as err:  # a callback still runs; nothing more is delivered
            log.warning("the Zenoh session did not close in time: %s", err)
        self._declared.clear()

    def _keep(self, entity: Any) -> _Declared:
        declared = _Declared(entity, self._declared)
        self._declared.add(declared)
        return declared

    # --- on Zenoh's threads ----------------------------------------------------------------------------------------

    def _take(self, sample: zenoh.Sample, on_sample: Callable[[Sample], None]) -> None:
        key, payload, attachment = str(sample.key_expr), sample.payload, sample.attachment
        if sample.kind != zenoh.SampleKind.PUT:
            return self._gate.drop("delete", key)
        if self._gate.admits(key, len(payload), len(attachment or b"")):
            header = attachment.to_bytes() if attachment is not None else b""
            self._gate.call(on_sample, Sample(key, header, len(payload), payload.to_bytes))
        return None

    def _take_question(self, question: zenoh.Query, key_expr: str, on_query: Callable[[Query], None]) -> None:
        # a question to a key expression is answered where one key is meant: by those that are declared on one key
        key = str(question.key_expr) if "*" in key_expr else key_expr
        payload = question.payload
        size = len(payload) if payload is not None else 0
        answer = _Answer(question, key, self._gate)
        body = payload.to_bytes if payload is not None else bytes
        admitted = self._gate.admits(key, size)
        if not (admitted and self._gate.call(on_query, Query(key, size, body, answer.reply, answer.done))):
            answer.done()


class ZenohPublisher:
    """See Publisher. The lock keeps a put and the end apart."""

    def __init__(self, key: str, publisher: zenoh.Publisher) -> None:
        self._key, self._publisher = key, publisher
        self._lock = threading.Lock()
        self._ended = False

    def put(self, body: bytes, attachment: bytes) -> None:
        """See Publisher."""
        with self._lock:
            if self._ended:
                raise TransportError("want a declared publisher", f"{self._key} is undeclared", "declare it again")
            try:
                self._publisher.put(body, attachment=attachment)
            except zenoh.ZError as err:
                raise TransportError(f"want a put on {self._key}", str(err), "open another transport") from err

    def undeclare(self) -> None:
        """See Publisher."""
        with self._lock:
            if not self._ended:
                self._ended = True
                _undeclare(self._publisher)


class _Declared:
    """See Declaration."""

    def __init__(self, entity: Any, among: set[_Declared]) -> None:
        self._entity, self._among = entity, among
        self._lock = threading.Lock()

    def undeclare(self) -> None:
        """See Declaration."""
        with self._lock:
            entity, self._entity = self._entity, None
        if entity is not None:
            self._among.discard(self)
            _undeclare(entity)


class _Answer:
    """The way back of one question. A question that is held on to keeps the asker waiting, so it is let go once."""

    def __init__(self, question: zenoh.Query, key: str, gate: Gate) -> None:
        self._question: zenoh.Query | None = question
        self._key, self._gate = key, gate
        self._lock = threading.Lock()

    def reply(self, body: bytes) -> None:
        with self._lock:
            try:
                if self._question is None:
                    return self._gate.drop("late_answer", self._key)
                self._question.reply(self._key, body)
            except zenoh.ZError as err:
                self._gate.drop("lost_answer", f"{self._key} ({err})")
        return None

    def done(self) -> None:
        with self._lock:
            question, self._question = self._question, None
            if question is not None:
                question.drop()


def _undeclare(entity: Any) -> None:
    try:
        entity.undeclare()
    except zenoh.ZError as err:  # the session is closed, so it is gone already
        log.debug("not undeclared: %s", err)


@contextmanager
def _as_transport_error(wanted: str) -> Iterator[None]:
    try:
        yield
    except zenoh.ZError as err:
        remedy = "open another transport" if "closed" in str(err) else "check the key and the connection"
        raise TransportError(f"want {wanted}", str(err), remedy) from err


# --- why a session could not be opened ------------------------------------------------------------------------------


def _cannot_listen(settings: ZenohSettings, err: zenoh.ZError) -> TransportError:
    where = ", ".join(settings.listen_endpoints) or ", ".join(settings.connect_endpoints)
    return TransportError(
        f"want a session on {where}", str(err), "check that the port is free and that key and certificate fit together"
    )


def _nobody_answers(settings: ZenohSettings, timeout_s: float) -> TransportError:
    other = "a Zenoh router" if settings.mode == "client" else "a peer"
    where = ", ".join(settings.connect_endpoints)
    found = [why_silent(endpoint) for endpoint in settings.connect_endpoints]
    got, remedies = "; ".join(got for got, _ in found), dict.fromkeys(remedy for _, remedy in found)
    return TransportError(f"want {other} at {where} within {timeout_s:g} s", got, "; ".join(remedies))


def why_silent(endpoint: str) -> tuple[str, str]:
    """What can be seen from here when no session opens, and what to check. Zenoh itself never says why."""
    host, _, port = address_of(endpoint).rpartition(":")
    if protocol_of(endpoint) not in ("tcp", "tls") or not port.isdigit():
        return f"no answer from {endpoint}", "check the address and that the router runs"
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
    except socket.gaierror as err:
        return f"{endpoint}: the name {host} is unknown ({err.strerror})", "check the host name"
    except OSError as err:
        return f"{endpoint}: {err.strerror or err}", "start the router, check host and port, and firewalls between"
    if protocol_of(endpoint) in ENCRYPTED:
        remedy = (
            "check that both certificates are signed by the authority the other side trusts, are not expired, that "
            "the router's names this host, that enable_mtls is the same on both sides, and that the router is not full"
        )
        return f"{endpoint}: the port is open, but the other side refuses us without a word", remedy
    remedy = (
        "check that it is a Zenoh router, that it does not want TLS (tls/ instead of tcp/), and that it is not full"
    )
    return f"{endpoint}: the port is open, but no Zenoh session came about", remedy
