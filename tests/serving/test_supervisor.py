"""Services as processes: started again with growing patience, refused ones left alone, all drained together."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from serving.overrides import load
from serving.supervisor import Patience, Supervisor, event_in
from tests.serving.commands import Running, alive, free_port, gone

POLICY = "tests.serving.factory_policy"


def services(folder: Path, *entries: str) -> Path:
    common = "model: {device: cpu}\nhealth_port: 0\nzenoh: {mode: peer}\n"
    path = folder / "services.yaml"
    path.write_text(common + "services:\n" + "\n".join(f"  - {entry}" for entry in entries))
    return path


def service(name: str, function: str = "shared", more: str = "") -> str:
    zenoh = f"zenoh: {{listen_endpoints: [tcp/127.0.0.1:{free_port()}]}}"
    return f"{{name: {name}, model: {{repo_or_path: '{POLICY}:{function}'}}, {zenoh}{more}}}"


def is_state(name: str, state: str):
    return lambda event: event.get("service") == name and event.get("state") == state


def test_killed_services_come_back_refused_ones_do_not_and_all_drain(tmp_path):
    refused = service("b", "stateful", ", serving_mode: shared")
    path = services(tmp_path, service("a"), refused)
    with Running("up", str(path), "--json") as up:
        seen = {}

        def both(event):
            seen[event["service"]] = event
            return {n: e["state"] for n, e in seen.items()} == {"a": "ready", "b": "refused"}

        up.wait_for(both)
        assert seen["b"]["exit_code"] == 2
        first = seen["a"]["pid"]
        os.kill(first, signal.SIGKILL)
        again = up.wait_for(lambda e: is_state("a", "ready")(e) and e["pid"] != first)
        assert again["restarts"] == 1 and again["ready"]["prefix"].startswith("@lerobot/")
        assert up.stop() == 1  # one of them could not serve
        assert gone(first) and gone(again["pid"])
    assert any("ended by signal 9: starting again in 1 s" in line for line in up.log)
    assert any("want a policy that robots can share" in line for line in up.log)
    assert [e["restarts"] for e in up.events if e["service"] == "b"][-1] == 0


def test_processes_drain_when_their_supervisor_is_killed(tmp_path):
    with Running("up", str(services(tmp_path, service("a"), service("c"))), "--json") as up:
        pids = {}

        def both(event):
            if event["state"] == "ready":
                pids[event["service"]] = event["pid"]
            return len(pids) == 2

        up.wait_for(both)
        assert all(alive(pid) for pid in pids.values())
        up.stop(signal.SIGKILL)
        assert all(gone(pid) for pid in pids.values())


def test_a_wrong_manifest_starts_nothing(tmp_path):
    path = services(tmp_path, service("a", more=", max_sessions: 0"), service("c"))
    with Running("up", str(path), "--json") as up:
        event = up.wait_for(lambda e: "exit_code" in e)
        assert event["exit_code"] == 2 and event["problems"][0]["place"] == "max_sessions"
        assert up.process.wait(10) == 2


# --- patience, with processes that end at once ---------------------------------------------------


def supervised(folder: Path, script: str, patience: Patience, until) -> tuple[Supervisor, list[str], int]:
    """Supervise a little script until something is true of what was said."""
    plans = load([services(folder, service("a"))])
    said: list[str] = []
    supervisor = Supervisor(
        plans, lambda _, line: said.append(line), patience, lambda _: [sys.executable, "-c", script]
    )
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run(tick_s=0.01)))
    thread.start()
    end_s = time.monotonic() + 30
    while not until(said) and time.monotonic() < end_s and thread.is_alive():
        time.sleep(0.01)
    supervisor.stop.set()
    thread.join(30)
    assert not thread.is_alive()
    return supervisor, said, codes[0]


def waits(said: list[str]) -> list[float]:
    return [float(line.split("starting again in ")[1].split()[0]) for line in said if "starting again" in line]


def test_waits_grow_up_to_the_longest(tmp_path):
    patience = Patience(first_s=0.01, longest_s=0.04, healthy_s=60)
    _, said, code = supervised(tmp_path, "raise SystemExit(1)", patience, lambda said: len(waits(said)) >= 5)
    assert waits(said)[:5] == [0.01, 0.02, 0.04, 0.04, 0.04] and code == 1


def test_a_healthy_time_starts_the_waits_anew(tmp_path):
    patience = Patience(first_s=0.01, longest_s=1, healthy_s=0.2)
    script = "import time; time.sleep(0.25); raise SystemExit(1)"
    _, said, _ = supervised(tmp_path, script, patience, lambda said: len(waits(said)) >= 3)
    assert waits(said)[:3] == [0.01, 0.01, 0.01]


def test_what_a_process_says_is_passed_on_and_its_last_words_too(tmp_path):
    script = "import sys; print('out'); print('err', file=sys.stderr); print('x' * 20000); raise SystemExit(2)"
    supervisor, said, code = supervised(tmp_path, script, Patience(), lambda said: False)
    assert "out" in said and "err" in said and sum(line.count("x") for line in said) == 20000
    assert supervisor.children[0].state == "refused" and code == 2


def test_a_process_that_does_not_drain_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.supervisor.GRACE_S", -9.0)  # of the service's own drain of 10 s
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    )
    supervisor, _, code = supervised(tmp_path, script, Patience(), lambda said: "deaf" in said)
    assert supervisor.children[0].exit_code == -signal.SIGKILL and code == 1


@pytest.mark.parametrize("line", ["{", "{}", "[1]", '{"a": 1}', "plain", ""])
def test_lines_of_a_log_are_no_events(line):
    assert event_in(line) is None


def test_the_gpu_of_a_process_is_the_only_one_it_sees(tmp_path):
    plans = load([services(tmp_path, service("a", more=", gpu: 3"))])
    said: list[str] = []
    script = "import os; print(os.environ['CUDA_VISIBLE_DEVICES']); raise SystemExit(2)"
    Supervisor(plans, lambda _, line: said.append(line), None, lambda _: [sys.executable, "-c", script]).run()
    assert said[0] == "3"
