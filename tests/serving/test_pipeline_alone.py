"""A robot that is alone: the policy's thread does everything for it, and nobody who comes meanwhile is lost."""

from __future__ import annotations

import threading
import time
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest

from serving.errors import PredictError
from serving.health import problems
from serving.pipeline import TICK_S, Pipeline
from tests.serving.mock_policy import DIM, WAIT_S, MockPolicy, chunk_of

STEPS = ("prepare", "predict", "finish")
POLICY = "serving-policy"


def actions(state: float) -> np.ndarray:
    return chunk_of(np.full(DIM, state, np.float32)) * 2


class Where:
    """Notes which thread does each step."""

    def __init__(self, policy: MockPolicy) -> None:
        self.threads: list[tuple[str, str]] = []
        for step in STEPS:
            policy.hooks[step] = lambda value, step=step: self._note(step, value)

    def _note(self, step: str, value: Any) -> Any:
        self.threads.append((step, threading.current_thread().name.rstrip("0123456789")))
        return value


def test_one_thread_does_all_for_a_lone_robot(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot, where = served.robot("ann"), Where(policy)
    served.settle()
    for state in range(3):
        np.testing.assert_array_equal(robot.step(state), actions(state))
        served.settle()  # an answer is heard before its request is over
    assert where.threads == [(step, POLICY) for step in STEPS] * 3


def test_each_kind_of_work_has_its_threads_from_the_second_session_on(serve):
    policy = MockPolicy()
    served = serve(policy)
    robots = [served.robot("ann"), served.robot("bob")]
    where = Where(policy)
    for robot in robots:
        robot.step(1)
    wanted = {"prepare": "serving-decode-", "predict": POLICY, "finish": "serving-finish-"}
    assert where.threads == [(step, wanted[step]) for step in STEPS] * 2


def test_who_comes_while_the_policys_thread_prepares_is_prepared_beside_it_and_answered_next(serve):
    policy = MockPolicy()
    served = serve(policy)
    first = served.robot("first")
    gate = policy.gate("prepare")
    first.send(1)
    gate.wait()
    second = served.robot("second")
    second.send(2)
    gate.wait(2)  # the second one's is being prepared although the policy's thread is at the first one's
    gate.open()
    np.testing.assert_array_equal(first.chunk(1), actions(1))
    np.testing.assert_array_equal(second.chunk(1), actions(2))


def test_who_is_no_longer_alone_when_the_policys_thread_wakes_is_not_forgotten(serve, monkeypatch):
    """It was told to take an observation, and a second session has opened since: the decoders hear of it at once."""
    served = serve(MockPolicy())
    robot, took_s = served.robot("ann"), []
    for _ in range(5):
        served.settle()
        answers = chain([True], repeat(False))  # alone only when the observation is offered
        monkeypatch.setattr(Pipeline, "_alone", property(lambda _, answers=answers: next(answers)))
        started_s = time.monotonic()
        robot.step()
        took_s.append(time.monotonic() - started_s)
    assert min(took_s) < TICK_S / 4


def test_an_answer_that_is_slow_to_leave_loses_nobody(serve, monkeypatch):
    policy = MockPolicy()
    served = serve(policy)
    slow = served.robot("slow")
    publisher, entered, release = served.session(slow).publisher, threading.Event(), threading.Event()
    put = publisher.put

    def slow_put(body: bytes, attachment: bytes) -> None:
        entered.set()
        assert release.wait(WAIT_S)
        put(body, attachment)

    monkeypatch.setattr(publisher, "put", slow_put)
    slow.send(1)
    assert entered.wait(WAIT_S)
    quick = served.robot("quick")  # sessions open as ever
    quick.send(2)
    assert not served.daemon.pipeline.drain(0.05)  # what is on its way out is not done
    release.set()
    np.testing.assert_array_equal(slow.chunk(1), actions(1))
    np.testing.assert_array_equal(quick.chunk(1), actions(2))
    served.settle()


@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_what_lies_around_the_policy_is_not_its_work(serve, step):
    """Decoding and sending on the policy's thread are neither a batch under way nor a sign of a device that hangs."""
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate(step)
    robot.send()
    gate.wait()
    assert served.daemon.pipeline.busy_since_s is None and problems(served.daemon, hung_s=0.0) == []
    gate.open()
    robot.chunk(1)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_raises_leaves_the_policys_thread_alive(serve, step):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    policy.fail(step, PredictError("want no failure"))
    robot.answer(robot.send())
    del policy.hooks[step]
    np.testing.assert_array_equal(robot.step(2), actions(2))
    assert served.daemon.pipeline.alive


def test_the_end_waits_for_what_the_policys_thread_is_at(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate("finish")
    robot.send(1)
    gate.wait()
    stopping = threading.Thread(target=served.daemon.stop)
    stopping.start()
    served.seen.until(lambda: served.seen.drops["event_draining"])
    gate.open()
    np.testing.assert_array_equal(robot.chunk(1), actions(1))
    stopping.join(WAIT_S)
    assert not stopping.is_alive() and not served.daemon.pipeline.alive
