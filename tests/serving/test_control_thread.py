"""The control thread collects dead sessions whatever comes in, and outlives what fails."""

from __future__ import annotations

import threading

import pytest

import serving.control
from tests.serving.watched import WAIT_S, DoublingPolicy, start_daemon, until


@pytest.fixture
def control(monkeypatch):
    monkeypatch.setattr(serving.control, "GC_EVERY_S", 0.05)
    daemon, _ = start_daemon(DoublingPolicy())
    until(lambda: daemon.control.heartbeat_s > 0)
    yield daemon.control
    daemon.stop()


def test_dead_sessions_are_collected_under_a_flood_of_questions(control, monkeypatch):
    collected, stop = threading.Event(), threading.Event()
    monkeypatch.setattr(control, "collect", collected.set)

    def flood() -> None:
        if not stop.is_set():  # the next question is there before this one is done
            control.submit(flood)

    for _ in range(4):
        control.submit(flood)
    assert collected.wait(WAIT_S)
    stop.set()


def test_a_collection_that_fails_does_not_end_the_thread(control, monkeypatch, caplog):
    def fail() -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(control, "collect", fail)
    until(lambda: "a control job failed" in caplog.text)
    done = threading.Event()
    assert control.submit(done.set) and done.wait(WAIT_S) and control.alive
