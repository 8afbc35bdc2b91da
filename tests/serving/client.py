"""A scripted robot: all of the wire and nothing of an engine, over any Transport. For tests and benchmarks.

    robot = Client(transport, keys, "robot-1")
    robot.handshake()
    exchange = robot.ask(state, {"observation.images.front": rgb})
    exchange.answer.robot  # float32 (rows, action_dim)

With `legacy=True` it keeps to schema version 1 and names no features, as clients did before there were any.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge.latency import LatencyWindow
from edge.resize import shrink
from network.transport import Declaration, Publisher, Sample, Transport
from serving.pictures import Helpers
from serving.wire import features
from serving.wire.errors import EventCode, HeaderError
from serving.wire.header import SCHEMA_VERSION, Header, MessageType, unpack
from serving.wire.images import QUALITY, Image, encode_image
from serving.wire.keys import Keys
from serving.wire.limits import DEFAULT_LIMITS
from serving.wire.messages import (
    BOTH,
    ROBOT,
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

HANDSHAKE_S = 2.0
REQUEST_S = 5.0
RESET_S = CLOSE_S = 1.0
RESEND_FACTOR = 1.5  # of the slowest of the last round trips: later than this, an answer is taken for lost
RESEND_MIN_S = 0.005
ANSWERS_KEPT = 64  # that nobody has waited for yet


class Refused(Exception):
    """The server refused a session; `ack` says why."""

    def __init__(self, ack: SessionAck) -> None:
        super().__init__(f"code {ack.code}: {ack.error}")
        self.ack = ack


@dataclass(frozen=True)
class Answer:
    """A message from the server, and when it came."""

    header: Header
    message: ActionChunk | Event
    size: int  # bytes of the body
    received_s: float  # monotonic

    @property
    def event(self) -> Event:
        """What it says when it is an event."""
        assert isinstance(self.message, Event), self.message
        return self.message

    @property
    def chunk(self) -> ActionChunk:
        """What it says when it is a chunk."""
        assert isinstance(self.message, ActionChunk), self.message
        return self.message

    @property
    def robot(self) -> np.ndarray:
        """Actions to execute, float32 or float16 (rows, action_dim)."""
        return _array(self.chunk.chunk_robot, "chunk_robot")

    @property
    def model(self) -> np.ndarray:
        """The same in model space."""
        return _array(self.chunk.chunk_model, "chunk_model")


@dataclass(frozen=True)
class Sent:
    """An observation on its way."""

    seq: int
    size: int  # bytes of the body
    started_s: float  # monotonic, when the pictures were at hand
    encoded_s: float  # monotonic, when the body was

    @property
    def encode_ms(self) -> float:
        """What resizing, encoding and packing took."""
        return (self.encoded_s - self.started_s) * 1e3


@dataclass(frozen=True)
class Exchange:
    """An observation and its answer."""

    sent: Sent
    answer: Answer
    round_trip_ms: float  # from pictures at hand to actions at hand
    resends: int = 0


@dataclass
class Client:
    """One robot. Used by one thread; answers arrive on the network's."""

    transport: Transport
    keys: Keys
    name: str
    legacy: bool = False
    task: str = ""
    fps: float = 0.0
    robot_type: str = "scripted"
    action_names: Sequence[str] | None = None  # None: as the server lists them
    camera_names: Sequence[str] | None = None
    state_dim: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    features: Sequence[str] = features.ALL
    chunk_form: str = ROBOT
    accept_f16: bool = False
    rtc: bool = False
    quality: int = QUALITY  # of JPEG; 0 sends raw pictures
    resize: bool = True  # to the sizes that the server wants, where it says so
    encoders: int = 2  # pictures encoded at a time

    def __post_init__(self) -> None:
        if self.legacy:
            self.features, self.chunk_form, self.resize = (), BOTH, False
        self.server: Status | None = None
        self.ack: SessionAck | None = None
        self.epoch = 0
        self.episode = 0
        self.seq = 0
        self.foreign = 0  # messages that were not meant for this session
        self.events: deque[Answer] = deque(maxlen=ANSWERS_KEPT)  # that answer no observation
        self.server_alive = threading.Event()
        self._answers: dict[int, Answer] = {}
        self._changed = threading.Condition()
        self._round_trips = LatencyWindow()
        self._publisher: Publisher | None = None
        self._published_to = ""
        self._declared: list[Declaration] = []
        self._helpers = Helpers(self.encoders - 1, f"{self.name}-encode")

    # --- session ---------------------------------------------------------------------------------------------------

    def statuses(self, timeout_s: float = HANDSHAKE_S) -> list[Status]:
        """All replicas that answer."""
        return [decode(body, Status) for body in self.transport.query(self.keys.status, b"", timeout_s)]

    def choose(self, statuses: Sequence[Status]) -> Status:
        """The replica with most room: not draining, fewest places taken, least busy."""
        if not statuses:
            raise ConnectionError(f"no server answered on {self.keys.status}")
        return min(statuses, key=lambda s: (s.draining, s.server_load, s.busy_share, s.server_id))

    def handshake(self, resume_token: str = "", server_id: str | None = None) -> SessionAck:
        """Find a server, open a session there, and declare what it takes. Raises Refused, ConnectionError."""
        statuses = self.statuses()
        if server_id is not None:
            statuses = [s for s in statuses if s.server_id == server_id]
        self.server = self.choose(statuses)
        self.epoch += 1
        self.ack = self._open(self.server, resume_token)
        if not self._declared:
            self._declared = [
                self.transport.subscribe(self.keys.action(self.name), self._hear),
                self.transport.watch(self._server_token, self._server_changed),
                self.transport.token(self.keys.alive(self.name)),
            ]
        key = self.keys.observation(self.name, self.server.server_id if self._has(features.REPLICA) else "")
        if key != self._published_to:
            if self._publisher is not None:
                self._publisher.undeclare()
            self._publisher, self._published_to = self.transport.publisher(key, "observation"), key
        return self.ack

    def _open(self, server: Status, resume_token: str) -> SessionAck:
        ask = SessionOpen(
            client_uuid=self.name,
            robot_type=self.robot_type,
            fps=self.fps or server.trained_fps,
            action_names=list(server.action_names if self.action_names is None else self.action_names),
            camera_names=list(server.expected_cameras if self.camera_names is None else self.camera_names),
            state_dim=server.state_dim if self.state_dim is None else self.state_dim,
            rtc_enabled=self.rtc,
            task=self.task,
            tags=dict(self.tags),
        )
        key = self.keys.session
        if not self.legacy:
            ask.features, ask.server_id, ask.resume_token = list(self.features), server.server_id, resume_token
            ask.chunk_form, ask.accept_f16 = self.chunk_form, self.accept_f16
            key = self.keys.session_of(self.name)
        answers = self.transport.query(key, encode(ask), REQUEST_S)
        if not answers:
            raise ConnectionError(f"no server answered on {key}")
        ack = decode(answers[0], SessionAck)
        if not ack.accepted:
            raise Refused(ack)
        return ack

    def reset(self) -> ResetAck:
        """Begin a new episode."""
        self.episode += 1
        server = self.server.server_id if self.server and self._has(features.REPLICA) else ""
        key = self.keys.reset(self.name, server)
        ask = Reset(client_uuid=self.name, episode_id=self.episode)
        answers = self.transport.query(key, encode(ask), RESET_S)
        return decode(answers[0], ResetAck) if answers else ResetAck(ok=False, error="nobody answered")

    def close(self) -> ResetAck:
        """End the session; the robot may open another."""
        key = self.keys.session if self.legacy else self.keys.session_of(self.name)
        ask = SessionClose(client_uuid=self.name, session_id=self.ack.session_id if self.ack else "")
        answers = self.transport.query(key, encode(ask), CLOSE_S)
        return decode(answers[0], ResetAck) if answers else ResetAck(ok=False, error="nobody answered")

    def leave(self) -> None:
        """Let the network go, as a crash would: nobody is told."""
        self._helpers.close()
        self.transport.close()

    def _has(self, feature: str) -> bool:
        return self.ack is not None and not self.legacy and feature in self.ack.features

    # --- requests --------------------------------------------------------------------------------------------------

    def put(
        self, state: np.ndarray | None, images: Mapping[str, np.ndarray | Image], *, lost: bool = False, **fields: Any
    ) -> Sent:
        """Send an observation; `fields` are further ones of Observation. `lost` does all but send it."""
        started_s = time.monotonic()
        seen_ns = time.monotonic_ns()
        self.seq += 1
        encoded = self.encoded(images)
        body = encode(Observation(state=encode_tensor(state), images=encoded, task=self.task, **fields))
        encoded_s = time.monotonic()
        header = Header(SCHEMA_VERSION, MessageType.OBSERVATION, self.seq, self.episode, seen_ns, self.epoch)
        if not lost:
            self.put_raw(body, header.pack(self.ack.session_tag if self._has(features.TAG) else b""))
        return Sent(self.seq, len(body), started_s, encoded_s)

    def put_raw(self, body: bytes, attachment: bytes) -> None:
        """Send bytes as they are."""
        assert self._publisher is not None, "handshake first"
        self._publisher.put(body, attachment)

    def ask(
        self,
        state: np.ndarray | None,
        images: Mapping[str, np.ndarray | Image],
        timeout_s: float = REQUEST_S,
        **fields: Any,
    ) -> Exchange:
        """Send an observation and wait for its answer. Raises TimeoutError."""
        sent = self.put(state, images, **fields)
        return self._exchange(sent, self.wait(sent.seq, timeout_s), sent.started_s, 0)

    def ask_until_answered(
        self,
        state: np.ndarray | None,
        images: Mapping[str, np.ndarray | Image],
        lose: int = 0,
        timeout_s: float = REQUEST_S,
    ) -> Exchange:
        """Send, and send again when an answer takes longer than answers do; the first `lose` are lost on the way."""
        began_s = time.monotonic()
        resends = 0
        while True:
            sent = self.put(state, images, lost=resends < lose)
            end_s = min(sent.started_s + self.resend_after_s * 2**resends, began_s + timeout_s)
            try:
                answer = self.wait(sent.seq, max(0.0, end_s - time.monotonic()))
                return self._exchange(sent, answer, began_s, resends)
            except TimeoutError:
                if time.monotonic() >= began_s + timeout_s:
                    raise
                resends += 1

    @property
    def resend_after_s(self) -> float:
        """When an answer is taken for lost, counted as round trips are: from pictures at hand."""
        if not self._round_trips.count:
            return REQUEST_S
        return max(RESEND_MIN_S, RESEND_FACTOR * self._round_trips.percentile(0.99, time.monotonic()))

    def wait(self, seq: int, timeout_s: float = REQUEST_S) -> Answer:
        """The answer to an observation. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: seq in self._answers, timeout_s):
                raise TimeoutError(f"no answer to observation {seq} of {self.name} in {timeout_s:g} s")
            answer = self._answers.pop(seq)
            for older in [s for s in self._answers if s < seq]:
                del self._answers[older]
        return answer

    def wait_event(self, code: EventCode, timeout_s: float = REQUEST_S) -> Event:
        """An event that answers no observation. Raises TimeoutError."""
        with self._changed:
            found = self._changed.wait_for(lambda: [a for a in self.events if a.event.code == code], timeout_s)
        if not found:
            raise TimeoutError(f"no {code.name} for {self.name} in {timeout_s:g} s")
        return found[0].event

    def wait_server(self, alive: bool, timeout_s: float = REQUEST_S) -> bool:
        """Whether the server's token is there, or gone, in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.server_alive.is_set() == alive, timeout_s)

    def _exchange(self, sent: Sent, answer: Answer, began_s: float, resends: int) -> Exchange:
        if isinstance(answer.message, ActionChunk):
            _ = answer.robot  # a round trip ends with actions at hand
        done_s = time.monotonic()
        trip_s = done_s - sent.started_s
        # after a loss both sides have rested, and are slower for it: that says little about usual trips, unless it
        # took so long that the timer must be too short
        if not resends or trip_s > self.resend_after_s:
            self._round_trips.add(trip_s, done_s)
        return Exchange(sent, answer, (done_s - began_s) * 1e3, resends)

    def encoded(self, images: Mapping[str, np.ndarray | Image]) -> dict[str, Image]:
        """All of them as they are sent; those that are not yet encoded at the same time."""
        names = [name for name, image in images.items() if not isinstance(image, Image)]
        encoded = self._helpers.map(lambda name: self._encode(name, images[name]), names)
        return {**images, **dict(zip(names, encoded, strict=True))}  # type: ignore[dict-item]

    def _encode(self, name: str, picture: np.ndarray) -> Image:
        size = self._smaller(name, picture)
        return encode_image(picture if size is None else shrink(picture, *size), self.quality)

    def _smaller(self, name: str, picture: np.ndarray) -> tuple[int, int] | None:
        """(height, width) that the server wants of a camera, where that is less than the picture has."""
        wanted = self.ack.image_sizes.get(name) if self.ack and self.resize and self._has(features.RESIZE) else None
        if wanted is None or wanted[0] >= picture.shape[0] or wanted[1] >= picture.shape[1]:
            return None
        return wanted[0], wanted[1]

    # --- on the network's threads ----------------------------------------------------------------------------------

    def _hear(self, sample: Sample) -> None:
        try:
            header, tag = unpack(sample.attachment)
        except HeaderError:
            header, tag = None, b""
        wanted = self.ack.session_tag if self._has(features.TAG) else b""
        if header is None or tag != wanted or header.session_epoch != self.epoch:
            self.foreign += 1
            return
        body = sample.body()
        kind = Event if header.msg_type == MessageType.EVENT else ActionChunk
        answer = Answer(header, decode(body, kind), len(body), time.monotonic())
        with self._changed:
            if kind is Event and not answer.event.seq_id_echo:
                self.events.append(answer)
            else:
                self._answers[header.seq_id] = answer
                while len(self._answers) > ANSWERS_KEPT:
                    del self._answers[min(self._answers)]
            self._changed.notify_all()

    @property
    def _server_token(self) -> str:
        assert self.server is not None
        one = self._has(features.REPLICA)
        return self.keys.replica_alive(self.server.server_id) if one else self.keys.server_alive

    def _server_changed(self, key: str, alive: bool) -> None:
        with self._changed:
            (self.server_alive.set if alive else self.server_alive.clear)()
            self._changed.notify_all()


def _array(tensor: Tensor | None, name: str) -> np.ndarray:
    array = decode_tensor(tensor, name, DEFAULT_LIMITS, half=True)
    assert array is not None, f"no {name} in the chunk"
    return array
