"""The `serving` command as a user meets it: real processes, real Zenoh."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

from tests.serving.commands import REPO, Running, cpu_s, free_port, run

COMMANDS = ("up", "check", "status", "router", "replay", "capacity", "schema", "fields", "init", "export")
HEAVY = ("torch", "lerobot", "pyarrow", "av", "prefect", "zenoh", "numpy", "prometheus_client", "matplotlib")
FACTORY = "tests.serving.factory_policy:shared"
HELP_S = 0.6
CONFIG_ERROR_S = 2.0


def peer(port: int, *more: str) -> list[str]:
    return [
        f"--model.repo_or_path={FACTORY}", "--model.device=cpu", "--health_port=0", "--zenoh.mode=peer",
        f"--zenoh.listen_endpoints=tcp/127.0.0.1:{port}", *more,
    ]  # fmt: skip


def in_process(*words: str) -> str:
    """What a command imports, and its answer: in a fresh interpreter."""
    code = f"""
import sys
from serving.cli import main
try:
    main({list(words)!r})
except SystemExit as end:
    print("exit", end.code)
print([m for m in {HEAVY!r} if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    return done.stdout


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=lambda w: w[0])
def test_help_comes_without_heavy_imports(words):
    said = in_process(*words)
    assert "Usage: serving" in said and said.splitlines()[-1] == "[]"
    if words[0] not in ("--help", "fields", "schema"):
        assert "Example" in said


def test_help_comes_at_once():
    assert min(cpu_s("--help") for _ in range(2)) < HELP_S


@pytest.mark.parametrize(
    "words",
    [
        ["up", "--model.repo_or_path=a", "--model.devise=cpu"],
        ["up", "none.yaml"],
        ["up", "--model.repo_or_path=a", "--max_sessions=0"],
        ["check", "--manifest=none.yaml"],
    ],
    ids=lambda words: words[-1],
)
def test_config_errors_come_at_once_without_heavy_imports(words):
    said = in_process(*words)
    assert "exit 2" in said
    assert not {"torch", "zenoh", "pyarrow"} & set(json.loads(said.splitlines()[-1].replace("'", '"')))
    assert cpu_s(*words) < CONFIG_ERROR_S
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == "" and "want" in done.stderr and "do:" in done.stderr


def test_errors_for_machines():
    done = run("up", "--model.repo_or_path=a", "--max_sessions=0", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["exit_code"], said["error"]) == (2, 2, "ManifestProblems")
    places = [problem["place"] for problem in said["problems"]]
    assert places == ["max_sessions", "zenoh.connect_endpoints"]


def test_up_status_and_drain_over_real_zenoh(tmp_path):
    port = free_port()
    with Running("up", *peer(port, "--default_task=fold"), "--json") as up:
        ready = up.wait_for(lambda e: e.get("event") == "ready")
        assert ready["prefix"].endswith("/main/fold") and ready["serving_mode"] == "shared"
        for ask in (["--prefix", ready["prefix"]], []):  # this service, or whoever is there
            done = run("status", f"--connect=tcp/127.0.0.1:{port}", *ask, "--json")
            (status,) = json.loads(done.stdout)
            assert status["server_id"] == ready["server_id"] and status["policy_type"] == "ramp"
            assert (status["active_sessions"], status["max_sessions"], done.returncode) == (0, 5, 0)
        shown = run("status", f"--connect=tcp/127.0.0.1:{port}").stdout
        assert ready["server_id"] in shown and "0/5" in shown and "ready" in shown
        other = run("status", f"--connect=tcp/127.0.0.1:{port}", "--prefix=@lerobot/a/b/c", "--timeout=0.3")
        assert other.returncode == 1 and "nobody answered" in other.stderr
        assert up.stop(signal.SIGTERM) == 0
    assert any("draining" in line for line in up.log)


def test_ctrl_c_drains_too_and_words_are_for_people():
    with Running("up", *peer(free_port())) as up:
        up.wait_for(lambda e: e["text"].startswith("ready: ramp"))
        up.wait_for(lambda e: "Ctrl-C" in e["text"])
        assert up.stop(signal.SIGINT) == 0


def test_status_is_watched_until_ctrl_c():
    port = free_port()
    with Running("up", *peer(port), "--json") as up:
        up.wait_for(lambda e: e.get("event") == "ready")
        watch = [f"--connect=tcp/127.0.0.1:{port}", "--watch", "--every=0.1", "--json"]
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.cli", "status", *watch], stdout=subprocess.PIPE, text=True, cwd=REPO
        )
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.stdout.close()
        assert all(look[0]["policy_type"] == "ramp" for look in looks)


def test_a_router_brings_servers_and_askers_together(tmp_path):
    port = free_port()
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        f"model: {{repo_or_path: '{FACTORY}', device: cpu}}\nhealth_port: 0\n"
        f"zenoh: {{connect_endpoints: ['tcp/127.0.0.1:{port}']}}\n"
    )
    with Running("router", f"--listen=tcp/127.0.0.1:{port}", "--json") as router:
        router.wait_for(lambda e: e.get("event") == "ready")
        with (
            Running("up", f"--manifest={manifest}", "--json") as one,
            Running("up", "--manifest", str(manifest), "--json") as two,
        ):
            ids = {up.wait_for(lambda e: e.get("event") == "ready")["server_id"] for up in (one, two)}
            statuses = json.loads(run("status", str(manifest), "--json").stdout)
            assert {status["server_id"] for status in statuses} == ids and len(ids) == 2  # replicas
            assert one.stop() == 0
            (left,) = json.loads(run("status", str(manifest), "--json").stdout)
            assert left["server_id"] in ids
        assert router.stop() == 0


