"""From a manifest to a warm service, over the network in memory."""

from __future__ import annotations

import logging
import threading
import urllib.request
from dataclasses import replace

import pytest

from network.memory_transport import Hub, MemoryTransport
from serving.assemble import assemble, service_settings
from serving.errors import ManifestError, PolicyError, ServingError
from serving.manifest import Manifest
from serving.wire.messages import SessionAck, SessionOpen, Status, decode, encode
from tests.serving.commands import free_port
from tests.serving.factory_policy import SPEC, RampPolicy, leaky, stateful

NAMES = list(SPEC.action_names)


def manifest(**values: object) -> Manifest:
    base = {
        "model": {"repo_or_path": "tests.serving.factory_policy:shared", "device": "cpu"},
        "zenoh": {"mode": "peer", "listen_endpoints": ["tcp/127.0.0.1:0"]},
        "health_port": 0,
    }
    return Manifest.model_validate({**base, **values})


def served(settings: Manifest, policy: RampPolicy | None = None):
    hub = Hub()
    service = assemble(settings, transport=MemoryTransport(hub), load=(lambda _: policy) if policy else None)
    return service, MemoryTransport(hub)


def status(service, client) -> Status:
    (answer,) = client.query(service.daemon.settings.keys.status, b"", 1.0)
    return decode(answer, Status)


def test_nobody_sees_a_service_before_it_is_warm():
    policy = RampPolicy()
    service, client = served(manifest(warmup_inferences=3, max_sessions=4), policy)
    assert policy.said.count("predict 4") >= 3  # the largest batch that four robots can cause
    assert not client.alive(service.daemon.settings.keys.server_alive, 0)
    service.start()
    assert client.alive(service.daemon.settings.keys.server_alive, 0)
    assert status(service, client).max_sessions == 4
    assert service.stop() and service.stop()
    assert policy.said[-1] == "close" and policy.said.count("close") == 1
    assert not client.alive(service.daemon.settings.keys.server_alive, 0)


def test_the_factory_of_the_manifest_is_called():
    service, _ = served(manifest())
    assert service.daemon.policy.spec.policy_type == "ramp"
    service.stop()


def test_a_robot_opens_a_session():
    service, client = served(manifest(default_task="fold", pin_task=True))
    service.start()
    ask = SessionOpen(client_uuid="r", action_names=NAMES, state_dim=2, task="fold")
    (answer,) = client.query(service.daemon.settings.keys.session, encode(ask), 5.0)
    assert decode(answer, SessionAck).accepted
    (answer,) = client.query(service.daemon.settings.keys.session, encode(replace_task(ask, "iron")), 5.0)
    assert "fold" in decode(answer, SessionAck).error
    service.stop()


def replace_task(ask: SessionOpen, task: str) -> SessionOpen:
    return SessionOpen(client_uuid="q", action_names=ask.action_names, state_dim=2, task=task)


@pytest.mark.parametrize("mode", ["auto", "exclusive"])
def test_a_policy_with_state_gets_one_robot_and_is_reset(mode, caplog):
    policy = stateful()
    with caplog.at_level(logging.WARNING):
        service, client = served(manifest(serving_mode=mode), policy)
    service.start()
    told = status(service, client)
    assert (told.max_sessions, told.serving_mode) == (1, "exclusive") and "reset" in policy.said
    assert "one robot at a time" in caplog.text
    service.stop()


def test_exclusive_may_be_forced_on_a_policy_that_could_be_shared():
    service, client = served(manifest(serving_mode="exclusive", max_sessions=3))
    service.start()
    assert (status(service, client).max_sessions, service.daemon.pipeline.settings.batch_max) == (1, 1)
    service.stop()


def test_shared_is_refused_where_the_policy_says_no():
    policy = stateful()
    with pytest.raises(ManifestError, match="serving_mode: shared"):
        served(manifest(serving_mode="shared"), policy)
    assert policy.said[-1] == "close"


def test_shared_is_refused_where_the_trial_says_no():
    with pytest.raises(PolicyError, match="share"):
        served(manifest(serving_mode="shared"), leaky())


