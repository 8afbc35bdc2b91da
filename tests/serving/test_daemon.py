"""The daemon as a whole: what it shows of itself, what it drops by the header alone, and how it ends."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest

from network.memory_transport import MemoryTransport
from serving.daemon import STRANGERS_NAMED_MAX, STRANGERS_TOLD_PER_S_MAX
from serving.log_limit import Allowance, LineLimit
from serving.wire import features
from serving.wire.errors import EventCode, RejectCode
from serving.wire.header import TAG_BYTES, Header, MessageType
from serving.wire.messages import ActionChunk, Event
from tests.serving.driver import KEYS, SERVER, Robot
from tests.serving.mock_policy import CAMERA, WAIT_S, MockPolicy

# --- status ----------------------------------------------------------------------------------------------------------


def test_status_tells_everything_that_a_robot_may_want_to_know(serve):
    served = serve(
        MockPolicy(checkpoint_hash="c0ffee", normalisation_hash="beef", history_frames=3, history_step=2),
        sessions_max=4,
    )
    served.robot("ann").step()
    status = Robot(served.hub, "bob").status()
    assert (status.model_repo, status.model_revision, status.policy_type) == ("acme/mock", "0123abcd", "mock")
    assert (status.action_names, status.expected_cameras) == (["x", "y", "z"], [CAMERA])
    assert (status.state_dim, status.chunk_size, status.trained_fps) == (3, 6, 30.0)
    assert (status.serving_mode, status.warmed_up, status.server_id) == ("shared", True, SERVER)
    assert (status.active_sessions, status.max_sessions, status.server_load) == (1, 4, 0.25)
    assert (status.min_schema_version, status.max_schema_version, status.draining) == (1, 1, False)
    assert (status.checkpoint_hash, status.normalisation_hash) == ("c0ffee", "beef")
    assert (status.history_frames, status.history_step) == (3, 2)
    assert set(status.features) == set(features.ALL)
    assert 0 <= status.busy_share <= 1 and 0 <= status.wait_p95_ms < WAIT_S * 1e3


def test_rtc_and_sizes_are_told_where_there_are_any(serve):
    from serving.policies.base import Camera

    policy = MockPolicy(
        rtc=True, prefix_form="model", execution_horizon=4, cameras=(Camera(CAMERA, 224, 320), Camera("b"))
    )
    status = Robot(serve(policy, rules={"rtc": True}).hub, "ann").status()
    assert (status.supports_rtc, status.rtc_execution_horizon, status.prefix_form) == (True, 4, "model")
    assert status.image_sizes == {CAMERA: [224, 320]}
    status = Robot(serve(policy).hub, "ann").status()
    assert (status.supports_rtc, status.rtc_execution_horizon, status.prefix_form) == (False, 0, "")


def test_an_exclusive_service_says_so(serve):
    status = Robot(serve(MockPolicy(shared=False), sessions_max=5).hub, "ann").status()
    assert (status.serving_mode, status.max_sessions) == ("exclusive", 1)


# --- the surface -----------------------------------------------------------------------------------------------------


def test_nothing_is_seen_of_a_server_before_it_is_started(serve):
    served = serve(MockPolicy(), start=False)
    network = MemoryTransport(served.hub)
    assert not served.daemon.ready
    for key in (KEYS.status, KEYS.session, KEYS.session_of("ann"), KEYS.reset("ann")):
        assert network.query(key, b"", WAIT_S) == []
    assert network.alive(KEYS.server_alive, WAIT_S) == network.alive(KEYS.replica_alive(SERVER), WAIT_S) == []
    served.daemon.start()
    assert served.daemon.ready and served.daemon.healthy
    assert len(network.query(KEYS.status, b"", WAIT_S)) == 1
    assert network.alive(KEYS.server_alive, WAIT_S) and network.alive(KEYS.replica_alive(SERVER), WAIT_S)


def test_the_tokens_come_last(serve):
    """Whoever sees the server's token finds the rest of the surface."""
    served = serve(MockPolicy(), start=False)
    network, found = MemoryTransport(served.hub), []
    threads = []

    def seen(key: str, alive: bool) -> None:
        thread = threading.Thread(target=lambda: found.append(len(network.query(KEYS.status, b"", WAIT_S))))
        threads.append(thread)
        thread.start()

    network.watch(KEYS.server_alive, seen)
    served.daemon.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert found == [1]


def test_a_server_that_was_never_started_stops_too(serve):
    policy = MockPolicy()
    served = serve(policy, start=False)
    assert served.stop() and policy.closed == 1


