"""How sessions begin, change hands and end."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from network.errors import TransportError
from serving.control import CONTROL_BODY_MAX, JOBS_MAX, TOKEN_GRACE_S
from serving.reply import REASON_MAX
from serving.session import NO_EPISODE
from serving.wire import features
from serving.wire.errors import EventCode, RejectCode
from serving.wire.header import TAG_BYTES
from serving.wire.messages import ResetAck, SessionAck, SessionClose, decode, encode
from tests.serving.driver import KEYS, SERVER, Robot, Served
from tests.serving.mock_policy import CAMERA, WAIT_S, MockPolicy


def collect(served: Served) -> None:
    """What the control thread does each second."""
    served.on_control(served.daemon.control.collect)


def names(served: Served) -> set[str]:
    return {session.client for session in served.daemon.registry.all()}


# --- open ------------------------------------------------------------------------------------------------------------


def test_an_accepted_open_tells_everything_that_the_robot_needs(serve):
    served = serve(MockPolicy())
    ack = served.robot("ann", tags={"cell": "7"}).ack
    assert (ack.model_repo, ack.model_revision, ack.policy_type) == ("acme/mock", "0123abcd", "mock")
    assert (ack.action_names, ack.expected_cameras, ack.state_dim, ack.chunk_size) == (["x", "y", "z"], [CAMERA], 3, 6)
    assert (ack.trained_fps, ack.serving_mode, ack.server_id, ack.warmed_up) == (30.0, "shared", SERVER, True)
    assert (ack.supports_rtc, ack.rtc_execution_horizon, ack.prefix_form) == (False, 0, "")
    assert set(ack.features) == set(features.ALL) and len(ack.session_tag) == TAG_BYTES
    assert len(ack.session_id) == len(ack.resume_token) == 32 and ack.session_id != ack.resume_token
    assert ack.server_load == 1 / 8 and ack.code == 0 and not ack.error and not ack.warnings
    session = served.daemon.registry.get("ann")
    assert session.session_id == ack.session_id and session.episode == NO_EPISODE
    assert dict(session.info.tags) == {"cell": "7"} and session.info.robot_type == "arm"


def test_a_client_of_schema_version_1_gets_no_more_than_it_knows(serve):
    served = serve(MockPolicy())
    ack = served.robot("old", features=[]).ack
    assert ack.features == [] and ack.session_tag == b"" and ack.resume_token == ""
    assert np.array_equal(served.robot("older", features=[], client_uuid="older").step(1)[0], [2, 2, 2])


def test_an_empty_body_is_an_open_of_nobody(serve):
    served = serve(MockPolicy())
    robot = Robot(served.hub, "ann")
    ack = decode(robot.ask(KEYS.session, b""), SessionAck)
    assert ack.code == RejectCode.BAD_REQUEST and not ack.accepted


@pytest.mark.parametrize(
    ("asks", "code"),
    [
        ({"schema_version": 9}, RejectCode.SCHEMA),
        ({"action_names": ["x"]}, RejectCode.ACTION_NAMES),
        ({"state_dim": 9}, RejectCode.STATE_DIM),
        ({"camera_names": []}, RejectCode.CAMERAS),
        ({"task": "fold"}, RejectCode.TASK),
        ({"fps": 7.0}, RejectCode.FPS),
        ({"client_uuid": "!!"}, RejectCode.BAD_REQUEST),
        ({"client_uuid": "n" * 300}, RejectCode.BAD_REQUEST),
        ({"client_uuid": "obs"}, RejectCode.BAD_REQUEST),
        ({"client_uuid": "!" * 4096}, RejectCode.BAD_REQUEST),  # said back whole, no client could read the answer
        ({"tags": {str(i): "" for i in range(33)}}, RejectCode.BAD_REQUEST),
        ({"task": "t" * 5000}, RejectCode.BAD_REQUEST),
    ],
)
def test_a_refused_open_leaves_nothing_behind(serve, asks, code):
    policy = MockPolicy()
    served = serve(policy, rules={"pinned_task": "stack", "strict_fps": True})
    ack = Robot(served.hub, "ann").open(KEYS.session, **asks)
    assert not ack.accepted and ack.code == code and 0 < len(ack.error) <= REASON_MAX and not ack.session_id
    assert ack.model_repo == "acme/mock"  # what the server can do is told all the same
    assert served.seen.drops == {f"reject_{code.name.lower()}": 1}
    assert len(served.daemon.registry) == 0 and policy.calls == []


def test_a_full_server_says_so_and_when_to_come_back(serve):
    served = serve(MockPolicy(), sessions_max=2)
    for name in ("a", "b"):
        served.robot(name)
    ack = Robot(served.hub, "c").open()
    assert ack.error == "server full: 2/2 sessions active" and ack.code == RejectCode.FULL
    assert ack.retryable and ack.retry_after_ms > 0 and ack.server_load == 1.0


def test_an_exclusive_server_has_one_place_whatever_the_manifest_says(serve):
    served = serve(MockPolicy(shared=False), sessions_max=5)
    served.robot("a")
    assert Robot(served.hub, "b").open().error == "server full: 1/1 sessions active"


def test_each_robot_gets_processors_of_its_own_also_when_it_comes_again(serve):
    policy = MockPolicy()
    served = serve(policy)
    a, b = served.robot("a"), served.robot("b")
    first = served.session(a).policy
    assert first is not served.session(b).policy
    assert a.open(resume_token=a.ack.resume_token).accepted
    assert served.session(a).policy is not first and policy.count("open") == 3


def test_a_session_that_cannot_be_built_is_an_error_that_is_told(serve, caplog):
    policy = MockPolicy()
    served = serve(policy)
    policy.fail("open", OSError("no such checkpoint"))
    ack = Robot(served.hub, "ann").open()
    assert ack.code == RejectCode.INTERNAL and ack.retryable and "OSError" in ack.error
    assert "checkpoint" not in ack.error and "no such checkpoint" in caplog.text
    del policy.hooks["open"]
    served.robot("ann").step()


def test_processors_are_freed_when_the_network_refuses_a_publisher(serve, monkeypatch):
    policy = MockPolicy()
    served = serve(policy)
    monkeypatch.setattr(served.transport, "publisher", lambda key, kind: 1 / 0)
    ack = Robot(served.hub, "ann").open()
    assert ack.code == RejectCode.INTERNAL and len(served.daemon.registry) == 0
    assert policy.count("open") == policy.count("close") == 1


def test_a_slow_open_stops_nobody_else(serve):
    policy = MockPolicy()
    served = serve(policy)
    well = served.robot("well")
    gate = policy.gate("open")
    slow = Robot(served.hub, "slow")
    opening = threading.Thread(target=slow.open)
    opening.start()
    gate.wait()
    for state in range(5):
        well.step(state)
    assert well.status().active_sessions == 1
    gate.open()
    opening.join(WAIT_S)
    slow.step()


# --- whose session ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["ann", "", "/ann/"])
def test_the_key_names_the_robot_and_the_body_may_only_agree(serve, said):
    served = serve(MockPolicy())
    robot = Robot(served.hub, "ann")
    assert robot.open(KEYS.session_of("ann"), client_uuid=said).accepted
    assert names(served) == {"ann"}


def test_another_name_in_the_body_than_in_the_key_is_refused(serve):
    served = serve(MockPolicy())
    ann, eve = served.robot("ann"), Robot(served.hub, "eve")
    ack = eve.open(KEYS.session_of("eve"), client_uuid="ann")
    assert ack.code == RejectCode.BAD_REQUEST and "eve" in ack.error
    closed = decode(eve.ask(KEYS.session_of("eve"), encode(SessionClose(client_uuid="ann"))), SessionAck)
    assert not closed.accepted
    reset = decode(eve.ask(KEYS.reset("eve"), encode(_reset("ann"))), ResetAck)
    assert not reset.ok and "eve" in reset.error
    ann.step()


def _reset(client: str) -> Any:
    from serving.wire.messages import Reset

    return Reset(client_uuid=client, episode_id=1)


def test_an_open_for_another_replica_stays_unanswered(serve):
    served = serve(MockPolicy())
    robot = Robot(served.hub, "ann")
    body = encode(robot.asked(server_id="replica-2"))
    assert robot.transport.query(KEYS.session_of("ann"), body, WAIT_S) == []
    assert len(served.daemon.registry) == 0 and not served.seen.drops
    assert robot.open(server_id=SERVER).accepted


# --- a new session in the place of an old one ------------------------------------------------------------------------


def test_with_its_resume_token_a_robot_takes_its_place_again(serve):
    served = serve(MockPolicy(), sessions_max=1)
    robot = served.robot("ann")
    robot.token()
    first, session = robot.ack, served.session(robot)
    assert robot.open(resume_token=first.resume_token).accepted
    served.settle()
    assert session.closed and served.session(robot).session_id == robot.ack.session_id != first.session_id
    assert robot.ack.session_tag != first.session_tag and robot.ack.resume_token != first.resume_token
    robot.step()
    assert served.seen.drops["session_opened"] == 2 and served.seen.drops["session_closed"] == 1


@pytest.mark.parametrize("token", ["", "0" * 32, "ü"])
def test_a_live_session_is_taken_over_by_nobody_else(serve, token):
    served = serve(MockPolicy())
    ann = served.robot("ann")
    ann.token()
    eve = Robot(served.hub, "ann")
    for key in (KEYS.session, KEYS.session_of("ann")):
        ack = eve.open(key, resume_token=token)
        assert ack.code == RejectCode.IN_USE and ack.retryable and not ack.resume_token and not ack.session_tag
    ann.step()


def test_a_session_whose_robot_is_gone_may_be_taken_over(serve):
    """A crash must not lock a robot out until the grace ends."""
    served = serve(MockPolicy())
    ann = served.robot("ann")
    ann.token()
    ann.transport.close()
    assert served.robot("ann").ack.session_id != ann.ack.session_id


def test_a_session_without_tokens_is_displaced_by_whoever_comes(serve):
    served = serve(MockPolicy())
    old = served.robot("ann", features=[])
    old.token()
    assert served.robot("ann", features=[]).ack.session_id != old.ack.session_id


def test_a_robot_whose_ack_was_lost_may_show_the_token_it_has(serve):
    """It opened again with its token, the answer got lost: the new session's token is known to nobody."""
    served = serve(MockPolicy())
    ann = served.robot("ann")
    ann.token()
    known = ann.ack.resume_token
    assert Robot(served.hub, "ann").open(resume_token=known).accepted  # heard by nobody
    assert not Robot(served.hub, "ann").open().accepted
    assert ann.open(resume_token=known).accepted
    ann.step()