def test_auto_serves_a_leaking_policy_to_one_robot(caplog):
    with caplog.at_level(logging.WARNING):
        service, client = served(manifest(), leaky())
    service.start()
    assert status(service, client).serving_mode == "exclusive" and "differ" in caplog.text
    service.stop()


def test_a_horizon_longer_than_a_chunk_is_refused():
    policy = RampPolicy(replace(SPEC, rtc=True, execution_horizon=8, prefix_form="robot"))
    with pytest.raises(ManifestError, match="at most 8"):
        served(manifest(rtc={"execution_horizon": 9}), policy)
    service, _ = served(manifest(rtc={"execution_horizon": 9, "enabled": False}), policy)
    assert service.daemon.settings.rules.rtc is False
    service.stop()


def test_what_the_manifest_says_of_the_rate_counts_over_the_policy(caplog):
    assert service_settings(manifest(), replace(SPEC, fps=20.0)).rules.trained_fps == 20.0
    assert service_settings(manifest(trained_fps=50), replace(SPEC, fps=20.0)).rules.trained_fps == 50.0
    assert service_settings(manifest(), replace(SPEC, fps=0.0)).rules.trained_fps == 30.0
    with caplog.at_level(logging.WARNING):
        service, _ = served(manifest(trained_fps=50))
    assert "the policy says 30 Hz, the manifest 50 Hz" in caplog.text
    service.stop()


def test_settings_reach_the_daemon(tmp_path):
    settings = manifest(
        batching={"batch_max": 3, "max_wait_ms": 7}, server_id="here", session_idle_timeout_s=9, decode_threads=1,
        limits={"images_max": 2}, debug={"capture_dir": str(tmp_path)}, default_task="t", pin_task=True,
    )  # fmt: skip
    made = service_settings(settings, SPEC)
    assert made.pipeline.batch_max == 3 and made.pipeline.max_wait_s == pytest.approx(0.007)
    assert made.pipeline.limits.images_max == 2 and made.pipeline.keep_bodies and made.pipeline.decode_threads == 1
    assert made.server_id == "here" and made.control.idle_timeout_s == 9
    assert made.rules.pinned_task == made.pipeline.pinned_task == "t"
    assert service_settings(manifest(max_sessions=2), SPEC).pipeline.batch_max == 2
    assert service_settings(manifest(), SPEC).pipeline.batch_max == SPEC.batch_max


def test_health_metrics_and_logs_stand_beside_it(tmp_path):
    port = free_port()
    settings = manifest(
        health_port=port,
        audit={"path": str(tmp_path / "audit.jsonl")},
        debug={"capture_dir": str(tmp_path / "capture")},
    )
    service, _ = served(settings)
    service.start()
    for page, wanted in (("healthz", b"ok"), ("readyz", b"ready"), ("metrics", b"cuebook_serving_active_sessions")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
            assert wanted in answer.read()
    service.stop()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5)
    assert (tmp_path / "audit.jsonl").exists()


def test_what_fails_on_the_way_leaves_nothing_open():
    hub, policy = Hub(), RampPolicy()
    transport = MemoryTransport(hub)
    elsewhere = manifest(health_port=free_port(), health_host="203.0.113.7")  # an address that is nobody's
    with pytest.raises(ServingError, match=r"203\.0\.113\.7"):
        assemble(elsewhere, transport=transport, load=lambda _: policy)
    assert policy.said[-1] == "close" and not transport.connected()


def test_it_runs_until_asked():
    service, client = served(manifest())
    asked = threading.Event()
    codes = []
    ready = threading.Event()

    def stop_when_ready():
        ready.wait(10)
        assert client.alive(service.daemon.settings.keys.server_alive, 0)
        asked.set()

    helper = threading.Thread(target=stop_when_ready)
    helper.start()
    codes.append(service.run(ready.set, asked))  # on the main thread: it takes the signals
    helper.join()
    assert codes == [0] and service.daemon.stopped.is_set()


def test_a_dead_thread_ends_the_service_with_an_error():
    service, _ = served(manifest())
    asked = threading.Event()

    def die():
        service.daemon.control.submit(None)  # how its thread is told to end

    assert service.run(die, asked) == 1
