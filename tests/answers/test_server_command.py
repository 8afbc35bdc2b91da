"""Command lines, ports and GPUs of servers that we start."""

from __future__ import annotations

import socket

import pytest

from tasks.answers.server_command import (
    assign_gpus,
    command,
    parse_list,
    parse_mask,
    port_is_taken,
    ports,
    visible_gpus,
)
from tasks.errors import SettingsError
from tasks.settings import VlmSettings


def vlm(**settings: object) -> VlmSettings:
    return VlmSettings(backend="openai", auto_serve=True, model_id="org/model 1", **settings)


@pytest.mark.parametrize(
    ("given", "started"),
    [
        ("serve {model}", ["serve", "org/model 1", "--port", "8001"]),
        ("serve -p {port} --url http://h:{port}", ["serve", "-p", "8001", "--url", "http://h:8001"]),
        ("serve --port {port}", ["serve", "--port", "8001"]),
        ("serve --port 9000", ["serve", "--port", "9000"]),
        ("serve --port=9000 x", ["serve", "--port=9000", "x"]),
        ("serve --ports 3", ["serve", "--ports", "3", "--port", "8001"]),
        ("'/opt/my server' \"--title=a 'b'\"", ["/opt/my server", "--title=a 'b'", "--port", "8001"]),
    ],
)
def test_port_and_model_are_filled_in_appended_or_left_alone(given, started):
    assert command(vlm(serve_command=given), 8001) == started


def test_the_default_is_vllm_for_this_machine_alone():
    words = command(vlm(gpus_per_server=2), 8001)
    assert words[:7] == ["vllm", "serve", "org/model 1", "--host", "127.0.0.1", "--port", "8001"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given["--tensor-parallel-size"] == "2"
    assert given["--max-model-len"] == "32768"
    assert given["--gpu-memory-utilization"] == "0.8"
    assert given["--uvicorn-log-level"] == "warning"
    assert command(vlm(max_model_len=4096), 1)[words.index("--max-model-len") + 1] == "4096"


def test_what_is_set_for_the_model_reaches_vllm():
    words = command(vlm(gpus_per_server=0, dtype="float16", trust_remote_code=True), 8001)
    assert "--tensor-parallel-size" not in words and "--trust-remote-code" in words
    assert words[words.index("--dtype") + 1] == "float16"


@pytest.mark.parametrize("given", ["serve 'x", "", "   "])
def test_a_command_that_no_shell_could_read(given):
    with pytest.raises(SettingsError, match="serve_command"):
        command(vlm(serve_command=given), 8001)


def test_ports_follow_each_other():
    assert ports(vlm(serve_port=8100, parallel_servers=3)) == [8100, 8101, 8102]
    with pytest.raises(SettingsError, match="serve_port"):
        ports(vlm(serve_port=65535, parallel_servers=2))


def test_a_port_in_the_command_is_where_the_server_is_looked_for():
    assert ports(vlm(serve_command="serve --port 9000")) == [9000]
    assert ports(vlm(serve_command="serve --port=9000")) == [9000]
    assert ports(vlm(serve_command="serve --port {port}", parallel_servers=2)) == [8000, 8001]
    with pytest.raises(SettingsError, match=r"write \{port\}"):
        ports(vlm(serve_command="serve --port 9000", parallel_servers=2))


def test_a_port_is_taken_while_somebody_listens():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert port_is_taken(port)
    assert not port_is_taken(port)


# ---------------------------------------------------------------- GPUs

UUIDS = ["GPU-8a1f", "GPU-77c2", "MIG-0d/1/0", "GPU-ffff"]


@pytest.mark.parametrize(
    ("mask", "gpus"),
    [
        ("0,1", ["0", "1"]),
        (" 3 , 5 ", ["3", "5"]),
        (",".join(UUIDS), UUIDS),
        ("", []),
        ("-1", []),
        ("2,-1,3", ["2"]),
    ],
)
def test_an_inherited_mask_is_what_there_is(mask, gpus, monkeypatch):
    assert parse_mask(mask) == gpus
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert visible_gpus() == gpus


def test_without_a_mask_the_driver_is_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A (UUID: GPU-1)'\necho 'GPU 1: NVIDIA A (UUID: GPU-2)'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert visible_gpus() == ["0", "1"]
    smi.write_text("#!/bin/sh\necho 'GPU 0: no driver'\nexit 9\n")
    assert visible_gpus() == []
    smi.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


def test_a_gpu_that_is_cut_into_slices_is_several():
    listing = """GPU 0: NVIDIA A100 (UUID: GPU-1)
  MIG 3g.20gb     Device  0: (UUID: MIG-aaaa-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-bbbb-2)
GPU 1: NVIDIA A100 (UUID: GPU-2)
"""
    assert parse_list(listing) == ["MIG-aaaa-1", "MIG-bbbb-2", "1"]


@pytest.mark.parametrize(
    ("servers", "each", "gpus", "masks"),
    [
        (1, 1, ["0", "1"], ["0"]),
        (2, 1, ["4", "7"], ["4", "7"]),
        (2, 2, ["4", "5", "6", "7", "8"], ["4,5", "6,7"]),
        (2, 2, UUIDS, ["GPU-8a1f,GPU-77c2", "MIG-0d/1/0,GPU-ffff"]),
        (3, 0, ["0"], [None] * 3),
        (3, 0, [], [None] * 3),
    ],
)
def test_each_server_gets_gpus_of_its_own_within_the_mask(servers, each, gpus, masks):
    assert assign_gpus(vlm(parallel_servers=servers, gpus_per_server=each), gpus) == masks


def test_without_any_gpu_a_command_of_the_users_own_is_left_alone():
    assert assign_gpus(vlm(parallel_servers=2, serve_command="serve"), []) == [None, None]


@pytest.mark.parametrize(
    ("more", "gpus"),
    [({}, []), ({"gpus_per_server": 2}, ["GPU-8a1f"]), ({"parallel_servers": 3, "serve_command": "serve"}, ["0", "1"])],
)
def test_too_few_gpus_are_an_error_that_counts_them(more, gpus):
    with pytest.raises(SettingsError) as caught:
        assign_gpus(vlm(**more), gpus)
    assert f"{len(gpus)} visible" in str(caught.value) and "gpus_per_server=0" in str(caught.value)
