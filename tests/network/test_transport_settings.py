"""Network settings and what becomes of them: what is refused, what is set, what extra configuration may change."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from network.errors import TransportError
from network.zenoh_config import node_config, to_zenoh
from network.zenoh_settings import CONNECT_TRIPLE, LISTEN_PAIR, ZenohSettings
from serving.errors import ManifestError
from serving.router import RouterSettings, load_settings, router_config

ROUTER = "tcp/localhost:7447"
ATTEMPT_MS = 1000


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, str]:
    """All TLS files."""
    names = (*CONNECT_TRIPLE, *LISTEN_PAIR)
    for name in names:
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\n")
    return {name: str(tmp_path / name) for name in names}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "router", "connect_endpoints": [ROUTER]}, "client"),
        ({}, "want a router to connect to in client mode"),
        ({"mode": "client", "connect_endpoints": [ROUTER], "listen_endpoints": [ROUTER]}, "want mode peer to listen"),
        ({"mode": "peer"}, "nobody is searched for"),
        ({"connect_endpoints": ["localhost:7447"]}, "want PROTOCOL/ADDRESS"),
        ({"connect_endpoints": ["http/localhost:7447"]}, "want PROTOCOL/ADDRESS"),
        ({"connect_endpoints": ["tcp/"]}, "want PROTOCOL/ADDRESS"),
        ({"connect_endpoints": ["tcp/localhost"]}, "want tcp/HOST:PORT"),
        ({"connect_endpoints": ["tcp/localhost:0"]}, "port from 1"),
        ({"connect_endpoints": ["tcp/localhost:70000"]}, "to 65535"),
        ({"connect_endpoints": ["tcp/a:b:7447"]}, "want tcp/HOST:PORT"),
        ({"connect_endpoints": [ROUTER], "lease_ms": 10}, "200"),
        ({"connect_endpoints": [ROUTER], "rx_message_bytes_max": 10}, "65536"),
        ({"connect_endpoints": [ROUTER], "retry": {"period_max_ms": 0}}, "period_max_ms"),
        ({"connect_endpoints": [ROUTER], "multicast": True}, "multicast"),
        ({"connect_endpoints": [ROUTER], "extra_config_json5": "{a: "}, "want a JSON5 mapping"),
        ({"connect_endpoints": [ROUTER], "extra_config_json5": "[1]"}, "want a JSON5 mapping"),
        ({"connect_endpoints": [ROUTER], "extra_config_json5": "[" * 5000}, "want a JSON5 mapping"),
    ],
)
def test_wrong_settings_are_refused_with_their_own_words(settings, said):
    with pytest.raises(ValidationError) as caught:
        ZenohSettings(**settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "endpoints", "said"),
    [
        (CONNECT_TRIPLE[:1], {"connect_endpoints": [ROUTER]}, "tls_connect_private_key together, got only tls_root_ca"),
        (CONNECT_TRIPLE[1:], {"connect_endpoints": [ROUTER]}, "got only tls_connect_certificate, tls_connect_private"),
        (CONNECT_TRIPLE[:2], {"connect_endpoints": [ROUTER]}, "give all three or none"),
        (LISTEN_PAIR[:1], {"mode": "peer", "listen_endpoints": [ROUTER]}, "give both or none"),
        ((), {"connect_endpoints": ["tls/localhost:7447"]}, "tls/localhost:7447 needs them"),
        ((), {"mode": "peer", "listen_endpoints": ["tls/0.0.0.0:7447"]}, "tls/0.0.0.0:7447 needs them"),
        (LISTEN_PAIR, {"mode": "peer", "listen_endpoints": ["tls/0.0.0.0:7447"]}, "tls_root_ca_certificate together"),
    ],
)
def test_half_a_set_of_certificates_is_refused(pem, given, endpoints, said):
    with pytest.raises(ValidationError) as caught:
        ZenohSettings(**endpoints, **{name: pem[name] for name in given})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (CONNECT_TRIPLE, {"connect_endpoints": ["tls/localhost:7447"]}),
        (CONNECT_TRIPLE[:1], {"connect_endpoints": ["tls/localhost:7447"], "enable_mtls": False}),
        ((*LISTEN_PAIR, CONNECT_TRIPLE[0]), {"mode": "peer", "listen_endpoints": ["tls/0.0.0.0:7447"]}),
        (LISTEN_PAIR, {"mode": "peer", "listen_endpoints": ["tls/0.0.0.0:7447"], "enable_mtls": False}),
        ((), {"mode": "peer", "listen_endpoints": ["unixsock-stream//tmp/zenoh.sock"]}),
        ((), {"connect_endpoints": ["tcp/[::1]:7447#so_sndbuf=131072"]}),
    ],
)
def test_whole_sets_are_taken_and_zenoh_understands_them(pem, given, settings):
    chosen = ZenohSettings(**settings, **{name: pem[name] for name in given})
    config = node_config(chosen, ATTEMPT_MS)
    to_zenoh(config)
    tls = config["transport"]["link"]["tls"]
    assert {name for name in tls if name.endswith(("certificate", "key"))} == {n.removeprefix("tls_") for n in given}
    assert tls.get("enable_mtls", False) is (bool(given) and chosen.enable_mtls)


def test_defaults_are_what_was_measured_to_be_good():
    config = node_config(ZenohSettings(connect_endpoints=[ROUTER]), ATTEMPT_MS)
    known = json.loads(str(to_zenoh(config)))
    assert known["mode"] == "client"
    assert known["scouting"]["multicast"]["enabled"] is False
    assert known["scouting"]["gossip"]["enabled"] is False
    assert known["connect"]["retry"] == {"period_init_ms": 200, "period_max_ms": 1000, "period_increase_factor": 2.0}
    assert known["transport"]["link"]["tx"]["lease"] == 2000
    assert known["transport"]["link"]["protocols"] == ["tcp"]
    assert known["transport"]["shared_memory"]["enabled"] is False
    assert 16 << 20 <= known["transport"]["link"]["rx"]["max_message_size"] < 17 << 20
    assert known["adminspace"]["enabled"] is False


def test_only_who_can_be_reached_by_others_opens_alone():
    def waits(**settings) -> bool:
        return node_config(ZenohSettings(**settings), ATTEMPT_MS)["connect"]["exit_on_failure"]

    assert waits(connect_endpoints=[ROUTER])
    assert waits(mode="peer", connect_endpoints=[ROUTER])
    assert not waits(mode="peer", listen_endpoints=["tcp/127.0.0.1:0"])
    assert not waits(mode="peer", listen_endpoints=["tcp/127.0.0.1:0"], connect_endpoints=[ROUTER])


def with_extra(extra: str, **settings: object) -> dict:
    chosen = ZenohSettings(connect_endpoints=[ROUTER], extra_config_json5=extra, **settings)
    config = node_config(chosen, ATTEMPT_MS)
    to_zenoh(config)
    return config


def test_extra_configuration_changes_leaves_and_leaves_the_rest(pem):
    extra = """{
        // JSON5, with comments, bare names and trailing commas
        transport: { link: { tx: { lease: 0x1F4, threads: 2, }, tls: { verify_name_on_connect: false } } },
        queries_default_timeout: 5000,
    }"""
    files = {name: pem[name] for name in CONNECT_TRIPLE}
    link = with_extra(extra, **files)["transport"]["link"]
    assert link["tx"] == {"lease": 500, "keep_alive": 4, "threads": 2, "queue": {"size": {"data": 8}}}
    assert link["tls"]["verify_name_on_connect"] is False
    assert link["tls"]["root_ca_certificate"] == files["tls_root_ca_certificate"]
    assert link["tls"]["enable_mtls"] is True


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("{transport: null}", "want a mapping at transport"),
        ("{transport: {link: {tls: null}}}", "want a mapping at transport/link/tls"),
        ("{transport: {link: {tls: {connect_private_key: null}}}}", "connect_private_key to stay set"),
        ("{transport: {link: {tls: []}}}", "want a mapping"),
        ("{scouting: {multicast: {enabled: true}}}", "multicast is always off"),
        ("{mode: 'router'}", "use zenoh.mode"),
        ("{connect: {endpoints: ['tcp/elsewhere:7447']}}", "use zenoh.connect_endpoints"),
        ("{listen: {endpoints: ['tcp/0.0.0.0:7447']}}", "use zenoh.listen_endpoints"),
        ("{connect: {timeout_ms: -1}}", "its own time limit"),
        ("{no_such_setting: 1}", "no_such_setting"),
        ("{transport: {link: {tx: {lease: 'long'}}}}", "a configuration that Zenoh understands"),
    ],
)
def test_extra_configuration_may_not_undo_what_has_settings_of_its_own(pem, extra, said):
    with pytest.raises(TransportError) as caught:
        with_extra(extra, **{name: pem[name] for name in CONNECT_TRIPLE})
    assert said in str(caught.value)


# --- the router ----------------------------------------------------------------------------------------------------


def test_a_router_bounds_what_passes_and_who_comes():
    settings = RouterSettings(sessions_max=7, message_bytes_max=100_000, connect_endpoints=["tcp/other:7447"])
    config = router_config(settings)
    known = json.loads(str(to_zenoh(config)))
    assert known["transport"]["unicast"]["max_sessions"] == 7
    assert known["low_pass_filter"][0]["size_limit"] >= 100_000
    assert known["access_control"]["enabled"] is False
    assert known["listen"]["endpoints"] == ["tcp/127.0.0.1:7447"]
    assert known["scouting"]["multicast"]["enabled"] is False


def test_robots_turn_the_access_control_on(pem):
    chosen = {name: pem[name] for name in (*LISTEN_PAIR, CONNECT_TRIPLE[0])}
    settings = RouterSettings(listen_endpoints=["tls/0.0.0.0:7447"], robots=["arm-1", "arm.2"], **chosen)
    known = json.loads(str(to_zenoh(router_config(settings))))["access_control"]
    assert known["enabled"] is True and known["default_permission"] == "deny"
    names = [subject["cert_common_names"] for subject in known["subjects"]]
    assert names == [["arm-1"], ["arm.2"], ["server"]]
    assert len({rule["id"] for rule in known["rules"]}) == len(known["rules"])
    keys = [key for rule in known["rules"] if "arm-1" in rule["id"] for key in rule["key_exprs"]]
    assert keys and all(key.startswith("@lerobot/*/*/*/arm-1/") for key in keys)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"robots": ["arm-1"]}, "want tls/ endpoints"),
        ({"robots": ["arm 1"]}, "write arm-1"),
        ({"robots": ["*"]}, "empty chunk"),
        ({"robots": ["server"]}, "reserved"),
        ({"robots": ["cell"], "servers": ["cell"]}, "want robots that are no servers"),
        ({"robots": ["arm", "arm"]}, "each robot once"),
        ({"listen_endpoints": []}, "at least 1"),
        ({"listen_endpoints": ["tls/0.0.0.0:7447"]}, "needs them"),
        ({"root": "@*"}, "want a root"),
        ({"sessions_max": 0}, "greater than or equal to 1"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_wrong_router_settings_are_refused(settings, said):
    with pytest.raises(ValidationError) as caught:
        RouterSettings(**settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "want a mapping"),
        ("listen_endpoints: [\n", "want YAML"),
        ("sessions: 3\n", "sessions"),
        ("1: 2\n", "want the settings of a router"),
    ],
)
def test_wrong_router_files_are_refused(tmp_path, text, said):
    path = tmp_path / "router.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError) as caught:
        load_settings(path)
    assert said in str(caught.value)


def test_a_router_file_is_read(tmp_path):
    path = tmp_path / "router.yaml"
    path.write_text("listen_endpoints: [tcp/127.0.0.1:0]\nsessions_max: 3\n")
    assert load_settings(path) == RouterSettings(listen_endpoints=["tcp/127.0.0.1:0"], sessions_max=3)
    with pytest.raises(ManifestError, match="No such file"):
        load_settings(tmp_path / "absent.yaml")


def test_settings_load_without_the_network():
    code = (
        "import sys, network.zenoh_settings, network.zenoh_config; "
        "print([m for m in ('zenoh', 'pyjson5') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_configuration_in_the_documentation_is_taken(pem, tmp_path):
    text = (Path(__file__).resolve().parents[2] / "docs/network.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) >= 7
    for block in blocks:
        node = block.get("zenoh", block)
        node |= {name: pem[name] for name in node if name in pem}
        if "zenoh" in block:
            to_zenoh(node_config(ZenohSettings(**node), ATTEMPT_MS))
        else:
            to_zenoh(router_config(RouterSettings(**node)))
