"""The control thread: opens, closes and resets sessions, one at a time, and collects those whose robot is gone.

Building a session may take seconds; here it holds up neither the network's callbacks nor the policy.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from network.transport import Transport
from serving.admission import Rules, Verdict, judge
from serving.log_limit import LineLimit
from serving.pipeline import Pipeline
from serving.policies.base import Policy, SessionInfo
from serving.record import Drop, Recorder
from serving.registry import Registry
from serving.reply import REASON_MAX
from serving.session import Agreement, Session
from serving.wire import features, keys
from serving.wire.errors import MessageError, RejectCode, WireError
from serving.wire.keys import Keys
from serving.wire.messages import (
    CLOSE,
    Capabilities,
    Reset,
    ResetAck,
    SessionAck,
    SessionClose,
    SessionOpen,
    SessionRequest,
    decode,
    encode,
)

log = logging.getLogger(__name__)
log.addFilter(LineLimit())

JOBS_MAX = 64  # questions waiting; more are told to come back
CONTROL_BODY_MAX = 256 << 10
GC_EVERY_S = 1.0
TOKEN_GRACE_S = 5.0
TOKEN_QUERY_S = 0.5
RETRY_AFTER_MS = 500
EPISODE_MAX = (1 << 32) - 1  # as the header has it


@dataclass(frozen=True)
class ControlSettings:
    """How sessions live and end."""

    server_id: str = ""
    idle_timeout_s: float = 300.0
    token_grace_s: float = TOKEN_GRACE_S


class Control:
    """Owner of the registry's changes."""

    def __init__(
        self,
        policy: Policy,
        registry: Registry,
        pipeline: Pipeline,
        transport: Transport,
        service: Keys,
        rules: Rules,
        settings: ControlSettings,
        recorder: Recorder,
        capabilities: Callable[[], Capabilities],
        load: Callable[[], float],
    ) -> None:
        self._policy, self._registry, self._pipeline, self._transport = policy, registry, pipeline, transport
        self._keys, self._rules, self._settings, self._record = service, rules, settings, recorder
        self._capabilities, self._load = capabilities, load
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(JOBS_MAX)
        self._thread = threading.Thread(target=self._run, name="serving-control", daemon=True)
        self.draining = False
        self.heartbeat_s = time.monotonic()

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Finish what waits, end every session, then the thread. Twice is once."""
        if self._thread.is_alive():
            end_s = time.monotonic() + timeout_s
            with suppress(queue.Full):  # the thread hangs: nothing can be ended in order
                self._jobs.put(None, timeout=timeout_s)
            self._thread.join(max(0.0, end_s - time.monotonic()))

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, job: Callable[[], None]) -> bool:
        """Run a job on the control thread; False when too many wait. Never blocks."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        collect_s = time.monotonic() + GC_EVERY_S
        while True:
            self.heartbeat_s = time.monotonic()
            try:
                if self.heartbeat_s >= collect_s:  # also under a flood of questions
                    collect_s = self.heartbeat_s + GC_EVERY_S
                    self.collect()
                job = self._jobs.get(timeout=max(0.0, collect_s - self.heartbeat_s))
                if job is None:
                    return self._end_all("server shutdown")
                job()
            except queue.Empty:
                continue
            except Exception:  # the network may fail in a collection too
                log.exception("a control job failed")

    # --- open and close --------------------------------------------------------------------------------------------

    def answer(self, body: bytes, client: str | None) -> bytes | None:
        """The answer to a question on a session key; None to stay silent, because another replica is meant.

        `client` is the robot that the key names, if it names one.
        """
        try:
            if decode(body, SessionRequest).op == CLOSE:
                return encode(self._close(decode(body, SessionClose), client))
            ask = decode(body, SessionOpen)
            if ask.server_id and ask.server_id != self._settings.server_id:
                return None
            return encode(self._open(ask, client))
        except WireError as err:
            return encode(self.rejected(RejectCode.BAD_REQUEST, str(err)))
        except Exception as err:
            log.exception("a session could not be opened")
            return encode(self.rejected(RejectCode.INTERNAL, f"server error: {type(err).__name__}"))

    def rejected(self, code: RejectCode, error: str) -> SessionAck:
        """A refusal, with what the server can do anyway."""
        verdict = Verdict(None, code, error)
        self._record(Drop(f"reject_{code.name.lower()}"))
        return self._ack(
            error=error[:REASON_MAX], code=int(code), retryable=verdict.retryable,
            retry_after_ms=RETRY_AFTER_MS if verdict.retryable else 0,
        )  # fmt: skip

    def _ack(self, **values: object) -> SessionAck:
        known = msgspec.structs.asdict(self._capabilities())
        return SessionAck(**{**known, "server_load": self._load(), **values})  # type: ignore[arg-type]

    def _open(self, ask: SessionOpen, key_client: str | None) -> SessionAck:
        client = _same_client(ask.client_uuid, key_client)
        if self.draining:
            return self.rejected(RejectCode.DRAINING, "the server is shutting down")
        if not self._registry.room_for(client):
            self._make_room()
        verdict = judge(ask, self._rules, len(self._registry), self._registry.room_for(client))
        if verdict.agreement is None:
            return self.rejected(verdict.code, verdict.error)
        old = self._registry.get(client)
        if old is not None and not self._may_replace(old, ask.resume_token):
            return self.rejected(RejectCode.IN_USE, f"{client} has a session; show its resume token to replace it")
        session = self._build(client, verdict.agreement, ask)
        if self.draining:  # since we looked: building may take seconds
            session.close()
            return self.rejected(RejectCode.DRAINING, "the server is shutting down")
        self._registry.put(session)
        if old is not None:
            self._end(old, "replaced by a new session")
        self._record(Drop("session_opened", client))
        return self._accepted(session, verdict)

    def _build(self, client: str, agreed: Agreement, ask: SessionOpen) -> Session:
        session = Session(
            client, agreed, policy=None, publisher=None, opened_s=time.monotonic(),  # type: ignore[arg-type]
            shown_token=ask.resume_token,
        )  # fmt: skip
        info = SessionInfo(
            session.session_id, client, agreed.robot_type, agreed.action_names, agreed.task, agreed.rtc, dict(ask.tags)
        )
        session.info, session.policy = info, self._policy.open_session(info)
        try:
            session.publisher = self._transport.publisher(self._keys.action(client), "action")
        except Exception:
            session.policy.close()
            raise
        return session

    def _accepted(self, session: Session, verdict: Verdict) -> SessionAck:
        agreed, spec = session.agreed, self._policy.spec
        return self._ack(
            accepted=True,
            warnings=verdict.warnings,
            session_id=session.session_id,
            schema_version=agreed.schema_version,
            supports_rtc=agreed.rtc,
            rtc_execution_horizon=spec.execution_horizon if agreed.rtc else 0,
            features=sorted(agreed.features),
            session_tag=session.tag,
            resume_token=session.resume_token if features.RESUME in agreed else "",
            chunk_form=agreed.chunk_form,
            f16=agreed.f16,
            prefix_form=spec.prefix_form if agreed.rtc else "",
        )

    def _may_replace(self, old: Session, token: str) -> bool:
        """Whether an open may end a session: where no tokens were agreed on, with the token, or when it is dead."""
        return features.RESUME not in old.agreed or old.knows(token) or not self._lives(old)

    def _lives(self, session: Session) -> bool:
        return bool(self._transport.alive(self._keys.alive(session.client), TOKEN_QUERY_S))

    def _make_room(self) -> None:
        """End a session whose robot has lost its token, so that a crash does not hold a place until the grace ends."""
        for session in self._registry.all():
            if session.token_lost_s is not None and not self._lives(session):
                self._end(session, "liveliness token dropped")
                return

    def _close(self, ask: SessionClose, key_client: str | None) -> ResetAck:
        session = self._registry.get(_same_client(ask.client_uuid, key_client))
        if session is None:
            return ResetAck(outcome="unknown")
        # whoever need not show which session it means could end another robot's, and open in its place
        may_be_any = not ask.session_id and (key_client is not None or features.RESUME not in session.agreed)
        if ask.session_id != session.session_id and not may_be_any:
            return ResetAck(outcome="other_session")
        self._end(session, "closed by the client", tell=False)
        return ResetAck(outcome="closed")

    def _end(self, session: Session, why: str, *, tell: bool = True) -> None:
        """Take a session out and close it; another one that has its place already stays."""
        self._registry.remove(session)
        self._pipeline.end_session(session, why if tell else None)
        log.info("session %s of %s ended: %s", session.session_id, session.client, why)
        self._record(Drop("session_closed", session.client))

    # --- resets ----------------------------------------------------------------------------------------------------

    def reset(self, body: bytes, client: str, reply: Callable[[bytes], None], done: Callable[[], None]) -> None:
        """A robot begins a new episode: between two requests, so that none of the old one is under way after it."""
        try:
            ask = decode(body, Reset)
            _same_client(ask.client_uuid or client, client)
            if not 0 <= ask.episode_id <= EPISODE_MAX:
                raise MessageError(f"want episode_id between 0 and {EPISODE_MAX}", f"{ask.episode_id}", "count from 0")
        except WireError as err:
            return _reply(ResetAck(ok=False, error=str(err)), reply, done)
        session = self._registry.get(client)
        if session is None:
            return _reply(ResetAck(ok=False, error=f"no session of {client}: open one first"), reply, done)

        def between() -> None:
            session.mailbox.clear()
            try:
                session.begin_episode(ask.episode_id)
            except Exception as err:
                log.exception("a session could not be reset")
                return _reply(ResetAck(ok=False, error=f"server error: {type(err).__name__}"), reply, done)
            session.reset_policy = not self._policy.spec.shared
            return _reply(ResetAck(), reply, done)

        session.when_idle(between)
        self._pipeline.offer(session)
        return None

    # --- collection ------------------------------------------------------------------------------------------------

    def token_changed(self, key: str, alive: bool) -> None:
        """A robot's liveliness token came or went. Called by network threads."""
        client = self._keys.client_of(key)
        session = self._registry.get(client) if client else None
        if session is not None:
            session.token_lost_s = None if alive else time.monotonic()

    def collect(self) -> None:
        """End sessions whose robot is gone, or has been silent for too long."""
        now_s = time.monotonic()
        for session in self._registry.all():
            lost_s = session.token_lost_s
            if lost_s is not None and now_s - lost_s > self._settings.token_grace_s:
                # a late notice about an earlier life must not end a robot that is back
                if self._lives(session):
                    session.token_lost_s = None
                else:
                    self._end(session, "liveliness token dropped")
            elif now_s - session.last_seen_s > self._settings.idle_timeout_s:
                self._end(session, "idle timeout")

    def _end_all(self, why: str) -> None:
        """End every session."""
        for session in self._registry.all():
            self._end(session, why)


def _same_client(said: str, key_client: str | None) -> str:
    """The robot's id; what it says of itself must be what its key says."""
    client = keys.client_id(said or key_client or "")
    if key_client is not None and client != key_client:
        raise MessageError(f"want client_uuid {key_client}, as in the key", repr(said[:80]), "send your own id")
    return client


def _reply(message: msgspec.Struct, reply: Callable[[bytes], None], done: Callable[[], None]) -> None:
    try:
        reply(encode(message))
    finally:
        done()
