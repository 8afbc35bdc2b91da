"""What the daemon counts and measures, for Prometheus. One registry a daemon; label values come from fixed sets only.

Counters and histograms are kept by the threads that have something to tell: that takes microseconds and never waits.
Gauges are read from the daemon when somebody looks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

from serving.record import STAGES, Drop, RequestRecord
from serving.wire.errors import EventCode, RejectCode

if TYPE_CHECKING:
    from serving.daemon import Daemon

PREFIX = "cuebook_serving"
SECONDS_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
OTHER = "other"

# why an observation was dropped before it was tried
DROP_REASONS = (
    "bad_key", "bad_header", "bad_type", "bad_schema", "bad_tag", "old_epoch", "too_large", "unknown_session",
    "draining", "internal",
)  # fmt: skip
# why the transport dropped a message before the daemon saw it
TRANSPORT_REASONS = ("wildcard_key", "body_too_large", "attachment_too_large", "callback_error")
EVENTS = tuple(code.name.lower() for code in EventCode)
REJECTS = tuple(code.name.lower() for code in RejectCode if code != RejectCode.NONE)


class Loses(Protocol):
    """A log that counts what it could not write."""

    @property
    def lost(self) -> int:
        """Entries that were never written."""


class Metrics:
    """Counts what `note` is told; `page` is what Prometheus reads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._logs: dict[str, Loses] = {}
        self._watched = False
        self._requests = self._counter("requests", "Requests that were taken from a mailbox and ended, well or not.")
        self._errors = self._labelled("errors", "Requests that ended without a chunk, by event code.", "code", EVENTS)
        self._superseded = self._counter("superseded", "Observations that a newer one of the same robot replaced.")
        self._dropped = self._labelled(
            "dropped", "Observations that were not tried, by reason.", "reason", DROP_REASONS
        )
        self._events = self._labelled("events", "Events sent to robots, by code.", "code", EVENTS)
        self._rejects = self._labelled("rejects", "Sessions refused, by code.", "code", REJECTS)
        self._opened = self._counter("sessions_opened", "Sessions opened.")
        self._closed = self._counter("sessions_closed", "Sessions ended, replaced ones too.")
        self._request_seconds = self._histogram("request_seconds", "A request from arrival to publish, in seconds.")
        stages = Histogram(
            f"{PREFIX}_stage_seconds", "One stage of a request, in seconds.", ["stage"],
            registry=self.registry, buckets=SECONDS_BUCKETS,
        )  # fmt: skip
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._batch = Histogram(
            f"{PREFIX}_batch_size", "Requests predicted together.", registry=self.registry, buckets=BATCH_BUCKETS
        )
        ProcessCollector(namespace=PREFIX, registry=self.registry)

    def watch(self, daemon: Daemon) -> None:
        """Show a daemon's state. Twice is once."""
        if not self._watched:
            self._watched = True
            self.registry.register(DaemonState(daemon, self._logs))  # type: ignore[arg-type]

    def watch_log(self, name: str, log: Loses) -> None:
        """Show what a log (`audit`, `capture`) could not write."""
        self._logs[name] = log

    def note(self, record: RequestRecord | Drop) -> None:
        """Count a request, or a message that was not tried. Called from any thread; never waits."""
        if isinstance(record, RequestRecord):
            self._note_request(record)
        else:
            self._note_drop(record.reason)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(_WithoutCreated(self.registry))  # type: ignore[arg-type]

    def _note_request(self, record: RequestRecord) -> None:
        self._requests.inc()
        if record.error_code:
            _of(self._errors, record.error_code).inc()
        for stage, spent_s in record.stages_s.items():
            if stage in self._stages:
                self._stages[stage].observe(spent_s)
        self._request_seconds.observe(sum(record.stages_s.values()))
        if record.batch and record.batch_place == 0:  # once a batch
            self._batch.observe(record.batch)

    def _note_drop(self, reason: str) -> None:
        if reason == "superseded":
            self._superseded.inc()
        elif reason == "session_opened":
            self._opened.inc()
        elif reason == "session_closed":
            self._closed.inc()
        elif reason.startswith("event_"):
            _of(self._events, reason.removeprefix("event_")).inc()
        elif reason.startswith("reject_"):
            _of(self._rejects, reason.removeprefix("reject_")).inc()
        else:
            _of(self._dropped, reason).inc()

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, registry=self.registry)

    def _labelled(self, name: str, text: str, label: str, values: Iterable[str]) -> dict[str, Counter]:
        """A counter's children by label value, made at once: zero is shown, and nothing is looked up under a lock."""
        counter = Counter(f"{PREFIX}_{name}", text, [label], registry=self.registry)
        return {value: counter.labels(value) for value in (*values, OTHER)}

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, registry=self.registry, buckets=SECONDS_BUCKETS)


