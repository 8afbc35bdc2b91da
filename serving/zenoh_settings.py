"""How a node reaches the network: the `zenoh:` part of the manifest, checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.wire.limits import DEFAULT_LIMITS

TCP_LIKE = ("tcp", "tls", "quic", "udp", "ws")  # protocols whose address is host:port
PROTOCOLS = (*TCP_LIKE, "unixsock-stream")
ENCRYPTED = ("tls", "quic")
CONNECT_TRIPLE = ("tls_root_ca_certificate", "tls_connect_certificate", "tls_connect_private_key")
LISTEN_PAIR = ("tls_listen_certificate", "tls_listen_private_key")
RX_MESSAGE_BYTES_MIN = 64 << 10

_ENDPOINT = re.compile(r"(?P<protocol>[a-z-]+)/(?P<address>[^?#]+)(?:[?#].*)?")
_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[^\s:/]+):(?P<port>\d{1,5})")


class RetrySettings(BaseModel):
    """How fast a lost or absent other side is tried again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    period_init_ms: int = Field(200, ge=10, le=60_000, description="wait after the first failure, ms")
    period_max_ms: int = Field(1000, ge=10, le=60_000, description="longest wait between two tries, ms")
    period_increase_factor: float = Field(2.0, ge=1.0, le=10.0, description="how much longer each wait is")


