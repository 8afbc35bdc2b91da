"""How a node reaches the network: the `zenoh:` part of the manifest, checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configuration.refusal import refusal
from serving.wire.limits import DEFAULT_LIMITS

HOST_AND_PORT = ("tcp", "tls", "quic", "udp", "ws")  # protocols whose address is host:port
PROTOCOLS = (*HOST_AND_PORT, "unixsock-stream")
ENCRYPTED = ("tls", "quic")
PORT_MAX = 65535
CONNECT_TRIPLE = ("tls_root_ca_certificate", "tls_connect_certificate", "tls_connect_private_key")
LISTEN_PAIR = ("tls_listen_certificate", "tls_listen_private_key")
RX_MESSAGE_BYTES_MIN = 64 << 10  # smaller ones arrive whole anyway
EXTRA_DEPTH_MAX = 32

_HOST_PORT = re.compile(r"(?:\[[0-9A-Za-z:.%]+\]|[^\s:/]+):(?P<port>\d{1,5})")


class RetrySettings(BaseModel):
    """How fast a lost or absent other side is tried again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    period_init_ms: int = Field(200, ge=10, le=60_000, description="wait after the first failure, ms")
    period_max_ms: int = Field(1000, ge=10, le=60_000, description="longest wait between two tries, ms")
    period_increase_factor: float = Field(2.0, ge=1.0, le=10.0, description="how much longer each wait is")


