"""The beat: a fixed grid of the monotonic clock, missed deadlines skipped, nothing made up for in a burst."""

from __future__ import annotations

import gc
import sys
import threading
import time

import numpy as np
import pytest

from edge.rollout.pace import LATE, Pace, steady


class Clock:
    """Time that passes only while somebody sleeps, works, or asks."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        self.now_s += 1e-6  # asking takes time too, or spinning would never end
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def work(self, seconds: float) -> None:
        self.now_s += seconds


def ticks(pace: Pace, clock: Clock, work_s: list[float]) -> np.ndarray:
    """When ticks began that took so long."""
    begun = []
    for seconds in work_s:
        pace.wait()
        begun.append(clock.now_s)
        clock.work(seconds)
    return np.array(begun)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def paced(clock: Clock, period_s: float, stop: threading.Event | None = None) -> Pace:
    return Pace(period_s, stop, clock.now, clock.sleep)


def test_nothing_adds_up(clock):
    rng = np.random.default_rng(0)
    begun = ticks(paced(clock, 1 / 30), clock, list(rng.uniform(0, 0.03, 30_000)))
    assert begun[-1] - begun[0] == pytest.approx(29_999 / 30, abs=1e-4)


def test_a_slow_tick_is_skipped_and_the_grid_is_kept(clock):
    pace = paced(clock, 0.1)
    begun = ticks(pace, clock, [0.01, 0.23, 0.01, 0.01])
    assert np.allclose(begun - begun[0], [0, 0.1, 0.33, 0.4], atol=1e-4)  # 0.2 is missed; 0.3 comes late, 0.4 in time
    assert pace.overruns == 1


def test_a_long_stall_is_followed_by_no_burst(clock):
    pace = paced(clock, 0.01)
    begun = ticks(pace, clock, [0.0, 5.0] + [0.0] * 10)
    assert np.diff(begun).min() >= LATE * 0.01 - 1e-4
    assert pace.overruns in (499, 500)
    assert pace.lateness().max_ms == pytest.approx(4990, abs=11)


def test_ticks_that_always_take_too_long_come_as_often_as_they_can_without_bursts(clock):
    pace = paced(clock, 0.1)
    gaps = np.diff(ticks(pace, clock, [0.14] * 50))
    assert gaps.min() >= 0.14 - 1e-6 and gaps.max() <= 0.2 + 1e-4
    assert pace.overruns > 10


def test_lateness_is_what_a_tick_came_after_its_deadline(clock):
    pace = paced(clock, 0.1)
    ticks(pace, clock, [0.01, 0.13, 0.01])
    assert pace.late_s == pytest.approx(0.03, abs=1e-4)
    assert pace.lateness().max_ms == pytest.approx(30, abs=0.1)
    assert pace.overruns == 0


def test_a_new_grid_begins_at_once(clock):
    pace = paced(clock, 0.1)
    ticks(pace, clock, [0.01])
    clock.work(3.0)  # a person has moved the arm
    pace.restart()
    begun = ticks(pace, clock, [0.01, 0.01])
    assert begun[1] - begun[0] == pytest.approx(0.1, abs=1e-4)
    assert pace.overruns == 0 and pace.lateness().max_ms < 0.1


def test_a_stop_is_seen_though_ticks_are_rare():
    stop = threading.Event()
    pace = Pace(60.0, stop)
    pace.wait()
    threading.Timer(0.05, stop.set).start()
    began_s = time.monotonic()
    pace.wait()
    assert time.monotonic() - began_s < 5


def test_steps_of_the_wall_clock_are_never_seen(monkeypatch):
    def wrong() -> float:
        raise AssertionError("the wall clock was asked")

    monkeypatch.setattr(time, "time", wrong)
    pace = Pace(0.01)
    began_s = time.monotonic()
    for _ in range(11):
        pace.wait()
    assert time.monotonic() - began_s >= 0.1


def test_real_ticks_never_come_early():
    pace = Pace(0.005)
    begun = []
    for _ in range(40):
        pace.wait()
        begun.append(time.monotonic())
    assert begun[-1] - begun[0] >= 39 * 0.005 - pace.lateness().max_ms / 1e3 - 1e-3
    assert pace.lateness().max_ms >= pace.lateness().p99_ms >= pace.lateness().p50_ms >= 0


def test_the_process_is_as_it_was_when_the_loop_is_over():
    switch_s = sys.getswitchinterval()
    with pytest.raises(ValueError), steady():
        assert sys.getswitchinterval() < switch_s and gc.get_freeze_count()
        raise ValueError
    assert sys.getswitchinterval() == pytest.approx(switch_s) and not gc.get_freeze_count()
