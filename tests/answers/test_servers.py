"""Servers that a run starts: found, started, routed to, restarted once, and ended. Real processes, real HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.answers import server_process, servers
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers.question import Reply
from tasks.errors import AnswererError, SettingsError
from tasks.settings import VlmSettings
from tests.answers.bad_server import BadServer
from tests.answers.conftest import memory
from tests.answers.test_server_process import is_alive, linux, wait_gone
from tests.conftest import REPO

pytestmark = pytest.mark.slow
WAIT_S = 30.0
SERVER = f"{sys.executable} -m tests.answers.bad_server"
Start = Callable[..., OpenAIAnswerer]


def free_ports(count: int = 1) -> int:
    """The first of so many neighbouring ports on which nobody listens."""
    for first in range(20_000 + os.getpid() * 16 % 10_000, 32_000):  # processes of a parallel run have pids in a row
        if not any(servers.server_command.port_is_taken(first + i) for i in range(count)):
            return first
    raise AssertionError("no free ports")


@pytest.fixture
def start(monkeypatch, tmp_path) -> Iterator[Start]:
    """Makes answerers that start servers from the repository's root; all are closed after the test."""
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(server_process, "STOP_S", 2.0)
    monkeypatch.setattr(servers, "RESTART_PAUSE_S", 0.0)
    monkeypatch.setattr(servers, "POLL_S", 0.1)
    made: list[OpenAIAnswerer] = []

    def make(command: str = "", **settings: object) -> OpenAIAnswerer:
        port = settings.setdefault("serve_port", free_ports(int(settings.get("parallel_servers", 1))))
        usual = {
            "backend": "openai",
            "auto_serve": True,
            "model_id": "test-vlm",
            "api_base": f"http://localhost:{port}/v1",
            "serve_command": f"{SERVER} {command}",
            "serve_ready_timeout_s": WAIT_S,
            "request_timeout_s": 10.0,
            "retry_backoff_s": 0.01,
            "max_retries": 1,
        }
        made.append(OpenAIAnswerer(VlmSettings(**{**usual, **settings}), log_dir=tmp_path / "servers"))
        return made[-1]

    yield make
    for answerer in made:
        answerer.close()


def processes(answerer: OpenAIAnswerer) -> list[int]:
    return [s.process.pid for s in answerer._fleet._servers]


def refusal(answerer: OpenAIAnswerer) -> str:
    with pytest.raises(AnswererError) as caught:
        answerer.preflight()
    assert caught.value.wanted and caught.value.got and caught.value.remedy
    return str(caught.value)


def states(answerer: OpenAIAnswerer) -> list[str]:
    return [s.state for s in answerer.slots()]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------- the start


def test_a_server_is_started_asked_and_ended(start, tmp_path, caplog):
    caplog.set_level("INFO")
    answerer = start()
    answerer.preflight()
    [pid] = processes(answerer)
    [reply] = answerer.answer([memory()])
    assert reply.answer is not None
    assert reply.server == f"http://127.0.0.1:{answerer._fleet._ports[0]}/v1"
    [slots] = answerer.slots()
    assert (slots.name, slots.state, slots.busy, slots.limit) == ("server-0", "up", 0, 16)
    answerer.close()
    assert not is_alive(pid)
    assert "model test-vlm" in (tmp_path / "servers" / "server-0.log").read_text()
    assert "starting server-0 on port" in caplog.text and "server-0 is ready" in caplog.text
    answerer.close()


@pytest.mark.parametrize("where", ["", "--port {port}", "--port={port}"])
def test_the_port_reaches_the_server_whichever_way_it_is_given(start, where):
    answerer = start(where)
    answerer.preflight()
    assert answerer.answer([memory()])[0].answer is not None


def test_a_port_of_the_commands_own_is_found(start):
    port = free_ports()
    answerer = start(f"--port {port}", serve_port=1)
    answerer.preflight()
    assert answerer.answer([memory()])[0].server == f"http://127.0.0.1:{port}/v1"


def test_servers_load_beside_each_other_and_share_the_work(start):
    answerer = start("--delay-s 1.5", parallel_servers=3, client_concurrency=8)
    began = time.monotonic()
    answerer.preflight()
    assert time.monotonic() - began < 6.0
    assert [(s.name, s.limit) for s in answerer.slots()] == [("server-0", 3), ("server-1", 3), ("server-2", 2)]
    replies = answerer.answer([memory(i) for i in range(30)])
    assert {r.server for r in replies} == {f"http://127.0.0.1:{p}/v1" for p in answerer._fleet._ports}


