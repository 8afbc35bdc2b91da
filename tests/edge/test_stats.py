"""What the engine counts is counted once, and read as of one moment."""

from __future__ import annotations

import json
import threading

import pytest

from edge.state import State
from edge.stats import NAMES, Counters, EngineStats


def test_it_counts_by_name_and_nothing_else():
    counters = Counters()
    assert counters.snapshot() == dict.fromkeys(NAMES, 0)
    counters.add("merges")
    counters.add("late_rows", 5)
    shot = counters.snapshot()
    counters.add("merges")
    assert shot["merges"] == 1 and shot["late_rows"] == 5 and counters.snapshot()["merges"] == 2
    with pytest.raises(KeyError):
        counters.add("merged")


def test_threads_lose_no_count():
    counters, each = Counters(), 5000
    threads = [threading.Thread(target=lambda: [counters.add("foreign") for _ in range(each)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert counters.snapshot()["foreign"] == 4 * each


def test_statistics_are_json():
    stats = EngineStats(
        state=State.DEGRADED, counters=Counters().snapshot(), left_rows=12, left_s=0.4, latency_p50_ms=31.0,
        latency_p95_ms=40.0, latency_p99_ms=55.0, encode_p50_ms=2.0, age_ms=120.0, session_id="s-1", server_id="a-1",
        in_flight_s=None, offline_s=0.0,
    )  # fmt: skip
    said = json.loads(json.dumps(stats.as_dict()))
    assert said["state"] == "DEGRADED" and said["counters"]["requests"] == 0 and said["in_flight_s"] is None
    assert said["left_rows"] == 12
