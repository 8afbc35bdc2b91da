"""`serving check`: what it finds in files, ports, endpoints, certificates and policies without a GPU."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from configuration.findings import Finding, findings_table
from network.errors import TransportError
from serving.check import check
from serving.manifest import Manifest
from tests.network.certificates import Authority
from tests.serving.commands import free_port

FACTORY = "tests.serving.factory_policy:shared"


def manifest(**values: object) -> Manifest:
    base = {
        "model": {"repo_or_path": FACTORY, "device": "cpu"},
        "zenoh": {"mode": "peer", "listen_endpoints": [f"tcp/127.0.0.1:{free_port()}"]},
        "health_port": 0,
    }
    return Manifest.model_validate({**base, **values})


def found(settings: Manifest) -> dict[str, Finding]:
    return {finding.what: finding for finding in check(settings)}


def outcomes(settings: Manifest, begin: str) -> list[str]:
    return [f.outcome for f in check(settings) if f.what.startswith(begin)]


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


# --- ports and endpoints -------------------------------------------------------------------------


def test_taken_ports_are_errors_and_free_ones_fine(taken):
    settings = manifest(health_port=taken)
    assert found(settings)["health_port"].outcome == "error" and str(taken) in found(settings)["health_port"].said
    assert outcomes(settings, "zenoh.listen_endpoints") == ["ok"]
    listening = manifest(zenoh={"mode": "peer", "listen_endpoints": [f"tcp/127.0.0.1:{taken}"]})
    assert outcomes(listening, "zenoh.listen_endpoints") == ["error"]
    from serving.check import ports_free

    ports_free(manifest())
    with pytest.raises(TransportError, match="to be free"):
        ports_free(settings)


def test_endpoints_are_knocked_at(taken):
    zenoh = {"connect_endpoints": [f"tcp/127.0.0.1:{taken}", f"tcp/127.0.0.1:{free_port()}", "quic/127.0.0.1:1"]}
    tls = {"tls_root_ca_certificate": "ca.pem", "enable_mtls": False}
    settings = manifest(zenoh={**zenoh, **tls})
    assert outcomes(settings, "zenoh.connect_endpoints") == ["ok", "warning", "unchecked"]


# --- certificates --------------------------------------------------------------------------------


def secured(files: dict[str, str]) -> Manifest:
    return manifest(zenoh={"mode": "client", "connect_endpoints": ["tls/127.0.0.1:1"], **files})


def test_good_certificates(tmp_path):
    authority = Authority(tmp_path)
    finding = found(secured(authority.connects("server")))["zenoh.tls_connect_certificate"]
    assert finding.outcome == "ok" and "signed by the authority" in finding.said


def test_certificates_that_do_not_fit(tmp_path):
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    good, strange = authority.connects("server"), other.connects("server")
    wrong = {
        "key of another": {**good, "tls_connect_private_key": strange["tls_connect_private_key"]},
        "another authority": {**good, "tls_root_ca_certificate": strange["tls_root_ca_certificate"]},
        "no file": {**good, "tls_connect_certificate": str(tmp_path / "none.pem")},
        "no certificate": {**good, "tls_connect_certificate": good["tls_connect_private_key"]},
        "no authority": {**good, "tls_root_ca_certificate": good["tls_connect_private_key"]},
    }
    for name, files in wrong.items():
        finding = found(secured(files))["zenoh.tls_connect_certificate"]
        assert finding.outcome == "error" and finding.remedy, name


def test_servers_that_let_anybody_in_are_warned_of(tmp_path):
    files = Authority(tmp_path).listens("server")
    endpoints = {"mode": "peer", "listen_endpoints": [f"tls/127.0.0.1:{free_port()}"]}
    strict, open_to_all = ({**endpoints, **files, "enable_mtls": mtls} for mtls in (True, False))
    assert "zenoh.enable_mtls" not in found(manifest(zenoh=strict))
    assert found(manifest(zenoh=open_to_all))["zenoh.enable_mtls"].outcome == "warning"


# --- the policy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "outcome", "said"),
    [
        ({"repo_or_path": FACTORY}, "unchecked", "tests.serving.factory_policy is there"),
        ({"repo_or_path": "no_such_module:make"}, "error", "no module no_such_module"),
        ({"repo_or_path": "no_such.module:make"}, "error", "cannot be found"),
        ({"repo_or_path": "/no/such/folder"}, "error", "no such folder"),
        ({"repo_or_path": "a", "family": "exported"}, "error", "policy.yaml"),
        ({"repo_or_path": "tests"}, "error", "want policy.yaml"),
    ],
)
def test_what_is_said_of_a_model(model, outcome, said):
    finding = found(manifest(model={"device": "cpu", **model}))["model.repo_or_path"]
    assert finding.outcome == outcome and said in finding.said


def checkpoint(folder: Path, config: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    known = {"type": "act", "chunk_size": 20, "input_features": {"observation.images.front": {}}}
    (folder / "config.json").write_text(json.dumps(known) if config is None else str(config))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_checkpoints_say_what_they_are(tmp_path):
    looked = found(manifest(model={"repo_or_path": str(checkpoint(tmp_path / "good"))}))
    assert looked["config.json"].said == "act: chunks of 20, cameras observation.images.front"
    assert looked["model.repo_or_path"].outcome == "ok" and looked["model.device"].outcome == "unchecked"
    (tmp_path / "good/model.safetensors").unlink()
    looked = found(manifest(model={"repo_or_path": str(tmp_path / "good")}))
    assert "no model.safetensors" in looked["model.repo_or_path"].said
    looked = found(manifest(model={"repo_or_path": str(checkpoint(tmp_path / "bad", "[1]"))}))
    assert looked["config.json"].outcome == "error"


def test_hub_revisions_are_found_where_they_were_downloaded_before(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    model = {"repo_or_path": "me/act", "family": "lerobot"}
    assert found(manifest(model=model))["model.repo_or_path"].outcome == "unchecked"
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub/models--me--act"
    checkpoint(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    looked = found(manifest(model=model))
    assert looked["model.repo_or_path"].outcome == "ok" and commit[:12] in looked["model.repo_or_path"].said
    assert "act" in looked["config.json"].said
    pinned = found(manifest(model={**model, "revision": commit}))
    assert pinned["model.repo_or_path"].outcome == "ok"
    assert found(manifest(model={**model, "revision": "v2"}))["model.repo_or_path"].outcome == "unchecked"


def test_adapters_are_looked_for_too(tmp_path):
    model = {"repo_or_path": str(checkpoint(tmp_path / "good")), "adapter": {"repo_or_path": str(tmp_path)}}
    assert "adapter_config.json" in found(manifest(model=model))["model.adapter"].said


# --- files ---------------------------------------------------------------------------------------


def test_folders_to_write_to(tmp_path):
    good = manifest(debug={"capture_dir": str(tmp_path / "a/b")}, audit={"path": str(tmp_path / "audit.jsonl")})
    assert found(good)["debug.capture_dir"].outcome == found(good)["audit.path"].outcome == "ok"
    (tmp_path / "file").write_text("")
    bad = manifest(debug={"capture_dir": str(tmp_path / "file/deeper")})
    assert found(bad)["debug.capture_dir"].outcome == "error"


def test_findings_are_shown_as_text_not_markup():
    from rich.console import Console

    console = Console(record=True, width=120)
    console.print(findings_table("", [Finding("[bold]what", "error", "[red]found", "do")]))
    assert "[bold]what" in console.export_text()
