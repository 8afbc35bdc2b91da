"""The reference's engine on the robot's side, re-created from its specification, weaknesses included.

One worker thread: it looks every 10 ms whether less than 0.5 s is left to play, takes the newest observation, notes the
queue, encodes one camera after another, sends, and waits up to 5 s for the answer to this very request. Rows are
trimmed by the clock. The interface is that of `edge.engine.Engine` as far as a bench needs it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.edge.reference_link import HANDSHAKE_S, REQUEST_S, ReferenceLink
from bench.edge.reference_queue import ReferenceLatency, ReferenceQueue
from bench.serving import reference_codec as codec
from edge.robots.base import Reading
from serving.wire.keys import Keys

logger = logging.getLogger(__name__)

IDLE_S, SLICE_S = 0.01, 0.1
ERROR_S, ERRORS_MAX = 0.5, 10
CONNECTING, STREAMING, DEGRADED, STALLED = "CONNECTING", "STREAMING", "DEGRADED", "STALLED"
RECONNECTING, DEAD = "RECONNECTING", "DEAD"


@dataclass(frozen=True)
class ReferenceSettings:
    """The draft's flags and their defaults."""

    buffer_time_s: float = 0.5
    max_action_age_s: float = 3.0
    fallback: str = "hold"
    max_offline_s: float = 60.0
    backoff_init_s: float = 0.5
    backoff_max_s: float = 10.0
    rtc: bool = True
    execution_horizon: int = 10


