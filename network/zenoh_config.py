"""Settings to Zenoh's own configuration: what the measurements behind docs/network.md recommend, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from network.errors import TransportError
from network.zenoh_settings import RetrySettings, TlsSettings, ZenohSettings, parse_extra, protocol_of

if TYPE_CHECKING:
    import zenoh

KEEP_ALIVES_PER_LEASE = 4
# Half a megabyte: one observation waits whole for a slow link. Zenoh's own 2 lose parts of it, and so all of it:
# 450 KB at 20 Mbit/s with a send buffer of 128 KiB, none of 12 arrived; with 8, all did.
OBSERVATION_BATCHES = 8
SMALL_PARTS_BYTES = 64 << 10  # key, attachment and framing of a message whose body is just allowed
FOREVER_MS = -1
# what has a field of its own, or may never change; extra configuration that names it is refused
OWN_FIELDS = {
    "mode": "use zenoh.mode",
    "connect/endpoints": "use zenoh.connect_endpoints",
    "connect/timeout_ms": "leave it out, opening has its own time limit",
    "connect/exit_on_failure": "leave it out, opening has its own time limit",
    "listen/endpoints": "use zenoh.listen_endpoints",
    "scouting/multicast/enabled": "leave it out, multicast is always off",
}
KEPT = "transport/link/tls"  # extra configuration may change what is set below it, not unset it


def node_config(settings: ZenohSettings, attempt_ms: int) -> dict[str, Any]:
    """The configuration of a client or peer, as a mapping. `attempt_ms` bounds one try to connect."""
    waits = must_connect(settings)
    config = {
        "mode": settings.mode,
        "connect": {
            "endpoints": settings.connect_endpoints,
            "timeout_ms": attempt_ms if waits else FOREVER_MS,
            "exit_on_failure": waits,
            "retry": retry_config(settings.retry),
        },
        "listen": {"endpoints": settings.listen_endpoints, "exit_on_failure": True},
        **common_config(settings.lease_ms, settings.rx_message_bytes_max, settings.shared_memory),
    }
    link = config["transport"]["link"]
    link["protocols"] = protocols(settings.connect_endpoints + settings.listen_endpoints)
    link["tls"] = tls_config(settings)
    if settings.extra_config_json5:
        config = merged(config, parse_extra(settings.extra_config_json5))
    return config


def must_connect(settings: ZenohSettings) -> bool:
    """Whether opening waits for the other side. A peer that others may reach comes up without it and goes on trying."""
    return settings.mode == "client" or (len(settings.connect_endpoints) == 1 and not settings.listen_endpoints)


def common_config(lease_ms: int, message_bytes_max: int, shared_memory: bool) -> dict[str, Any]:
    """What clients, peers and routers have in common."""
    return {
        # nobody is searched for, so opening need not wait until somebody is found
        "scouting": {"delay": 0, "multicast": {"enabled": False}, "gossip": {"enabled": False}},
        "adminspace": {"enabled": False},
        "transport": {
            "link": {
                "tx": {
                    "lease": lease_ms,
                    "keep_alive": KEEP_ALIVES_PER_LEASE,
                    "queue": {"size": {"data": OBSERVATION_BATCHES}},
                },
                "rx": {"max_message_size": message_bytes_max + SMALL_PARTS_BYTES},
            },
            "shared_memory": {
                "enabled": shared_memory,
                # questions and answers over shared memory can be overwritten on the way under load
                "transport_optimization": {"messages": ["put"]},
            },
        },
    }


def retry_config(retry: RetrySettings) -> dict[str, Any]:
    """Zenoh's form of the retry settings."""
    return retry.model_dump()


def protocols(endpoints: list[str]) -> list[str]:
    """The protocols in use; no others are let in."""
    return sorted({protocol_of(endpoint) for endpoint in endpoints}) or ["tcp"]


def tls_config(settings: TlsSettings) -> dict[str, Any]:
    """The TLS part; {} without files. Raises TransportError for a file that cannot be read."""
    files = settings.tls_files()
    if not files:
        return {}
    check_files(files)
    return {
        **{name.removeprefix("tls_"): path for name, path in files.items()},
        "enable_mtls": settings.enable_mtls and any("_private_key" in name for name in files),
        "verify_name_on_connect": True,
        "close_link_on_expiration": True,
    }


def check_files(files: dict[str, str]) -> None:
    """Whether each file is there and may be read: Zenoh would not say which one is wrong. Raises TransportError."""
    for name, path in files.items():
        try:
            text = Path(path).read_bytes()
        except OSError as err:
            raise TransportError(f"want a readable PEM file in {name}", f"{path}: {err.strerror}", "check it") from err
        if b"-----BEGIN" not in text:
            raise TransportError(f"want a PEM file in {name}", f"{path} holds no PEM block", "convert it to PEM")


def merged(config: dict[str, Any], extra: dict[str, Any], path: str = "") -> dict[str, Any]:
    """`config` with each leaf of `extra` put in its place; what `extra` does not name stays. Raises TransportError."""
    result = dict(config)
    for name, value in extra.items():
        here = f"{path}/{name}".strip("/")
        old = result.get(name)
        if here in OWN_FIELDS:
            raise TransportError("want zenoh.extra_config_json5 without settings of our own", here, OWN_FIELDS[here])
        if isinstance(old, dict) and not isinstance(value, dict):
            raise TransportError(
                f"want a mapping at {here} in zenoh.extra_config_json5", repr(value), "name its leaves"
            )
        if value is None and old is not None and here.startswith(KEPT):
            raise TransportError(f"want {here} to stay set", "null", "take it out of zenoh.extra_config_json5")
        if isinstance(value, dict):
            # a mapping without a counterpart is walked too: what may not be set may not be set anywhere in it
            result[name] = merged(old if isinstance(old, dict) else {}, value, here)
        else:
            result[name] = value
    return result


def to_zenoh(config: dict[str, Any]) -> zenoh.Config:
    """Zenoh's object. Raises TransportError for names or values that Zenoh does not know."""
    import zenoh

    try:
        return zenoh.Config.from_json5(json.dumps(config))
    except zenoh.ZError as err:
        raise TransportError(
            "want a configuration that Zenoh understands", str(err), "check extra_config_json5"
        ) from err
