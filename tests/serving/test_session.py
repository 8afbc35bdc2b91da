"""A session's turn: one request at a time, and what waits for the end of it runs before the next begins."""

from __future__ import annotations

import threading

import pytest

from network.errors import TransportError
from serving.mailbox import Deposit
from serving.policies.base import SessionInfo
from serving.session import NO_EPISODE, Agreement, Session
from serving.wire import features
from serving.wire.header import TAG_BYTES, Header
from tests.serving.mock_policy import WAIT_S, MockPolicy, MockSession


class Publisher:
    """Counts what becomes of it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.undeclared, self.error = 0, error

    def put(self, body: bytes, attachment: bytes) -> None:
        raise AssertionError("nothing is sent here")

    def undeclare(self) -> None:
        self.undeclared += 1
        if self.error is not None:
            raise self.error


def make(policy: MockPolicy | None = None, publisher: Publisher | None = None, *named: str) -> Session:
    policy = policy or MockPolicy()
    processors = MockSession(policy, SessionInfo("id", "ann"))
    return Session("ann", Agreement(frozenset(named)), processors, publisher or Publisher(), opened_s=5.0)


@pytest.fixture
def session() -> Session:
    return make()


def deposit(seq: int = 1, epoch: int = 1, received_s: float = 9.0) -> Deposit:
    return Deposit(Header(1, 1, seq, 0, 0, epoch), b"", received_s)


def test_facts_of_a_new_session(session):
    assert session.episode == NO_EPISODE and not session.closed and not session.busy
    assert session.last_seen_s == session.opened_s == 5.0
    assert session.tag == b"" and len(make(None, None, features.TAG).tag) == TAG_BYTES
    other = make()
    assert session.session_id != other.session_id and session.resume_token != other.resume_token


def test_a_deposit_shows_that_the_robot_lives(session):
    session.token_lost_s = 6.0
    assert not session.deposit(deposit(epoch=3))
    assert session.token_lost_s is None and session.last_seen_s == 9.0 and session.epoch == 3
    assert session.deposit(deposit(seq=2, epoch=2)) is False and session.epoch == 3  # older than what lies there


def test_one_turn_at_a_time(session):
    assert session.begin() and session.busy
    assert not session.begin()
    session.end()
    assert session.begin()


def test_what_may_run_between_two_requests_runs_at_once_when_there_is_none(session):
    seen = []
    session.when_idle(lambda: seen.append(session.busy))
    assert seen == [True] and not session.busy  # no request could begin meanwhile


def test_what_must_wait_runs_at_the_end_of_the_turn_in_order_before_the_next(session):
    seen = []
    session.begin()
    for name in "ab":
        session.when_idle(lambda name=name: seen.append((name, session.begin())))
    assert seen == []
    session.end()
    assert seen == [("a", False), ("b", False)] and not session.busy


def test_an_action_may_ask_for_another(session):
    seen = []
    session.begin()
    session.when_idle(lambda: session.when_idle(lambda: seen.append("second")))
    session.end()
    assert seen == ["second"] and not session.busy


def test_turns_race_and_only_one_wins(session):
    begun, start = [], threading.Barrier(8)

    def run() -> None:
        start.wait(WAIT_S)
        begun.append(session.begin())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begun.count(True) == 1


def test_closing_ends_everything_once():
    policy, publisher = MockPolicy(), Publisher()
    session = make(policy, publisher)
    session.deposit(deposit())
    session.close()
    session.close()
    assert session.closed and session.mailbox.peek() is None and not session.begin()
    assert publisher.undeclared == 1 and policy.count("close") == 1


def test_closing_while_busy_lets_the_request_finish_with_its_processors():
    policy, publisher = MockPolicy(), Publisher()
    session = make(policy, publisher)
    session.begin()
    session.close()
    assert publisher.undeclared == 1 and policy.count("close") == 0
    session.end()
    assert policy.count("close") == 1 and not session.begin()


def test_an_episode_begins_with_forgetting():
    policy = MockPolicy()
    session = make(policy)
    session.begin_episode(4)
    assert session.episode == 4 and policy.count("forget") == 1


def test_an_episode_that_could_not_begin_begins_again_with_the_next_request():
    policy = MockPolicy()
    policy.fail("forget", RuntimeError("stuck"))
    session = make(policy)
    with pytest.raises(RuntimeError):
        session.begin_episode(4)
    assert session.episode == NO_EPISODE


def test_an_action_that_raises_ends_the_turn_all_the_same(session, caplog):
    """Else the robot would never be served again."""
    seen = []
    session.begin()
    session.when_idle(lambda: 1 / 0)
    session.when_idle(lambda: seen.append("next"))
    session.end()
    assert seen == ["next"] and session.begin()
    assert "ZeroDivisionError" in caplog.text


def test_processors_are_freed_although_the_network_is_gone_already():
    policy = MockPolicy()
    session = make(policy, Publisher(TransportError("no network")))
    session.close()
    assert session.closed and policy.count("close") == 1
