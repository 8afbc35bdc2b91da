"""`edge check`: all that can be tried before the robot is energised, each finding with what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from configuration.findings import Finding
from edge import certificates
from edge.dry_requests import REQUESTS, Latency, measure
from edge.errors import ContractError, EdgeError, LinkError
from edge.policy_config import PolicyConfig, read_policy_config
from edge.preflight import check_fallback, check_limits, compare, config_of, control_fps
from edge.robots.base import RobotFeatures
from edge.robots.registry import make_robot
from edge.run_settings import RunSettings
from network.errors import TransportError
from network.transport import Transport
from serving.wire.errors import RejectCode, Told, WireError
from serving.wire.header import SCHEMA_VERSION
from serving.wire.keys import ROOT
from serving.wire.messages import Status, decode

log = logging.getLogger(__name__)

TOKEN_END = "/server/alive"
CONNECT_S_MAX = 5.0  # a check waits no longer for a server that may be starting
PLACES_SHOWN = 5
Say = Callable[[str], None]


@dataclass
class Report:
    """What a check came to."""

    findings: list[Finding] = field(default_factory=list)
    verdict: str = ""
    latency: Latency | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is an error."""
        return not any(finding.outcome == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        latency = None if self.latency is None else {
            "p50_ms": self.latency.p50_ms, "p95_ms": self.latency.p95_ms, "inference_ms": self.latency.inference_ms,
            "answers_ms": [answer.total_ms for answer in self.latency.answers],
        }  # fmt: skip
        return {"ok": self.ok, "verdict": self.verdict, "latency": latency, "findings": [*map(asdict, self.findings)]}


def check(settings: RunSettings, say: Say = lambda text: None) -> Report:
    """Try everything, in the order in which a run would come to it. Raises SettingsError for what cannot be read."""
    report = Report()
    _strategy(settings)
    features = make_robot(settings.type_of("robot"), settings.options("robot")).features
    report.findings.append(_robot(features))
    policy = read_policy_config(settings.policy.path, settings.policy.revision)
    report.findings += _before_dialling(settings, features, policy)
    say("asking the network")
    endpoints = [certificates.check_endpoint(e, settings.inference) for e in settings.inference.connect_endpoint]
    several = len(endpoints) > 1 and any(f.outcome != "error" for f in endpoints)
    report.findings += [_forgiven(f) if several else f for f in endpoints]
    if all(finding.outcome == "error" for finding in endpoints):
        report.verdict = "nobody to ask: neither a router nor a server answers"
        return report
    _over_the_network(settings, features, policy, report, say)
    if not report.verdict:
        report.verdict = "not ready: see the errors" if not report.ok else "ready"
    return report


def _strategy(settings: RunSettings) -> None:
    """Raises SettingsError where a strategy lacks something, or is given what it would ignore."""
    from edge.rollout.strategies import make_strategy

    strategy = make_strategy(settings.type_of("strategy"), settings.options("strategy"))
    strategy.check(hasattr(settings, "dataset"), bool(settings.type_of("teleop")))


def _robot(features: RobotFeatures) -> Finding:
    cameras = ", ".join(f"{name} {h}x{w}" for name, (h, w) in features.cameras.items()) or "no camera"
    said = f"{len(features.action_names)} actions, {len(features.state_names)} states, {cameras}; not energised"
    return Finding(f"robot {features.robot_type}", "ok", said)


def _before_dialling(settings: RunSettings, features: RobotFeatures, policy: PolicyConfig | None) -> Iterator[Finding]:
    if policy is None:
        yield Finding("policy.path", "unchecked", "its config is not here: the server is asked")
    else:
        yield Finding("policy.path", "ok", f"{policy.kind}, {policy.policy_type}")
        yield from compare(settings, features, policy)
    yield check_fallback(settings, features)
    yield check_limits(settings, features)
    yield from certificates.check_files(settings.inference)


def _forgiven(finding: Finding) -> Finding:
    """One of several endpoints may be down."""
    return Finding(finding.what, "warning", finding.said, finding.remedy) if finding.outcome == "error" else finding


# --- over the network ------------------------------------------------------------------------------------------------


def _over_the_network(
    settings: RunSettings, features: RobotFeatures, policy: PolicyConfig | None, report: Report, say: Say
) -> None:
    from network.zenoh_transport import open_transport

    asked = settings.inference
    try:
        transport = open_transport(asked.network(), min(asked.connect_timeout_s, CONNECT_S_MAX))
    except TransportError as err:
        report.findings.append(_of_error("session with the network", err))
        return
    try:
        statuses = _statuses(transport, settings)
        report.findings += _service(transport, settings, statuses)
    finally:
        transport.close()
    for status in statuses:
        report.findings += _capabilities(status)
        report.findings += compare(settings, features, config_of(status), served=True)
    if statuses and report.ok:
        say(f"asking {REQUESTS} times with made-up pictures")
        fps = control_fps(settings, features, policy)
        report.findings += _latency(settings, features, fps, report)


def _statuses(transport: Transport, settings: RunSettings) -> list[Status]:
    found = []
    for body in transport.query(settings.keys().status, b"", settings.inference.handshake_timeout_s):
        try:
            found.append(decode(body, Status))
        except WireError as err:
            log.warning("an answer that is no status: %s", err)
    return sorted(found, key=lambda s: s.server_id)


def _service(transport: Transport, settings: RunSettings, statuses: Sequence[Status]) -> Iterator[Finding]:
    """Whether somebody serves under our key; who does under others, when not."""
    key = settings.keys().prefix
    if statuses:
        many = f"{len(statuses)} replicas" if len(statuses) > 1 else "one server"
        yield Finding(f"service {key}", "ok", many)
        return
    tokens = transport.alive(f"{ROOT}/*/*/*{TOKEN_END}", settings.inference.handshake_timeout_s)
    others = sorted(token.removesuffix(TOKEN_END) for token in tokens)
    if not others:
        said = "nobody serves anything here, or this robot may not see it"
        yield Finding(f"service {key}", "error", said, "start serving up; compare the router's access list")
        return
    said = "nobody serves this; here are: " + ", ".join(others[:PLACES_SHOWN])
    yield Finding(f"service {key}", "error", said, _remedy_for(key, others))


def _remedy_for(key: str, others: Sequence[str]) -> str:
    """Which flag makes the difference to the likeliest service that is there."""
    flags = ("--inference.service_model_id", "--inference.service_revision", "--inference.service_task")
    ours = key.split("/")[1:]
    best = max(others, key=lambda other: sum(a == b for a, b in zip(ours, other.split("/")[1:], strict=True)))
    wrong = [(flag, b) for flag, a, b in zip(flags, ours, best.split("/")[1:], strict=True) if a != b]
    return "for that one pass " + " ".join(f"{flag}={b}" for flag, b in wrong)


def _capabilities(status: Status) -> Iterator[Finding]:
    what = f"server {status.server_id or '-'}"
    if not status.min_schema_version <= SCHEMA_VERSION <= status.max_schema_version:
        said = f"speaks schema {status.min_schema_version} to {status.max_schema_version}, we {SCHEMA_VERSION}"
        yield Finding(what, "error", said, "update the older side")
    model = f"{status.model_repo}@{status.model_revision[:12]}, {status.serving_mode}"
    model += f", {status.active_sessions} of {status.max_sessions} sessions, {status.busy_share:.0%} busy"
    if status.draining:
        yield Finding(what, "warning", f"{model}: it is about to stop", "wait for the replica that takes over")
    elif not status.warmed_up:
        yield Finding(what, "warning", f"{model}: not warm yet", "first answers will be slow; wait")
    elif status.active_sessions >= status.max_sessions > 0:
        remedy = "end another robot's session, raise max_sessions, or start a replica"
        yield Finding(what, "warning", f"{model}: full", remedy)
    else:
        yield Finding(what, "ok", model)


def _latency(settings: RunSettings, features: RobotFeatures, fps: float, report: Report) -> Iterator[Finding]:
    from edge.engine import Engine

    timeout_s = min(settings.inference.connect_timeout_s, CONNECT_S_MAX)
    asked = settings.inference.model_copy(update={"connect_timeout_s": timeout_s})
    engine = Engine(asked, settings.safety, features, settings.keys(), fps, settings.task)
    try:
        engine.start()
        ack = engine.capabilities
        yield Finding("session", "ok", f"opened; real-time chunking {'on' if ack.supports_rtc else 'off'}")
        for warning in ack.warnings:
            yield Finding("session", "warning", warning, "see the server's manifest")
        report.latency = measure(engine, features, asked.request_timeout_s)
        yield _verdict(report, ack.chunk_size, fps, asked.buffer_time_s)
    except (LinkError, ContractError) as err:
        yield _of_error("session", err)
    finally:
        engine.stop()


def _verdict(report: Report, rows: int, fps: float, buffer_time_s: float) -> Finding:
    """What the latency means for the robot."""
    assert report.latency is not None
    p95_ms, chunk_s = report.latency.p95_ms, rows / fps
    cover_s = chunk_s - p95_ms / 1e3
    report.verdict = f"{p95_ms:.0f} ms p95: chunk {rows} at {fps:g} Hz leaves {cover_s:.1f} s of cover"
    said = f"p50 {report.latency.p50_ms:.0f} ms, of which {report.latency.inference_ms:.0f} ms the policy; "
    said += report.verdict
    what = f"latency of {len(report.latency.answers)} requests"
    if cover_s <= 0:
        report.verdict = f"{p95_ms:.0f} ms p95: longer than chunk {rows} at {fps:g} Hz lasts ({chunk_s:.1f} s)"
        remedy = "a nearer or faster server, a lower --fps, or longer chunks: it would stand still between chunks"
        return Finding(what, "error", report.verdict, remedy)
    if cover_s < buffer_time_s:
        remedy = f"less cover than --inference.buffer_time_s={buffer_time_s:g}: one lost message and it stands still"
        return Finding(what, "warning", said, remedy)
    return Finding(what, "ok", said)


def _of_error(what: str, err: EdgeError | TransportError) -> Finding:
    assert isinstance(err, Told)
    in_use = getattr(err, "code", RejectCode.NONE) == RejectCode.IN_USE
    outcome = "warning" if in_use else "error"  # the robot with this id is driving at this moment
    return Finding(what, outcome, f"{err.wanted}: {err.got}" if err.got else err.wanted, err.remedy)
