"""How many robots one replica can serve, from measured figures.

Two things end first: the policy's time, and the patience of the robot that waits longest. With t seconds for a batch of
b requests, r requests a second from each robot, a horizon of H steps of dt seconds, and the network's round trip:

    by throughput  b * 0.8 / (r * t)
    by wait        b * (H * dt / 2 - round trip) / t    everybody is served once within half a horizon
"""

from __future__ import annotations

import math
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from network.errors import TransportError
from serving.errors import ManifestError

UTILISATION = 0.8  # of the policy's time: the rest absorbs bursts
HORIZON_SHARE = 0.5  # of the horizon that a robot may wait
METRICS_BYTES_MAX = 4 << 20
METRICS_S = 5.0


@dataclass(frozen=True)
class Figures:
    """What was measured of a service and its robots."""

    predict_s: float  # p95 of one batch
    requests_hz: float  # of one robot
    horizon_steps: int
    fps: float
    round_trip_s: float = 0.0
    batch: float = 1.0  # requests predicted together

    def check(self) -> None:
        """Raises ManifestError on figures that nobody can have measured."""
        wanted = {
            "--predict-ms": self.predict_s, "--requests-hz": self.requests_hz, "--horizon": self.horizon_steps,
            "--fps": self.fps, "--batch": self.batch,
        }  # fmt: skip
        for flag, value in wanted.items():
            if not (value > 0 and math.isfinite(value)):
                raise ManifestError(f"want {flag} above 0", f"{value:g}", "pass what was measured")
        if not (self.round_trip_s >= 0 and math.isfinite(self.round_trip_s)):
            raise ManifestError(
                "want --round-trip-ms of at least 0", f"{self.round_trip_s:g}", "pass what was measured"
            )


@dataclass(frozen=True)
class Capacity:
    """Robots that one replica can serve."""

    by_throughput: float
    by_wait: float
    figures: Figures

    @property
    def robots(self) -> int:
        """Both terms hold for so many."""
        return max(0, math.floor(min(self.by_throughput, self.by_wait) + 1e-9))

    @property
    def limit(self) -> str:
        """Which term ends first."""
        return "throughput" if self.by_throughput <= self.by_wait else "wait"

    def replicas(self, robots: int) -> int | None:
        """Replicas that so many robots need; None when one replica cannot even serve one."""
        return math.ceil(robots / self.robots) if self.robots else None

    def to_json(self, robots: int | None) -> dict[str, Any]:
        """For machines."""
        needed = None if robots is None else {"robots_wanted": robots, "replicas": self.replicas(robots)}
        terms = {"by_throughput": self.by_throughput, "by_wait": self.by_wait, "limit": self.limit}
        return {"robots": self.robots, **terms, "figures": vars(self.figures), **(needed or {})}


def capacity(figures: Figures) -> Capacity:
    """Both terms. Raises ManifestError on impossible figures."""
    figures.check()
    per_request_s = figures.predict_s / figures.batch
    patience_s = HORIZON_SHARE * figures.horizon_steps / figures.fps - figures.round_trip_s
    return Capacity(
        by_throughput=UTILISATION / (figures.requests_hz * per_request_s),
        by_wait=max(0.0, patience_s) / per_request_s,
        figures=figures,
    )


def lines(result: Capacity, robots: int | None) -> Iterator[str]:
    """A result in words."""
    f = result.figures
    batch = f" for {f.batch:g} requests together" if f.batch != 1 else ""
    yield f"policy: {f.predict_s * 1e3:.4g} ms (p95){batch}; robots: {f.requests_hz:g} requests a second each"
    steps = f"{HORIZON_SHARE:g} x {f.horizon_steps} steps at {f.fps:g} Hz - {f.round_trip_s * 1e3:g} ms round trip"
    yield f"by throughput  {result.by_throughput:6.1f} robots  ({UTILISATION:.0%} of the policy's time)"
    yield f"by wait        {result.by_wait:6.1f} robots  ({steps})"
    yield f"one replica serves {result.robots} robots; {result.limit} ends first"
    if not result.robots:
        yield "not even one: use a longer horizon, a faster policy, or a nearer server"
    elif robots is not None:
        yield f"{robots} robots need {result.replicas(robots)} replicas"


