"""The one thread that talks to the server: asks in time, asks again, merges, and finds another server.

It owns the state machine and everything about requests. The control thread leaves observations and takes rows; it never
waits for anything here but for locks that are held for microseconds.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from dataclasses import dataclass, field

import numpy as np

from edge.action_queue import ActionQueue, Chunk, Mode
from edge.chunks import read_chunk
from edge.compose import Composer
from edge.contract import Contract
from edge.errors import ChunkError, ContractError, EdgeError, LinkError
from edge.latency import LatencyWindow
from edge.link import OURS, Answer, Link
from edge.observations import ObservationSlot, Observed
from edge.requests import Outstanding, Sent
from edge.safety import Limits, check_limits
from edge.settings import InferenceSettings
from edge.state import ActiveClock, Event, Machine, State
from edge.stats import Counters
from edge.timers import Timing, request_left_s, resend_after_s
from network.errors import TransportError
from serving.wire import features, messages
from serving.wire.errors import EventCode, WireError
from serving.wire.header import Header, MessageType
from serving.wire.messages import SessionAck

log = logging.getLogger(__name__)

IDLE_S = 0.5  # longest sleep: everything that matters wakes the worker
ERRORS_MAX = 10  # in a row; then the run ends
ERROR_PAUSE_S = 0.5
FAILED_PAUSE_S = 0.1  # before a request that was refused is tried again; doubled each time, at most a second
FAILED_PAUSE_MAX_S = 1.0
OBSERVATION_AGE_MAX_S, OBSERVATION_AGE_MAX_STEPS = 0.5, 5  # older ones are not sent: the loop has stopped
CLOCK_SLACK_S = 1.0  # by which a reading may lie ahead, before it was stamped by another clock
SERVERS_GONE = frozenset({EventCode.UNKNOWN_SESSION, EventCode.SESSION_CLOSED, EventCode.DRAINING})


@dataclass
class Desk:
    """What control thread and worker share. `merging` keeps a chunk of one episode out of the next."""

    queue: ActionQueue
    slot: ObservationSlot
    clock: ActiveClock
    counters: Counters = field(default_factory=Counters)
    latency: LatencyWindow = field(default_factory=LatencyWindow)
    encoding: LatencyWindow = field(default_factory=LatencyWindow)
    merging: threading.Lock = field(default_factory=threading.Lock)
    episode: int = 0
    task: str = ""
    active: bool = False
    starved_since_s: float | None = None  # monotonic; None while there are rows
    last: np.ndarray | None = None  # executed last in this episode


class Worker:
    """See the module. `start` once the first session is open."""

    def __init__(
        self, link: Link, desk: Desk, contract: Contract, settings: InferenceSettings, timing: Timing, limits: Limits,
        machine: Machine, reject_beyond: bool = False,
    ) -> None:  # fmt: skip
        self._link, self._desk, self._contract, self._settings = link, desk, contract, settings
        self._timing, self._limits, self._reject_beyond = timing, limits, reject_beyond
        self.machine = machine
        self.failure: EdgeError | None = None
        self.failure_traceback = ""
        self._wake, self._woken, self._stopping = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._run, name="edge-worker", daemon=True)
        self._outstanding = Outstanding()
        self._composer: Composer | None = None
        self._age_max_s = max(OBSERVATION_AGE_MAX_S, OBSERVATION_AGE_MAX_STEPS * timing.dt_s)
        self._seq = 0
        self._episode_answered = -1  # the newest episode that the server has answered in
        self._cold = True  # the next answer is the first of its session, and may be slow for that
        self._failures = 0  # refused requests in a row
        self._not_before_s = 0.0
        self._offline_at_s: float | None = None  # by the active clock, as the next
        self._session_since_s = 0.0
        self._starved_told: float | None = None
        self._retry_at_s, self._backoff_s = 0.0, settings.reconnect_initial_backoff_s
        self._avoid = ""  # replica that let us down
        self._errors = 0

    # --- other threads ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; the first session must be open."""
        assert self._link.ack is not None
        self._begin_session(self._link.ack)
        self._thread.start()

    def wake(self) -> None:
        """Something happened. From any thread; never waits."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def stop(self, timeout_s: float) -> bool:
        """Tell it to end, and wait a little; whether it has ended."""
        self._stopping = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def in_flight_s(self) -> float | None:
        """How long the open request has been on its way."""
        since_s = self._outstanding.since_s
        return None if since_s is None else max(0.0, time.monotonic() - since_s)

    def offline_s(self) -> float:
        """How much of the offline budget is used."""
        since_s = self._offline_at_s
        return 0.0 if since_s is None else max(0.0, self._desk.clock.now_s() - since_s)

    # --- the loop --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping and self.machine.state is not State.DEAD:
            try:
                wait_s = self._turn(time.monotonic())
                self._errors = 0
            except Exception as err:  # noqa: BLE001 - the robot's only way to a server must outlive one mistake
                if self._stopping:
                    break
                wait_s = self._failed(err)
            with self._wake:
                if not self._woken and not self._stopping and wait_s > 0:
                    self._wake.wait(min(wait_s, IDLE_S))
                self._woken = False
        self._end()

    def _turn(self, now_s: float) -> float:
        """Do all that is due; how long nothing will be, seconds."""
        self._take_answers()
        self._tell_starved()
        if self._link.heard.lost and self.machine.state is not State.RECONNECTING:
            self._lose_link(self._link.heard.lost)
        if self.offline_s() > self._settings.max_offline_s:
            self.failure = LinkError(
                "want a chunk of actions", f"none for {self._settings.max_offline_s:g} s",
                "see the server and the network between; --inference.max_offline_s is the limit",
            )  # fmt: skip
            self.machine.fire(Event.OFFLINE_TOO_LONG, f"{self._settings.max_offline_s:g} s")
            return 0.0
        if self.machine.state is State.RECONNECTING:
            return self._reconnect(now_s)
        if self._outstanding:
            return self._await(now_s)
        return self._ask_if_due(now_s)

    def _failed(self, err: Exception) -> float:
        """One turn went wrong; how long to wait. Too many in a row end the run."""
        self._errors += 1
        log.error("the worker failed (%d in a row)", self._errors, exc_info=err)
        if self._errors >= ERRORS_MAX:
            self.failure = EdgeError("want a working engine", f"{self._errors} errors in a row: {err}", "see the log")
            self.failure_traceback = "".join(traceback.format_exception(err))
            self.machine.fire(Event.WORKER_FAILED, str(err))
        return ERROR_PAUSE_S

    def _end(self) -> None:
        self.machine.fire(Event.STOP)
        if self._composer is not None:
            self._composer.close()
        try:
            self._link.say_goodbye()
        except TransportError as err:
            log.debug("no goodbye: %s", err)  # the network was closed under a worker that took too long
        finally:
            self._link.close()

    def _tell_starved(self) -> None:
        since_s = self._desk.starved_since_s
        if since_s is not None and since_s != self._starved_told and not self._desk.queue.left():
            self.machine.fire(Event.STARVED)
        self._starved_told = since_s

    def _go_offline(self) -> None:
        """The budget begins to be used; only a chunk ends that."""
        if self._offline_at_s is None:
            self._offline_at_s = self._desk.clock.now_s()

    # --- sessions --------------------------------------------------------------------------------------------------

    def _begin_session(self, ack: SessionAck) -> None:
        desk, settings = self._desk, self._settings
        if self._composer is not None:
            self._composer.close()
        agreed = features.agreed(OURS, ack.features)
        self._composer = Composer(ack, agreed, self._contract, settings, self._timing)
        mode = Mode.REPLACE if self._contract.rtc else Mode.APPEND
        if desk.queue.mode is not mode:  # the first session alone decides it
            desk.queue.mode = mode
        desk.slot.keep(self._composer.readings_kept)
        self._forget_request()
        self._cold, self._episode_answered = True, -1
        self._backoff_s, self._session_since_s = settings.reconnect_initial_backoff_s, desk.clock.now_s()
        if not self._failures:  # a server that opens sessions and answers nothing is not asked without a pause
            self._not_before_s = 0.0
        desk.counters.add("handshakes")
        chunk_s = ack.chunk_size * self._timing.dt_s
        if chunk_s > settings.max_action_age_s:
            log.info(
                "a chunk lasts %.1f s, but no action is executed %.1f s after its observation: its end is not used",
                chunk_s, settings.max_action_age_s,
            )  # fmt: skip

    def _lose_link(self, why: str) -> None:
        self._forget_request()
        self._go_offline()
        self._retry_at_s = 0.0
        self._desk.counters.add("reconnects")
        self.machine.fire(Event.LINK_LOST, why)

    def _reconnect(self, now_s: float) -> float:
        if self._link.heard.back:
            self._retry_at_s = now_s
        if now_s < self._retry_at_s:
            return self._retry_at_s - now_s
        try:
            ack = self._link.open(self._desk.task, avoid=self._avoid)
        except ContractError as err:
            self.failure = err
            self.machine.fire(Event.CONTRACT_BROKEN, err.wanted)
            return 0.0
        except (LinkError, TransportError) as err:
            pause_s = max(self._backoff_s, getattr(err, "retry_after_s", 0.0))
            log.info("no session, next try in %.1f s: %s", pause_s, err.got or err.wanted)
            self._backoff_s = min(2 * self._backoff_s, self._settings.reconnect_max_backoff_s)
            self._retry_at_s = time.monotonic() + pause_s
            return pause_s
        self._avoid = ""
        self._begin_session(ack)
        self.machine.fire(Event.HANDSHAKE_DONE, ack.server_id)
        return 0.0

    # --- asking ----------------------------------------------------------------------------------------------------

    def _ask_if_due(self, now_s: float) -> float:
        desk = self._desk
        if not desk.active:
            return IDLE_S
        if now_s < self._not_before_s:
            return self._not_before_s - now_s
        ack = self._link.ack
        assert ack is not None
        age_max_s = self._settings.max_action_age_s
        rows = min(ack.chunk_size, int(age_max_s / self._timing.dt_s))  # that can be played before they are too old
        left_s = desk.queue.fresh_s(now_s, self._timing.dt_s, age_max_s)
        spare_s = left_s - request_left_s(self._timing, desk.latency, now_s, rows)
        if spare_s > 0:
            return spare_s
        return self._send(now_s)

    def _await(self, now_s: float) -> float:
        """The open request: wait for it, send it once more, or give it up."""
        out = self._outstanding
        assert out.since_s is not None
        if not self._desk.active:  # nothing is due while paused; an answer that comes yet is taken
            return IDLE_S
        if out.episode != self._desk.episode:  # its answer is of no use any more
            self._forget_request()
            return 0.0
        if now_s - out.since_s >= self._settings.request_timeout_s:
            self._desk.counters.add("timeouts")
            self._request_failed("no answer", 0.0)
            return 0.0
        if now_s < out.resend_at_s:
            return min(out.resend_at_s, out.since_s + self._settings.request_timeout_s) - now_s
        if not out.late:
            out.late = True
            self._late(f"no answer in {1e3 * (now_s - out.since_s):.0f} ms")
        return self._send(now_s)

    def _send(self, now_s: float) -> float:
        """Send the newest observation; how long to wait for one where there is none."""
        desk = self._desk
        observed = desk.slot.newest()
        if observed is None or now_s - observed.reading.captured_s > self._age_max_s:
            desk.slot.tell(self.wake)
            return IDLE_S
        if observed.reading.captured_s > now_s + CLOCK_SLACK_S:
            wanted, got = "want readings stamped by the monotonic clock", "one of the future"
            raise EdgeError(wanted, got, "set Reading.captured_s from time.monotonic()")
        try:
            sent = self._put(observed, now_s)
        except (WireError, KeyError) as err:
            raise EdgeError("want a reading that can be sent", str(err), "see the robot's features") from err
        desk.counters.add("resends" if self._outstanding else "requests")
        attempt = len(self._outstanding.tries)
        wait_s = resend_after_s(self._timing, desk.latency, now_s, attempt)
        self._outstanding.add(sent, now_s + wait_s)
        return wait_s

    def _put(self, observed: Observed, now_s: float) -> Sent:
        desk, link = self._desk, self._link
        assert self._composer is not None
        task, captured_s = desk.task, observed.reading.captured_s
        first = observed.episode != self._episode_answered
        body = self._composer.compose(observed, desk.slot, desk.queue, desk.latency, task, first, desk.encoding)
        self._seq += 1
        stamp_ns = int(captured_s * 1e9)
        sent = Sent(self._seq, link.epoch, observed.episode, stamp_ns, observed.step, captured_s, now_s, task)
        link.expect(self._outstanding.stamps() | {sent.seq_id: stamp_ns})
        version = link.schema_version
        link.put(body, Header(version, MessageType.OBSERVATION, sent.seq_id, sent.episode, stamp_ns, sent.epoch))
        return sent

    # --- answers ---------------------------------------------------------------------------------------------------

    def _take_answers(self) -> None:
        while True:
            try:
                answer = self._link.heard.answers.popleft()
            except IndexError:
                return
            try:
                self._take(answer)
            except (WireError, ChunkError) as err:
                self._desk.counters.add("malformed")
                log.warning("an answer was refused: %s", err)
                if answer.header.seq_id in self._outstanding.tries:
                    self._request_failed(f"a chunk that may not be executed: {err.got or err.wanted}", 0.0)

    def _take(self, answer: Answer) -> None:
        if answer.header.session_epoch != self._link.epoch:
            return  # of a session that has ended since
        if answer.header.msg_type == MessageType.EVENT:
            return self._take_event(messages.decode(answer.body, messages.Event), answer.header.seq_id)
        sent = self._outstanding.tries.get(answer.header.seq_id)
        if sent is None or answer.header.msg_type != MessageType.CHUNK or answer.header.episode_id != sent.episode:
            return self._desk.counters.add("foreign")
        assert self._link.ack is not None
        actions = len(self._contract.action_names)
        chunk = read_chunk(answer.body, sent, answer.received_s, self._link.ack, actions)
        if self._reject_beyond:
            passed = max(0, self._desk.queue.step - sent.step)
            check_limits(self._limits, chunk.robot[passed:], self._desk.last)
        self._forget_request()
        self._failures, self._episode_answered = 0, max(self._episode_answered, sent.episode)
        if not self._cold:
            self._desk.latency.add(answer.received_s - sent.sent_s, answer.received_s)
        self._cold = False
        return self._merge(chunk, sent)

    def _merge(self, chunk: Chunk, sent: Sent) -> None:
        desk = self._desk
        with desk.merging:
            if sent.episode != desk.episode:
                return desk.counters.add("foreign")  # a reset came between
            merged = desk.queue.merge(chunk)
            if merged.taken:
                desk.starved_since_s = None
        desk.counters.add("late_rows", merged.late)
        if merged.all_late:
            desk.counters.add("late_chunks")
            took_ms = 1e3 * (chunk.origin.received_s - sent.sent_s)
            return self._late(f"an answer took {took_ms:.0f} ms, longer than its {len(chunk.robot)} rows last")
        if not merged.taken:  # it reaches no further than what is queued: not at once again, but before that is stale
            now_s, dt_s = time.monotonic(), self._timing.dt_s
            left_s = desk.queue.fresh_s(now_s, dt_s, self._settings.max_action_age_s)
            self._not_before_s = now_s + max(dt_s, left_s / 4)
        desk.counters.add("merges")
        self._offline_at_s = None
        self.machine.fire(Event.MERGED)
        return None

    def _take_event(self, event: messages.Event, seq_id: int) -> None:
        self._desk.counters.add("events")
        name = EventCode(event.code).name.lower() if event.code in EventCode._value2member_map_ else str(event.code)
        why = f"{name}: {event.reason}" if event.reason else name
        if event.code in SERVERS_GONE:
            self._avoid = self._link.ack.server_id if self._link.ack and event.code == EventCode.DRAINING else ""
            self._link.heard.lost = why
        elif seq_id in self._outstanding.tries:
            self._request_failed(why, event.retry_after_ms / 1e3)
        else:
            log.warning("the server says: %s", why)

    def _request_failed(self, why: str, pause_s: float) -> None:
        """No chunk comes of the open request; another one follows, a little later each time."""
        self._forget_request()
        pause_s = max(pause_s, min(FAILED_PAUSE_S * 2.0 ** min(self._failures, 16), FAILED_PAUSE_MAX_S))
        self._failures += 1
        self._not_before_s = time.monotonic() + (pause_s if math.isfinite(pause_s) else FAILED_PAUSE_MAX_S)
        self._late(why)
        session_s = self._desk.clock.now_s() - self._session_since_s
        if min(self.offline_s(), session_s) >= 2 * self._settings.request_timeout_s:
            self._avoid = self._link.ack.server_id if self._link.ack else ""
            self._link.heard.lost = f"no chunk for {self.offline_s():.0f} s"

    def _late(self, why: str) -> None:
        self._go_offline()
        self.machine.fire(Event.LATE, why)

    def _forget_request(self) -> None:
        self._outstanding.clear()
        self._link.expect({})