def test_a_token_of_a_session_long_gone_still_tells_who_retries(serve):
    served = serve(MockPolicy())
    ann = served.robot("ann")
    ann.token()
    known = ann.ack.resume_token
    ann.close()
    assert Robot(served.hub, "ann").open(resume_token=known).accepted  # heard by nobody
    assert ann.open(resume_token=known).accepted


def test_a_lost_token_makes_room_for_others(serve):
    served = serve(MockPolicy(), sessions_max=1)
    ann = served.robot("ann")
    ann.token()
    ann.transport.close()  # a crash
    bob = served.robot("bob")
    assert names(served) == {"bob"}
    bob.step()


def test_a_token_that_is_back_keeps_its_place(serve):
    served = serve(MockPolicy(), sessions_max=1)
    ann = served.robot("ann")
    ann.token().undeclare()
    ann.token()
    assert Robot(served.hub, "bob").open().code == RejectCode.FULL
    ann.step()


# --- close -----------------------------------------------------------------------------------------------------------


def test_a_close_ends_the_session_and_says_what_it_found(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    assert robot.close(session_id="another").outcome == "other_session"
    robot.step()
    assert robot.close().outcome == "closed"
    assert robot.close().outcome == "unknown"
    served.settle()
    assert policy.count("close") == 1 and len(served.daemon.registry) == 0
    assert all(message.__class__.__name__ != "Event" for _, _, message in robot.heard)  # it knows


def test_without_a_session_id_a_robot_closes_its_own_by_its_own_key(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    assert robot.close(session_id="").outcome == "closed"


def test_nobody_closes_another_robots_session_through_the_shared_key(serve):
    """Else a resume token would protect nothing: close it first, then open in its place."""
    served = serve(MockPolicy())
    ann, eve = served.robot("ann"), Robot(served.hub, "eve")
    body = encode(SessionClose(client_uuid="ann"))
    assert decode(eve.ask(KEYS.session, body), ResetAck).outcome == "other_session"
    ann.step()
    body = encode(SessionClose(client_uuid="ann", session_id=ann.ack.session_id))
    assert decode(ann.ask(KEYS.session, body), ResetAck).outcome == "closed"


def test_a_client_of_schema_version_1_closes_as_it_always_did(serve):
    served = serve(MockPolicy())
    old = served.robot("old", features=[])
    assert decode(old.ask(KEYS.session, encode(SessionClose(client_uuid="old"))), ResetAck).outcome == "closed"


# --- reset -----------------------------------------------------------------------------------------------------------


def test_a_reset_forgets_and_throws_away_what_waits(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    robot.step(1)
    assert robot.reset(4).ok and served.session(robot).episode == 4
    assert policy.count("forget") == 2 and policy.count("reset") == 0
    robot.step(2)  # of episode 4: it has begun already
    assert policy.count("forget") == 2


def test_a_reset_waits_for_the_request_under_way_and_drops_the_one_behind(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate("predict")
    robot.send(1)
    gate.wait()
    robot.send(2)
    acks: list[ResetAck] = []
    resetting = threading.Thread(target=lambda: acks.append(robot.reset(1)))
    resetting.start()
    while not served.session(robot)._when_idle:
        served.control_idle()
    assert policy.count("forget") == 1 and not acks
    gate.open()
    resetting.join(WAIT_S)
    assert acks[0].ok and policy.count("forget") == 2
    robot.chunk(1)
    robot.step(3)
    assert robot.answers(2) == [] and len(served.seen.records) == 2


def test_an_exclusive_policy_forgets_before_the_first_request_after_a_reset(serve):
    policy = MockPolicy(shared=False)
    served = serve(policy)
    robot = served.robot("ann")
    robot.step()
    robot.reset(1)
    robot.step()
    assert policy.count("reset") == 2


def test_a_reset_of_nobody_says_so(serve):
    served = serve(MockPolicy())
    ack = Robot(served.hub, "ann").reset(1)
    assert not ack.ok and "ann" in ack.error


@pytest.mark.parametrize("episode", [-1, 1 << 32, 1 << 60])
def test_an_episode_that_no_header_holds_is_refused(serve, episode):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    ack = robot.reset(episode)
    assert not ack.ok and "episode_id" in ack.error
    robot.episode = 0
    robot.step()
    robot.close()
    served.settle()
    assert policy.count("close") == 1


def test_a_reset_that_fails_is_answered_and_the_robot_goes_on(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    robot.step()
    policy.fail("forget", RuntimeError("stuck"))
    ack = robot.reset(1)
    assert not ack.ok and "RuntimeError" in ack.error
    del policy.hooks["forget"]
    robot.step()
    assert policy.count("forget") == 3  # with the first request of the episode instead


def test_garbage_is_no_reset(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    assert not decode(robot.ask(KEYS.reset("ann"), b"\xc1"), ResetAck).ok
    assert not decode(robot.ask(KEYS.reset("ann"), b"x" * (CONTROL_BODY_MAX + 1)), ResetAck).ok
    robot.step()


# --- collection ------------------------------------------------------------------------------------------------------


def test_a_robot_that_lost_its_token_is_collected_after_the_grace(serve):
    policy = MockPolicy()
    served = serve(policy)
    ann = served.robot("ann")
    token = ann.token()
    session = served.session(ann)
    token.undeclare()
    assert session.token_lost_s is not None
    collect(served)
    assert names(served) == {"ann"}  # it may come back
    session.token_lost_s -= TOKEN_GRACE_S + 1
    collect(served)
    assert names(served) == set()
    assert ann.event(EventCode.SESSION_CLOSED).reason == "liveliness token dropped"
    served.settle()
    assert session.closed and policy.count("close") == 1


def test_a_token_that_comes_back_in_time_or_an_observation_clears_the_mark(serve):
    served = serve(MockPolicy())
    ann = served.robot("ann")
    session = served.session(ann)
    ann.token().undeclare()
    assert session.token_lost_s is not None
    ann.token()
    assert session.token_lost_s is None
    session.token_lost_s = 1.0
    ann.step()
    assert session.token_lost_s is None


def test_a_silent_robot_is_collected_when_its_time_is_up(serve):
    served = serve(MockPolicy(), control={"idle_timeout_s": 60.0})
    silent, busy = served.robot("silent"), served.robot("busy")
    for robot in (silent, busy):
        robot.token()
        served.session(robot).last_seen_s -= 61.0
    busy.step()
    collect(served)
    assert names(served) == {"busy"}
    assert silent.event(EventCode.SESSION_CLOSED).reason == "idle timeout"


def test_a_session_ends_although_its_robot_cannot_be_told(serve, monkeypatch):
    policy = MockPolicy()
    served = serve(policy, control={"idle_timeout_s": 60.0})
    session = served.session(served.robot("ann"))

    def broken(body: bytes, attachment: bytes) -> None:
        raise TransportError("want a way out", "none")

    monkeypatch.setattr(session.publisher, "put", broken)
    session.last_seen_s -= 61.0
    collect(served)
    served.settle()
    assert session.closed and policy.count("close") == 1


def test_collection_comes_round_by_itself(serve):
    served = serve(MockPolicy(), control={"idle_timeout_s": 60.0})
    robot = served.robot("ann")
    served.session(robot).last_seen_s -= 61.0
    robot.event(EventCode.SESSION_CLOSED)


def test_a_network_that_fails_does_not_end_the_control_thread(serve, monkeypatch, caplog):
    served = serve(MockPolicy(), control={"token_grace_s": 0.0})
    ann = served.robot("ann")
    served.session(ann).token_lost_s = 0.0
    asked = threading.Event()

    def alive(key: str, timeout_s: float) -> list[str]:
        asked.set()
        raise OSError("no route")

    monkeypatch.setattr(served.transport, "alive", alive)
    assert asked.wait(WAIT_S)
    served.control_idle()
    assert "no route" in caplog.text and served.daemon.control.alive
    monkeypatch.undo()
    served.robot("bob").step()


# --- floods ----------------------------------------------------------------------------------------------------------


def test_more_questions_than_can_wait_are_told_to_come_back(serve):
    policy = MockPolicy()
    served = serve(policy)
    gate = policy.gate("open")
    slow = threading.Thread(target=Robot(served.hub, "slow").open)
    slow.start()
    gate.wait()
    while served.daemon.control.submit(lambda: None):
        pass
    assert served.daemon.control._jobs.qsize() == JOBS_MAX
    ack = Robot(served.hub, "late").open()
    assert ack.code == RejectCode.BUSY and ack.retryable and ack.retry_after_ms > 0
    reset = Robot(served.hub, "late").reset(1)
    assert not reset.ok and "too many" in reset.error
    assert Robot(served.hub, "late").status().active_sessions == 0  # status is never busy
    gate.open()
    slow.join(WAIT_S)
    served.control_idle()
    served.robot("late").step()
    assert served.seen.drops["reject_busy"] == 1


def test_a_body_that_is_no_question_is_refused_before_it_is_decoded(serve):
    served = serve(MockPolicy())
    robot = Robot(served.hub, "ann")
    for body in (b"x" * (CONTROL_BODY_MAX + 1), b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa2op\x01"):
        ack = decode(robot.ask(KEYS.session, body), SessionAck)
        assert ack.code == RejectCode.BAD_REQUEST and not ack.accepted
    assert served.seen.drops["reject_bad_request"] == 4
    started_s = time.monotonic()
    assert robot.open().accepted and time.monotonic() - started_s < WAIT_S / 2