def figures(
    predict_ms: float | None, requests_hz: float | None, horizon: int, fps: float, round_trip_ms: float,
    batch: float | None, metrics: str, window_s: float,
) -> Figures:  # fmt: skip
    """What was given, and of the rest what a running server tells. Raises ManifestError when that is not enough."""
    measured = measure(metrics, window_s) if metrics else None
    if measured is not None:
        predict_ms = measured.predict_s * 1e3 if predict_ms is None else predict_ms
        requests_hz = measured.requests_hz if requests_hz is None else requests_hz
        batch = measured.batch if batch is None else batch
    if predict_ms is None:
        raise ManifestError("want the policy's time", "none", "pass --predict-ms, or --metrics=HOST:PORT of a server")
    if requests_hz is None:
        got = "no robot asked meanwhile" if metrics else "none"
        raise ManifestError("want the robots' rate of requests", got, "pass --requests-hz")
    return Figures(predict_ms / 1e3, requests_hz, horizon, fps, round_trip_ms / 1e3, 1.0 if batch is None else batch)


@dataclass(frozen=True)
class Measured:
    """What a running server tells of itself, over a few seconds."""

    predict_s: float  # p95 of a batch
    batch: float  # mean requests in a batch
    requests_hz: float | None  # of one robot; None when none had a session


def measure(url: str, window_s: float) -> Measured:
    """Figures of a running server, from its /metrics now and once more after a while. Raises TransportError."""
    if not url.startswith(("http://", "https://")):
        url = f"http://{url}"
    if not url.rstrip("/").endswith("/metrics"):
        url = f"{url.rstrip('/')}/metrics"
    before, started_s = _scrape(url), time.monotonic()
    time.sleep(window_s)
    after, spent_s = _scrape(url), time.monotonic() - started_s
    robots, requests = after["active_sessions"], after["requests_total"] - before["requests_total"]
    # what happened meanwhile; on a server that is idle now, all that happened before
    since = before if requests else {}
    buckets = [
        (float(key.partition("le=")[2]), value - since.get(key, 0.0))
        for key, value in after.items() if key.startswith("predict_bucket")
    ]  # fmt: skip
    batches = after["batch_size_count"] - since.get("batch_size_count", 0.0)
    if not buckets or not batches:
        raise TransportError(f"want requests to measure at {url}", "none yet", "let a robot drive it for a while")
    batch = (after["batch_size_sum"] - since.get("batch_size_sum", 0.0)) / batches
    hz = requests / spent_s / robots if robots and requests else None
    return Measured(quantile(buckets, 0.95), max(1.0, batch), hz)


def _scrape(url: str) -> dict[str, float]:
    """The samples that count here, by short names."""
    from prometheus_client.parser import text_string_to_metric_families

    from serving.metrics import PREFIX

    try:
        with urllib.request.urlopen(url, timeout=METRICS_S) as answer:
            page = answer.read(METRICS_BYTES_MAX).decode("utf-8", "replace")
        samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
    except (OSError, ValueError) as err:
        raise TransportError(f"want metrics at {url}", str(err), "check health_port and health_host") from err
    found = {"active_sessions": 0.0, "requests_total": 0.0, "batch_size_sum": 0.0, "batch_size_count": 0.0}
    for sample in samples:
        name = sample.name.removeprefix(f"{PREFIX}_")
        if name == "stage_seconds_bucket" and sample.labels.get("stage") == "predict":
            found[f"predict_bucket le={sample.labels['le']}"] = sample.value
        elif name in found:
            found[name] = sample.value
    return found


def quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """A quantile of a cumulative histogram, interpolated within its bucket."""
    buckets = sorted(buckets)
    rank, below, below_count = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below_count:
            if math.isinf(bound):
                return below
            return below + (bound - below) * (rank - below_count) / (count - below_count)
        below, below_count = (bound if math.isfinite(bound) else below), count
    return below