class TlsSettings(BaseModel):
    """PEM files of a node. What it shows when it connects and what it shows when it listens are pairs of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tls_root_ca_certificate: str | None = Field(None, description="PEM of the authority that signed the other side")
    tls_connect_certificate: str | None = Field(None, description="PEM certificate shown when connecting")
    tls_connect_private_key: str | None = Field(None, description="PEM key of tls_connect_certificate")
    tls_listen_certificate: str | None = Field(None, description="PEM certificate shown to whoever connects here")
    tls_listen_private_key: str | None = Field(None, description="PEM key of tls_listen_certificate")
    enable_mtls: bool = Field(True, description="both sides show certificates; false: only the side that listens")

    def tls_files(self) -> dict[str, str]:
        """The files that are set, by field name."""
        return {name: value for name, value in self if name.startswith("tls_") and value}

    def check_tls(self, connect: list[str], listen: list[str]) -> None:
        """Refuse files without their other half, and TLS endpoints without files."""
        have = self.tls_files().keys()
        shown = have & set(CONNECT_TRIPLE)
        # the authority alone is enough where this node shows nothing of its own when it connects
        ca_alone = shown == {CONNECT_TRIPLE[0]} and (not self.enable_mtls or bool(have & set(LISTEN_PAIR)))
        if shown and not ca_alone:
            _want_all(CONNECT_TRIPLE, have, "give all three or none; with enable_mtls: false the first alone will do")
        if have & set(LISTEN_PAIR):
            _want_all(LISTEN_PAIR, have, "give both or none")
        if to := _encrypted(connect):
            _want_all(CONNECT_TRIPLE if self.enable_mtls else CONNECT_TRIPLE[:1], have, f"{to} needs them, or use tcp/")
        if at := _encrypted(listen):
            wanted = (*LISTEN_PAIR, CONNECT_TRIPLE[0]) if self.enable_mtls else LISTEN_PAIR
            _want_all(wanted, have, f"{at} needs them, or use tcp/")


class ZenohSettings(TlsSettings):
    """The network of a server. Nobody is searched for by multicast: nodes find each other by endpoints alone."""

    mode: Literal["client", "peer"] = Field("client", description="client: through a router; peer: directly")
    connect_endpoints: list[str] = Field(
        default_factory=list, description="where to connect, such as tcp/router:7447; required in client mode"
    )
    listen_endpoints: list[str] = Field(
        default_factory=list, description="where to listen in peer mode, such as tcp/0.0.0.0:7447"
    )
    lease_ms: int = Field(2000, ge=200, le=600_000, description="silence after which others take us for dead, ms")
    retry: RetrySettings = Field(default_factory=RetrySettings, description="how soon a lost connection is tried again")
    rx_message_bytes_max: int = Field(
        DEFAULT_LIMITS.body_bytes_max, ge=RX_MESSAGE_BYTES_MIN, le=1 << 30,
        description="largest body taken, bytes; larger ones are dropped before they are whole",
    )  # fmt: skip
    shared_memory: bool = Field(False, description="pass large bodies through memory to processes of the same host")
    extra_config_json5: str | None = Field(None, description="more of Zenoh's own configuration, merged leaf by leaf")

    @model_validator(mode="after")
    def _check(self) -> ZenohSettings:
        if self.mode == "client" and not self.connect_endpoints:
            remedy = "set zenoh.connect_endpoints: [tcp/ROUTER:7447], or zenoh.mode: peer with listen_endpoints"
            raise refusal("connect_endpoints", "want a router to connect to in client mode", "no endpoint", remedy)
        if self.mode == "client" and self.listen_endpoints:
            raise refusal("mode", "want mode peer to listen", "client with listen_endpoints", "choose one")
        if not (self.connect_endpoints or self.listen_endpoints):
            remedy = "set zenoh.listen_endpoints: [tcp/0.0.0.0:7447]"
            raise refusal("listen_endpoints", "want an endpoint in peer mode: nobody is searched for", "none", remedy)
        check_endpoints(self.connect_endpoints, "connect_endpoints", port_min=1)
        check_endpoints(self.listen_endpoints, "listen_endpoints", port_min=0)
        self.check_tls(self.connect_endpoints, self.listen_endpoints)
        if self.extra_config_json5:
            parse_extra(self.extra_config_json5)
        return self


def protocol_of(endpoint: str) -> str:
    """`tcp` of `tcp/host:7447`."""
    return endpoint.partition("/")[0]


def address_of(endpoint: str) -> str:
    """`host:7447` of `tcp/host:7447#so_sndbuf=131072`."""
    return re.split(r"[?#]", endpoint.partition("/")[2], maxsplit=1)[0]


def check_endpoints(endpoints: list[str], field: str, port_min: int) -> None:
    """Refuse what Zenoh would not understand, or would try in vain for ever."""
    for i, endpoint in enumerate(endpoints):
        protocol, address = protocol_of(endpoint), address_of(endpoint)
        remedy = "write it like tcp/192.168.0.10:7447"
        if protocol not in PROTOCOLS or not address:
            wanted = f"want PROTOCOL/ADDRESS with one of {', '.join(PROTOCOLS)}"
            raise refusal(f"{field}.{i}", wanted, repr(endpoint), remedy)
        found = _HOST_PORT.fullmatch(address)
        if protocol in HOST_AND_PORT and (found is None or not port_min <= int(found["port"]) <= PORT_MAX):
            wanted = f"want {protocol}/HOST:PORT with a port from {port_min} to {PORT_MAX}"
            raise refusal(f"{field}.{i}", wanted, repr(endpoint), remedy)


def parse_extra(text: str) -> dict[str, Any]:
    """The extra configuration as a mapping."""
    import pyjson5  # only those who use it need it

    field, wanted = "extra_config_json5", "want a JSON5 mapping"
    try:
        extra = pyjson5.decode(text, maxdepth=EXTRA_DEPTH_MAX)
    except (pyjson5.Json5Exception, UnicodeError) as err:
        raise refusal(field, wanted, str(err), "write it like {transport: {link: {tx: {threads: 2}}}}") from err
    if not isinstance(extra, dict):
        raise refusal(field, wanted, type(extra).__name__, "put it between { and }")
    return extra


def _want_all(names: tuple[str, ...], have: Collection[str], remedy: str) -> None:
    missing = [name for name in names if name not in have]
    if missing:
        given = ", ".join(name for name in names if name in have)
        raise refusal(missing[0], f"want {', '.join(names)} together", f"only {given}" if given else "none", remedy)


def _encrypted(endpoints: list[str]) -> str:
    return next((e for e in endpoints if protocol_of(e) in ENCRYPTED), "")
