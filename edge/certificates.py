"""Certificates tried before Zenoh is: it never says why it was refused, TLS itself does."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from configuration.findings import Finding
from edge.settings import InferenceSettings
from network.zenoh_settings import ENCRYPTED, address_of, protocol_of

HANDSHAKE_TURNS_MAX = 10
REACH_S = 1.0  # that an endpoint may take to answer
REFUSAL_S = 0.3  # in which the other side says that it does not take our certificate
DAY_S = 86_400
SOON_DAYS = 30  # before a certificate ends: time to make another one


def check_files(settings: InferenceSettings) -> Iterator[Finding]:
    """Files readable, key and certificate a pair, signed by the authority, valid now and for how long."""
    ca, certificate, key = settings.tls_ca, settings.tls_cert, settings.tls_key
    if not (ca and certificate and key):
        return
    for name, path in (("tls_ca", ca), ("tls_cert", certificate), ("tls_key", key)):
        try:
            Path(path).read_bytes()
        except OSError as err:
            yield Finding(f"inference.{name}", "error", f"{path}: {err.strerror or err}", "correct the path")
            return
    try:
        shown = _shown_to_a_server(ca, certificate, key)
    except (OSError, ssl.SSLError) as err:
        yield Finding("inference.tls_cert", "error", f"{certificate}: {_why(err)}", _remedy(err))
        return
    yield _lifetime("inference.tls_cert", shown)
    for authority in _context(ca).get_ca_certs():
        found = _lifetime("inference.tls_ca", authority)
        if found.outcome != "ok":
            yield found


def check_endpoint(endpoint: str, settings: InferenceSettings) -> Finding:
    """Whether somebody answers at an endpoint, and takes our certificate where it is encrypted."""
    what = f"endpoint {endpoint}"
    protocol, address = protocol_of(endpoint), address_of(endpoint)
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if protocol not in ("tcp", "tls", "ws"):
        return Finding(what, "unchecked", "only known when a session is opened")
    try:
        connection = socket.create_connection((host, int(port)), REACH_S)
    except socket.gaierror as err:
        return Finding(what, "error", f"the name {host} is unknown: {err.strerror}", "correct the host name")
    except OSError as err:
        remedy = "start the server (serving up) or the router (serving router), or correct host and port"
        return Finding(what, "error", f"nobody answers: {err.strerror or err}", remedy)
    with connection:
        if protocol not in ENCRYPTED:
            return Finding(what, "ok", "somebody answers")
        return _encrypted(what, connection, host, settings)


def _encrypted(what: str, connection: socket.socket, host: str, settings: InferenceSettings) -> Finding:
    context = _context(settings.tls_ca)
    if settings.tls_cert:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    try:
        with context.wrap_socket(connection, server_hostname=host) as encrypted:
            lifetime = _lifetime(what, encrypted.getpeercert() or {})
            encrypted.settimeout(REFUSAL_S)  # with TLS 1.3 a refusal comes after the handshake
            with contextlib.suppress(TimeoutError):
                encrypted.recv(1)
    except (OSError, ssl.SSLError) as err:
        return Finding(what, "error", f"TLS: {_why(err)}", _remedy(err))
    return lifetime


def _shown_to_a_server(ca: str, certificate: str, key: str) -> dict[str, object]:
    """Our certificate as a server sees it, in memory: it wants one that the authority signed. OSError, SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)  # any certificate would do here; refuses a key of another one
    server.load_verify_locations(ca)
    server.verify_mode = ssl.CERT_REQUIRED
    robot = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    robot.check_hostname, robot.verify_mode = False, ssl.CERT_NONE
    robot.load_cert_chain(certificate, key)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    at_server = server.wrap_bio(there, back, server_side=True)
    at_robot = robot.wrap_bio(back, there)
    waiting = [at_robot, at_server]
    for _ in range(HANDSHAKE_TURNS_MAX):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            return dict(at_server.getpeercert() or {})
    raise ssl.SSLError("the handshake does not end")


def _context(ca: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def _lifetime(what: str, certificate: dict[str, object]) -> Finding:
    ends = str(certificate.get("notAfter", ""))
    if not ends:
        return Finding(what, "ok", "valid now")
    left_days = (ssl.cert_time_to_seconds(ends) - time.time()) / DAY_S
    said = f"valid until {ends}, {left_days:.0f} days"
    if left_days < 0:
        return Finding(what, "error", f"expired on {ends}", "make a new one")
    if left_days < SOON_DAYS:
        return Finding(what, "warning", said, "make a new one before it ends")
    return Finding(what, "ok", said)


def _why(err: OSError) -> str:
    return getattr(err, "verify_message", "") or getattr(err, "reason", "") or err.strerror or str(err)


def _remedy(err: OSError) -> str:
    """What to do about a refusal, by its words."""
    why = f"{_why(err)} {err}".lower()
    if "expired" in why and "alert" not in why:
        return "make a new certificate"
    if "hostname" in why or "ip address" in why:
        return "use the name that the certificate has, or make one that names this host"
    if "mismatch" in why:
        return "give the key of this certificate"
    if "alert" in why:
        return "the other side refuses our certificate: have it signed by the authority that it trusts"
    if "no_start_line" in why or "pem" in why or "no certificate" in why:
        return "give PEM files"
    if "wrong_version" in why or "record layer" in why:
        return "the other side does not speak TLS: use tcp/, or another port"
    return "check that the certificate is signed by tls_ca and valid now"