def test_the_state_is_seen_while_servers_load(start):
    answerer = start("--delay-s 60")
    thread = threading.Thread(target=refusal, args=(answerer,))
    thread.start()
    wait_until(lambda: states(answerer) == ["starting"] and answerer._fleet._servers[0].process is not None)
    wait_until(lambda: processes(answerer) != [0])
    [pid] = processes(answerer)
    answerer.close()  # by another thread
    thread.join(WAIT_S)
    assert not thread.is_alive() and wait_gone(pid)


@pytest.mark.parametrize("models", ["500", "404", "empty", "hang", "wrong"])
def test_a_server_of_ours_is_ready_when_it_chats_whatever_it_lists(start, models):
    answerer = start(f"--models {models}", request_timeout_s=1.0)
    answerer.preflight()
    assert answerer.answer([memory()])[0].answer is not None


def test_a_server_of_ours_that_fails_without_a_picture_is_ready_when_it_lists_models(start):
    answerer = start("--mode 500 --times 1")
    answerer.preflight()
    assert answerer.answer([memory()])[0].answer is not None


def test_gpus_are_handed_out_within_the_mask(start, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e")
    program = tmp_path / "server.sh"
    program.write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" > {tmp_path}/mask-$2\nexec {SERVER} "$@"\n')
    program.chmod(0o755)
    answerer = start(parallel_servers=2, gpus_per_server=2, serve_command=str(program))
    answerer.preflight()
    masks = [(tmp_path / f"mask-{port}").read_text().strip() for port in answerer._fleet._ports]
    assert masks == ["GPU-a,GPU-b", "GPU-c,GPU-d"]


def test_too_few_gpus_start_nothing(start, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    answerer = start(parallel_servers=2)
    with pytest.raises(SettingsError, match="1 visible: 0"):
        answerer.preflight()
    assert answerer.slots() == ()


# ---------------------------------------------------------------- servers that run already


def test_a_server_that_answers_and_has_the_model_is_used_and_left_running(start, caplog):
    caplog.set_level("INFO")
    with BadServer() as server:
        for settings in (
            {"api_base": server.api_base, "serve_port": free_ports()},
            {"serve_port": server.port, "api_base": "http://localhost:1/v1"},
        ):
            answerer = start(serve_command="no-such-program", **settings)
            answerer.preflight()
            assert answerer.answer([memory()])[0].answer is not None
            assert answerer._fleet._servers == []
            answerer.close()
        assert "no server is started" in caplog.text
        assert len(server.bodies) == 2


@pytest.mark.parametrize("models", ["500", "empty"])
def test_a_server_that_keeps_no_list_is_asked_in_a_chat(start, models):
    with BadServer(models=models) as server:
        answerer = start(serve_command="no-such-program", serve_port=server.port)
        answerer.preflight()
        assert server.bodies[0]["max_tokens"] == 1


def test_another_model_on_the_port_is_named(start):
    with BadServer(models="wrong") as server:
        text = refusal(start(serve_port=server.port))
    assert str(server.port) in text and "other/model, test-vlm-2" in text and "--vlm.serve_port" in text


@pytest.mark.parametrize("models", ["401", "503"])
def test_a_server_on_the_port_that_cannot_be_used_is_named(start, models):
    with BadServer(models=models) as server:
        assert "something listens there" in refusal(start(serve_port=server.port))


def test_what_speaks_no_http_on_the_port_is_named(start):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        text = refusal(start(serve_port=listener.getsockname()[1]))
        assert "something listens there" in text
        listener.shutdown(socket.SHUT_RDWR)


def test_another_model_elsewhere_is_no_obstacle(start, caplog):
    with BadServer(models="wrong") as server:
        answerer = start(api_base=server.api_base)
        answerer.preflight()
        assert answerer.answer([memory()])[0].answer is not None
        assert server.bodies == [] or all(b["max_tokens"] == 1 for b in server.bodies)
    assert "is not used: the server has other/model" in caplog.text


def test_another_process_of_the_run_finds_the_servers(start):
    first = start(parallel_servers=2)
    first.preflight()
    second = start(parallel_servers=2, serve_port=first._fleet._ports[0], api_base="http://localhost:1/v1")
    assert {r.server for r in second.answer([memory(i) for i in range(8)])} == set(first._fleet.addresses)
    second.close()
    assert first.answer([memory()])[0].answer is not None


def test_another_process_without_servers_says_where_it_looked(start):
    answerer = start()
    with pytest.raises(AnswererError, match=answerer._fleet.addresses[0]):
        answerer.answer([memory()])


# ---------------------------------------------------------------- a start that fails


def test_an_early_end_is_told_at_once_with_code_and_last_lines(start):
    answerer = start("--exit 3", parallel_servers=2)
    began = time.monotonic()
    text = refusal(answerer)
    assert time.monotonic() - began < 10
    assert "ended with code 3" in text and "CUDA out of memory" in text and ".log" in text
    assert wait_gone(*processes(answerer))


def test_a_server_that_takes_too_long_is_ended(start):
    answerer = start("--delay-s 60", serve_ready_timeout_s=1.5)
    text = refusal(answerer)
    assert "within 1.5 s" in text and "cannot connect" in text and "serve_ready_timeout_s" in text
    assert not any(is_alive(p) for p in processes(answerer))


def test_a_server_of_ours_with_another_model_is_no_reason_to_wait(start):
    text = refusal(start("--mode no_model --models empty"))
    assert "--vlm.model_id" in text and "does not exist" in text


def test_a_program_that_is_missing(start):
    assert "--vlm.serve_command" in refusal(start(serve_command="no-such-program serve"))


def test_a_chatty_start_does_not_block(start, caplog):
    answerer = start("--chatty 5000")
    answerer.preflight()
    assert answerer.answer([memory()])[0].answer is not None


# ---------------------------------------------------------------- a server that dies in mid-run


def killing_itself(tmp_path: Path, after: int, deaths: int = 1) -> str:
    """Options of a server that ends in the midst of a request."""
    return f"--port {{port}} --lives {tmp_path}/lives-{{port}} --dies-after {after} --deaths {deaths}"


def lives(tmp_path: Path, port: int) -> int:
    return len((tmp_path / f"lives-{port}").read_text().splitlines())


def one_of_two_dies(tmp_path: Path, dying_port: int, deaths: int) -> str:
    """A command whose server on one port dies, as often as asked for."""
    program = tmp_path / "server.sh"
    options = f"--lives {tmp_path}/lives-$2"
    fatal = f'[ "$2" = {dying_port} ] && exec {SERVER} "$@" {options} --dies-after 3 --deaths {deaths}'
    program.write_text(f'#!/bin/sh\n{fatal}\nexec {SERVER} "$@" {options}\n')
    program.chmod(0o755)
    return str(program)


def all_answered(replies: list[Reply]) -> bool:
    return all(r.answer is not None for r in replies)


def test_of_two_servers_one_dies_and_nothing_is_lost(start, tmp_path, caplog):
    port = free_ports(2)
    command = one_of_two_dies(tmp_path, port, deaths=1)
    answerer = start(parallel_servers=2, serve_port=port, serve_command=command, max_retries=0, client_concurrency=6)
    answerer.preflight()
    [first_life, _] = processes(answerer)
    assert all_answered(answerer.answer([memory(i) for i in range(60)]))
    wait_until(lambda: states(answerer) == ["up", "up"])
    assert (lives(tmp_path, port), lives(tmp_path, port + 1)) == (2, 1)
    assert processes(answerer)[0] != first_life
    assert "server-0 ended by SIGKILL; it is started once more" in caplog.text and "Segmentation fault" in caplog.text
    assert {r.server for r in answerer.answer([memory(i) for i in range(20)])} == set(answerer._fleet.addresses)


def test_a_server_that_dies_again_is_left_out_for_good(start, tmp_path, caplog):
    port = free_ports(2)
    command = one_of_two_dies(tmp_path, port, deaths=9)
    answerer = start(parallel_servers=2, serve_port=port, serve_command=command, max_retries=0, client_concurrency=6)
    answerer.preflight()
    for _ in range(40):
        assert all_answered(answerer.answer([memory(i) for i in range(20)]))
        if states(answerer) == ["down", "up"]:
            break
        wait_until(lambda: "starting" not in states(answerer))
    assert states(answerer) == ["down", "up"]
    assert lives(tmp_path, port) == 2
    assert "server-0 is left out for good" in caplog.text


def test_questions_wait_for_the_only_server_without_using_up_retries(start, tmp_path):
    port = free_ports()
    options = killing_itself(tmp_path, after=2)
    answerer = start(f"{options} --delay-s 1", serve_port=port, max_retries=0, client_concurrency=4)
    answerer.preflight()
    assert all_answered(answerer.answer([memory(i) for i in range(12)]))
    assert lives(tmp_path, port) == 2


def test_when_no_server_is_left_the_run_ends_with_its_last_words(start, tmp_path):
    answerer = start(killing_itself(tmp_path, after=2, deaths=9), client_concurrency=2)
    answerer.preflight()
    with pytest.raises(AnswererError) as caught:
        for _ in range(20):
            answerer.answer([memory(i) for i in range(10)])
    text = str(caught.value)
    assert "for the second time" in text and "Segmentation fault" in text and "server-0" in text
    assert states(answerer) == ["down"]


def test_a_server_that_does_not_come_back_is_told_with_its_reason(start, tmp_path):
    program = tmp_path / "server.sh"
    program.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/lives ] && echo no memory left && exit 5\n"
        f'exec {SERVER} "$@" --lives {tmp_path}/lives --dies-after 2\n'
    )
    program.chmod(0o755)
    answerer = start(serve_command=str(program), client_concurrency=2)
    answerer.preflight()
    with pytest.raises(AnswererError, match=r"ended with code 5 [\s\S]*no memory left"):
        answerer.answer([memory(i) for i in range(10)])


