"""The deployment through a real Prefect server and worker, as prefect.yaml and docs/prefect.md say."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.prefect_environment import DEFAULTS
from tests.end_to_end.annotate import REPO, annotate
from tests.end_to_end.conftest import flags
from tests.end_to_end.counting_server import CountingServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("prefect")]
BIN = Path(sys.executable).parent
START_S = 180


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A Prefect server and a process worker; the environment in which commands find them."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    env = {
        **os.environ,
        **DEFAULTS,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "CUEBOOK_REPO": str(REPO),
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    log = (home / "server.log").open("wb")
    server = subprocess.Popen(
        [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
        env=env, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    worker = None
    try:
        wait_for(f"http://127.0.0.1:{port}/api/health", server, home / "server.log")
        command(env, "work-pool", "create", "local", "--type", "process")
        command(env, "deploy", "--all", "--no-prompt")
        worker_log = (home / "worker.log").open("wb")
        worker = subprocess.Popen(
            [BIN / "prefect", "worker", "start", "--pool", "local"],
            env=env, cwd=REPO, stdout=worker_log, stderr=worker_log, start_new_session=True,
        )  # fmt: skip
        yield env
    finally:
        if worker is not None:
            stop(worker)
        stop(server)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll until the server answers; there is no event to wait for across processes."""
    import time

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text())


def command(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [BIN / "prefect", *arguments], env=env, cwd=REPO, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def api(env: dict[str, str], path: str, body: dict) -> list[dict]:
    request = urllib.request.Request(
        env["PREFECT_API_URL"] + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def test_deployment_annotates_and_reruns_one_phase(prefect, dataset_copy):
    command(prefect, "deployment", "run", "annotate/hf-dataset", "--param", f"root={dataset_copy}", "--watch")
    checked = annotate("check", f"--root={dataset_copy}", "--json")
    assert checked.returncode == 0, checked.stdout
    runs = json.loads((dataset_copy / "meta/cuebook.json").read_text())["runs"]
    assert len(runs) == 1 and set(runs[0]["phases"]) == {"plan", "interjections", "vqa"}

    again = ["--param", f"root={dataset_copy}", "--param", 'phases=["vqa"]', "--param", 'refresh=["vqa"]']
    command(prefect, "deployment", "run", "annotate/hf-dataset", *again, "--watch")
    newest = sorted(api(prefect, "/flow_runs/filter", {}), key=lambda r: r["created"])
    assert [r["state_type"] for r in newest] == ["COMPLETED"] * len(newest)
    artifacts = {a["key"] for a in api(prefect, "/artifacts/latest/filter", {})}
    assert {"annotate-progress", "annotate-phases", "annotate-cost", "annotate-validation"} <= artifacts


def test_failing_run_is_failed_in_prefect_too(prefect, tmp_path):
    done = subprocess.run(
        [BIN / "prefect", "deployment", "run", "annotate/hf-dataset", "--param", f"root={tmp_path}", "--watch"],
        env=prefect, cwd=REPO, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode != 0


def test_command_line_uses_the_configured_server(prefect, dataset_copy):
    done = annotate("run", f"--root={dataset_copy}", "--json", env=prefect, timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["written"] is True
    again = annotate("run", f"--root={dataset_copy}", "--json", env=prefect, timeout_s=240)
    summary = json.loads(again.stdout)
    assert summary["written"] is False
    assert all(counts == {"cached": summary["episodes"]} for counts in summary["phases"].values())


def test_costs_are_artifacts_of_the_run(prefect, dataset_copy):
    with CountingServer(delay_s=0.0) as server:
        done = annotate(
            "run", f"--root={dataset_copy}", "--json", *flags(server), "--vlm.max_retries=5", "--vlm.price_in=1",
            env=prefect, timeout_s=240,
        )  # fmt: skip
    assert json.loads(done.stdout)["written"], done.stdout + done.stderr
    latest = api(prefect, "/artifacts/latest/filter", {})
    found = {a["key"]: json.loads(a["data"]) for a in latest if a["type"] == "table"}
    *phases, total = found["annotate-cost"]
    assert (total["requests"], total["tokens in"], total["tokens out"]) == server.bill
    assert {row["phase"] for row in phases} == {"plan", "interjections", "vqa"} and total["money"] > 0
    assert sum(row["tokens in"] for row in found["annotate-cost-episodes"]) == server.tokens_in
