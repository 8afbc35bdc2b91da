"""Jobs: each is done, whatever comes of the others, and the end waits for them."""

from __future__ import annotations

import threading

import pytest

from serving.jobs import Jobs
from tests.serving.mock_policy import WAIT_S


@pytest.fixture
def jobs():
    pool = Jobs(2, "test-jobs")
    pool.start()
    yield pool
    assert pool.stop(WAIT_S)


def fail() -> None:
    raise ValueError("broken job")


def test_a_job_that_raises_harms_no_other(jobs, caplog):
    done = threading.Semaphore(0)
    jobs.later(fail)
    for _ in range(4):
        jobs.later(done.release)
    for _ in range(4):
        assert done.acquire(timeout=WAIT_S)
    assert jobs.drain(WAIT_S) and jobs.alive and "broken job" in caplog.text


def test_a_job_done_now_is_done_by_the_caller_and_does_not_raise(jobs, caplog):
    seen: list[int] = []
    jobs.now(lambda: seen.append(threading.get_ident()))
    jobs.now(fail)
    assert seen == [threading.get_ident()] and "broken job" in caplog.text


def test_a_drain_waits_for_what_is_begun_and_for_what_waits(jobs):
    release = threading.Event()
    for _ in range(3):
        jobs.later(lambda: release.wait(WAIT_S))
    assert not jobs.drain(0.01)
    release.set()
    assert jobs.drain(WAIT_S) and len(jobs) == 0


def test_what_waits_is_done_before_the_end():
    pool, seen = Jobs(1, "test-jobs"), []
    for i in range(3):
        pool.later(lambda i=i: seen.append(i))
    pool.start()
    assert pool.stop(WAIT_S) and seen == [0, 1, 2] and pool.stop(WAIT_S) and not pool.alive


def test_a_pool_that_never_started_stops():
    assert Jobs(2, "test-jobs").stop(WAIT_S)