def test_a_question_that_ends_servers_is_not_passed_on_for_ever(start, tmp_path):
    """Each ends on the question after the one that asks if it is ready, in its first life alone: both come back."""
    port = free_ports(2)
    answerer = start(
        killing_itself(tmp_path, after=1), parallel_servers=2, serve_port=port, client_concurrency=1, max_retries=4
    )
    answerer.preflight()
    [reply] = answerer.answer([memory()])
    assert reply.answer is None and "2 servers ended" in reply.reason
    wait_until(lambda: states(answerer) == ["up", "up"])
    assert [lives(tmp_path, port), lives(tmp_path, port + 1)] == [2, 2]
    assert all_answered(answerer.answer([memory(i) for i in range(4)]))


# ---------------------------------------------------------------- the end


@linux
def test_deaf_servers_and_their_children_are_gone_after_close(start, tmp_path):
    answerer = start(f"--port {{port}} --deaf --child {tmp_path}/children-{{port}}", parallel_servers=2)
    answerer.preflight()
    port = answerer._fleet._ports[0]
    pids = [*processes(answerer), *_children(tmp_path, port), *_children(tmp_path, port + 1)]
    assert len(pids) == 6
    began = time.monotonic()
    answerer.close()
    assert time.monotonic() - began < 8  # beside each other
    assert not any(is_alive(p) for p in pids)


