"""Capacity: both terms, from given figures and from a running server's metrics."""

from __future__ import annotations

import http.server
import threading

import pytest

from network.errors import TransportError
from serving.capacity import Figures, capacity, figures, lines, measure, quantile
from serving.errors import ManifestError
from serving.metrics import Metrics
from serving.record import RequestRecord


def figure(predict_ms: float, **other: float) -> Figures:
    values = {"requests_hz": 1.0, "horizon_steps": 10, "fps": 30.0, **other}
    return Figures(predict_ms / 1e3, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("predict_ms", "by_throughput", "by_wait", "robots", "limit"),
    [(20, 40, 8.33, 8, "wait"), (150, 5.33, 1.11, 1, "wait")],  # the two examples of the specification
)
def test_both_terms_count(predict_ms, by_throughput, by_wait, robots, limit):
    result = capacity(figure(predict_ms))
    assert result.by_throughput == pytest.approx(by_throughput, rel=0.01)
    assert result.by_wait == pytest.approx(by_wait, rel=0.01)
    assert (result.robots, result.limit) == (robots, limit)


def test_a_long_horizon_leaves_throughput_as_the_limit():
    result = capacity(figure(20, horizon_steps=100))
    assert result.limit == "throughput" and result.robots == 40


def test_the_network_takes_from_the_wait():
    assert capacity(figure(20, round_trip_s=0.05)).by_wait == pytest.approx((10 / 30 / 2 - 0.05) / 0.02)
    far = capacity(figure(20, round_trip_s=1.0))
    assert far.robots == 0 and far.replicas(3) is None and "not even one" in "\n".join(lines(far, 3))


def test_batches_serve_more():
    assert capacity(figure(36, batch=16)).by_throughput == pytest.approx(16 * 0.8 / 0.036)


def test_replicas_for_many_robots():
    result = capacity(figure(150, horizon_steps=50))
    assert result.robots == 5 and result.replicas(300) == 60
    assert "300 robots need 60 replicas" in list(lines(result, 300))


@pytest.mark.parametrize(
    "wrong", [{"requests_hz": 0}, {"fps": -1}, {"batch": 0}, {"horizon_steps": 0}, {"round_trip_s": -1}]
)
def test_impossible_figures_are_refused(wrong):
    with pytest.raises(ManifestError, match="want --"):
        capacity(figure(20, **wrong))


def test_missing_figures_say_where_they_come_from():
    with pytest.raises(ManifestError, match="policy's time"):
        figures(None, 1.0, 10, 30.0, 0.0, None, "", 0.1)
    with pytest.raises(ManifestError, match="rate of requests"):
        figures(20.0, None, 10, 30.0, 0.0, None, "", 0.1)


def test_a_quantile_lies_within_its_bucket():
    buckets = [(0.01, 0.0), (0.02, 90.0), (0.04, 100.0), (float("inf"), 100.0)]
    assert quantile(buckets, 0.95) == pytest.approx(0.03)
    assert quantile(buckets, 0.5) == pytest.approx(0.01 + 0.01 * 50 / 90)
    assert quantile([(0.01, 0.0), (float("inf"), 10.0)], 0.95) == 0.01


# --- a running server ----------------------------------------------------------------------------


@pytest.fixture
def server():
    """The real metrics behind a real port; each page is written after a little more work."""
    metrics, sessions = Metrics(), 2

    class Page(http.server.BaseHTTPRequestHandler):
        work = 0

        def do_GET(self):
            for i in range(self.work):
                record = RequestRecord("s", "r", i, 0, batch=2, batch_place=i % 2)
                record.stages_s["predict"] = 0.030
                metrics.note(record)
            page = metrics.page() + f"cuebook_serving_active_sessions {sessions}.0\n".encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"127.0.0.1:{httpd.server_port}", Page
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_figures_are_read_from_a_running_server(server):
    url, page = server
    page.work = 20
    measured = measure(url, 0.2)
    assert 0.025 < measured.predict_s <= 0.05 and measured.batch == 2
    assert measured.requests_hz is not None and 20 < measured.requests_hz < 50  # 20 requests of 2 robots in 0.2 s
    given = figures(None, None, 50, 30.0, 0.0, None, url, 0.1)
    assert given.batch == 2 and capacity(given).robots >= 0


def test_what_is_given_wins_over_what_is_measured(server):
    url, page = server
    page.work = 4
    assert figures(7.0, 3.0, 50, 30.0, 0.0, 1.0, url, 0.05) == Figures(0.007, 3.0, 50, 30.0, 0.0, 1.0)


def test_a_server_without_requests_says_so(server):
    with pytest.raises(TransportError, match="requests to measure"):
        measure(server[0], 0.01)


def test_nobody_there():
    with pytest.raises(TransportError, match="want metrics at http://127"):
        measure("127.0.0.1:9", 0.01)