class DaemonState:
    """Reads the daemon at scrape time."""

    def __init__(self, daemon: Daemon, logs: Mapping[str, Loses]) -> None:
        self._daemon, self._logs = daemon, logs

    def collect(self) -> Iterator[Metric]:
        """All that is a state, not a count of ours."""
        daemon, pipeline, now_s = self._daemon, self._daemon.pipeline, time.monotonic()
        busy_since_s = pipeline.busy_since_s
        yield _gauge("active_sessions", "Sessions open now.", len(daemon.registry))
        yield _gauge("sessions_max", "Sessions that there is room for.", daemon.registry.sessions_max)
        yield _gauge("load", "Share of session places taken, 0 to 1.", daemon.load.sessions())
        busy_share = daemon.load.busy_share(pipeline)
        yield _gauge("busy_share", "Share of the last seconds that the policy worked, 0 to 1.", busy_share)
        yield _gauge("wait_p95_seconds", "95 % of the last requests waited less, in seconds.", daemon.load.wait_p95_s())
        yield _gauge("ready", "1 while robots can be served.", daemon.ready)
        yield _gauge("draining", "1 while the server is shutting down.", daemon.control.draining)
        yield _gauge("connected", "1 while the network is there.", daemon.transport.connected())
        age_s = now_s - pipeline.heartbeat_s
        yield _gauge("heartbeat_age_seconds", "Since the policy's thread last looked for work, in seconds.", age_s)
        predicting_s = 0.0 if busy_since_s is None else now_s - busy_since_s
        yield _gauge("predicting_seconds", "How long the batch under way takes already, in seconds.", predicting_s)
        yield _count("policy_busy_seconds", "Time that the policy worked, in seconds.", pipeline.busy_s)
        yield self._network_drops()
        yield self._log_losses()
        yield self._info()

    def _network_drops(self) -> Metric:
        text = "Messages that the network layer dropped before the daemon saw them, by reason."
        family = CounterMetricFamily(f"{PREFIX}_network_dropped", text, labels=["reason"])
        counts = dict.fromkeys((*TRANSPORT_REASONS, OTHER), 0)
        for reason, count in self._daemon.transport.drops().items():
            counts[reason if reason in counts else OTHER] += count
        for reason, count in counts.items():
            family.add_metric([reason], count)
        return family

    def _log_losses(self) -> Metric:
        text = "Entries that the audit log or the capture could not write."
        family = CounterMetricFamily(f"{PREFIX}_log_lost", text, labels=["log"])
        for name, log in self._logs.items():
            family.add_metric([name], log.lost)
        return family

    def _info(self) -> Metric:
        spec = self._daemon.policy.spec
        said = {
            "server_id": self._daemon.settings.server_id,
            "policy_type": spec.policy_type,
            "model_repo": spec.model_repo,
            "model_revision": spec.model_revision,
            "checkpoint_hash": spec.checkpoint_hash,
            "normalisation_hash": spec.normalisation_hash,
            "service": self._daemon.settings.keys.prefix,
        }
        return InfoMetricFamily(PREFIX, "What is served here.", said)


class _WithoutCreated:
    """A registry without the birth dates of its counters, which double the page and which nobody asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _of(children: dict[str, Counter], value: str) -> Counter:
    return children.get(value, children[OTHER])


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