class ReferenceEngine:
    """One robot of the draft. `cameras`: the robot's name of each -> the policy's key, where they differ."""

    def __init__(
        self, endpoint: str, keys: Keys, fps: float, task: str = "", *, name: str = "", mode: str = "peer",
        action_names: list[str] | None = None, cameras: Mapping[str, str] | None = None,
        settings: ReferenceSettings | None = None, on_transition: Callable[[str, str], None] | None = None,
    ) -> None:  # fmt: skip
        self._settings = settings or ReferenceSettings()
        self._dial = lambda: ReferenceLink(endpoint, mode, keys, name or uuid.uuid4().hex)
        self._dt_s, self._task, self._cameras = 1 / fps, task, dict(cameras or {})
        self._ask = {
            "robot_type": "scripted", "policy_type": "", "fps": fps, "action_names": action_names,
            "camera_names": list(self._cameras.values()), "state_dim": 0, "rtc_enabled": self._settings.rtc,
            "task": task, "tags": {},
        }  # fmt: skip
        self._on_transition = on_transition or (lambda old, new: None)
        self._link: ReferenceLink | None = None
        self._queue: ReferenceQueue | None = None
        self._latency = ReferenceLatency()
        self._ack: dict[str, Any] = {}
        self._observation: Reading | None = None
        self._observation_lock, self._anchor_lock, self._state_lock = (threading.Lock() for _ in range(3))
        self._anchor_s: float | None = None
        self._seq = self._episode = 0
        self._epoch = 1
        self._pending_reset = False
        self._last: np.ndarray | None = None
        self._offline_since_s: float | None = None
        self._active, self._stopped = threading.Event(), threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True)
        self.state = CONNECTING
        self.stats: Counter[str] = Counter()  # requests, timeouts, merges, stale_drops, fallback_ticks, reconnects
        self.failed = False

    # --- the control thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open a session. Raises ConnectionError, ValueError, zenoh.ZError. The draft starts active."""
        self._link = self._dial()
        try:
            self._ack = self._link.handshake(self._ask)
        except BaseException:
            self._link.close("")
            raise
        self._rtc = self._settings.rtc and bool(self._ack["supports_rtc"])
        self._queue = ReferenceQueue(self._rtc)
        self._link.declare()
        self._link.server_alive.set()
        self._active.set()
        self._worker.start()

    def pause(self) -> None:
        """Ask for nothing more; what is queued is still played."""
        self._active.clear()

    def resume(self) -> None:
        """Ask again."""
        self._active.set()

    def reset(self) -> None:
        """A new episode."""
        with self._anchor_lock:
            if self._queue is not None:
                self._queue.clear()
            self._anchor_s = None
            with self._state_lock:
                self._episode += 1
                self._pending_reset = True
        with self._observation_lock:
            self._observation = None
        self._last = None

    def notify_observation(self, reading: Reading) -> None:
        """The newest wins; by reference."""
        with self._observation_lock:
            self._observation = reading

    def get_action(self, frame: object = None) -> np.ndarray | None:
        """The next row, what the fallback says, or None."""
        if self._queue is None:
            return None
        with self._anchor_lock:
            age_s = 0.0 if self._anchor_s is None else time.monotonic() - self._anchor_s
            if self._queue.qsize() and age_s > self._settings.max_action_age_s:
                self.stats["stale_drops"] += 1
                self._queue.clear()
                self._anchor_s = None
        action = self._queue.get()
        if action is not None:
            self._last = action
            return action
        if self.state == DEGRADED:
            self._enter(STALLED)
        self.stats["fallback_ticks"] += 1
        if self._settings.fallback == "repeat_last" and self._last is not None:
            return self._last.copy()
        if self._settings.fallback == "zero":
            return np.zeros(len(self._ack["action_names"]), np.float32)
        return None

    def stop(self) -> None:
        """Wait for the worker, then leave."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._active.clear()
        if self._worker.is_alive():
            self._worker.join(max(3.0, HANDSHAKE_S + REQUEST_S + 2))
        if self._link is not None:
            self._link.close(self._ack.get("session_id", ""))

    # --- the worker ------------------------------------------------------------------------------------------------

    def _enter(self, state: str) -> None:
        """Two threads call this, as in the draft."""
        if self.state not in (state, DEAD):
            old, self.state = self.state, state
            logger.info("%s -> %s", old, state)
            self._on_transition(old, state)

    def _die(self) -> None:
        self._enter(DEAD)
        self.failed = True

    def _work(self) -> None:
        errors = 0
        while not self._stopped.is_set() and not self.failed:
            try:
                self._cycle()
                errors = 0
            except Exception:
                logger.exception("a request went wrong")
                errors += 1
                if errors >= ERRORS_MAX:
                    return self._die()
                self._stopped.wait(ERROR_S)

    def _cycle(self) -> None:
        assert self._link is not None and self._queue is not None
        if not self._active.is_set():
            return time.sleep(IDLE_S)
        if self._pending_reset:
            self._send_reset()
        if not self._link.server_alive.is_set():
            return self._reconnect()
        if self._queue.qsize() * self._dt_s > self._settings.buffer_time_s:
            return time.sleep(IDLE_S)
        with self._observation_lock:
            reading = self._observation
        if reading is None:
            return time.sleep(IDLE_S)
        self._request(reading)

    def _send_reset(self) -> None:
        assert self._link is not None
        with self._state_lock:
            self._pending_reset, episode = False, self._episode
        try:
            self._link.reset(episode)
        except ConnectionError as err:
            logger.warning("%s", err)

    def _request(self, reading: Reading) -> None:
        assert self._link is not None and self._queue is not None
        state = reading.state.astype(np.float32)
        images = {self._cameras.get(name, name): rgb for name, rgb in reading.images.items()}
        with self._state_lock:
            self._seq += 1
            seq, episode, epoch = self._seq, self._episode, self._epoch
        index_before = self._queue.get_action_index()
        model, robot = self._prefixes() if self._rtc else (None, None)
        first = self._queue.qsize() == 0 and index_before == 0 and self._anchor_s is None
        with self._state_lock:
            if (episode, epoch) != (self._episode, self._epoch):
                return
        header = (codec.SCHEMA, codec.OBSERVATION, seq, episode, time.monotonic_ns(), epoch)
        sent_s = time.monotonic()
        observation = {
            "state": codec.tensor(state), "images": {name: codec.image(rgb) for name, rgb in images.items()},
            "task": self._task, "inference_delay_steps": math.ceil(self._latency.max() / self._dt_s),
            "prefix_model": codec.tensor(model), "prefix_robot": codec.tensor(robot), "episode_start": first,
        }  # fmt: skip
        self._link.put(codec.pack(observation), header)
        self.stats["requests"] += 1
        chunk = self._await(seq, episode, epoch, sent_s + REQUEST_S)
        if chunk is None:
            return None if self._stopped.is_set() else self._request_failed()
        self._merge(*chunk, episode, epoch, time.monotonic() - sent_s)

    def _prefixes(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        assert self._queue is not None
        rows = self._ack["rtc_execution_horizon"] or self._settings.execution_horizon
        model, robot = self._queue.get_left_over(), self._queue.get_processed_left_over()
        some = model is not None and robot is not None and len(model) and len(robot)
        return (model[:rows], robot[:rows]) if some else (None, None)

    def _await(self, seq: int, episode: int, epoch: int, end_s: float) -> tuple[np.ndarray, np.ndarray] | None:
        assert self._link is not None
        while not self._stopped.is_set() and (left_s := end_s - time.monotonic()) > 0:
            answer = self._link.answer(min(SLICE_S, left_s))
            if answer is None or (answer[0][2], answer[0][3], answer[0][5]) != (seq, episode, epoch):
                continue
            chunk = codec.unpack(answer[1])
            model, robot = codec.array(chunk.get("chunk_model")), codec.array(chunk.get("chunk_robot"))
            return None if model is None or robot is None else (model, robot)
        return None

    def _merge(self, model: np.ndarray, robot: np.ndarray, episode: int, epoch: int, latency_s: float) -> None:
        assert self._queue is not None
        with self._anchor_lock:
            with self._state_lock:
                if (episode, epoch) != (self._episode, self._epoch):
                    return
            self._queue.merge(model, robot, math.ceil(latency_s / self._dt_s))
            self._anchor_s = time.monotonic() - latency_s
        self._latency.add(latency_s)
        self.stats["merges"] += 1
        self._offline_since_s = None
        self._enter(STREAMING)

    def _request_failed(self) -> None:
        assert self._link is not None and self._queue is not None
        self.stats["timeouts"] += 1
        now_s = time.monotonic()
        self._offline_since_s = self._offline_since_s or now_s
        self._enter(DEGRADED if self._queue.qsize() else STALLED)
        if not self._link.server_alive.is_set() or now_s - self._offline_since_s >= 2 * REQUEST_S:
            self._reconnect()
        elif now_s - self._offline_since_s > self._settings.max_offline_s:
            self._die()

    def _reconnect(self) -> None:
        assert self._link is not None
        self._enter(RECONNECTING)
        self.stats["reconnects"] += 1
        self._offline_since_s = self._offline_since_s or time.monotonic()
        backoff_s = self._settings.backoff_init_s
        while not self._stopped.is_set():
            if not self._active.is_set():
                self._offline_since_s = time.monotonic()
            if time.monotonic() - self._offline_since_s > self._settings.max_offline_s:
                return self._die()
            with self._state_lock:
                self._epoch += 1
            try:
                ack = self._link.handshake(self._ask)
            except ConnectionError as err:
                logger.info("%s", err)
                self._stopped.wait(backoff_s)
                backoff_s = min(2 * backoff_s, self._settings.backoff_max_s)
                continue
            except ValueError:
                return self._die()
            same = all(ack[k] == self._ack[k] for k in ("model_repo", "model_revision", "supports_rtc"))
            if not same:
                return self._die()
            self._ack = ack
            self._link.server_alive.set()
            return self._enter(STREAMING)
