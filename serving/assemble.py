"""From a manifest to a running service: load, classify, probe, warm up, and only then open the network.

A server that can be seen is a warm server: every step before the transport may fail without anybody noticing.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from network.transport import Transport
from serving.admission import Rules
from serving.control import ControlSettings
from serving.daemon import Daemon, ServiceSettings
from serving.errors import ManifestError
from serving.manifest import Manifest
from serving.policies.base import Policy, PolicySpec
from serving.record import Drop, Recorder, RequestRecord
from serving.signals import stop_signals
from serving.work import PipelineSettings

log = logging.getLogger(__name__)

LOOK_S = 1.0  # how often a running service looks whether its threads live
FPS_TOLERANCE_HZ = 1e-6
EACH_SIZE_MAX = 8  # batch sizes up to here are all tried before robots come
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

    def run(
        self,
        on_ready: Callable[[], object] = lambda: None,
        asked: threading.Event | None = None,
        on_tick: Callable[[], object] = lambda: None,
    ) -> int:
        """Serve until SIGTERM, SIGINT or `asked`, then drain. Only on the main thread.

        `on_tick` is called once a second. The exit code: 0, or 1 when the service died.
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
                    on_tick()
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
        prepare(policy, manifest)
        transport = transport or _open(manifest)
        undo.callback(transport.close)
        closers = undo.enter_context(ExitStack())
        settings = service_settings(manifest, policy.spec)
        listeners, metrics = _listeners(manifest, policy.spec, settings, closers)
        daemon = Daemon(policy, transport, settings, Recorder(*listeners))
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


def prepare(policy: Policy, manifest: Manifest) -> None:
    """Hold what a policy declares against the manifest and a trial, settle how it is served, and warm it up.

    Raises ManifestError where the manifest wants what this policy cannot do, PolicyError where the trial fails.
    """
    from serving.probe import probe, settle

    spec = policy.spec
    if manifest.serving_mode == "shared" and not spec.shared:
        wanted, got = (
            "want a policy that robots can share for serving_mode: shared",
            f"{spec.policy_type}, which keeps state",
        )
        raise ManifestError(wanted, got, "use serving_mode: auto or exclusive")
    horizon = manifest.rtc.execution_horizon
    if _continues(manifest, spec) and horizon > spec.chunk_size:
        wanted = f"want rtc.execution_horizon of at most {spec.chunk_size}, the rows of a chunk"
        raise ManifestError(wanted, str(horizon), "lower it")
    policy.spec, warnings = settle(spec, probe(policy, manifest.default_task), manifest.serving_mode)
    for warning in (*warnings, *_remarks(manifest, policy.spec)):
        log.warning(warning)
    _warm(policy, manifest)


def _remarks(manifest: Manifest, spec: PolicySpec) -> Iterator[str]:
    """What an operator should know but that hinders nothing."""
    if not spec.shared and manifest.max_sessions > 1:
        yield f"exclusive: one robot at a time, max_sessions {manifest.max_sessions} does not count"
    if not spec.action_names:
        yield "the policy names no actions: whether robots order them alike cannot be checked"
    said = "trained_fps" in manifest.model_fields_set
    if said and spec.fps and abs(spec.fps - manifest.trained_fps) > FPS_TOLERANCE_HZ:
        yield f"the policy says {spec.fps:g} Hz, the manifest {manifest.trained_fps:g} Hz, which counts"


def _warm(policy: Policy, manifest: Manifest) -> None:
    """Run every batch size that robots will cause, with and without a prefix."""
    from serving.warmup import warm_up

    largest = service_settings(manifest, policy.spec).pipeline.batch_max
    sizes = range(1, largest + 1)
    if largest > EACH_SIZE_MAX and not manifest.model.compile.enabled:
        sizes = [*range(1, EACH_SIZE_MAX + 1), largest]  # in between nothing new is chosen or compiled
    report = warm_up(
        policy, manifest.limits.limits(), manifest.default_task, manifest.warmup_inferences,
        _continues(manifest, policy.spec), sizes,
    )  # fmt: skip
    if alone_s := report.warm_s(1):
        together = f", {report.warm_s(largest) * 1e3:.3g} ms for {largest}" if largest > 1 else ""  # type: ignore[operator]
        log.info("warm after %.1f s: predict takes %.3g ms%s", report.total_s, alone_s * 1e3, together)


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
    from network.zenoh_transport import open_transport

    return open_transport(manifest.zenoh)


def _listeners(
    manifest: Manifest, spec: PolicySpec, settings: ServiceSettings, closers: ExitStack
) -> tuple[list[Listener], Any]:
    """Who hears of each request, and the metrics among them."""
    from serving.metrics import Metrics

    metrics = Metrics()
    listeners: list[Listener] = [metrics.note]
    if manifest.audit.path is not None:
        from serving.audit import AuditWriter

        audit = AuditWriter(manifest.audit.path)
        closers.callback(audit.close)
        metrics.watch_log("audit", audit)
        listeners.append(audit.note)
    if manifest.debug.capture_dir is not None:
        from serving.capture import CaptureWriter

        debug = manifest.debug
        capture = CaptureWriter(debug.capture_dir, debug.capture_max, spec, settings.pipeline, settings.server_id)
        closers.callback(capture.close)
        metrics.watch_log("capture", capture)
        listeners.append(capture.note)
    return listeners, metrics
