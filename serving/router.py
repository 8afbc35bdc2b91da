"""A Zenoh router in a Python process: where robots and servers that cannot reach each other meet.

With mTLS and a list of robots it also keeps them apart: each may speak and listen on its own keys only.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
import zenoh
from pydantic import Field, ValidationError, model_validator

from configuration.refusal import refusal
from network.errors import TransportError
from network.gate import ATTACHMENT_BYTES_MAX
from network.zenoh_config import common_config, merged, protocols, retry_config, tls_config, to_zenoh
from network.zenoh_settings import (
    ENCRYPTED,
    RX_MESSAGE_BYTES_MIN,
    RetrySettings,
    TlsSettings,
    check_endpoints,
    parse_extra,
    protocol_of,
)
from serving.errors import ManifestError
from serving.router_acl import access_control
from serving.wire.errors import KeyNameError
from serving.wire.keys import ROOT, client_id
from serving.wire.limits import DEFAULT_LIMITS

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "tcp/127.0.0.1:7447"  # other hosts only when somebody says so
ACCEPT_TIMEOUT_MS = 3000
_ROOT = re.compile(r"@?[A-Za-z0-9_.-]+")


class RouterSettings(TlsSettings):
    """A router: where it listens, whom it lets in, and what they may do."""

    listen_endpoints: list[str] = Field(
        default_factory=lambda: [DEFAULT_ENDPOINT],
        min_length=1,
        description="where to listen, such as tls/0.0.0.0:7447",
    )
    connect_endpoints: list[str] = Field(default_factory=list, description="other routers")
    robots: list[str] = Field(
        default_factory=list, description="client ids, which are the common names of certificates; turns the ACL on"
    )
    servers: list[str] = Field(
        default_factory=lambda: ["server"], description="common names of the servers' certificates"
    )
    shared_session_key: bool = Field(
        False, description="let robots ask on the key that all share: for clients that know no other"
    )
    root: str = Field(ROOT, description="root of the key tree")
    sessions_max: int = Field(64, ge=1, le=10_000, description="connections at a time")
    accept_pending_max: int = Field(16, ge=1, le=1000, description="handshakes at a time")
    message_bytes_max: int = Field(
        DEFAULT_LIMITS.body_bytes_max, ge=RX_MESSAGE_BYTES_MIN, le=1 << 30, description="largest message passed, bytes"
    )
    lease_ms: int = Field(2000, ge=200, le=600_000, description="silence after which a node is taken for dead, ms")
    retry: RetrySettings = Field(default_factory=RetrySettings, description="how soon other routers are tried again")
    shared_memory: bool = Field(False, description="on where servers and robots share this host")
    extra_config_json5: str | None = Field(None, description="more of Zenoh's own configuration, merged leaf by leaf")

    @model_validator(mode="after")
    def _check(self) -> RouterSettings:
        check_endpoints(self.listen_endpoints, "listen_endpoints", port_min=0)
        check_endpoints(self.connect_endpoints, "connect_endpoints", port_min=1)
        self.check_tls(self.connect_endpoints, self.listen_endpoints)
        if not _ROOT.fullmatch(self.root):
            raise refusal(
                "root", "want a root such as @lerobot, one chunk without wildcards", repr(self.root), "fix it"
            )
        for i, robot in enumerate(self.robots):
            _check_robot(i, robot, self.servers)
        if len(set(self.robots)) < len(self.robots):
            twice = next(robot for robot in self.robots if self.robots.count(robot) > 1)
            raise refusal("robots", "want each robot once", f"{twice} twice", "take one out")
        open_doors = [e for e in self.listen_endpoints if protocol_of(e) not in ENCRYPTED]
        if self.robots and (open_doors or not self.enable_mtls):
            wanted = "want tls/ endpoints with enable_mtls to tell robots apart by their certificates"
            got = open_doors[0] if open_doors else "enable_mtls: false"
            raise refusal("robots", wanted, got, "listen on tls/ only, or leave robots out")
        if self.extra_config_json5:
            parse_extra(self.extra_config_json5)
        return self


def _check_robot(at: int, robot: str, servers: list[str]) -> None:
    try:
        clean = client_id(robot)
    except KeyNameError as err:
        raise refusal(f"robots.{at}", err.wanted, err.got or repr(robot), err.remedy or "choose another") from err
    if clean != robot:
        raise refusal(f"robots.{at}", "want letters, digits, _ . and - only", repr(robot), f"write {clean}")
    if robot in servers:
        raise refusal(f"robots.{at}", "want robots that are no servers", robot, "give it a certificate of its own")


def load_settings(path: str | Path) -> RouterSettings:
    """Settings from a YAML file. Raises ManifestError."""
    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
        if not isinstance(values, dict):
            raise ManifestError(f"want a mapping in {path}", type(values).__name__, "write `listen_endpoints: [...]`")
        return RouterSettings(**values)
    except OSError as err:
        raise ManifestError(f"want a readable router configuration at {path}", str(err.strerror), "check it") from err
    except yaml.YAMLError as err:
        raise ManifestError(f"want YAML in {path}", str(err), "check the line") from err
    except (ValidationError, TypeError) as err:
        raise ManifestError(f"want the settings of a router in {path}", str(err), "see docs/network.md") from err


def router_config(settings: RouterSettings) -> dict[str, Any]:
    """Zenoh's configuration of the router. Raises TransportError for files that cannot be read."""
    config = {
        "mode": "router",
        "listen": {"endpoints": settings.listen_endpoints, "exit_on_failure": True},
        "connect": {
            "endpoints": settings.connect_endpoints, "timeout_ms": -1, "exit_on_failure": False,
            "retry": retry_config(settings.retry),
        },
        **common_config(settings.lease_ms, settings.message_bytes_max, settings.shared_memory),
        "low_pass_filter": [
            {
                "id": "largest-message", "flows": ["ingress"], "messages": ["put", "delete", "query", "reply"],
                "key_exprs": ["**", f"{settings.root}/**"],
                "size_limit": settings.message_bytes_max + ATTACHMENT_BYTES_MAX,
            }
        ],
    }  # fmt: skip
    config["transport"]["unicast"] = {
        "max_sessions": settings.sessions_max,
        "accept_pending": settings.accept_pending_max,
        "accept_timeout": ACCEPT_TIMEOUT_MS,
    }
    config["transport"]["link"]["protocols"] = protocols(settings.listen_endpoints + settings.connect_endpoints)
    config["transport"]["link"]["tls"] = tls_config(settings)
    if settings.robots:
        config["access_control"] = access_control(
            settings.robots, settings.servers, settings.root, settings.shared_session_key
        )
    if settings.extra_config_json5:
        config = merged(config, parse_extra(settings.extra_config_json5))
    return config


def open_router(settings: RouterSettings) -> zenoh.Session:
    """A running router; close it. Raises TransportError when it cannot listen."""
    try:
        return zenoh.open(to_zenoh(router_config(settings)))
    except zenoh.ZError as err:
        where = ", ".join(settings.listen_endpoints)
        remedy = "check that the port is free and that key and certificate fit together"
        raise TransportError(f"want to listen on {where}", str(err), remedy) from err


def run(settings: RouterSettings, on_ready: Callable[[], object] | None = None) -> None:
    """Route until SIGTERM or SIGINT. Call it from the main thread. Raises TransportError when it cannot listen."""
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        with open_router(settings):
            log.info("routing on %s", ", ".join(settings.listen_endpoints))
            if on_ready is not None:
                on_ready()
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
