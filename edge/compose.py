"""An observation's body: pictures encoded first, then the tail of the queue as it is when the request leaves."""

from __future__ import annotations

import time

import numpy as np

from edge.action_queue import ActionQueue
from edge.contract import Contract
from edge.encode import Encoder
from edge.latency import LatencyWindow
from edge.observations import ObservationSlot, Observed
from edge.robots.base import Reading
from edge.settings import InferenceSettings
from edge.timers import Timing, delay_steps
from serving.wire import features
from serving.wire.messages import ROBOT, Frame, Observation, SessionAck, encode
from serving.wire.tensors import Tensor, encode_tensor

MODEL = "model"  # of the prefixes, the one in the policy's own space


class Composer:
    """Composes the requests of one session."""

    def __init__(
        self, ack: SessionAck, agreed: frozenset[str], contract: Contract, settings: InferenceSettings, timing: Timing
    ) -> None:
        modern = bool(ack.features)
        self._ack, self._timing, self._rtc = ack, timing, contract.rtc
        self._agreed = agreed
        self._horizon = ack.rtc_execution_horizon or settings.rtc.execution_horizon
        self._prefixes = (ack.prefix_form,) if modern else (MODEL, ROBOT)
        self._looks_back = max(0, ack.history_frames - 1) if features.HISTORY in agreed else 0
        self._step = max(1, ack.history_step)
        # a server that says nothing of features may look at cameras that it does not name
        cameras = ack.expected_cameras or ([] if modern else list(contract.cameras))
        sizes = ack.image_sizes if settings.resize and features.RESIZE in agreed else {}
        self._encoder = Encoder(
            {key: contract.cameras[key] for key in cameras}, {key: (h, w) for key, (h, w) in sizes.items()},
            settings.jpeg_quality,
        )  # fmt: skip

    @property
    def readings_kept(self) -> int:
        """How many readings the slot must keep."""
        return self._looks_back * self._step + 1

    def compose(
        self, observed: Observed, slot: ObservationSlot, queue: ActionQueue, latency: LatencyWindow, task: str,
        episode_start: bool, encoding: LatencyWindow,
    ) -> bytes:  # fmt: skip
        """The body. Raises MessageError for what cannot be sent, KeyError for a camera that is missing."""
        began_s = time.monotonic()
        earlier = slot.earlier(self._looks_back, self._step) if self._looks_back else []
        message = Observation(
            state=_state(observed.reading), images=self._encoder.encode(observed.reading.images), task=task,
            episode_start=episode_start,
            history=[
                Frame(back, _state(one.reading), self._encoder.encode(one.reading.images)) for back, one in earlier
            ] or None,
        )  # fmt: skip
        now_s = time.monotonic()
        encoding.add(now_s - began_s, now_s)
        tail = queue.snapshot(observed.step, self._horizon)
        if features.DEADLINE in self._agreed:
            message.buffer_left_ms = 1e3 * tail.left * self._timing.dt_s
        if self._rtc and tail.prefix_robot is not None:
            message.prefix_model = encode_tensor(tail.prefix_model) if MODEL in self._prefixes else None
            message.prefix_robot = encode_tensor(tail.prefix_robot) if ROBOT in self._prefixes else None
            passed = max(0, tail.step - observed.step)  # while the observation waited
            steps = passed + delay_steps(self._timing, latency, now_s)
            message.inference_delay_steps = min(steps, self._ack.chunk_size or steps)
        message.send_mono_ns = time.monotonic_ns()
        return encode(message)

    def close(self) -> None:
        """End its threads."""
        self._encoder.close()


def _state(reading: Reading) -> Tensor | None:
    return encode_tensor(np.asarray(reading.state, np.float32))
