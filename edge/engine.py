"""The engine: what the control loop sees of a policy that runs somewhere else.

    engine = Engine(settings, safety, robot.features, keys, fps=30, task="fold the towel")
    engine.start()            # before the robot is energised: raises when server and robot do not fit
    engine.resume()
    while driving:
        engine.notify_observation(robot.read())
        action = engine.get_action()
        if action is not None:
            robot.send(action)
    engine.stop()

`notify_observation` and `get_action` belong to the control thread and take microseconds; all else happens on a worker.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge.action_queue import ActionQueue, Mode, Origin
from edge.contract import Contract
from edge.errors import EdgeError, LinkError
from edge.link import Link
from edge.observations import ObservationSlot, Observed
from edge.robots.base import Reading, RobotFeatures
from edge.safety import Fallback, Limits, limit
from edge.settings import InferenceSettings, SafetySettings
from edge.state import ActiveClock, Event, Machine, State
from edge.stats import EngineStats
from edge.timers import Timing
from edge.worker import Desk, Worker
from network.errors import TransportError
from network.transport import Transport
from serving.wire.keys import Keys, client_id
from serving.wire.messages import SessionAck, Status

log = logging.getLogger(__name__)

POLICY = "policy"  # source of an action that a policy gave
STOP_S = 1.0
FIRST_PAUSE_S, FIRST_PAUSE_MAX_S = 0.2, 2.0  # between tries to reach a first server
ID_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Dispatched:
    """Where the action came from that `get_action` returned last."""

    source: str  # policy, repeat_last, stop
    step: int  # control step
    task: str
    row: int | None = None  # of its chunk
    origin: Origin | None = None  # None when no policy gave it
    age_ms: float = 0.0  # since its observation
    limited: tuple[int, ...] = ()  # joints that a limit held back


class Engine:
    """One robot's engine for one run. See the module."""

    def __init__(
        self, settings: InferenceSettings, safety: SafetySettings, features: RobotFeatures, keys: Keys, fps: float,
        task: str, *, action_names: tuple[str, ...] | None = None, dial: Callable[[], Transport] | None = None,
        on_transition: Callable[[State, State, Event, str], None] | None = None,
    ) -> None:  # fmt: skip
        """`action_names`: the policy's order where its config is known. Raises SettingsError, ContractError."""
        names = features.action_names if action_names is None else action_names
        self._settings, self._keys, self._features = settings, keys, features
        self.client = client_id(settings.client_uuid or f"edge-{uuid.uuid4().hex[:ID_CHARACTERS]}")
        self._contract = Contract(features, tuple(names), fps, settings.rename_map)
        self._limits = Limits(safety, features, names)
        self._reject_beyond = safety.on_limit == "reject"
        self._fallback = Fallback(settings.fallback, names, settings.repeat_last_max_s)
        self._measured = _indices(names, features.state_names)
        self._dt_s = 1.0 / fps
        self._timing = Timing(
            self._dt_s, settings.buffer_time_s, settings.degraded_after_s, settings.request_timeout_s
        )  # fmt: skip
        self._dial = dial or self._open_network
        self._machine = Machine(on_transition or (lambda old, new, event, why: None))
        self._desk = Desk(ActionQueue(Mode.REPLACE), ObservationSlot(), ActiveClock(), task=task)
        self._desk.clock.pause()
        self._link: Link | None = None
        self._worker: Worker | None = None
        self._stopped = False
        self._moved = False  # whether an action was returned in this episode
        self._stand: np.ndarray | None = None  # where the robot was seen last, as an action
        self.dispatched: Dispatched | None = None
        self._dispatched_task = ""

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Reach a server and open a session; paused until `resume`. Raises LinkError or ContractError, nothing moved.

        A server that is not there yet is waited for, `connect_timeout_s` at most.
        """
        if self._worker is not None or self._stopped:
            raise EdgeError("want an engine that was never started", "one that was", "make another")
        end_s = time.monotonic() + self._settings.connect_timeout_s
        try:
            transport = self._dial()
        except TransportError as err:
            raise LinkError(err.wanted, err.got, err.remedy) from err
        desk = self._desk
        link = Link(
            transport, self._keys, self.client, self._contract, self._settings, self._wake, desk.counters.add
        )  # fmt: skip
        try:
            self._open_first(link, end_s)
        except BaseException:
            link.close()
            raise
        self._link = link
        self._worker = Worker(
            link, desk, self._contract, self._settings, self._timing, self._limits, self._machine, self._reject_beyond
        )  # fmt: skip
        self._worker.start()

    def _open_network(self) -> Transport:
        from network.zenoh_transport import open_transport  # 33 MB that a command's help does not need

        return open_transport(self._settings.network(), self._settings.connect_timeout_s)

    def _open_first(self, link: Link, end_s: float) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                link.open(self._desk.task)
                return
            except TransportError as err:
                raise LinkError(err.wanted, err.got, err.remedy) from err
            except LinkError as err:
                pause_s = max(pause_s, err.retry_after_s)
                if time.monotonic() + pause_s >= end_s:
                    raise
                log.info("no session yet, next try in %.1f s: %s", pause_s, err.got or err.wanted)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, FIRST_PAUSE_MAX_S)

    def resume(self) -> None:
        """Ask for actions."""
        self._desk.clock.resume()
        self._desk.active = True
        self._wake()

    def pause(self) -> None:
        """Ask no more. What is queued is still served, and the offline budget stands still."""
        self._desk.active = False
        self._desk.clock.pause()

    def reset(self) -> None:
        """A new episode begins: nothing of the last one is executed or sent any more. Before `start` too."""
        desk = self._desk
        with desk.merging:
            desk.episode += 1
            desk.queue.clear()
            desk.slot.clear()
            desk.starved_since_s, desk.last = None, None
        self._stand, self.dispatched, self._moved = None, None, False
        self._wake()

    def stop(self) -> None:
        """End; waits at most a second, the rest happens behind. Twice is once. Bring the robot home before."""
        if self._stopped:
            return
        self._stopped = True
        self._desk.active = False
        with self._desk.merging:
            self._desk.episode += 1  # what is still under way belongs to nothing
            self._desk.queue.clear()
        if self._worker is not None and not self._worker.stop(STOP_S):
            assert self._link is not None
            # the worker waits for an answer: closing the network ends that
            threading.Thread(target=self._link.close, name="edge-close", daemon=True).start()

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    # --- control thread --------------------------------------------------------------------------------------------

    def notify_observation(self, reading: Reading) -> None:
        """The newest observation; nobody writes to its arrays any more. No copy, no I/O."""
        desk = self._desk
        if self._measured is not None:
            self._stand = reading.state[self._measured]
        with desk.merging:
            desk.slot.put(Observed(reading, desk.queue.step, desk.episode))

    def get_action(self, frame: object = None) -> np.ndarray | None:
        """What to send in this control step: float32 (actions,), within limits; None: send nothing. Never waits."""
        desk, now_s = self._desk, time.monotonic()
        row, stale = desk.queue.pop(now_s, self._settings.max_action_age_s)
        if stale:
            desk.counters.add("stale_drops", stale)
            log.warning("%d actions were older than %g s and are dropped", stale, self._settings.max_action_age_s)
        if row is None:
            return self._without(now_s)
        desk.starved_since_s = None
        action, limited = limit(self._limits, row.action, self._stand if desk.last is None else desk.last)
        if limited:
            desk.counters.add("limited")
        desk.last, self._moved = action, True
        age_ms = 1e3 * (now_s - row.origin.observed_s)
        self._dispatched_task = row.origin.task
        self.dispatched = Dispatched(POLICY, row.step, row.origin.task, row.row, row.origin, age_ms, limited)
        return action

    def _without(self, now_s: float) -> np.ndarray | None:
        """The fallback: nothing is queued."""
        desk = self._desk
        if desk.starved_since_s is None:
            desk.starved_since_s = now_s
            self._wake()
        if self._moved:
            desk.counters.add("starved_ticks")
        action, source = self._fallback.action(desk.last, now_s - desk.starved_since_s)
        if action is None:
            self.dispatched = None
            return None
        desk.counters.add("fallback_ticks")
        self.dispatched = Dispatched(source, desk.queue.step, self._dispatched_task)
        return action

    # --- how it stands ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """See State."""
        state = self._machine.state
        return State.STOPPED if self._stopped and state is not State.DEAD else state

    @property
    def ready(self) -> bool:
        """Whether a session is open with a server that is warm."""
        ack = self.capabilities
        return ack is not None and ack.warmed_up and not self.failed

    @property
    def failed(self) -> bool:
        """Whether it has given up; the run must end."""
        return self._machine.state is State.DEAD

    @property
    def failure(self) -> EdgeError | None:
        """Why it has given up."""
        return None if self._worker is None else self._worker.failure

    @property
    def failure_traceback(self) -> str:
        """Where, when it was an error of its own."""
        return "" if self._worker is None else self._worker.failure_traceback

    @property
    def task(self) -> str:
        """The instruction of the next request."""
        return self._desk.task

    def set_task(self, task: str) -> None:
        """Change the instruction, from the next request on. Any thread."""
        self._desk.task = task

    @property
    def dispatched_task(self) -> str:
        """The instruction that the last action of the policy answers."""
        return self._dispatched_task

    @property
    def capabilities(self) -> SessionAck | None:
        """What the server said when the session was opened."""
        return None if self._link is None else self._link.ack

    def statuses(self) -> list[Status]:
        """What each replica says of itself. Blocks; not for the control thread."""
        return [] if self._link is None else self._link.statuses()

    def stats(self) -> EngineStats:
        """How it stands. Any thread."""
        desk, now_s, ack, worker = self._desk, time.monotonic(), self.capabilities, self._worker
        left, dispatched = desk.queue.left(), self.dispatched
        p50, p95, p99 = (1e3 * desk.latency.percentile(q, now_s) for q in (0.5, 0.95, 0.99))
        return EngineStats(
            state=self.state, counters=desk.counters.snapshot(), left_rows=left, left_s=left * self._dt_s,
            latency_p50_ms=p50, latency_p95_ms=p95, latency_p99_ms=p99,
            encode_p50_ms=1e3 * desk.encoding.percentile(0.5, now_s),
            age_ms=dispatched.age_ms if dispatched else 0.0,
            session_id=ack.session_id if ack else "", server_id=ack.server_id if ack else "",
            in_flight_s=worker.in_flight_s() if worker else None, offline_s=worker.offline_s() if worker else 0.0,
        )  # fmt: skip


def _indices(names: tuple[str, ...], among: tuple[str, ...]) -> np.ndarray | None:
    """Where each name stands among others; None unless all are there."""
    where = {name: i for i, name in enumerate(among)}
    return np.array([where[name] for name in names]) if all(name in where for name in names) else None
