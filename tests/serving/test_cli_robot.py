"""A robot at a service that came up from the command line: its actions, its captured requests, its metrics."""

from __future__ import annotations

import json

import numpy as np
import pytest

from network.zenoh_transport import open_transport
from serving.overrides import network
from serving.wire.keys import Keys
from tests.conftest import real_dataset
from tests.serving.client import Client
from tests.serving.commands import Running, free_port, run

FACTORY = "tests.serving.factory_policy:shared"
ASKED = 40


def peer(port: int, model: str, *more: str) -> list[str]:
    network = ["--zenoh.mode=peer", f"--zenoh.listen_endpoints=tcp/127.0.0.1:{port}"]
    return [f"--model.repo_or_path={model}", "--model.device=cpu", "--health_port=0", *network, *more]


def robot(port: int, prefix: str, name: str = "robot-1") -> Client:
    return Client(open_transport(network([], [f"tcp/127.0.0.1:{port}"])), Keys(prefix), name)


def test_requests_are_answered_captured_run_again_and_measured(tmp_path):
    port, health = free_port(), free_port()
    capture, audit = tmp_path / "capture", tmp_path / "audit.jsonl"
    flags = peer(port, FACTORY, f"--debug.capture_dir={capture}", f"--audit.path={audit}")
    with Running("up", *flags, f"--health_port={health}", "--json") as up:
        client = robot(port, up.wait_for(lambda e: e.get("event") == "ready")["prefix"])
        client.handshake()
        steps = 0.01 * np.arange(8, dtype=np.float32)[:, None]
        for i in range(ASKED):
            state = np.array([i, -i], dtype=np.float32)
            np.testing.assert_array_equal(client.ask(state, {}).answer.robot, 2 * (state[None] + steps))
        (status,) = json.loads(run("status", f"--connect=tcp/127.0.0.1:{port}", "--json").stdout)
        assert status["active_sessions"] == 1
        measured = run("capacity", f"--metrics=127.0.0.1:{health}", "--window=0.1", "--requests-hz=2", "--json")
        assert json.loads(measured.stdout)["figures"]["predict_s"] < 0.1
        client.close()
        client.leave()
        assert up.stop() == 0
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["seq_id"] for line in lines if "seq_id" in line] == list(range(1, ASKED + 1))
    again = run("replay", str(capture), *flags[:5], "--json")
    said = json.loads(again.stdout)
    assert (again.returncode, said["ok"], said["pairs"], said["equal"]) == (0, True, ASKED, ASKED)
    other = run("replay", str(capture), *peer(port, "tests.serving.factory_policy:steeper"))
    assert other.returncode == 1 and f"0 of {ASKED} answers came out the same" in other.stdout
    assert run("replay", str(tmp_path / "none"), *peer(port, FACTORY)).returncode == 1
    assert run("replay").returncode == 2


@pytest.mark.slow
def test_a_recording_comes_up_with_one_command_and_gives_its_actions_back_bit_exactly():
    dataset = real_dataset("g1-bottle-v3")
    from tasks.dataset.layout import open_dataset

    opened = open_dataset(dataset)
    episode = next(iter(opened.episodes([0])))
    columns = opened.columns(episode, ["observation.state", "action"])
    states, actions = (np.array(column, np.float32).reshape(episode.frames, -1) for column in columns.values())
    port = free_port()
    with Running("up", *peer(port, str(dataset), "--model.options.cameras=none"), "--json") as up:
        client = robot(port, up.wait_for(lambda e: e.get("event") == "ready")["prefix"])
        ack = client.handshake()
        for frame in range(0, 60, 10):
            chunk = client.ask(states[frame], {}).answer.robot
            np.testing.assert_array_equal(chunk, actions[frame : frame + ack.chunk_size])
        client.leave()
        assert up.stop() == 0
