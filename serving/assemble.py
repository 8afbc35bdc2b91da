"""From a manifest to a running service: load, classify, probe, warm up, and only then open the network.

A server that can be seen is a warm server: every step before the transport may fail without anybody noticing.
"""

from __future__ import annotations

import logging
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from serving.admission import Rules
from serving.control import ControlSettings
from serving.daemon import Daemon, ServiceSettings
from serving.errors import ManifestError, PolicyError
from serving.manifest import Manifest
from serving.pipeline import PipelineSettings
from serving.policies.base import Policy, PolicySpec
from serving.record import Drop, Recorder, RequestRecord
from serving.transport import Transport

if TYPE_CHECKING:
    from types import FrameType

log = logging.getLogger(__name__)

LOOK_S = 1.0  # how often a running service looks whether its threads live
FPS_TOLERANCE_HZ = 1e-6
STOPPED, DIED = 0, 1  # exit codes of a service
Listener = Callable[[RequestRecord | Drop], None]


@dataclass
class Service:
    """A warm policy with its daemon. `run` serves until it is told to stop."""

    manifest: Manifest
    daemon: Daemon
    closers: ExitStack = field(default_factory=ExitStack)  # of what stands beside the daemon: health, audit, capture

    def start(self) -> None:
        """Robots can come when this returns."""
        self.daemon.start()

    def stop(self) -> bool:
        """Drain and close everything; False when the drain was cut short. Twice is once."""
        whole = self.daemon.stop(self.manifest.drain_timeout_s)
        self.closers.close()
        return whole

    def run(self, on_ready: Callable[[], object] = lambda: None, asked: threading.Event | None = None) -> int:
        """Serve until SIGTERM, SIGINT or `asked`, then drain. Only on the main thread.

        The exit code: 0, or 1 when the service died.
        """
        asked = asked or threading.Event()
        with stop_signals(asked):
            try:
                self.start()
                on_ready()
                while not asked.wait(LOOK_S):
                    if not (self.daemon.pipeline.alive and self.daemon.control.alive):
                        log.error("a thread of the service has died")
                        return DIED
                log.info("draining, for at most %g s", self.manifest.drain_timeout_s)
                return STOPPED
            finally:
                if not self.stop():
                    log.warning("the drain was cut short after %g s", self.manifest.drain_timeout_s)


def assemble(
    manifest: Manifest, *, transport: Transport | None = None, load: Callable[[Manifest], Policy] | None = None
) -> Service:
    """A service that only has to be started. Raises ManifestError, PolicyError or TransportError.

    `transport` and `load` stand in for Zenoh and for the families of policies.
    """
    policy = (load or _load)(manifest)
    with ExitStack() as undo:
        undo.callback(policy.close)
        settle(policy, manifest)
        _warm(policy, manifest)
        transport = transport or _open(manifest)
        undo.callback(transport.close)
        closers = undo.enter_context(ExitStack())
        listeners, metrics = _listeners(manifest, policy.spec, closers)
        daemon = Daemon(policy, transport, service_settings(manifest, policy.spec), Recorder(*listeners))
        if manifest.health_port:
            from serving.health import HealthServer

            health = HealthServer(daemon, metrics, manifest.health_host, manifest.health_port)
            health.start()
            closers.callback(health.stop)
        undo.pop_all()
        return Service(manifest, daemon, closers)


# --- policy --------------------------------------------------------------------------------------


def _load(manifest: Manifest) -> Policy:
    from serving.policies.registry import load_policy

    return load_policy(manifest.model, manifest.rtc)


