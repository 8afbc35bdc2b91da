"""How a running edge is seen from another terminal: a real socket, slow readers, killed runs."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from edge import watch, watch_socket
from edge.errors import EdgeError
from edge.watch_socket import Watched, WatchServer, folder, socket_path

WAIT_S = 20.0
NOW = {
    "client": "arm-3", "robot_type": "so101", "task": "fold", "pid": 7, "state": "DEGRADED", "elapsed_s": 12.5,
    "left_rows": 48, "left_s": 1.6, "latency_p50_ms": 31.0, "latency_p95_ms": 40.2, "latency_p99_ms": 60.0,
    "age_ms": 140.0,
    "tick_hz": 30.0, "lateness_ms": 0.1, "ticks": 375, "server_id": "gpu-1",
    "counters": {"requests": 20, "resends": 2, "timeouts": 1, "stale_drops": 3, "starved_ticks": 4},
    "last_transition": {"at_s": 11.0, "old": "STREAMING", "new": "DEGRADED", "event": "late", "why": "no answer"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def heard(watched: Watched, count: int) -> list[dict]:
    found, end_s = [], time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < end_s:
        found += watched.lines(0.2)
    return found


def test_a_run_is_found_and_heard():
    ticks = iter(range(1_000_000))
    with WatchServer("arm-3", lambda: {**NOW, "ticks": next(ticks)}, every_s=0.01) as server:
        assert stat.S_IMODE(folder().stat().st_mode) == 0o700
        watched = Watched()
        assert watched.look() == 1
        lines = heard(watched, 3)
        assert [line["client"] for line in lines[:3]] == ["arm-3"] * 3
        assert lines[0]["ticks"] < lines[1]["ticks"] < lines[2]["ticks"]
        other = Watched("leg")
        assert other.look() == 0  # another robot's
        other.close()
    assert not server.path.exists()
    end_s = time.monotonic() + WAIT_S
    while watched.look() and time.monotonic() < end_s:
        list(watched.lines(0.1))
    assert watched.look() == 0
    watched.close()


def test_a_reader_that_stands_still_is_let_go_and_holds_up_nobody():
    big = {**NOW, "task": "x" * 20_000}
    asked = threading.Semaphore(0)

    def now():
        asked.release()
        return big

    with WatchServer("arm-3", now, every_s=0.001) as server:
        lazy = socket.socket(socket.AF_UNIX)
        lazy.connect(str(server.path))
        watched = Watched()
        for _ in range(200):
            assert asked.acquire(timeout=WAIT_S)
            list(watched.lines(0))
        assert heard(watched, 1)
        assert len(server._readers) == 1  # the lazy one is gone
        lazy.close()
        watched.close()


def test_what_a_killed_run_left_is_taken_away():
    code = "from edge.watch_socket import WatchServer as W; import os; W('arm-3', dict).__enter__(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert list(folder().glob("*.sock"))
    watched = Watched()
    assert watched.look() == 0 and not list(folder().glob("*.sock"))
    watched.close()


def test_a_folder_that_others_may_enter_is_not_used(runtime):
    folder().chmod(0o755)
    with pytest.raises(EdgeError, match="of our own"):
        folder()


def test_long_ids_and_folders_fit_into_a_socket_address(monkeypatch, runtime):
    path = socket_path("r" * 300, os.getpid())
    assert len(os.fsencode(path)) <= watch_socket.PATH_BYTES_MAX
    with WatchServer("r" * 300, dict, every_s=0.01):
        assert Watched().look() == 1
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / ("d" * 120)))
    with pytest.raises(EdgeError, match="short path"):
        socket_path("arm", 1)


def test_the_view_names_what_matters():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(watch.view([NOW]))
    shown = console.export_text()
    for words in (
        "arm-3",
        "DEGRADED",
        "1.6 s, 48",
        "31/40/60",
        "140 ms",
        "30.0 Hz",
        "20, 2 again",
        "3 stale",
        "no answer",
    ):
        assert words in shown, shown
    assert "DEGRADED" in watch.line(NOW) and "4 without action" in watch.line(NOW)


def test_watch_streams_lines_until_the_run_ends():
    server = WatchServer("arm-3", lambda: NOW, every_s=0.02)
    with server:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge.cli", "watch", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert process.wait(WAIT_S) == 0  # nobody left to watch
    process.stdout.close()
    assert all(line["left_rows"] == 48 for line in lines)
    done = subprocess.run([sys.executable, "-m", "edge.cli", "watch"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no edge runs" in done.stderr