def test_data_may_go_to_one_replica_by_its_name(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    robot._publisher = robot.transport.publisher(KEYS.observation("ann", SERVER), "observation")
    robot.step(1)
    robot._publisher = robot.transport.publisher(KEYS.observation("ann", "replica-2"), "observation")
    robot.send()
    served.settle()
    assert len(served.seen.records) == 1


# --- dropped by the header -------------------------------------------------------------------------------------------


def test_headers_that_are_none_are_dropped_and_counted(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    for attachment in (b"", b"x" * 26, b"x" * 28, b"x" * 34, b"x" * 36):
        robot._publisher.put(robot.body(), attachment)
    robot.put(robot.body(), msg_type=MessageType.CHUNK)
    robot.put(robot.body(), msg_type=77)
    assert served.seen.drops == {"session_opened": 1, "bad_header": 5, "bad_type": 2}
    robot.step()


def test_another_schema_is_told_to_the_robot_with_its_number(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    seq = robot.put(robot.body(), schema_version=2)
    event = robot.event(EventCode.BAD_SCHEMA, seq)
    assert event.seq_id_echo == seq and "want schema 1" in event.reason
    assert served.seen.drops["bad_schema"] == 1
    assert all(header.schema_version == 1 for header, _, _ in robot.heard)


def test_an_old_epoch_is_dropped(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    robot.epoch = 5
    robot.step()
    robot.put(robot.body(), session_epoch=4)
    assert served.seen.drops["old_epoch"] == 1
    robot.step()


@pytest.mark.parametrize("tag", [b"", bytes(TAG_BYTES), b"x" * TAG_BYTES])
@pytest.mark.parametrize(
    "header", [{}, {"schema_version": 2}, {"session_epoch": 2**32 - 1, "seq": 2**64 - 1, "client_mono_ns": 0}]
)
def test_a_foreign_message_changes_nothing_and_is_not_told(serve, tag, header):
    """Neither the robot's epoch nor its mailbox; and it hears no events about what it did not send."""
    served = serve(MockPolicy())
    robot, eve = served.robot("ann"), Robot(served.hub, "ann")
    eve.put(eve.body(9), tag=tag, **header)
    assert served.seen.drops["bad_tag"] == 1
    np.testing.assert_array_equal(robot.step(1)[0], [2, 2, 2])
    served.settle()
    assert [type(message) for _, _, message in robot.heard] == [ActionChunk]


def test_robots_without_a_session_are_named_once_each_and_not_for_ever(serve, caplog):
    served = serve(MockPolicy())
    for i in range(STRANGERS_NAMED_MAX + 50):
        robot = Robot(served.hub, f"stranger-{i}")
        for _ in range(2):
            robot.send()
        robot.transport.close()
    assert served.seen.drops["unknown_session"] == 2 * (STRANGERS_NAMED_MAX + 50)
    assert len(served.daemon._strangers) == STRANGERS_NAMED_MAX
    assert 0 < len(caplog.records) <= STRANGERS_NAMED_MAX
    served.robot("stranger-0").step()
    assert "stranger-0" not in served.daemon._strangers  # it has a name now


def test_a_robot_whose_session_is_gone_is_told_when_it_means_this_replica(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    tag = robot.ack.session_tag
    robot.close()
    robot.send()  # on the key that replicas share: it may be another's
    served.settle()
    assert not robot.heard
    robot._publisher = robot.transport.publisher(KEYS.observation("ann", SERVER), "observation")
    seq = robot.send()
    event = robot.event(EventCode.UNKNOWN_SESSION, seq)
    assert event.retryable and event.seq_id_echo == seq and robot.heard[0][1] == tag
    assert served.seen.drops["event_unknown_session"] == 1 and served.seen.drops["unknown_session"] == 2


def test_a_flood_of_strangers_makes_no_flood_of_events(serve):
    served = serve(MockPolicy())
    network = MemoryTransport(served.hub)
    header = Header(1, MessageType.OBSERVATION, 1, 0, 0, 0).pack()
    started_s = time.monotonic()
    for i in range(500):
        network.publisher(KEYS.observation(f"s-{i}", SERVER), "observation").put(b"", header)
    seconds = time.monotonic() - started_s
    served.settle()
    told = served.seen.drops["event_unknown_session"]
    assert STRANGERS_TOLD_PER_S_MAX <= told <= STRANGERS_TOLD_PER_S_MAX * (2 + seconds)


def test_events_do_not_pile_up_for_a_robot_that_provokes_them(serve):
    """While they cannot be sent, a flood of them is cut short: memory stays bounded."""
    served = serve(MockPolicy(), finish_threads=1)
    robot = served.robot("ann")
    release = threading.Event()
    served.daemon.pipeline.later(lambda: release.wait(WAIT_S))
    for _ in range(1000):
        robot.put(b"", schema_version=2)
    assert len(served.daemon.pipeline._finish) <= 16
    release.set()
    served.settle()
    assert served.seen.drops["bad_schema"] == 1000 and len(robot.heard) <= 17
    robot.put(b"", schema_version=2)
    served.settle()
    assert served.session(robot).notices == 0
    robot.step()


# --- the end ---------------------------------------------------------------------------------------------------------


class Order:
    """What happened at a stop, in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.events: list[str] = []

    def add(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, event: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: event in self.events, WAIT_S), self.events


def test_a_drain_tells_answers_what_waits_refuses_what_is_new_and_ends(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot, idle = served.robot("ann"), served.robot("idle")
    order = Order()
    watcher = MemoryTransport(served.hub)
    watcher.watch(KEYS.server_alive, lambda key, alive: order.add("token up" if alive else "token down"))
    gate = policy.gate("predict")
    robot.send(1)  # under way
    gate.wait()
    robot.send(2)  # waits in the mailbox
    stopped: list[bool] = []
    stopping = threading.Thread(target=lambda: stopped.append(served.daemon.stop()))
    stopping.start()
    order.wait("token down")
    robot.event(EventCode.DRAINING)
    idle.event(EventCode.DRAINING)
    assert served.daemon.stopped.is_set() is False and not served.daemon.ready
    assert robot.status().draining
    late = robot.send(3)
    event = robot.event(EventCode.DRAINING, late)
    assert event.retryable
    ack = Robot(served.hub, "bob").open()
    assert ack.code == RejectCode.DRAINING and ack.retryable
    gate.open()
    stopping.join(WAIT_S)
    assert stopped == [True]
    np.testing.assert_array_equal(robot.chunk(1)[0], [2, 2, 2])
    np.testing.assert_array_equal(robot.chunk(2)[0], [4, 4, 4])
    assert all(isinstance(message, Event) for message in robot.answers(late))
    assert robot.event(EventCode.SESSION_CLOSED).reason == "server shutdown"
    kinds = [m.code if isinstance(m, Event) else "chunk" for _, _, m in robot.heard]
    assert kinds[-1] == EventCode.SESSION_CLOSED and kinds.count("chunk") == 2
    assert policy.count("close") == 2 and policy.closed == 1
    assert len(served.daemon.registry) == 0 and served.seen.drops["draining"] == 1
    assert robot.transport.query(KEYS.status, b"", WAIT_S) == []


def test_stop_from_two_threads_is_one_stop(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate("predict")
    robot.send()
    gate.wait()
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(served.daemon.stop())) for _ in range(2)]
    for thread in threads:
        thread.start()
    robot.event(EventCode.DRAINING)
    assert not found
    gate.open()
    for thread in threads:
        thread.join(WAIT_S)
    assert found == [True, True] and policy.closed == 1 and served.daemon.stop()
    assert [m.code for _, _, m in robot.heard if isinstance(m, Event)].count(EventCode.DRAINING) == 1


def test_a_drain_that_takes_too_long_is_cut_short(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    policy.gate("predict").wait(0)
    robot.send()
    started_s = time.monotonic()
    assert not served.daemon.stop(timeout_s=0.1)
    assert time.monotonic() - started_s < WAIT_S / 2
    assert served.daemon.stopped.is_set() and len(served.daemon.registry) == 0


def test_sessions_end_although_no_question_more_can_wait(serve, monkeypatch):
    policy = MockPolicy()
    served = serve(policy)
    robot, control = served.robot("ann"), served.daemon.control
    gate = policy.gate("open")
    slow = threading.Thread(target=Robot(served.hub, "slow").open)
    slow.start()
    gate.wait()
    while control.submit(lambda: None):
        pass
    asked, put = threading.Event(), control._jobs.put
    monkeypatch.setattr(control._jobs, "put", lambda *args, **how: (asked.set(), put(*args, **how)))
    stopped: list[bool] = []
    stopping = threading.Thread(target=lambda: stopped.append(served.daemon.stop()))
    stopping.start()
    assert asked.wait(WAIT_S)  # to end, while there is no room to ask
    gate.open()
    stopping.join(WAIT_S)
    slow.join(WAIT_S)
    assert stopped == [True] and policy.count("close", "ann") == 1 and len(served.daemon.registry) == 0
    assert robot.event(EventCode.SESSION_CLOSED).reason == "server shutdown"


def test_a_stop_does_not_hang_on_a_control_thread_that_does(serve):
    policy = MockPolicy()
    served = serve(policy)
    gate = policy.gate("open")
    slow = threading.Thread(target=Robot(served.hub, "slow").open)
    slow.start()
    gate.wait()
    while served.daemon.control.submit(lambda: None):
        pass
    started_s = time.monotonic()
    served.daemon.stop(timeout_s=0.1)
    assert time.monotonic() - started_s < WAIT_S / 2
    gate.open()
    slow.join(WAIT_S)


def test_health_is_every_thread_and_the_network(serve):
    served = serve(MockPolicy())
    assert served.daemon.healthy and served.daemon.ready
    served.transport.close()
    assert not served.daemon.healthy and not served.daemon.ready


# --- limits ----------------------------------------------------------------------------------------------------------


def test_an_allowance_comes_again_with_the_next_window():
    allowance = Allowance(2, window_s=0.3)
    assert [allowance.take() for _ in range(3)] == [True, True, False] and allowance.refused == 1
    threading.Event().wait(0.31)
    assert allowance.take()


def test_a_flooded_log_says_what_it_left_out():
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log = logging.Logger("flooded")
    log.addHandler(Keep())
    log.addFilter(LineLimit(per_s_max=2, window_s=0.5))
    for i in range(10):
        log.warning("seen %s", i)
    log.warning("another %s", 1)
    threading.Event().wait(0.51)
    log.warning("seen %s", 10)
    assert lines == ["seen 0", "seen 1", "another 1", "seen 10 (8 more like this were left out)"]
