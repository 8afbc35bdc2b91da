"""When to ask, when to ask again, and the delay that the server is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.latency import LatencyWindow
from edge.timers import Timing, delay_steps, request_left_s, resend_after_s

DT_S = 1 / 30
TIMING = Timing(dt_s=DT_S, buffer_time_s=0.5, degraded_after_s=1.0, request_timeout_s=5.0)


def window(seconds: float | None, count: int = 50) -> LatencyWindow:
    made = LatencyWindow()
    for i in range(count if seconds is not None else 0):
        made.add(seconds, i * 0.1)
    return made


NOTHING = window(None)


# --- when to ask -------------------------------------------------------------------------------------------------


def test_it_asks_as_early_as_answers_usually_take_and_a_margin():
    assert request_left_s(TIMING, window(0.15), 5.0, 50) == pytest.approx(0.15 + DT_S + 0.5)


@pytest.mark.parametrize("buffer_time_s", [0.0, 0.5, 60.0])
def test_half_a_chunk_before_anything_is_known(buffer_time_s):
    timing = replace(TIMING, buffer_time_s=buffer_time_s)
    assert request_left_s(timing, NOTHING, 0.0, 50) == pytest.approx(25 * DT_S)


def test_the_buffer_gives_way_to_half_a_chunk():
    assert request_left_s(TIMING, window(0.05), 5.0, 10) == pytest.approx(5 * DT_S)
    assert request_left_s(replace(TIMING, buffer_time_s=60.0), window(0.05), 5.0, 50) == pytest.approx(25 * DT_S)


def test_the_time_that_answers_take_does_not_give_way():
    assert request_left_s(TIMING, window(1.2), 5.0, 50) == pytest.approx(1.2 + DT_S)


def test_before_the_first_chunk_it_asks_at_once():
    assert request_left_s(TIMING, NOTHING, 0.0, 0) >= 0.0
    assert request_left_s(TIMING, window(0.1), 5.0, 0) >= 0.0


@given(st.floats(0.001, 1.5), st.integers(2, 100), st.floats(0, 2))
def test_whoever_asks_then_is_answered_before_the_queue_is_empty(latency_s, rows, buffer_time_s):
    """As long as a chunk lasts longer than answers take."""
    timing = replace(TIMING, buffer_time_s=buffer_time_s)
    left_s = request_left_s(timing, window(latency_s), 5.0, rows)
    assert left_s >= min(latency_s + DT_S, rows * DT_S / 2)
    assert left_s >= latency_s or rows * DT_S / 2 >= latency_s


# --- when to ask again -------------------------------------------------------------------------------------------


def test_it_asks_again_after_half_as_much_again_as_the_slowest_takes():
    made = window(0.2)
    assert resend_after_s(TIMING, made, 5.0, 0) == pytest.approx(0.3)
    assert [resend_after_s(TIMING, made, 5.0, n) for n in range(1, 4)] == pytest.approx([0.6, 1.0, 1.0])


def test_a_lost_message_is_sent_again_within_three_times_the_slowest():
    for latency_s in (0.05, 0.15, 0.3):
        made = window(latency_s)
        assert resend_after_s(TIMING, made, 5.0, 0) <= 3 * made.percentile(0.99, 5.0)


def test_fast_answers_are_not_asked_for_again_because_a_thread_was_late():
    assert resend_after_s(TIMING, window(0.002), 5.0, 0) == pytest.approx(0.02 + DT_S)


def test_before_anything_is_known_it_waits_until_it_must_be_a_failure():
    assert resend_after_s(TIMING, NOTHING, 0.0, 0) == 1.0
    assert resend_after_s(TIMING, NOTHING, 0.0, 5) == 1.0
    assert resend_after_s(replace(TIMING, degraded_after_s=9.0), NOTHING, 0.0, 0) == 5.0


@given(st.floats(0, 30), st.integers(0, 10_000))
def test_it_never_waits_longer_than_failures_are_allowed_to_take(latency_s, attempt):
    made = window(latency_s, 10)
    waits = [resend_after_s(TIMING, made, 1.0, n) for n in (attempt, attempt + 1)]
    assert 0 < waits[0] <= waits[1] <= min(max(1.0, 1.5 * latency_s), TIMING.request_timeout_s)


# --- the delay that the server is told ---------------------------------------------------------------------------


@pytest.mark.parametrize(("latency_s", "steps"), [(None, 0), (0.0, 0), (0.001, 1), (DT_S, 1), (3 * DT_S, 3), (0.15, 5)])
def test_the_delay_counts_steps_begun(latency_s, steps):
    assert delay_steps(TIMING, window(latency_s), 5.0) == steps


def test_a_delay_of_whole_steps_is_not_one_more_for_rounding():
    assert 3 * 0.1 / 0.1 > 3
    assert delay_steps(replace(TIMING, dt_s=0.1), window(3 * 0.1), 5.0) == 3


def test_one_slow_answer_does_not_hold_the_delay_for_the_run():
    made = window(0.15, 20)
    made.add(5.0, 2.0)
    assert delay_steps(TIMING, made, 2.0) == 5
    assert request_left_s(TIMING, made, 2.0, 50) == pytest.approx(0.15 + DT_S + 0.5)
    assert resend_after_s(TIMING, made, 2.0, 0) == pytest.approx(0.225)


def test_a_server_that_is_always_slow_is_not_asked_twice_for_every_answer():
    window = LatencyWindow()
    for i in range(20):
        window.add(2.0, float(i))
    timing = Timing(dt_s=1 / 30, buffer_time_s=0.5, degraded_after_s=1.0, request_timeout_s=5.0)
    assert resend_after_s(timing, window, 20.0, 0) == pytest.approx(3.0)
    window.add(60.0, 20.0)  # one outlier changes nothing
    assert resend_after_s(timing, window, 21.0, 0) == pytest.approx(3.0)
