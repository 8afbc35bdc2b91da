"""The daemon: a warmed policy, its pipeline, and the surface that robots see. Opens last, closes first."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from network.transport import Declaration, Query, Sample, Transport
from serving.admission import Rules
from serving.control import CONTROL_BODY_MAX, Control, ControlSettings
from serving.load import Load
from serving.log_limit import Allowance, LineLimit
from serving.mailbox import Deposit
from serving.pipeline import Pipeline
from serving.policies.base import Policy
from serving.record import Drop, Recorder
from serving.registry import Registry
from serving.reply import answer_header, event_body
from serving.session import Session
from serving.wire import features
from serving.wire.errors import EventCode, HeaderError, RejectCode
from serving.wire.header import Header, MessageType, unpack
from serving.wire.keys import Keys
from serving.wire.messages import Capabilities, ResetAck, Status, encode
from serving.work import PipelineSettings

log = logging.getLogger(__name__)
log.addFilter(LineLimit())

STRANGERS_NAMED_MAX = 256  # unknown robots that are remembered, to be logged once each
STRANGERS_TOLD_PER_S_MAX = 20  # robots that are told that their session is gone; the others find out by waiting
DRAIN_S = 10.0
STOP_LEAST_S = 1.0  # that threads get to end, however long the drain has taken


@dataclass(frozen=True)
class ServiceSettings:
    """One service, as the manifest has it, without loading and network."""

    keys: Keys
    rules: Rules
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    server_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])


class Daemon:
    """Serves one policy. `start` returns when robots can come; `stop` drains, and may be called from anywhere."""

    def __init__(
        self, policy: Policy, transport: Transport, settings: ServiceSettings, recorder: Recorder | None = None
    ) -> None:
        self.policy, self.transport, self.settings = policy, transport, settings
        self.recorder = recorder or Recorder()
        self.registry = Registry(settings.rules.sessions_max if policy.spec.shared else 1)
        self.load = Load(self.registry)
        self.pipeline = Pipeline(policy, self.registry, settings.pipeline, self._record, self.load.sessions)
        self.control = Control(
            policy, self.registry, self.pipeline, transport, settings.keys,
            replace(settings.rules, sessions_max=self.registry.sessions_max),
            replace(settings.control, server_id=settings.server_id),
            self._record, self.capabilities, self.load.sessions,
        )  # fmt: skip
        self.stopped = threading.Event()
        self._stop_lock = threading.Lock()
        self._strangers: set[str] = set()
        self._strangers_told = Allowance(STRANGERS_TOLD_PER_S_MAX)
        self._surface: list[Declaration] = []
        self._token: list[Declaration] = []

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads, then declare the surface: whoever sees the server sees a warm one."""
        self.pipeline.start()
        self.control.start()
        keys, server = self.settings.keys, self.settings.server_id
        subscribe, queryable = self.transport.subscribe, self.transport.queryable
        self._surface = [
            subscribe(keys.observation("*"), self._on_observation),
            subscribe(keys.observation("*", server), self._on_observation),
            queryable(keys.session, self._on_session),
            queryable(keys.session_of("*"), self._on_session),
            queryable(keys.reset("*"), self._on_reset),
            queryable(keys.reset("*", server), self._on_reset),
            queryable(keys.status, self._on_status),
            self.transport.watch(keys.alive("*"), self.control.token_changed),
        ]
        self._token = [self.transport.token(keys.server_alive), self.transport.token(keys.replica_alive(server))]

    def stop(self, timeout_s: float = DRAIN_S) -> bool:
        """Drain: tell the robots, answer what waits, take the surface down, end the sessions. False when cut short.

        Twice is once; the second caller waits for the first.
        """
        with self._stop_lock:
            if self.stopped.is_set():
                return True
            self.control.draining = True
            for token in self._token:
                token.undeclare()
            for session in self.registry.all():
                self.pipeline.send_event(session, EventCode.DRAINING, "the server is shutting down")
            end_s = time.monotonic() + timeout_s
            whole = self.pipeline.drain(timeout_s)
            for declaration in self._surface:
                declaration.undeclare()
            self.control.stop(max(STOP_LEAST_S, end_s - time.monotonic()))
            whole = self.pipeline.stop(max(STOP_LEAST_S, end_s - time.monotonic())) and whole
            self.transport.close()
            self.policy.close()
            self.stopped.set()
            return whole

    @property
    def ready(self) -> bool:
        """Whether robots can be served now."""
        return bool(self._surface) and not self.control.draining and not self.stopped.is_set() and self.healthy

    @property
    def healthy(self) -> bool:
        """Whether all threads run and the network is there."""
        return self.pipeline.alive and self.control.alive and self.transport.connected()

    def capabilities(self) -> Capabilities:
        """What robots are told of the policy."""
        spec, rules = self.policy.spec, self.settings.rules
        return Capabilities(
            model_repo=spec.model_repo,
            model_revision=spec.model_revision,
            policy_type=spec.policy_type,
            action_names=list(spec.action_names),
            expected_cameras=[c.name for c in spec.cameras],
            state_dim=spec.state_dim,
            chunk_size=spec.chunk_size,
            trained_fps=rules.trained_fps,
            supports_rtc=rules.rtc,
            rtc_execution_horizon=spec.execution_horizon if rules.rtc else 0,
            serving_mode="shared" if spec.shared else "exclusive",
            warmed_up=True,
            features=list(features.ALL),
            server_id=self.settings.server_id,
            image_sizes={c.name: [c.height, c.width] for c in spec.cameras if c.height and c.width},
            history_frames=spec.history_frames,
            history_step=spec.history_step,
            checkpoint_hash=spec.checkpoint_hash,
            normalisation_hash=spec.normalisation_hash,
            prefix_form=spec.prefix_form if rules.rtc else "",
        )

    def status(self) -> Status:
        """What everybody may ask."""
        return Status(
            **msgspec.structs.asdict(self.capabilities()),
            active_sessions=len(self.registry),
            max_sessions=self.registry.sessions_max,
            server_load=self.load.sessions(),
            busy_share=self.load.busy_share(self.pipeline),
            wait_p95_ms=self.load.wait_p95_s() * 1e3,
            draining=self.control.draining,
        )

    # --- callbacks of the network: deposit and return ---------------------------------------------------------------

    def _on_observation(self, sample: Sample) -> None:
        try:
            self._deposit(sample)
        except Exception:  # a malformed message may never end the subscription
            log.exception("an observation could not be taken")
            self._drop("internal")

    def _deposit(self, sample: Sample) -> None:
        client = self.settings.keys.client_of(sample.key)
        if client is None:
            return self._drop("bad_key")
        try:
            header, tag = unpack(sample.attachment)
        except HeaderError:
            return self._drop("bad_header")
        if header.msg_type != MessageType.OBSERVATION:
            return self._drop("bad_type")
        session = self.registry.get(client)
        if session is None:
            return self._stranger(client, header, tag, to_us=sample.key == self._own_key(client))
        self._strangers.discard(client)
        if reason := self._unwanted(session, header, tag, sample.size):
            return self._drop(reason, client)
        if self.control.draining:
            self.pipeline.send_event(session, EventCode.DRAINING, "the server is shutting down", header)
            return self._drop("draining", client)
        if session.deposit(Deposit(header, sample.body(), time.monotonic())):
            self._drop("superseded", client)
        self.pipeline.offer(session)
        return None

    def _unwanted(self, session: Session, header: Header, tag: bytes, size: int) -> str:
        """Why a message is dropped by its header alone; "" when it is not."""
        if session.tag != tag:  # from somebody else: the robot must not hear of it
            return "bad_tag"
        version, limit = session.agreed.schema_version, self.settings.pipeline.limits.body_bytes_max
        if header.schema_version != version:
            reason = f"want schema {version}, got {header.schema_version}"
            self.pipeline.send_event(session, EventCode.BAD_SCHEMA, reason, replace(header, schema_version=version))
            return "bad_schema"
        if header.session_epoch < session.epoch:
            return "old_epoch"
        if size > limit:
            self.pipeline.send_event(session, EventCode.BAD_REQUEST, f"want at most {limit} bytes, got {size}", header)
            return "too_large"
        return ""

    def _own_key(self, client: str) -> str:
        """Where a robot puts observations that are meant for this replica alone."""
        return self.settings.keys.observation(client, self.settings.server_id)

    def _stranger(self, client: str, header: Header, tag: bytes, *, to_us: bool) -> None:
        if client not in self._strangers and len(self._strangers) < STRANGERS_NAMED_MAX:
            self._strangers.add(client)
            log.warning("observations from %s, which has no session here", client)
        self._drop("unknown_session", client)
        # on the key that replicas share it may well be another's robot
        if to_us and not self.control.draining and self._strangers_told.take():
            self.pipeline.later(lambda: self._tell_stranger(client, header, tag))

    def _tell_stranger(self, client: str, header: Header, tag: bytes) -> None:
        """A robot that addresses us has had a session here and did not hear of its end."""
        publisher = self.transport.publisher(self.settings.keys.action(client), "action")
        try:
            body = event_body(EventCode.UNKNOWN_SESSION, "no session here: open another", header)
            publisher.put(body, answer_header(header, MessageType.EVENT, tag))
        finally:
            publisher.undeclare()
        self._drop(f"event_{EventCode.UNKNOWN_SESSION.name.lower()}", client)

    def _on_status(self, query: Query) -> None:
        _guarded(query, lambda: query.reply(encode(self.status())))

    def _on_session(self, query: Query) -> None:
        if query.size > CONTROL_BODY_MAX:
            ack = self.control.rejected(RejectCode.BAD_REQUEST, f"want at most {CONTROL_BODY_MAX} bytes")
            return _guarded(query, lambda: query.reply(encode(ack)))
        body, client = query.body(), self.settings.keys.client_of(query.key)
        if not self.control.submit(lambda: _guarded(query, lambda: self._answer_session(query, body, client))):
            ack = self.control.rejected(RejectCode.BUSY, "too many questions at once")
            _guarded(query, lambda: query.reply(encode(ack)))
        return None

    def _answer_session(self, query: Query, body: bytes, client: str | None) -> None:
        answer = self.control.answer(body, client)
        if answer is not None:
            query.reply(answer)

    def _on_reset(self, query: Query) -> None:
        client = self.settings.keys.client_of(query.key)
        if client is None or query.size > CONTROL_BODY_MAX:
            return _guarded(query, lambda: query.reply(encode(ResetAck(ok=False, error="want a robot's own key"))))
        body = query.body()
        if not self.control.submit(lambda: self.control.reset(body, client, query.reply, query.done)):
            _guarded(query, lambda: query.reply(encode(ResetAck(ok=False, error="too many questions at once"))))
        return None

    def _record(self, record: object) -> None:
        self.load.note(record)
        self.recorder(record)  # type: ignore[arg-type]

    def _drop(self, reason: str, client: str = "") -> None:
        self.recorder(Drop(reason, client))


def _guarded(query: Query, answer: Callable[[], object]) -> None:
    """Answer a question and let it go, whatever happens."""
    try:
        answer()
    except Exception:
        log.exception("a question on %s could not be answered", query.key)
    finally:
        query.done()
