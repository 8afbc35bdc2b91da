"""From mailbox to publish: pools of CPU threads around the one thread that owns the policy.

A request is taken from its mailbox only when the policy will soon want it, so that a newer observation can still take
its place. Its session has its turn from then until the answer is out; no session has two requests under way.

A robot that is alone has nobody to share with: the policy's thread then does all of it by itself, which saves the
waking of two more threads. From the second session on each kind of work is done by its own threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from serving.decode import buffer_left_s, check_task, decode_request
from serving.errors import PredictError
from serving.jobs import Jobs
from serving.log_limit import LineLimit
from serving.pictures import Helpers
from serving.policies.base import Policy
from serving.record import Drop, Recorder, RequestRecord
from serving.registry import Registry
from serving.reply import answer_header, check_chunk, chunk_body, event_body
from serving.scheduler import Ready, Scheduler
from serving.session import Session
from serving.wire import features
from serving.wire.errors import EventCode, WireError
from serving.wire.header import Header, MessageType
from serving.work import PipelineSettings, Work, kind_of, timed

log = logging.getLogger(__name__)
log.addFilter(LineLimit())

TICK_S = 0.5  # how often idle threads look around: a heartbeat, not a poll
ROOM_PER_BATCH = 2  # requests ahead of the policy: one batch predicted, one prepared
NOTICES_MAX = 16  # events on their way to one robot; who makes more of them has been told enough


class Pipeline:
    """The threads between network and policy."""

    def __init__(
        self,
        policy: Policy,
        registry: Registry,
        settings: PipelineSettings,
        recorder: Recorder,
        load: Callable[[], float],
    ) -> None:
        self.policy, self.registry, self.settings = policy, registry, settings
        self._record, self._load = recorder, load
        self._scheduler = Scheduler()
        lock = threading.RLock()
        self._wake = threading.Condition(lock)  # something is done: for who waits for the end
        self._to_decode = threading.Condition(lock)  # each kind of thread is woken by itself, and for what is its own:
        self._to_predict = threading.Condition(lock)  # a thread woken in vain costs the others as much as a real one
        self._waiting: dict[str, Session] = {}  # by session id: something in the mailbox
        self._deadlines: dict[str, float] = {}
        self._under_way = 0  # taken, not yet predicted
        self._decoding = 0
        self._prepared: list[Work] = []
        self._policy_idle = False  # its thread has looked around and found nothing to do
        self._finish = Jobs(settings.finish_threads, "serving-finish")
        self._notices = threading.Lock()  # guards the count of each session
        self._batches = 0
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._helpers = Helpers(settings.decode_threads - 1)
        self.heartbeat_s = time.monotonic()  # of the policy's thread
        self.busy_since_s: float | None = None  # since when the policy has been at one batch
        self.busy_s = 0.0  # that the policy has worked, in all

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads."""
        jobs = [("policy", self._policy_thread)]
        jobs += [(f"decode-{i}", self._decode_thread) for i in range(self.settings.decode_threads)]
        self._threads = [threading.Thread(target=run, name=f"serving-{name}", daemon=True) for name, run in jobs]
        for thread in self._threads:
            thread.start()
        self._finish.start()

    def drain(self, timeout_s: float) -> bool:
        """Wait until what is under way or lies in a mailbox is answered; False when that takes too long."""
        end_s = time.monotonic() + timeout_s
        with self._wake:
            done = self._wake.wait_for(lambda: not (self._waiting or self._under_way), timeout_s)
        return self._finish.drain(max(0.0, end_s - time.monotonic())) and done

    def stop(self, timeout_s: float) -> bool:
        """End all threads after what they are at; False when one does not. Twice is once."""
        end_s = time.monotonic() + timeout_s
        with self._wake:
            self._stopping = True
            for condition in (self._wake, self._to_decode, self._to_predict):
                condition.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        finished = self._finish.stop(max(0.0, end_s - time.monotonic()))
        self._helpers.close()
        return finished and not any(thread.is_alive() for thread in self._threads)

    @property
    def alive(self) -> bool:
        """Whether every thread still runs."""
        return all(thread.is_alive() for thread in self._threads) and self._finish.alive

    # --- network side ----------------------------------------------------------------------------------------------

    def offer(self, session: Session) -> None:
        """Something lies in a session's mailbox. Called by network threads: returns at once."""
        deposit = session.mailbox.peek()
        if deposit is None:
            return
        left_s = buffer_left_s(deposit.body) if features.DEADLINE in session.agreed else None
        deadline_s = deposit.received_s + (self.settings.deadline_default_s if left_s is None else left_s)
        with self._wake:
            self._waiting[session.session_id] = session
            self._deadlines[session.session_id] = deadline_s
            (self._to_predict if self._policy_idle and self._alone else self._to_decode).notify()

    @property
    def _alone(self) -> bool:
        """Whether there is one session: while its robot is served, nobody waits who would gain from other threads."""
        return len(self.registry) == 1

    def end_session(self, session: Session, why: str | None) -> None:
        """Close a session, telling the robot why; what is under way ends unheard."""
        self.later(lambda: self._end_session(session, why))
        with self._wake:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        """Nothing of a session waits any more. Under `_wake`."""
        self._waiting.pop(session.session_id, None)
        self._deadlines.pop(session.session_id, None)
        self._scheduler.forget(session.session_id)
        self._wake.notify_all()

    def send_event(self, session: Session, code: EventCode, reason: str, header: Header | None = None) -> None:
        """Tell a robot why, where it understands events; from the finish pool, so from any thread."""
        if features.EVENTS not in session.agreed:
            return
        with self._notices:
            if session.notices >= NOTICES_MAX:
                return
            session.notices += 1
        self.later(lambda: self._notify(session, code, reason, header))

    # --- decode pool -----------------------------------------------------------------------------------------------

    def _decode_thread(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or (session := self._admit())):
                    self._to_decode.wait(TICK_S)
                if self._stopping:
                    return
                self._decoding += 1
            self._decode(session)

    def _decode(self, session: Session) -> None:
        """Have the policy's thread find the observation of a session that was admitted; it is one of `_decoding`."""
        work = None
        try:
            work = self._prepare(session)
        finally:
            with self._wake:
                self._decoding -= 1
                if work is None:
                    self._under_way -= 1
                else:
                    self._prepared.append(work)
                self._to_predict.notify()
                self._wake.notify_all()

    def _admit(self) -> Session | None:
        """The next session whose observation is worth decoding now; its turn is taken. Under `_wake`."""
        if self._under_way >= max(ROOM_PER_BATCH * self.settings.batch_max, self.settings.decode_threads):
            return None
        ready = [Ready(s, self._deadlines[s]) for s, session in self._waiting.items() if not session.busy]
        for item in self._scheduler.order(ready):
            session = self._waiting[item.session]
            if session.begin():
                del self._waiting[item.session], self._deadlines[item.session]
                self._scheduler.served([item.session])
                self._under_way += 1
                return session
            if session.closed:  # an observation came in while it was being closed
                self._forget(session)
        return None

    def _prepare(self, session: Session) -> Work | None:
        """Decode and preprocess; None when there is nothing to predict, then the session's turn is over."""
        taken = session.mailbox.take()
        if taken is None:
            session.end()
            return None
        started_s = time.monotonic()
        header, body = taken.deposit.header, taken.deposit.body
        record = RequestRecord(
            session.session_id, session.client, header.seq_id, header.episode_id, taken.superseded,
            request_body=body if self.settings.keep_bodies else b"",
            request_header=header.pack(session.tag) if self.settings.keep_bodies else b"",
            info=session.info, agreed=session.agreed,
        )  # fmt: skip
        record.stages_s["queue"] = started_s - taken.deposit.received_s
        work = Work(session, header, record)
        try:
            with timed(record, "decode"):
                request = decode_request(
                    body, session, self.policy.spec, self.settings.limits, self.settings.default_task, self._helpers
                )
                check_task(request.task, self.settings.pinned_task)
            if request.episode_start or header.episode_id != session.episode:
                session.begin_episode(header.episode_id)
                session.reset_policy = not self.policy.spec.shared
            with timed(record, "preprocess"):
                work.prepared = session.policy.prepare(request)
            work.kind = kind_of(request, self.policy.spec)
        except WireError as err:
            self._refuse(work, EventCode.BAD_REQUEST, err)
            return None
        except Exception as err:  # noqa: BLE001 - whatever a policy raises fails this request only
            self._refuse(work, EventCode.INTERNAL, err)
            return None
        work.since_s = time.monotonic()
        return work

    # --- the policy's thread ---------------------------------------------------------------------------------------

    def _policy_thread(self) -> None:
        while (job := self._next_job()) is not None:
            if isinstance(job, Session):
                self._decode(job)
                continue
            self._predict(job)
            with self._wake:
                self._under_way -= len(job)
                if self._waiting:
                    self._to_decode.notify(len(job))
                self._wake.notify_all()

    def _next_job(self) -> list[Work] | Session | None:
        """Wait for a batch to predict, or for a lone robot's observation to decode; None to stop."""
        with self._wake:
            while True:
                self.heartbeat_s = time.monotonic()
                if self._prepared:
                    first = self._prepared[0]
                    batch = [w for w in self._prepared if w.kind == first.kind][: self.settings.batch_max]
                    wait_s = first.since_s + self.settings.max_wait_s - self.heartbeat_s
                    # others that are being decoded may share the batch: worth a short wait; a lone robot never waits
                    if len(batch) == self.settings.batch_max or not self._decoding or wait_s <= 0:
                        chosen = set(map(id, batch))
                        self._prepared = [w for w in self._prepared if id(w) not in chosen]
                        return batch
                    self._to_predict.wait(wait_s)
                elif self._decoding:
                    self._to_predict.wait(TICK_S)
                elif self._stopping:
                    return None
                elif self._alone and (session := self._admit()):
                    self._decoding += 1
                    return session
                else:
                    self._idle()

    def _idle(self) -> None:
        """Wait until something comes. Under `_wake`."""
        if self._waiting:  # another robot has come since this thread was told to take it
            self._to_decode.notify()
        self._policy_idle = True
        self._to_predict.wait(TICK_S)
        self._policy_idle = False

    def _predict(self, batch: list[Work]) -> None:
        """Answer a batch. One that fails as a whole is asked again one by one, so that only the guilty get nothing."""
        batch = [work for work in batch if self._still_wanted(work)]
        if not batch:
            return
        started_s = self.busy_since_s = time.monotonic()
        reset = any(work.session.reset_policy for work in batch)
        self._batches += 1
        for place, work in enumerate(batch):
            record = work.record
            record.stages_s["wait"] = started_s - work.since_s
            record.batch, record.batch_number, record.batch_place = len(batch), self._batches, place
            record.policy_reset = reset
        failed = None
        try:
            self._ask_policy(batch, reset)
        except Exception as err:  # noqa: BLE001 - the policy's thread must outlive whatever a policy does
            failed = err
        now_s = self.heartbeat_s = time.monotonic()
        self.busy_s += now_s - started_s
        self.busy_since_s = None
        if failed is None:
            for work in batch:
                work.record.stages_s["predict"] = now_s - started_s
                work.prepared = None
                self._answer_soon(work)
        elif len(batch) > 1:
            for work in batch:
                self._predict([work])
        else:
            self._refuse(batch[0], EventCode.INTERNAL, failed)

    def _ask_policy(self, batch: list[Work], reset: bool) -> None:
        if reset:
            self.policy.reset()
            for work in batch:
                work.session.reset_policy = False
        raws = self.policy.predict([work.prepared for work in batch])
        if len(raws) != len(batch):
            raise PredictError(f"want {len(batch)} answers from the policy", f"{len(raws)}", "mend the policy")
        for work, raw in zip(batch, raws, strict=True):
            work.raw = raw

    def _still_wanted(self, work: Work) -> bool:
        """Whether the session still has its place: what a former one left behind must not reach the policy."""
        if self.registry.get(work.session.client) is work.session:
            return True
        self._refuse(work, EventCode.SESSION_CLOSED, PredictError("want an open session", "one that has ended"))
        return False

    # --- finish pool -----------------------------------------------------------------------------------------------

    def later(self, job: Callable[[], object]) -> None:
        """Do something for which network threads have no time."""
        self._finish.later(job)

    def _answer_soon(self, work: Work) -> None:
        do = self._finish.now if self._alone else self._finish.later
        do(lambda: self._answer(work))

    def _answer(self, work: Work) -> None:
        session, record = work.session, work.record
        try:
            with timed(record, "postprocess"):
                chunk = check_chunk(session.policy.finish(work.raw), self.policy.spec)
            with timed(record, "encode"):
                body = chunk_body(chunk, session, work.header, record, self._load())
                header = answer_header(work.header, MessageType.CHUNK, session.tag)
                if session.closed:
                    raise PredictError("want an open session", "one that has ended")
                session.publisher.put(body, header)
        except Exception as err:  # noqa: BLE001 - see _prepare; a session may also close between the check and the put
            self._refuse(work, EventCode.SESSION_CLOSED if session.closed else EventCode.INTERNAL, err)
            return
        record.chunk_rows = len(chunk.robot)
        if self.settings.keep_bodies:
            record.reply_header, record.reply_body = header, body
        self._done(work)

    def _refuse(self, work: Work, code: EventCode, err: Exception) -> None:
        """A request fails by itself: the robot is told, the others go on."""
        expected = isinstance(err, WireError | PredictError) or code == EventCode.SESSION_CLOSED
        work.record.outcome = f"error: {code.name.lower()}: {err}"
        if not expected:
            log.error("request %s of %s failed", work.header.seq_id, work.session.client, exc_info=err)
        # what a robot sent wrong is its own to know; the insides of a policy are not
        reason = str(err) if expected else f"the policy failed ({type(err).__name__})"
        self.send_event(work.session, code, reason, work.header)
        self._done(work)

    def _done(self, work: Work) -> None:
        self._record(work.record)
        work.session.end()
        if work.session.mailbox.peek() is not None and not work.session.closed:
            self.offer(work.session)

    def _end_session(self, session: Session, why: str | None) -> None:
        try:
            if why is not None and features.EVENTS in session.agreed:
                self._publish_event(session, EventCode.SESSION_CLOSED, why, None)
        finally:
            session.close()

    def _notify(self, session: Session, code: EventCode, reason: str, header: Header | None) -> None:
        with self._notices:
            session.notices -= 1
        self._publish_event(session, code, reason, header)

    def _publish_event(self, session: Session, code: EventCode, reason: str, header: Header | None) -> None:
        if session.closed:
            return
        echoed = header or Header(
            session.agreed.schema_version, 0, 0, max(session.episode, 0), 0, max(session.epoch, 0)
        )
        body = event_body(code, reason, header)
        session.publisher.put(body, answer_header(echoed, MessageType.EVENT, session.tag))
        self._record(Drop(f"event_{code.name.lower()}", session.client))
