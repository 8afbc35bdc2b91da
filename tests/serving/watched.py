"""A daemon over a network in memory, with a policy that can be held up and broken, and robots to drive it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from network.memory_transport import Hub, MemoryTransport
from serving.admission import Rules
from serving.daemon import Daemon, ServiceSettings
from serving.policies.base import Chunk, PolicySpec, Request, SessionInfo
from serving.record import Recorder
from serving.wire import features
from serving.wire.header import Header, MessageType, unpack
from serving.wire.images import encode_image
from serving.wire.keys import Keys
from serving.wire.messages import (
    ActionChunk,
    Event,
    Observation,
    ResetAck,
    SessionAck,
    SessionClose,
    SessionOpen,
    decode,
    encode,
)
from serving.wire.tensors import encode_tensor
from serving.work import PipelineSettings
from tests.serving import mock_policy
from tests.serving.mock_policy import CAMERA, DIM, ROWS

SPEC = replace(
    mock_policy.SPEC,
    policy_type="doubling",
    model_repo="acme/doubling",
    batch_max=4,
    checkpoint_hash="c0ffee",
    normalisation_hash="beef",
)
KEYS = Keys.of("acme/doubling", "main", "stack")
WAIT_S = 10.0


class DoublingPolicy:
    """Model space: state plus the picture's mean plus 0.01 a row; robot space: twice that."""

    def __init__(self, spec: PolicySpec = SPEC) -> None:
        self.spec = spec
        self.go = threading.Event()  # cleared: predict hangs
        self.go.set()
        self.predicting = threading.Event()
        self.raises: Exception | None = None
        self.drift = 0.0  # added to every answer
        self.resets = 0
        self.batches: list[int] = []

    def open_session(self, info: SessionInfo) -> DoublingSession:
        return DoublingSession()

    def predict(self, batch: Sequence[Any]) -> list[np.ndarray]:
        self.predicting.set()
        assert self.go.wait(WAIT_S)
        if self.raises is not None:
            raise self.raises
        self.batches.append(len(batch))
        # rounding that depends on the batch, as kernels have it
        return [start + np.float32(self.drift) + np.float32(1e-3) / len(batch) for start in batch]

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        self.go.set()


class DoublingSession:
    def prepare(self, request: Request) -> np.ndarray:
        assert request.moment.state is not None
        start = request.moment.state + np.float32(request.moment.images[CAMERA].mean() / 255)
        return start[None, :] + np.float32(0.01) * np.arange(ROWS, dtype=np.float32)[:, None]

    def finish(self, raw: np.ndarray) -> Chunk:
        return Chunk(raw, raw * 2)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Robot:
    """A scripted client. Everything that it hears lands in `heard`."""

    hub: Hub
    name: str
    epoch: int = 1
    seq: int = 0
    heard: queue.Queue[tuple[Header, Any]] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        self.transport = MemoryTransport(self.hub)
        self.transport.subscribe(KEYS.action(self.name), self._hear)
        self.publisher = self.transport.publisher(KEYS.observation(self.name), "observation")
        self.tag = b""

    def _hear(self, sample: Any) -> None:
        header, _ = unpack(sample.attachment)
        self.heard.put((header, decode(sample.body(), Event if header.msg_type == MessageType.EVENT else ActionChunk)))

    def open(self, **asks: Any) -> SessionAck:
        """Open a session with every feature, unless told otherwise."""
        ask = SessionOpen(
            client_uuid=self.name, action_names=list(SPEC.action_names), camera_names=[CAMERA], state_dim=DIM,
            fps=30.0, features=list(features.ALL), robot_type="arm",
        )  # fmt: skip
        for name, value in asks.items():
            setattr(ask, name, value)
        ack = decode(self.ask(KEYS.session, encode(ask)), SessionAck)
        self.tag = ack.session_tag
        return ack

    def close(self) -> ResetAck:
        return decode(self.ask(KEYS.session_of(self.name), encode(SessionClose(client_uuid=self.name))), ResetAck)

    def ask(self, key: str, body: bytes) -> bytes:
        (answer,) = self.transport.query(key, body, WAIT_S)
        return answer

    def observation(self, state: float = 0.0, **fields: Any) -> bytes:
        picture = np.full((16, 16, 3), 40, np.uint8)
        state_sent = encode_tensor(np.full(DIM, state, np.float32))
        return encode(Observation(state=state_sent, images={CAMERA: encode_image(picture)}, **fields))

    def send(self, body: bytes | None = None, state: float = 0.0, **header: Any) -> None:
        """Put an observation, with parts of its header changed."""
        self.seq += 1
        tag = header.pop("tag", self.tag)
        whole = replace(Header(1, MessageType.OBSERVATION, self.seq, 1, 123, self.epoch), **header)
        self.publisher.put(self.observation(state) if body is None else body, whole.pack(tag))

    def hear(self) -> Any:
        """The next message to this robot."""
        return self.heard.get(timeout=WAIT_S)[1]

    def chunk(self, state: float = 0.0) -> ActionChunk:
        """Ask and get a chunk."""
        self.send(state=state)
        answer = self.hear()
        assert isinstance(answer, ActionChunk), answer
        return answer


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does and that tells nobody."""
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.002)


def start_daemon(*args: Any, **settings: Any) -> tuple[Daemon, Hub]:
    """A running daemon, and the hub that its robots meet it on. See make_daemon."""
    daemon, hub = make_daemon(*args, **settings)
    daemon.start()
    return daemon, hub


def make_daemon(
    policy: DoublingPolicy, *listeners: Any, sessions_max: int = 8, pipeline: PipelineSettings | None = None
) -> tuple[Daemon, Hub]:
    """A daemon that is not started, and its hub."""
    hub = Hub()
    settings = ServiceSettings(
        KEYS,
        Rules(policy.spec, trained_fps=30.0, sessions_max=sessions_max),
        pipeline or PipelineSettings(batch_max=policy.spec.batch_max, default_task="stack"),
        server_id="replica-1",
    )
    return Daemon(policy, MemoryTransport(hub), settings, Recorder(*listeners)), hub


def doubling() -> DoublingPolicy:
    """For manifests: `tests.serving.watched:doubling`."""
    return DoublingPolicy()