def _children(tmp_path: Path, port: int) -> list[int]:
    return [int(p) for p in (tmp_path / f"children-{port}").read_text().split()]


SERVING = f"""
import sys
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers import server_process
from tasks.settings import VlmSettings

server_process.STOP_S = 2.0
answerer = OpenAIAnswerer(VlmSettings(
    backend="openai", model_id="test-vlm", auto_serve=True, serve_port=int(sys.argv[1]), api_base="http://localhost:1/v1",
    serve_command={SERVER!r} + " " + sys.argv[2], parallel_servers=2))
try:
    answerer.preflight()
    print("ready", flush=True)
    import time; time.sleep(600)
except KeyboardInterrupt:
    answerer.close()
    print("stopped", flush=True)
"""


@linux
@pytest.mark.parametrize(("options", "when"), [("", "ready"), ("--delay-s 60", "loading")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_kill_leave_nobody_behind(tmp_path, options, when, number):
    port = free_ports(2)
    words = [sys.executable, "-c", SERVING, str(port), f"--port {{port}} --lives {tmp_path}/lives-{{port}} {options}"]
    run = subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        files = [tmp_path / f"lives-{port + i}" for i in range(2)]
        if when == "ready":
            assert run.stdout.readline() == b"ready\n"
        wait_until(lambda: all(f.exists() and f.read_text().endswith("\n") for f in files))
        pids = [int(f.read_text()) for f in files]
        assert all(is_alive(p) for p in pids)
        run.send_signal(number)
        out, err = run.communicate(timeout=WAIT_S)
        assert wait_gone(*pids)
        if number == signal.SIGINT:
            assert (out.strip(), run.returncode) == (b"stopped", 0), err
            assert not any(is_alive(p) for p in pids)
    finally:
        run.kill()
        run.communicate()
