"""A daemon on a network in memory, robots to drive it, and everything that it recorded. Nothing here sleeps."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from network.memory_transport import Hub, MemoryTransport
from network.transport import Declaration, Sample
from serving.admission import Rules
from serving.control import ControlSettings
from serving.daemon import Daemon, ServiceSettings
from serving.record import Drop, Recorder, RequestRecord
from serving.session import Session
from serving.wire import features
from serving.wire.errors import EventCode
from serving.wire.header import Header, MessageType, unpack
from serving.wire.images import Image, encode_image
from serving.wire.keys import Keys
from serving.wire.limits import DEFAULT_LIMITS
from serving.wire.messages import (
    ActionChunk,
    Event,
    Observation,
    Reset,
    ResetAck,
    SessionAck,
    SessionClose,
    SessionOpen,
    Status,
    decode,
    encode,
)
from serving.wire.tensors import Tensor, decode_tensor, encode_tensor
from serving.work import PipelineSettings
from tests.serving.mock_policy import CAMERA, DIM, WAIT_S, MockPolicy

KEYS = Keys.of("acme/mock", "main", "stack")
SERVER = "replica-1"
PICTURE: Image = encode_image(np.full((16, 24, 3), 90, np.uint8))


class Seen:
    """What the daemon recorded: requests in order, drops by reason."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.records: list[RequestRecord] = []
        self.drops: Counter[str] = Counter()

    def note(self, record: RequestRecord | Drop) -> None:
        """A listener of the recorder."""
        with self._changed:
            if isinstance(record, Drop):
                self.drops[record.reason] += 1
            else:
                self.records.append(record)
            self._changed.notify_all()

    def until(self, test: Callable[[], Any]) -> None:
        """Wait until something recorded makes a test true."""
        with self._changed:
            assert self._changed.wait_for(test, WAIT_S), (dict(self.drops), [r.outcome for r in self.records][-20:])

    def record(self, client: str, seq: int) -> RequestRecord:
        """The record of one request."""
        found = lambda: [r for r in self.records if (r.client, r.seq_id) == (client, seq)]  # noqa: E731
        self.until(found)
        (record,) = found()
        return record


class Served:
    """A running daemon and its hub."""

    def __init__(
        self,
        policy: MockPolicy,
        *,
        start: bool = True,
        sessions_max: int = 8,
        rules: dict[str, Any] | None = None,
        control: dict[str, Any] | None = None,
        listeners: tuple[Callable[..., None], ...] = (),
        hub: Hub | None = None,
        server_id: str = SERVER,
        **pipeline: Any,
    ) -> None:
        self.policy, self.hub, self.seen = policy, hub or Hub(), Seen()
        settings = ServiceSettings(
            KEYS,
            Rules(policy.spec, **{"trained_fps": 30.0, "sessions_max": sessions_max, **(rules or {})}),
            PipelineSettings(**{"batch_max": policy.spec.batch_max, "default_task": "stack", **pipeline}),
            ControlSettings(**(control or {})),
            server_id=server_id,
        )
        self.transport = MemoryTransport(self.hub)
        self.daemon = Daemon(policy, self.transport, settings, Recorder(*listeners, self.seen.note))
        if start:
            self.daemon.start()

    def robot(self, name: str, **asks: Any) -> Robot:
        """A robot with an open session."""
        robot = Robot(self.hub, name)
        ack = robot.open(**asks)
        assert ack.accepted, ack.error
        return robot

    def session(self, robot: Robot) -> Session:
        """The robot's session at the daemon."""
        session = self.daemon.registry.get(robot.name)
        assert session is not None
        return session

    def settle(self) -> None:
        """Until nothing is under way."""
        assert self.daemon.pipeline.drain(WAIT_S)

    def control_idle(self) -> None:
        """Until the control thread has done what it was told so far."""
        self.on_control(lambda: None)

    def on_control(self, job: Callable[[], Any]) -> Any:
        """Run something on the control thread and wait for it."""
        done, found = threading.Event(), []

        def run() -> None:
            try:
                found.append(job())
            finally:
                done.set()

        assert self.daemon.control.submit(run)
        assert done.wait(WAIT_S)
        return found[0]

    def stop(self) -> bool:
        """End it, whatever it was at."""
        self.policy.let_go()
        return self.daemon.stop()


