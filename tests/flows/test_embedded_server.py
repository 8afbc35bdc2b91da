"""The embedded Prefect server lives as long as the command, also when the command is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.answers.bad_server import BadServer
from tests.end_to_end.annotate import COMMAND, REPO, annotate
from tests.end_to_end.conftest import flags

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("prefect")]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def servers(home: Path) -> list[int]:
    """Server processes that use this Prefect home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"PREFECT_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_run_without_any_server_annotates_and_says_nothing_of_prefect(dataset_copy, home):
    for cached in (False, True):
        done = annotate("run", f"--root={dataset_copy}", env={"PREFECT_HOME": str(home)}, timeout_s=200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert ("nothing new to write" in done.stdout) is cached
    assert servers(home) == []


def test_errors_are_one_message(tmp_path, home):
    done = annotate("run", f"--root={tmp_path}", "--json", env={"PREFECT_HOME": str(home)}, timeout_s=200)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "info.json" in json.loads(done.stdout)["message"]


def test_killed_command_takes_its_server_along(dataset_copy, home):
    command = subprocess.Popen(
        [*COMMAND, "run", f"--root={dataset_copy}"],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PREFECT_HOME": str(home), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert command.stdout is not None
    command.stdout.readline()  # "opening": the server is up
    (server,) = set(servers(home)) - {command.pid}
    waiter = os.pidfd_open(server)
    command.send_signal(signal.SIGKILL)
    command.wait()
    import select

    assert select.select([waiter], [], [], 30)[0], "the server outlived the command"
    os.close(waiter)
    assert sys.platform == "linux"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_ends_soon_and_the_next_one_goes_on(dataset_copy, home, stop):
    env = {**os.environ, "PREFECT_HOME": str(home)}
    with BadServer("slow", delay_s=0.4) as server:
        command = subprocess.Popen(
            [*COMMAND, "run", f"--root={dataset_copy}", "--vlm.client_concurrency=2", *flags(server)],
            cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        )  # fmt: skip
        assert server.wait_for(lambda: len(server.bodies) >= 12, 100)
        command.send_signal(stop)
        output, _ = command.communicate(timeout=30)
        assert command.returncode == 130, output
        assert "run the same command to go on" in output and "Traceback" not in output
        server.mode = "ok"
        done = annotate("run", f"--root={dataset_copy}", "--json", *flags(server), env={"PREFECT_HOME": str(home)})
        assert done.returncode == 0, done.stdout
        assert annotate("check", f"--root={dataset_copy}").returncode == 0