def test_a_policy_that_does_not_load_is_an_error_and_nothing_is_seen():
    done = run("up", *peer(free_port()), "--model.repo_or_path=tests.serving.factory_policy:broken")
    assert done.returncode == 1 and "want weights" in done.stderr and "train again" in done.stderr


def test_a_taken_port_is_known_before_anything_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("up", *peer(free_port(), f"--health_port={port}"))
    assert done.returncode == 1 and "health_port to be free" in done.stderr and str(port) in done.stderr


def test_a_fresh_machine_is_served_in_three_commands(tmp_path):
    port = free_port()
    assert run("init", f"--listen=tcp/127.0.0.1:{port}", cwd=tmp_path).returncode == 0
    assert run("init", cwd=tmp_path).returncode == 2  # nothing is overwritten
    checked = json.loads(run("check", "manifest.yaml", "--health_port=0", "--json", cwd=tmp_path).stdout)
    assert checked["ok"] is True
    with Running("up", "manifest.yaml", "--health_port=0", "--json", cwd=tmp_path) as up:
        assert up.wait_for(lambda e: e.get("event") == "ready")["policy_type"] == "replay"
        assert up.stop() == 0


@pytest.mark.parametrize("words", [["--device=gpu"], ["--listen=here"], ["--model=/"]])
def test_init_refuses_what_would_not_load(tmp_path, words):
    done = run("init", "m.yaml", "--model=me/pi0", *words, cwd=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "m.yaml").exists()


def test_init_quotes_what_yaml_would_take_otherwise(tmp_path):
    model = "a folder: with # things"
    assert run("init", "m.yaml", f"--model={model}", cwd=tmp_path).returncode == 0
    assert yaml.safe_load((tmp_path / "m.yaml").read_text())["model"]["repo_or_path"] == model


def test_a_wrong_endpoint_of_a_router_is_a_config_error():
    done = run("router", "--listen=here", "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["problems"][0]["place"] == "listen_endpoints[0]"


def test_a_stop_while_loading_ends_it_at_once(tmp_path):
    marker = tmp_path / "loading"
    flags = ["--model.repo_or_path=tests.serving.factory_policy:slow", f"--model.options.marker={marker}"]
    with Running("up", *peer(free_port()), *flags, "--json") as up:
        end_s = time.monotonic() + 30
        while not marker.exists():
            assert time.monotonic() < end_s and up.process.poll() is None
            time.sleep(0.02)
        assert up.stop() == 130


def test_init_writes_a_manifest_for_a_model(tmp_path):
    path = tmp_path / "pi0.yaml"
    done = run("init", str(path), "--model=me/pi0", "--json")
    assert json.loads(done.stdout) == {"written": [str(path)]}
    assert "repo_or_path: me/pi0" in path.read_text() and "device: cuda" in path.read_text()
    done = run("check", str(path), "--json", "--health_port=0", f"--zenoh.listen_endpoints=tcp/127.0.0.1:{free_port()}")
    found = {finding["what"]: finding for finding in json.loads(done.stdout)["services"][0]["findings"]}
    assert found["model.repo_or_path"]["outcome"] == "unchecked"


def test_schema_fields_and_capacity():
    assert json.loads(run("schema").stdout)["title"] == "Manifest of a policy service"
    flags = {row["flag"] for row in json.loads(run("fields", "--json").stdout)}
    assert {"--model.repo_or_path", "--zenoh.mode", "--rtc.enabled"} <= flags
    done = run("capacity", "--predict-ms=150", "--requests-hz=1", "--horizon=10", "--robots=300", "--json")
    said = json.loads(done.stdout)
    assert (said["robots"], said["limit"], said["replicas"]) == (1, "wait", 300)
    assert run("capacity").returncode == 2


@pytest.mark.slow
def test_an_exported_policy_is_made_checked_and_served(tmp_path):
    words = ["--tiny", "--action-names=a,b,c", "--option=chunk_size=4", "--option=state_dim=3"]
    words += ["--option=cameras={front: [16, 16]}", "--batch-sizes=1,2", "--json"]
    folder = tmp_path / "tiny"
    done = run("export", str(folder), *words)
    assert json.loads(done.stdout) == {"written": str(folder)}, done.stderr
    flags = peer(free_port(), f"--model.repo_or_path={folder}")
    checked = json.loads(run("check", *flags, "--json").stdout)
    said = {finding["what"]: finding["said"] for finding in checked["services"][0]["findings"]}
    assert checked["ok"] and said["policy.yaml"] == "tiny: chunks of 4x3, 30 Hz, cameras front"
    with Running("up", *flags, "--json") as up:
        assert up.wait_for(lambda e: e.get("event") == "ready")["policy_type"] == "tiny"
        assert up.stop() == 0
    (folder / "policy_b2.pt2").unlink()
    broken = json.loads(run("check", *flags, "--json").stdout)
    assert not broken["ok"] and "no policy_b2.pt2" in str(broken)


@pytest.mark.parametrize("words", [["--option=chunk_size"], ["--batch-sizes=1,two"], ["--batch-sizes=0"]])
def test_wrong_words_of_an_export_are_refused(tmp_path, words):
    done = run("export", str(tmp_path / "x"), "--tiny", *words)
    assert done.returncode == 2 and "do:" in done.stderr and not (tmp_path / "x").exists()