class Robot:
    """A scripted client: it says what a test tells it to, and keeps what it hears."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.name, self.transport = name, MemoryTransport(hub)
        self._changed = threading.Condition()
        self.heard: list[tuple[Header, bytes, ActionChunk | Event]] = []
        self.ack: SessionAck = SessionAck()
        self.seq, self.epoch, self.episode = 0, 0, 0
        self.transport.subscribe(KEYS.action(name), self._hear)
        self._publisher = self.transport.publisher(KEYS.observation(name), "observation")

    def _hear(self, sample: Sample) -> None:
        header, tag = unpack(sample.attachment)
        kind = Event if header.msg_type == MessageType.EVENT else ActionChunk
        with self._changed:
            self.heard.append((header, tag, decode(sample.body(), kind)))
            self._changed.notify_all()

    # --- questions -------------------------------------------------------------------------------------------------

    def ask(self, key: str, body: bytes, timeout_s: float = WAIT_S) -> bytes:
        """The one answer to a question."""
        (answer,) = self.transport.query(key, body, timeout_s)
        return answer

    def asked(self, **asks: Any) -> SessionOpen:
        """What `open` sends: every feature, unless told otherwise."""
        whole = dict(
            client_uuid=self.name, action_names=["x", "y", "z"], camera_names=[CAMERA], state_dim=DIM, fps=30.0,
            features=list(features.ALL), robot_type="arm",
        )  # fmt: skip
        return SessionOpen(**{**whole, **asks})  # type: ignore[arg-type]

    def open(self, key: str | None = None, **asks: Any) -> SessionAck:
        """Open a session, and keep its facts when it is accepted."""
        ack = decode(self.ask(key or KEYS.session_of(self.name), encode(self.asked(**asks))), SessionAck)
        if ack.accepted:
            self.ack = ack
            self.epoch += 1
        return ack

    def close(self, **asks: Any) -> ResetAck:
        """End the session."""
        body = encode(SessionClose(**{"client_uuid": self.name, "session_id": self.ack.session_id, **asks}))
        return decode(self.ask(KEYS.session_of(self.name), body), ResetAck)

    def reset(self, episode: int, **asks: Any) -> ResetAck:
        """Begin an episode."""
        self.episode = episode
        body = encode(Reset(**{"client_uuid": self.name, "episode_id": episode, **asks}))
        return decode(self.ask(KEYS.reset(self.name), body), ResetAck)

    def status(self) -> Status:
        """What the server says of itself."""
        return decode(self.ask(KEYS.status, b""), Status)

    def token(self) -> Declaration:
        """Declare that the robot lives."""
        return self.transport.token(KEYS.alive(self.name))

    # --- observations ----------------------------------------------------------------------------------------------

    def body(self, state: float | Tensor | None = 0.0, **fields: Any) -> bytes:
        """An observation; a number is a state full of it, other fields replace the usual ones."""
        if isinstance(state, float | int):
            state = encode_tensor(np.full(DIM, state, np.float32))
        whole = dict(state=state, images={CAMERA: PICTURE})
        return encode(Observation(**{**whole, **fields}))

    def put(self, body: bytes, *, tag: bytes | None = None, seq: int | None = None, **header: Any) -> int:
        """Send bytes under a header, parts of which may be changed; the sequence number it went under."""
        if seq is None:
            self.seq += 1
        used = self.seq if seq is None else seq
        plain = Header(1, MessageType.OBSERVATION, used, self.episode, 1000 + used, self.epoch)
        self._publisher.put(body, replace(plain, **header).pack(self.ack.session_tag if tag is None else tag))
        return used

    def send(self, state: float | Tensor | None = 0.0, **fields: Any) -> int:
        """Send an observation; its sequence number."""
        return self.put(self.body(state, **fields))

    def until(self, test: Callable[[list[tuple[Header, bytes, Any]]], Any]) -> Any:
        """Wait until something heard makes a test true; what the test found."""
        with self._changed:
            assert self._changed.wait_for(lambda: test(self.heard), WAIT_S), [h[2] for h in self.heard][-5:]
            return test(self.heard)

    def answers(self, seq: int) -> list[ActionChunk | Event]:
        """What was heard about one observation so far."""
        with self._changed:
            return [message for header, _, message in self.heard if header.seq_id == seq]

    def answer(self, seq: int) -> ActionChunk | Event:
        """The first answer to an observation."""
        return self.until(lambda heard: [m for h, _, m in heard if h.seq_id == seq])[0]

    def chunk(self, seq: int) -> np.ndarray:
        """The actions that answer an observation, robot space; float32 (ROWS, DIM)."""
        message = self.answer(seq)
        assert isinstance(message, ActionChunk), message
        array = decode_tensor(message.chunk_robot, "chunk_robot", DEFAULT_LIMITS, half=True)
        assert array is not None
        return array

    def event(self, code: EventCode, seq: int | None = None) -> Event:
        """The first event with a code, about one observation if that is given."""

        def matching(heard: list[tuple[Header, bytes, Any]]) -> list[Event]:
            events = [(h, m) for h, _, m in heard if isinstance(m, Event) and m.code == code]
            return [m for h, m in events if seq is None or h.seq_id == seq]

        return self.until(matching)[0]

    def step(self, state: float = 0.0, **fields: Any) -> np.ndarray:
        """Ask and get actions."""
        return self.chunk(self.send(state, **fields))
