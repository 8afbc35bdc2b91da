"""`serving check`: everything about a manifest that can be tried without a GPU and without serving."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from configuration.findings import Finding
from network.errors import TransportError
from network.zenoh_settings import ENCRYPTED, ZenohSettings, address_of, protocol_of
from serving.check_model import check_model
from serving.manifest import Manifest

REACH_S = 1.0  # that an endpoint may take to answer
HANDSHAKE_TURNS_MAX = 10
STREAMS = ("tcp", "tls", "ws")  # what a plain connection can knock at


def check(manifest: Manifest) -> list[Finding]:
    """All findings about a manifest whose fields fit together already."""
    return [
        *check_model(manifest),
        *_ports(manifest),
        *_endpoints(manifest.zenoh),
        *_certificates(manifest.zenoh),
        *_files(manifest),
    ]


# --- network -------------------------------------------------------------------------------------


def ports_free(manifest: Manifest) -> None:
    """Raises TransportError when a port that the service listens on is taken."""
    for finding in _ports(manifest):
        if finding.outcome == "error":
            raise TransportError(f"want {finding.what} to be free", finding.said, finding.remedy)


def _ports(manifest: Manifest) -> Iterator[Finding]:
    if manifest.health_port:
        yield _bindable("health_port", manifest.health_host, manifest.health_port)
    for endpoint in manifest.zenoh.listen_endpoints:
        host, _, port = address_of(endpoint).rpartition(":")
        if protocol_of(endpoint) in STREAMS:
            yield _bindable(f"zenoh.listen_endpoints {endpoint}", host.strip("[]"), int(port))
        else:
            yield Finding(f"zenoh.listen_endpoints {endpoint}", "unchecked", "only known when it starts")


def _bindable(what: str, host: str, port: int) -> Finding:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as err:
        return Finding(what, "error", f"{host}:{port}: {err.strerror or err}", "stop what listens there, or change it")
    return Finding(what, "ok", f"{host}:{port} is free")


def _endpoints(zenoh: ZenohSettings) -> Iterator[Finding]:
    for endpoint in zenoh.connect_endpoints:
        what = f"zenoh.connect_endpoints {endpoint}"
        if protocol_of(endpoint) not in STREAMS:
            yield Finding(what, "unchecked", "only known when it starts")
            continue
        host, _, port = address_of(endpoint).rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
        except OSError as err:
            remedy = "start the router (serving router), or correct the address; serving up goes on trying"
            yield Finding(what, "warning", f"nobody answers: {err.strerror or err}", remedy)
        else:
            yield Finding(what, "ok", "somebody answers")


def _certificates(zenoh: ZenohSettings) -> Iterator[Finding]:
    """Files readable, key and certificate a pair, signed by the authority and valid now."""
    ca = zenoh.tls_root_ca_certificate
    for side in ("connect", "listen"):
        certificate, key = getattr(zenoh, f"tls_{side}_certificate"), getattr(zenoh, f"tls_{side}_private_key")
        if not (certificate and key):
            continue
        what = f"zenoh.tls_{side}_certificate"
        try:
            _handshake(Path(certificate), Path(key), Path(ca) if ca else None)
        except (OSError, ssl.SSLError) as err:
            got = f"{certificate} with {key}: {getattr(err, 'verify_message', '') or err.strerror or err}"
            yield Finding(what, "error", got, "check the files: one pair, signed by the authority, not expired")
        else:
            signed = "signed by the authority, valid now" if ca else "a pair"
            yield Finding(what, "ok", f"certificate and key are {signed}")
    if ca and not (zenoh.tls_connect_certificate or zenoh.tls_listen_certificate):
        try:
            ssl.create_default_context(cafile=ca)
            yield Finding("zenoh.tls_root_ca_certificate", "ok", "readable")
        except (OSError, ssl.SSLError) as err:
            yield Finding("zenoh.tls_root_ca_certificate", "error", f"{ca}: {err.strerror or err}", "check the file")
    if zenoh.enable_mtls is False and any(protocol_of(e) in ENCRYPTED for e in zenoh.listen_endpoints):
        yield Finding(
            "zenoh.enable_mtls", "warning", "robots show no certificate: anybody may connect", "set it to true"
        )


def _handshake(certificate: Path, key: Path, ca: Path | None) -> None:
    """Let the certificate be shown and verified, in memory. Raises OSError or ssl.SSLError."""
    for path in (certificate, key, *((ca,) if ca else ())):
        path.read_bytes()  # the loader's own error does not say which file it could not read
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)  # refuses a key of another certificate
    if ca is None:
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # the name is the robots' to check
    client.load_verify_locations(ca)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _ in range(HANDSHAKE_TURNS_MAX):
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                continue
        if not sides:
            return
    raise ssl.SSLError("the handshake does not end")


# --- files ---------------------------------------------------------------------------------------


def _files(manifest: Manifest) -> Iterator[Finding]:
    for what, place in (("debug.capture_dir", manifest.debug.capture_dir), ("audit.path", manifest.audit.path)):
        if place is None:
            continue
        folder = Path(place) if what.endswith("dir") else Path(place).parent
        there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
        if there.is_dir() and os.access(there, os.W_OK):
            yield Finding(what, "ok", f"{place} can be written")
        else:
            yield Finding(what, "error", f"{there} cannot be written", "choose another place")