def settle(policy: Policy, manifest: Manifest) -> None:
    """Decide how a policy is served, and hold what it declares against the manifest and against a trial."""
    spec = policy.spec
    if manifest.serving_mode == "shared" and not spec.shared:
        got = f"{spec.policy_type}, whose answers depend on earlier requests"
        raise ManifestError(
            "want a policy that robots can share for serving_mode: shared", got, "use serving_mode: auto or exclusive"
        )
    if _continues(manifest, spec) and manifest.rtc.execution_horizon > spec.chunk_size:
        wanted = f"want rtc.execution_horizon of at most {spec.chunk_size}, the rows of a chunk"
        raise ManifestError(wanted, str(manifest.rtc.execution_horizon), "lower it")
    if manifest.serving_mode == "exclusive":
        spec = replace(spec, shared=False)
    policy.spec = _probed(policy, spec, manifest)
    if not policy.spec.shared:
        policy.spec = replace(policy.spec, batch_max=1)
        if manifest.max_sessions > 1:
            log.warning("exclusive mode: one session at a time, not %d", manifest.max_sessions)
    if not spec.action_names:
        log.warning("the policy names no actions: whether robots order them alike cannot be checked")
    if (
        "trained_fps" in manifest.model_fields_set
        and abs(spec.fps - manifest.trained_fps) > FPS_TOLERANCE_HZ < spec.fps
    ):
        log.warning("the policy says %g Hz, the manifest %g Hz, which wins", spec.fps, manifest.trained_fps)


def _probed(policy: Policy, spec: PolicySpec, manifest: Manifest) -> PolicySpec:
    """What is declared, as far as a trial bears it out."""
    from serving.probe import probe

    report = probe(policy)
    if spec.shared and not report.pure:
        if manifest.serving_mode == "shared":
            wanted = "want the same answer to the same request for serving_mode: shared"
            raise PolicyError(wanted, report.reason, "use serving_mode: auto or exclusive")
        log.warning("served to one robot at a time: %s", report.reason)
        return replace(spec, shared=False)
    return spec


def _warm(policy: Policy, manifest: Manifest) -> None:
    if manifest.warmup_inferences:
        from serving.warmup import warm_up

        log.info("warmed up: %s", warm_up(policy, manifest))
    if not policy.spec.shared:
        policy.reset()


def _continues(manifest: Manifest, spec: PolicySpec) -> bool:
    return manifest.rtc.enabled and spec.rtc


# --- settings ------------------------------------------------------------------------------------


def service_settings(manifest: Manifest, spec: PolicySpec) -> ServiceSettings:
    """What the daemon is told, of a policy whose mode is settled."""
    sessions_max = manifest.max_sessions if spec.shared else 1
    fps = manifest.trained_fps if "trained_fps" in manifest.model_fields_set else spec.fps or manifest.trained_fps
    pinned = manifest.default_task if manifest.pin_task else None
    return ServiceSettings(
        keys=manifest.keys(),
        rules=Rules(
            spec=spec,
            trained_fps=fps,
            rtc=_continues(manifest, spec),
            pinned_task=pinned,
            strict_fps=manifest.strict_fps,
            sessions_max=sessions_max,
        ),
        pipeline=PipelineSettings(
            decode_threads=manifest.decode_threads,
            finish_threads=manifest.finish_threads,
            batch_max=min(spec.batch_max, manifest.batching.batch_max or sessions_max),
            max_wait_s=manifest.batching.max_wait_ms / 1e3,
            default_task=manifest.default_task,
            pinned_task=pinned,
            keep_bodies=manifest.debug.capture_dir is not None,
            limits=manifest.limits.limits(),
        ),
        control=ControlSettings(idle_timeout_s=manifest.session_idle_timeout_s),
        server_id=manifest.server_id or uuid.uuid4().hex[:12],
    )


def _open(manifest: Manifest) -> Transport:
    from serving.zenoh_transport import open_transport

    return open_transport(manifest.zenoh)


def _listeners(manifest: Manifest, spec: PolicySpec, closers: ExitStack) -> tuple[list[Listener], Any]:
    """Who hears of each request, and the metrics among them."""
    from serving.metrics import Metrics

    metrics = Metrics()
    listeners: list[Listener] = [metrics.note]
    if manifest.audit.path is not None:
        from serving.audit import AuditWriter

        audit = AuditWriter(manifest.audit.path)
        closers.callback(audit.close)
        listeners.append(audit.note)
    if manifest.debug.capture_dir is not None:
        from serving.capture import CaptureWriter

        capture = CaptureWriter(manifest.debug.capture_dir, manifest.debug.capture_max, spec)
        closers.callback(capture.close)
        listeners.append(capture.note)
    return listeners, metrics


# --- signals -------------------------------------------------------------------------------------


@contextmanager
def stop_signals(asked: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set the event and do nothing else; a second one ends the process at once."""
    before: dict[int, Any] = {}

    def ask(number: int, _: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
