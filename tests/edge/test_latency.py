"""The latency window: it follows what answers take, and one slow answer is one answer."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.latency import FEW, FEW_FACTOR, KEPT, LatencyWindow

SECONDS = st.floats(0, 100, allow_nan=False)


def window(*seconds: float, size: int = 100, every_s: float = 0.1) -> LatencyWindow:
    made = LatencyWindow(size)
    for i, value in enumerate(seconds):
        made.add(value, i * every_s)
    return made


def test_without_samples_nothing_is_known():
    assert LatencyWindow().percentile(0.95, 0.0) == 0.0
    assert LatencyWindow().count == 0


@pytest.mark.parametrize("bad", [-0.001, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_time_is_ignored(bad):
    made = window(0.1, bad, 0.2)
    assert made.count == 2 and made.percentile(1.0, 1.0) == 0.2


def test_percentiles_of_a_full_window():
    made = window(*(i / 1000 for i in range(100)))
    said = [made.percentile(q, 10.0) for q in (-1, 0, 0.5, 0.95, 0.99, 1, 2)]
    assert said == [0.0, 0.0, 0.049, 0.094, 0.098, 0.099, 0.099]


@given(st.lists(SECONDS, min_size=FEW, max_size=100), st.floats(0, 1))
def test_a_percentile_is_a_sample_that_the_share_stays_within(samples, q):
    said = window(*samples).percentile(q, 10.0)
    assert said in samples
    assert sum(s <= said for s in samples) >= q * (len(samples) - 1)


@given(st.lists(SECONDS, min_size=1, max_size=100), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_takes_less_time(samples, a, b):
    made = window(*samples)
    low, high = sorted((a, b))
    assert made.percentile(low, 10.0) <= made.percentile(high, 10.0) <= max(samples)


@pytest.mark.parametrize("before", [*range(1, 12), 19, 50, 99])
def test_one_answer_of_five_seconds_is_one_answer(before):
    """After `before` usual answers, at once and for as long as it stays in the window."""
    made = LatencyWindow()
    now_s = 0.0
    for _ in range(before):
        made.add(0.15, now_s)
        now_s += 0.5
    made.add(5.0, now_s)
    assert made.percentile(0.99, now_s) <= FEW_FACTOR * 0.15
    for _ in range(120):
        now_s += 0.5
        made.add(0.15, now_s)
        assert made.percentile(0.95, now_s) <= FEW_FACTOR * 0.15
        assert made.percentile(0.99, now_s) <= FEW_FACTOR * 0.15
        if made.count >= FEW:
            assert made.percentile(0.99, now_s) == 0.15
    assert made.percentile(1.0, now_s) == 0.15, "it has left the window"


def test_a_first_answer_of_five_seconds_is_all_that_is_known_until_the_second():
    assert window(5.0).percentile(0.99, 0.0) == 5.0
    assert window(5.0, 0.15).percentile(0.99, 0.1) == pytest.approx(0.45)


def test_among_few_the_slowest_counts_unless_it_is_far_out():
    assert window(0.1, 0.12, 0.2).percentile(0.95, 1.0) == 0.2
    assert window(0.1, 0.12, 0.2).percentile(0.5, 1.0) == 0.12


def test_when_answers_become_slower_the_window_follows_within_a_few():
    made = window(*[0.1] * 100)
    for i in range(6):
        made.add(0.4, 10.0 + i)
    assert made.percentile(0.95, 16.0) == 0.4
    assert made.percentile(0.99, 16.0) == 0.4


def test_old_samples_are_forgotten_but_for_the_newest():
    made = window(*[0.5] * 20, *[0.1] * 4)
    assert made.count == 24
    assert made.percentile(0.5, 61.0) == 0.5
    made.percentile(0.5, 1000.0)
    assert made.count == KEPT
    for i in range(20):
        made.add(0.2, 1000.0 + i)
    assert made.percentile(1.0, 1062.0) == 0.2, "those of before are gone"


def test_it_holds_as_many_as_it_should_and_forgets_all_when_told():
    made = window(*[0.1] * 7, size=5)
    assert made.count == 5
    made.clear()
    assert made.count == 0 and made.percentile(0.5, 0.0) == 0.0


def test_it_is_read_while_it_is_written():
    made, stop, failed = LatencyWindow(), threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                assert made.percentile(0.99, 0.0) in (0.0, 0.1)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must hear of it
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(3000):
        made.add(0.1, 0.0)
    stop.set()
    reader.join(5.0)
    assert not failed and not reader.is_alive()
