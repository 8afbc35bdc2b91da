"""Health, readiness and metrics over real HTTP; strangers on the port do no harm."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.error
import urllib.request
from contextlib import closing

import pytest

import serving.health
from serving.errors import ServingError
from serving.health import CONNECTIONS_MAX, REQUEST_BYTES_MAX, HealthServer
from serving.metrics import Metrics
from tests.serving.watched import WAIT_S, DoublingPolicy, Robot, make_daemon, start_daemon, until


@pytest.fixture
def served():
    policy, metrics = DoublingPolicy(), Metrics()
    daemon, hub = start_daemon(policy, metrics.note)
    health = HealthServer(daemon, metrics, port=0, hung_s=0.2)
    health.start()
    yield policy, daemon, hub, health
    policy.go.set()
    health.stop()
    daemon.stop()


def get(health: HealthServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{health.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.headers["Content-Type"], err.read()


def state(health: HealthServer, path: str) -> tuple[int, dict]:
    code, kind, body = get(health, path)
    assert kind == "application/json"
    return code, json.loads(body)


def raw(health: HealthServer, data: bytes) -> bytes:
    """What comes back for bytes on the port, until the other side closes."""
    with closing(socket.create_connection(("127.0.0.1", health.port), timeout=WAIT_S)) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


def test_a_working_daemon_is_healthy_and_ready(served):
    _, _, hub, health = served
    Robot(hub, "ann").open()
    code, said = state(health, "/healthz")
    assert code == 200 and said["status"] == "ok" and said["problems"] == []
    assert said["active_sessions"] == 1 and said["server_id"] == "replica-1"
    code, said = state(health, "/readyz?verbose")
    assert code == 200 and said["status"] == "ready"
    code, kind, page = get(health, "/metrics")
    assert code == 200 and kind.startswith("text/plain; version=")
    assert b"cuebook_serving_active_sessions 1.0" in page


def test_other_paths_are_not_found_and_heads_have_no_body(served):
    *_, health = served
    for path in ("/", "/metrics/", "/healthz/x", "/../etc/passwd"):
        assert get(health, path)[0] == 404
    assert get(health, "/healthz", "HEAD")[2] == b""
    assert get(health, "/healthz", "POST")[0] == 501


def test_a_hung_device_is_unhealthy_until_it_comes_back(served):
    policy, daemon, hub, health = served
    robot = Robot(hub, "ann")
    robot.open()
    policy.go.clear()
    robot.send()
    assert policy.predicting.wait(WAIT_S)
    assert state(health, "/healthz")[0] == 200  # it only works
    until(lambda: state(health, "/healthz")[0] == 503)
    for path in ("/healthz", "/readyz"):
        code, said = state(health, path)
        assert code == 503 and said["status"] == "unavailable"
        assert "the policy has been at one batch for" in said["problems"][0]
    (predicting,) = re.findall(rb"^cuebook_serving_predicting_seconds (\S+)", get(health, "/metrics")[2], re.MULTILINE)
    assert float(predicting) > 0.2
    policy.go.set()
    robot.hear()
    assert daemon.pipeline.drain(WAIT_S)
    assert state(health, "/healthz")[0] == 200


def test_a_hung_control_thread_is_told(served, monkeypatch):
    _, daemon, _, health = served
    monkeypatch.setattr(serving.health, "CONTROL_HUNG_S", 1.2)  # it shows itself once a second
    free = threading.Event()
    assert daemon.control.submit(lambda: free.wait(WAIT_S))
    until(lambda: state(health, "/healthz")[0] == 503)
    assert "the control thread has been at one job" in state(health, "/healthz")[1]["problems"][0]
    free.set()
    until(lambda: state(health, "/healthz")[0] == 200)


def test_a_lost_network_is_told(served):
    _, daemon, _, health = served
    daemon.transport.close()
    code, said = state(health, "/healthz")
    assert code == 503 and "network" in said["problems"][0]
    assert state(health, "/readyz")[0] == 503


def test_a_draining_daemon_is_healthy_but_not_ready(served):
    _, daemon, _, health = served
    daemon.control.draining = True
    assert state(health, "/healthz")[0] == 200
    code, said = state(health, "/readyz")
    assert code == 503 and "draining" in said["problems"][0] and said["draining"]


def test_dead_threads_and_a_stopped_daemon_are_told(served):
    _, daemon, _, health = served
    daemon.pipeline.stop(WAIT_S)
    code, said = state(health, "/healthz")
    assert code == 503 and "thread of the pipeline" in said["problems"][0]
    daemon.stop()
    code, said = state(health, "/healthz")
    assert code == 503 and said["problems"] == ["the daemon has stopped"]


def test_a_daemon_that_has_not_started_is_not_ready():
    daemon, _ = make_daemon(DoublingPolicy())
    health = HealthServer(daemon, Metrics(), port=0)
    health.start()
    try:
        code, said = state(health, "/readyz")
        assert code == 503 and said["problems"]
    finally:
        health.stop()


def test_a_taken_port_says_so(served):
    _, daemon, _, health = served
    with pytest.raises(ServingError, match=r"health and metrics on 127.0.0.1:\d+\n.*in use\n.*health_port"):
        HealthServer(daemon, Metrics(), port=health.port).start()
    with pytest.raises(ServingError, match="health_port"):
        HealthServer(daemon, Metrics(), host="no.such.host.invalid", port=0).start()


def test_stop_closes_the_port_and_twice_is_once(served):
    _, daemon, _, health = served
    port = health.port
    health.stop()
    health.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    again = HealthServer(daemon, Metrics(), port=port)  # free at once
    again.start()
    again.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * REQUEST_BYTES_MAX + b" HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n" + b"X-Y: z\r\n" * 2000 + b"\r\n",
        b"\x00" * 3 * REQUEST_BYTES_MAX,
    ],
    ids=["line", "headers", "zeros"],
)
def test_large_requests_are_refused_before_they_are_read(served, data):
    *_, health = served
    answer = raw(health, data)
    assert not answer or b" 431 " in answer or b" 400 " in answer
    assert state(health, "/healthz")[0] == 200


def test_random_bytes_end_a_connection_and_nothing_else(served):
    *_, health = served
    for data in (b"\r\n", b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"GET /healthz HTTP/9.9\r\n\r\n"):
        assert b" 200 " not in raw(health, data)
    assert state(health, "/healthz")[0] == 200


def test_a_slow_client_is_cut_off_in_whole_not_by_the_byte(served, monkeypatch):
    *_, health = served
    monkeypatch.setattr(serving.health, "REQUEST_S", 0.3)
    stop = threading.Event()
    with closing(socket.create_connection(("127.0.0.1", health.port), timeout=WAIT_S)) as connection:

        def drip() -> None:
            while not stop.wait(0.05):  # each byte in time, the whole never
                try:
                    connection.sendall(b"G")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
        finally:
            stop.set()
            dripping.join()


def test_idle_connections_do_not_add_up(served, monkeypatch):
    *_, health = served
    monkeypatch.setattr(serving.health, "REQUEST_S", 0.5)
    idle = [socket.create_connection(("127.0.0.1", health.port), timeout=WAIT_S) for _ in range(CONNECTIONS_MAX + 1)]
    try:
        assert idle[-1].recv(1) == b""  # one too many: closed at once
        for connection in idle:
            connection.settimeout(WAIT_S)
            while connection.recv(4096):  # the others when their time is up
                pass
        assert state(health, "/healthz")[0] == 200
    finally:
        for connection in idle:
            connection.close()