class TlsSettings(BaseModel):
    """PEM files of a node. What a node connects with and what it listens with are pairs of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tls_root_ca_certificate: str | None = Field(None, description="PEM of the CA that signed the other side")
    tls_connect_certificate: str | None = Field(None, description="PEM shown when connecting (mTLS)")
    tls_connect_private_key: str | None = Field(None, description="PEM key of tls_connect_certificate")
    tls_listen_certificate: str | None = Field(None, description="PEM shown to whoever connects here")
    tls_listen_private_key: str | None = Field(None, description="PEM key of tls_listen_certificate")
    enable_mtls: bool = Field(True, description="both sides show certificates; false: only the listening side")

    def tls_files(self) -> dict[str, str]:
        """The files that are set, by field name."""
        return {name: value for name, value in self if name.startswith("tls_") and value}

    def check_tls(self, connect: list[str], listen: list[str]) -> None:
        """Refuse files without their other half, and TLS endpoints without files. Raises ValueError."""
        have = self.tls_files().keys()
        shown = have & set(CONNECT_TRIPLE)
        # the CA alone is enough where this node shows no certificate of its own when it connects
        ca_alone = shown == {CONNECT_TRIPLE[0]} and (not self.enable_mtls or bool(have & set(LISTEN_PAIR)))
        if shown and shown != set(CONNECT_TRIPLE) and not ca_alone:
            hint = "give all three or none (enable_mtls: false needs tls_root_ca_certificate alone)"
            raise ValueError(f"want {', '.join(CONNECT_TRIPLE)} together, got only {', '.join(sorted(shown))}: {hint}")
        if len(have & set(LISTEN_PAIR)) == 1:
            raise ValueError(f"want {' and '.join(LISTEN_PAIR)} together, got only {(have & set(LISTEN_PAIR)).pop()}")
        if to := _encrypted(connect):
            _want(to, CONNECT_TRIPLE if self.enable_mtls else CONNECT_TRIPLE[:1], have)
        if at := _encrypted(listen):
            _want(at, (*LISTEN_PAIR, CONNECT_TRIPLE[0]) if self.enable_mtls else LISTEN_PAIR, have)


class ZenohSettings(TlsSettings):
    """The network of a server or a robot. Multicast is always off: nodes find each other by endpoints alone."""

    mode: Literal["client", "peer"] = Field("client", description="client: through a router; peer: directly")
    connect_endpoints: list[str] = Field([], description="where to connect, such as tcp/router:7447 or tls/router:7447")
    listen_endpoints: list[str] = Field([], description="where a peer listens, such as tcp/0.0.0.0:7447")
    lease_ms: int = Field(
        2000, ge=200, le=600_000, description="silence after which others take this node for dead, ms"
    )
    retry: RetrySettings = Field(default_factory=RetrySettings)
    rx_message_bytes_max: int = Field(
        DEFAULT_LIMITS.body_bytes_max, ge=RX_MESSAGE_BYTES_MIN, le=1 << 30, description="largest body taken, bytes"
    )
    shared_memory: bool = Field(
        False, description="pass large bodies through shared memory between processes of one host"
    )
    extra_config_json5: str | None = Field(None, description="more of Zenoh's own configuration, merged leaf by leaf")

    @model_validator(mode="before")
    @classmethod
    def _know_the_mode(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("mode", "client") not in ("client", "peer"):
            raise ValueError(f"want zenoh.mode client (through a router) or peer (directly), got {values['mode']!r}")
        return values

    @model_validator(mode="after")
    def _check(self) -> ZenohSettings:
        if self.mode == "client" and not self.connect_endpoints:
            raise ValueError(
                "want zenoh.connect_endpoints in client mode, got none: name the router, such as tcp/localhost:7447"
            )
        if self.mode == "client" and self.listen_endpoints:
            raise ValueError("want zenoh.mode peer to listen, got client with zenoh.listen_endpoints: choose one")
        for endpoint in self.connect_endpoints:
            check_endpoint(endpoint, listens=False)
        for endpoint in self.listen_endpoints:
            check_endpoint(endpoint, listens=True)
        self.check_tls(self.connect_endpoints, self.listen_endpoints)
        if self.extra_config_json5:
            parse_extra(self.extra_config_json5)
        return self


def protocol_of(endpoint: str) -> str:
    """`tcp` of `tcp/host:7447`."""
    return endpoint.split("/", 1)[0]


def address_of(endpoint: str) -> str:
    """`host:7447` of `tcp/host:7447#so_sndbuf=131072`."""
    return re.split(r"[?#]", endpoint.split("/", 1)[-1], maxsplit=1)[0]


def check_endpoint(endpoint: str, *, listens: bool) -> None:
    """Refuse what Zenoh would not understand, or would try for ever. Raises ValueError."""
    form = "want an endpoint such as tcp/localhost:7447 or tls/host:7447"
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None:
        raise ValueError(f"{form}, got {endpoint!r}")
    if found["protocol"] not in PROTOCOLS:
        raise ValueError(f"{form}, got {endpoint!r}: {found['protocol']!r} is none of {', '.join(PROTOCOLS)}")
    if found["protocol"] not in TCP_LIKE:
        return
    address = _HOST_PORT.fullmatch(found["address"])
    if address is None:
        raise ValueError(f"{form}, got {endpoint!r}: want host:port after {found['protocol']}/")
    if not (0 if listens else 1) <= int(address["port"]) <= 65535:
        raise ValueError(f"want a port from 1 to 65535, got {endpoint!r}")


def parse_extra(text: str) -> dict[str, Any]:
    """The extra configuration as a mapping. Raises ValueError."""
    import pyjson5  # only those who use it need it

    try:
        extra = pyjson5.decode(text, maxdepth=32)
    except (pyjson5.Json5Exception, UnicodeError) as err:
        raise ValueError(f"want zenoh.extra_config_json5 in JSON5, got: {err}") from err
    if not isinstance(extra, dict):
        raise ValueError(f"want a mapping in zenoh.extra_config_json5, got {type(extra).__name__}")
    return extra


def _want(endpoint: str, names: Collection[str], have: Collection[str]) -> None:
    if missing := [name for name in names if name not in have]:
        raise ValueError(f"want {', '.join(names)} for {endpoint}, got no {', '.join(missing)}: give PEM files")


def _encrypted(endpoints: list[str]) -> str:
    return next((e for e in endpoints if protocol_of(e) in ENCRYPTED), "")
