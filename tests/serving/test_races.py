"""Races that must not happen, one test for each row of the list; gates put every thread where it hurts."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from serving.control import TOKEN_GRACE_S
from serving.pipeline import Pipeline
from serving.wire.errors import EventCode, RejectCode
from serving.wire.messages import ActionChunk, SessionAck
from tests.serving.driver import KEYS, Robot
from tests.serving.mock_policy import DIM, WAIT_S, MockPolicy, chunk_of


def actions(state: float) -> np.ndarray:
    return chunk_of(np.full(DIM, state, np.float32)) * 2


def chunks(robot: Robot) -> list[int]:
    """Numbers of the observations that got actions."""
    return [header.seq_id for header, _, message in list(robot.heard) if isinstance(message, ActionChunk)]


class Background:
    """Something that runs beside the test; `join` gives what it returned."""

    def __init__(self, run: Any) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._found.append(run()))
        self._thread.start()

    def join(self) -> Any:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self._found[0]


# --- a new handshake while the old session is being served -----------------------------------------------------------


@pytest.mark.parametrize("step", ["prepare", "predict", "finish"])
def test_a_new_handshake_replaces_a_session_that_is_being_served(serve, step):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    old = served.session(robot)
    gate = policy.gate(step)
    robot.send(1)
    gate.wait()
    assert robot.open(resume_token=robot.ack.resume_token).accepted
    new = served.session(robot)
    assert new is not old and len(served.daemon.registry) == 1
    closing = robot.event(EventCode.SESSION_CLOSED)
    gate.open()
    np.testing.assert_array_equal(robot.step(2), actions(2))
    served.settle()
    assert closing.reason == "replaced by a new session"
    assert not old.publisher._declared and new.publisher._declared and policy.count("close") == 1
    for header, tag, message in robot.heard:
        if header.seq_id == 1 and isinstance(message, ActionChunk):  # the late reply, if it left: known by its epoch
            assert header.session_epoch < robot.epoch and tag != robot.ack.session_tag
    assert served.seen.record("ann", 2).session_id == new.session_id


def test_a_robot_has_a_session_at_every_moment_of_a_new_handshake(serve):
    served = serve(MockPolicy(), sessions_max=1)
    robot = served.robot("ann")
    over, wrong = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            found = served.daemon.registry.get("ann")
            if found is None or len(served.daemon.registry) != 1:
                wrong.append(found)

    looking = Background(look)
    for _ in range(25):
        assert robot.open(resume_token=robot.ack.resume_token).accepted
        robot.step()
    over.set()
    looking.join()
    assert wrong == []


def test_what_an_old_session_left_does_not_reach_an_exclusive_policy_after_the_new_one_began(serve, monkeypatch):
    """The old request is prepared late: the policy has forgotten and begun anew by then."""
    monkeypatch.setattr(Pipeline, "_alone", False)  # so that the policy's thread does not prepare it itself
    policy = MockPolicy(shared=False)
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate("prepare")
    robot.send(1)
    gate.wait()
    del policy.hooks["prepare"]
    assert robot.open(resume_token=robot.ack.resume_token).accepted
    np.testing.assert_array_equal(robot.step(2), actions(2))
    gate.open()
    assert served.seen.record("ann", 1).error_code == "session_closed"
    robot.step(3)
    assert [(step, who) for step, who in policy.calls if step in ("reset", "predict")] == [
        ("reset", ""), ("predict", "ann"), ("predict", "ann"),
    ]  # fmt: skip
    assert [float(batch[0].model[0, 0]) for batch in policy.batches] == [2.0, 3.0]


def test_what_an_old_session_left_is_refused_where_the_policys_thread_prepares_it_itself(serve):
    policy = MockPolicy(shared=False)
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate("prepare")
    robot.send(1)
    gate.wait()
    assert robot.open(resume_token=robot.ack.resume_token).accepted
    robot.send(2)
    gate.open()
    np.testing.assert_array_equal(robot.chunk(2), actions(2))
    assert served.seen.record("ann", 1).error_code == "session_closed"
    assert [float(batch[0].model[0, 0]) for batch in policy.batches] == [2.0]


# --- collection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["token", "idle"])
def test_a_collection_with_a_stale_list_spares_the_session_that_has_come_since(serve, monkeypatch, why):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    old = served.session(robot)
    assert robot.open(resume_token=robot.ack.resume_token).accepted
    new = served.session(robot)
    if why == "token":
        old.token_lost_s = old.opened_s - TOKEN_GRACE_S - 1
    else:
        old.last_seen_s = -1e9
    monkeypatch.setattr(served.daemon.registry, "all", lambda: [old])
    served.on_control(served.daemon.control.collect)
    monkeypatch.undo()
    assert served.session(robot) is new and not new.closed
    robot.step()


def test_removing_a_session_that_was_replaced_removes_nothing(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    old = served.session(robot)
    robot.open(resume_token=robot.ack.resume_token)
    assert not served.daemon.registry.remove(old) and served.session(robot) is not old


def test_a_late_notice_about_a_former_life_ends_nobody(serve):
    """The robot is back and its token lives; only then comes the notice that the old token went."""
    served = serve(MockPolicy())
    robot = served.robot("ann")
    robot.token()
    session = served.session(robot)
    served.daemon.control.token_changed(KEYS.alive("ann"), False)
    assert session.token_lost_s is not None
    session.token_lost_s -= TOKEN_GRACE_S + 1
    served.on_control(served.daemon.control.collect)
    assert served.session(robot) is session and session.token_lost_s is None and not session.closed
    robot.step()


# --- close and reset -------------------------------------------------------------------------------------------------


def test_a_close_of_an_old_session_leaves_the_new_one(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    old = robot.ack.session_id
    assert robot.open(resume_token=robot.ack.resume_token).accepted
    assert robot.close(session_id=old).outcome == "other_session"
    robot.step()


@pytest.mark.parametrize("step", ["prepare", "predict", "finish"])
def test_a_reset_waits_until_the_request_under_way_is_answered(serve, step):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    session = served.session(robot)
    gate = policy.gate(step)
    robot.send(1)
    gate.wait()
    resetting = Background(lambda: robot.reset(7))
    while not session._when_idle:  # until the control thread has left its wish
        served.control_idle()
    assert policy.count("forget") == 1 and session.episode == 0
    gate.open()
    assert resetting.join().ok and session.episode == 7
    steps = [name for name, _ in policy.calls if name in ("prepare", "predict", "finish", "forget")]
    assert steps == ["forget", "prepare", "predict", "finish", "forget"]
    robot.episode = 7
    robot.step(2)
    assert policy.count("forget") == 2  # the episode has begun already


# --- exclusive policies ----------------------------------------------------------------------------------------------


def test_an_observation_at_the_instant_of_the_open_finds_a_policy_that_has_forgotten(serve, monkeypatch):
    """It comes between the registration and everything after it."""
    policy = MockPolicy(shared=False)
    served = serve(policy)
    robot = Robot(served.hub, "ann")
    put = served.daemon.registry.put
    answered: list[np.ndarray] = []

    def put_and_observe(session: Any) -> Any:
        old = put(session)
        robot.ack = SessionAck(session_tag=session.tag)
        answered.append(robot.step(1))  # answered before the open is
        return old

    monkeypatch.setattr(served.daemon.registry, "put", put_and_observe)
    assert robot.open().accepted and len(answered) == 1
    order = [step for step, _ in policy.calls if step in ("reset", "predict")]
    assert order == ["reset", "predict"]


def test_what_the_warm_up_left_in_a_policy_is_forgotten_before_the_first_request(serve):
    from serving.warmup import warm_up

    policy = MockPolicy(shared=False)
    warm_up(policy, runs=2)
    warmed, resets = len(policy.batches), policy.count("reset")
    assert warmed >= 2
    served = serve(policy)
    robot = served.robot("ann")
    robot.step(1)
    steps = [step for step, _ in policy.calls if step in ("reset", "predict")]
    assert steps[-2:] == ["reset", "predict"]
    assert (len(policy.batches), policy.count("reset")) == (warmed + 1, resets + 1)


# --- publisher -------------------------------------------------------------------------------------------------------


def test_a_session_that_closes_between_the_check_and_the_put_harms_nobody(serve, monkeypatch):
    policy = MockPolicy()
    served = serve(policy)
    ann, bob = served.robot("ann"), served.robot("bob")
    session = served.session(ann)
    put = session.publisher.put

    def close_then_put(body: bytes, attachment: bytes) -> None:
        session.close()
        put(body, attachment)

    monkeypatch.setattr(session.publisher, "put", close_then_put)
    ann.send(1)
    record = served.seen.record("ann", 1)
    assert record.error_code == "session_closed" and chunks(ann) == []
    served.settle()
    assert policy.count("close", "ann") == 1 and served.daemon.healthy
    np.testing.assert_array_equal(bob.step(2), actions(2))


# --- the last place, and the end -------------------------------------------------------------------------------------


def test_of_two_opens_for_the_last_place_one_is_refused(serve):
    served = serve(MockPolicy(), sessions_max=3)
    for name in ("a", "b"):
        served.robot(name)
    start = threading.Barrier(8)

    def open_one(name: str) -> SessionAck:
        robot = Robot(served.hub, name)
        start.wait(WAIT_S)
        return robot.open()

    running = [Background(lambda i=i: open_one(f"late-{i}")) for i in range(8)]
    acks = [one.join() for one in running]
    assert sum(ack.accepted for ack in acks) == 1 and len(served.daemon.registry) == 3
    assert {ack.code for ack in acks} == {RejectCode.NONE, RejectCode.FULL}


def test_no_session_is_opened_after_the_drain(serve, monkeypatch):
    """The open was admitted before, and took longer to build than the drain did."""
    policy = MockPolicy()
    served = serve(policy)
    gate = policy.gate("open")
    opening = Background(Robot(served.hub, "slow").open)
    gate.wait()
    drained = threading.Event()
    drain = served.daemon.pipeline.drain

    def drain_and_tell(timeout_s: float) -> bool:
        done = drain(timeout_s)
        drained.set()
        return done

    monkeypatch.setattr(served.daemon.pipeline, "drain", drain_and_tell)
    stopping = Background(served.daemon.stop)
    assert drained.wait(WAIT_S)
    gate.open()
    ack = opening.join()
    assert not ack.accepted and ack.code == RejectCode.DRAINING and not ack.session_tag
    assert stopping.join() and len(served.daemon.registry) == 0
    assert policy.count("open") == policy.count("close") == 1 and not served.seen.drops["session_opened"]


def test_the_surface_is_gone_before_the_sessions_are_closed(serve, monkeypatch):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    seen: list[list[bytes]] = []
    policy.hooks["close"] = lambda value: seen.append(robot.transport.query(KEYS.status, b"", WAIT_S))
    assert served.daemon.stop()
    assert seen == [[]]


# --- counting --------------------------------------------------------------------------------------------------------


def test_every_observation_is_answered_or_counted_as_superseded_once(serve):
    """A robot sends as fast as it can while answers are made."""
    served = serve(MockPolicy(), decode_threads=2, finish_threads=2)
    robot, count = served.robot("ann"), 400
    for state in range(count):
        robot.send(state)
    served.settle()
    assert len(served.seen.records) + sum(record.superseded for record in served.seen.records) == count
    told = [message.superseded_seqs for _, _, message in robot.heard if isinstance(message, ActionChunk)]
    assert len(told) + sum(told) == count and served.seen.drops["superseded"] == sum(told)
    assert chunks(robot)[-1] == count  # and the last one is never lost
