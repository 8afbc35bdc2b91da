"""Whatever comes in over the network: refused with its code, counted by its reason, and nobody else notices.

Every test runs beside a well-behaved robot, which must get each of its answers; the log and the memory stay bounded.
"""

from __future__ import annotations

import logging
import random
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from network.memory_transport import MemoryTransport
from serving.record import OK
from serving.reply import answer_header
from serving.wire.errors import EventCode, RejectCode
from serving.wire.header import Header, MessageType
from serving.wire.images import Image, encode_image
from serving.wire.messages import ActionChunk, Event, SessionAck, SessionOpen, decode, encode
from serving.wire.tensors import Tensor, encode_tensor
from tests.serving.client import Client
from tests.serving.driver import KEYS, PICTURE, SERVER, Robot, Served
from tests.serving.mock_policy import CAMERA, DIM, WAIT_S, MockPolicy, chunk_of

pytestmark = pytest.mark.xdist_group("hostile")  # one daemon meets all attacks

MIB = 1 << 20
MEMORY_MAX = 64 * MIB  # above idle
LOG_LINES_MAX = 60
SESSIONS_MAX = 6
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Beside:
    """A robot that asks and checks, on and on, while others misbehave."""

    def __init__(self, served: Served) -> None:
        self._robot = served.robot("well-behaved")
        self._robot.token()
        self.answered, self.wrong = 0, []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.002):
            state = float(self.answered % 1000)
            try:
                if not np.array_equal(self._robot.step(state), chunk_of(np.full(DIM, state, np.float32)) * 2):
                    self.wrong.append("another's actions")
            except AssertionError as err:
                self.wrong.append(f"no answer to {self._robot.seq}: {err}")
            self.answered += 1
            self._robot.heard.clear()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(2 * WAIT_S)


class Arena:
    """One daemon for all attacks; each sees the counts that it made itself."""

    def __init__(self) -> None:
        self.policy = MockPolicy(batch_max=4)
        self.served = Served(self.policy, sessions_max=SESSIONS_MAX)
        self.beside = Beside(self.served)
        self.network = MemoryTransport(self.served.hub)
        self.eve = self.served.robot("eve")  # has a session of its own, and abuses it

    def counts(self) -> Counter[str]:
        """Everything that was counted so far."""
        seen = Counter(self.served.seen.drops)
        seen.update({f"transport_{reason}": n for reason, n in self.served.transport.drops().items()})
        seen.update(
            f"request_{record.error_code or OK}" for record in self.served.seen.records if record.client == "eve"
        )
        return seen

    def stop(self) -> None:
        self.beside.stop()
        self.served.stop()


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    made = Arena()
    yield made
    made.stop()


@contextmanager
def attack(arena: Arena, caplog: pytest.LogCaptureFixture | None = None) -> Iterator[Counter[str]]:
    """Counts of what the block provoked, filled in at its end, where everything else is checked as well."""
    made: Counter[str] = Counter()
    answered, before, idle = arena.beside.answered, arena.counts(), _memory(reset=True)
    lines = len(caplog.records) if caplog else 0
    if caplog:
        caplog.set_level(logging.INFO)
    yield made
    arena.served.control_idle()
    made.update(arena.counts() - before)
    assert _memory() - idle < MEMORY_MAX, f"{(_memory() - idle) / MIB:.0f} MiB above idle"
    if caplog:
        assert len(caplog.records) - lines <= LOG_LINES_MAX
    first = arena.beside.answered
    for _ in range(1000):
        if arena.beside.answered > first + 2:
            break
        threading.Event().wait(0.01)
    assert arena.beside.answered > answered + 2 and not arena.beside.wrong and arena.served.daemon.healthy


def _memory(reset: bool = False) -> int:
    """The most memory that the process has held since it was reset; bytes."""
    if reset and CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")
    peak = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")] if STATUS.exists() else []
    return int(peak[0].split()[1]) * 1024 if peak else 0


def refused(arena: Arena, body: bytes, code: EventCode = EventCode.BAD_REQUEST) -> Event:
    """Send a body in a session and get the refusal."""
    event = arena.eve.event(code, arena.eve.put(body))
    arena.eve.heard.clear()
    return event


# --- bodies ----------------------------------------------------------------------------------------------------------


def jpeg(height: int, width: int) -> Image:
    """A small picture whose header claims another size."""
    data = bytearray(encode_image(np.zeros((16, 16, 3), np.uint8)).data)
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return Image(memoryview(bytes(data)))


WHOLE = encode_tensor(np.zeros(DIM, np.float32))
TRUNCATED = Image(
    memoryview(bytes(encode_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).data)[:900])
)
BODIES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "zeros": lambda: bytes(4096),
    "a number": lambda: b"\x07",
    "a list": lambda: msgspec.msgpack.encode([1, 2, 3]),
    "not utf-8": lambda: b"\x81\xa4task\xa2\xff\xfe",
    "cut off": lambda: encode(SessionOpen(client_uuid="eve"))[:-3],
    "deep lists": lambda: b"\x81\xa1x" + b"\x91" * MIB,
    "deep maps": lambda: b"\x81\xa1x" * 300_000,
    "deep state": lambda: b"\x81\xa5state" + b"\x91" * MIB,
    "wide list": lambda: b"\x81\xa1x\xdd" + struct.pack(">I", 8 * MIB) + bytes(8 * MIB),
    "wide map": lambda: b"\xdf" + struct.pack(">I", MIB) + b"\xa1x\x00" * MIB,
    "claimed list": lambda: b"\x81\xa7history\xdd\xff\xff\xff\xff",
    "claimed blob": lambda: b"\x81\xa5state\x83\xa5dtype\xa3<f4\xa5shape\x91\x03\xa4data\xc6\xff\xff\xff\xff",
    "claimed shape": lambda: encode_observation(state=Tensor("<f4", [2**40, 2**20], memoryview(b""))),
    "claimed map": lambda: b"\x81\xa6images\xdf\xff\xff\xff\xff",
    "many images": lambda: encode_observation(images={CAMERA: PICTURE, **{str(i): PICTURE for i in range(16)}}),
    "8000x8000": lambda: encode_observation(images={CAMERA: jpeg(8000, 8000)}),
    "65500x65500": lambda: encode_observation(images={CAMERA: jpeg(65500, 65500)}),
    "large together": lambda: encode_observation(images={CAMERA: jpeg(3000, 3000), "b": jpeg(3000, 3000)}),
    "truncated": lambda: encode_observation(images={CAMERA: TRUNCATED}),
    "no jpeg": lambda: encode_observation(images={CAMERA: Image(memoryview(b"\xff\xd8\xff" + b"x" * 500))}),
    "unknown codec": lambda: encode_observation(images={CAMERA: Image(PICTURE.data, "webp")}),
    "raw lies": lambda: encode_observation(images={CAMERA: Image(memoryview(b"x" * 12), "raw", [4000, 4000, 3])}),
    "raw gray": lambda: encode_observation(images={CAMERA: Image(memoryview(b"x" * 16), "raw", [4, 4, 1])}),
    "object dtype": lambda: encode_observation(state=Tensor("|O", [DIM], memoryview(b"x" * 24))),
    "pickled dtype": lambda: encode_observation(state=Tensor("O8", [1], memoryview(b"\x80\x04N."))),
    "void dtype": lambda: encode_observation(state=Tensor("V12", [1], memoryview(b"x" * 12))),
    "nan state": lambda: encode_observation(state=encode_tensor(np.full(DIM, np.nan, np.float32))),
    "wrong shape": lambda: encode_observation(state=encode_tensor(np.zeros(DIM + 1, np.float32))),
    "no camera": lambda: encode_observation(images={}),
    "long task": lambda: encode_observation(task="t" * 5000),
    "long names": lambda: encode_observation(images={CAMERA: PICTURE, "n" * 300: PICTURE}),
}


def encode_observation(**fields: Any) -> bytes:
    from serving.wire.messages import Observation

    return encode(Observation(**{"state": WHOLE, "images": {CAMERA: PICTURE}, **fields}))


@pytest.mark.parametrize("name", BODIES)
def test_a_wrong_body_is_refused_with_its_reason(arena, caplog, name):
    body = BODIES[name]()
    prepared = arena.policy.count("prepare", "eve")
    with attack(arena, caplog) as made:
        for _ in range(3):
            event = refused(arena, body)
            assert 0 < len(event.reason) <= 500 and not event.retryable
    assert made["request_bad_request"] == 3 and made["event_bad_request"] == 3 and not made["request_ok"]
    assert arena.policy.count("prepare", "eve") == prepared  # nothing of it came near the policy


def test_random_bytes_are_refused_every_time(arena, caplog):
    random.seed(7)
    with attack(arena, caplog) as made:
        for _ in range(300):
            refused(arena, b"\x8f" + random.randbytes(random.randrange(2000)))
    assert made["request_bad_request"] == 300 and not made["request_ok"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.binary(max_size=60))
def test_no_bytes_end_anything(arena, body, attachment):
    """As body, as header, as question: the daemon is as healthy afterwards."""
    arena.eve._publisher.put(body, attachment)
    seq = arena.eve.put(body)
    answer = arena.eve.answer(seq)
    assert isinstance(answer, Event | ActionChunk)
    decode(arena.eve.ask(KEYS.session_of("fuzz"), b"\xc1" + body), SessionAck)
    assert arena.served.daemon.healthy
    arena.eve.heard.clear()


def test_bodies_above_the_limit_never_reach_the_daemon(arena, caplog):
    body = bytes(50 * MIB)
    with attack(arena, caplog) as made:
        for _ in range(20):
            arena.eve.put(body)
        assert arena.network.query(KEYS.session, body, WAIT_S) == []
    assert made["transport_body_too_large"] == 21 and not made["request_bad_request"]


def test_the_largest_bodies_allowed_do_not_add_up(arena, caplog):
    body = b"\x81\xa1x\xc6" + struct.pack(">I", 16 * MIB - 8) + bytes(16 * MIB - 8)
    with attack(arena, caplog):
        for _ in range(40):
            seq = arena.eve.put(body)
        arena.eve.event(EventCode.BAD_REQUEST, seq)


def test_questions_above_the_limit_are_refused_undecoded(arena, caplog):
    body = bytes(MIB)
    with attack(arena, caplog) as made:
        for _ in range(20):
            assert decode(arena.eve.ask(KEYS.session, body), SessionAck).code == RejectCode.BAD_REQUEST
    assert made["reject_bad_request"] == 20


# --- headers, keys, names --------------------------------------------------------------------------------------------


def test_wrong_headers_are_counted(arena, caplog):
    with attack(arena, caplog) as made:
        for size in range(60):
            if size not in (27, 35):
                arena.eve._publisher.put(b"", bytes(size))
        arena.eve._publisher.put(b"", bytes(1000))
    assert made["bad_header"] == 58 and made["transport_attachment_too_large"] == 1


def test_wrong_versions_and_types_are_counted(arena, caplog):
    with attack(arena, caplog) as made:
        for version in (0, 2, 65535):
            arena.eve.event(EventCode.BAD_SCHEMA, arena.eve.put(b"", schema_version=version))
        for kind in (0, MessageType.CHUNK, MessageType.EVENT, 255):
            arena.eve.put(b"", msg_type=kind)
    assert made["bad_schema"] == made["event_bad_schema"] == 3 and made["bad_type"] == 4


@pytest.mark.parametrize("key", [KEYS.observation("*"), f"{KEYS.prefix}/**", "@lerobot/**", KEYS.observation("r$*")])
def test_wildcards_in_keys_reach_nobody(arena, caplog, key):
    with attack(arena, caplog) as made:
        publisher = arena.network.publisher(key, "observation")
        for _ in range(500):
            publisher.put(arena.eve.body(), Header(1, 1, 1, 0, 0, 0).pack())
    assert made["transport_wildcard_key"] >= 500 and not made["unknown_session"]


def test_wildcards_in_questions_reach_nobody(arena, caplog):
    with attack(arena, caplog) as made:
        reset = arena.network.query(KEYS.reset("*"), b"", WAIT_S)
        opened = arena.network.query(KEYS.session_of("*"), encode(arena.eve.asked(client_uuid="eve")), WAIT_S)
    assert reset == [] and all(not decode(body, SessionAck).accepted for body in opened)
    assert made["transport_wildcard_key"] >= 2 and not made["session_opened"]


def test_names_that_are_none_are_refused(arena, caplog):
    with attack(arena, caplog) as made:
        for name in ("n" * 300, "server", "status", "a b", "ä", "a,b", "a~"):
            arena.network.publisher(f"{KEYS.prefix}/{name}/obs", "observation").put(
                b"", Header(1, 1, 1, 0, 0, 0).pack()
            )
            if name != "server":
                ack = decode(
                    arena.eve.ask(f"{KEYS.prefix}/{name}/session", encode(SessionOpen(client_uuid=name))), SessionAck
                )
                assert not ack.accepted
    assert made["bad_key"] == 7 and not made["session_opened"]


# --- another robot's name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [b"", b"xxxxxxxx"], ids=["no tag", "wrong tag"])
def test_a_flood_under_another_robots_name_is_only_counted(arena, caplog, tag):
    """Valid observations, newer than the robot's own, of other versions and epochs: it hears and loses nothing."""
    victim = arena.served.robot("victim")
    flooder = Robot(arena.served.hub, "victim")
    flooder.seq, body = 1 << 40, victim.body(99)
    try:
        with attack(arena, caplog) as made:
            for i in range(3000):
                flooder.put(body, tag=tag, schema_version=1 + i % 2, session_epoch=i)
                if i % 100 == 0:
                    np.testing.assert_array_equal(victim.step(1)[0], [2, 2, 2])
        assert made["bad_tag"] == 3000 and not made["superseded"]
        assert all(isinstance(message, ActionChunk) for _, _, message in victim.heard) and len(victim.heard) == 30
    finally:
        victim.close()


def test_a_session_in_use_is_not_opened_closed_or_reset_by_others(arena, caplog):
    policy = arena.policy
    victim = arena.served.robot("victim")
    token = victim.token()
    eve = Robot(arena.served.hub, "victim")
    forgot = policy.count("forget", "victim")
    try:
        with attack(arena, caplog) as made:
            for _ in range(100):
                assert eve.open().code == RejectCode.IN_USE
                assert eve.open(resume_token=eve.name * 4).code == RejectCode.IN_USE
                assert eve.close(session_id="0" * 32).outcome == "other_session"
        assert made["reject_in_use"] == 200 and not made["session_closed"]
        assert policy.count("forget", "victim") == forgot
        victim.step()
    finally:
        token.undeclare()
        victim.close()


def test_forged_answers_are_known_by_their_tag(arena, caplog):
    """Anybody may put on a robot's action key where no access list forbids it."""
    robot = Client(MemoryTransport(arena.served.hub), KEYS, "scripted")
    robot.handshake()
    forger = arena.network.publisher(KEYS.action("scripted"), "action")
    chunk = encode(ActionChunk(seq_id_echo=1, chunk_robot=encode_tensor(np.full((6, DIM), 666, np.float32))))
    closed = encode(Event(int(EventCode.SESSION_CLOSED), "go away"))
    with attack(arena, caplog):
        for seq in range(1, 50):
            header = Header(1, MessageType.OBSERVATION, seq, 0, 0, robot.epoch)
            for tag in (b"", b"xxxxxxxx"):
                forger.put(chunk, answer_header(header, MessageType.CHUNK, tag))
                forger.put(closed, answer_header(header, MessageType.EVENT, tag))
            state = np.full(DIM, seq, np.float32)
            exchange = robot.ask(state, {CAMERA: PICTURE})
            np.testing.assert_array_equal(exchange.answer.robot, chunk_of(state) * 2)
    assert robot.foreign == 49 * 4 and not robot.events
    robot.close()
    robot.leave()


def test_messages_of_robots_without_a_session_are_only_counted(arena, caplog):
    header = Header(1, MessageType.OBSERVATION, 1, 0, 0, 0).pack()
    body = arena.eve.body()
    with attack(arena, caplog) as made:
        for i in range(2000):
            arena.network.publisher(KEYS.observation(f"s-{i}", SERVER if i % 2 else ""), "observation").put(
                body, header
            )
    assert made["unknown_session"] == 2000 and made["event_unknown_session"] < 200
    assert not made["request_ok"] and len(arena.served.daemon._strangers) <= 256


# --- opens -----------------------------------------------------------------------------------------------------------


def test_a_thousand_opens_at_once_fill_the_places_and_no_more(arena, caplog):
    """From ten threads, each as fast as it can; every one gets an answer with a code."""
    places = SESSIONS_MAX - len(arena.served.daemon.registry)
    acks: list[SessionAck] = []
    opened: list[Robot] = []

    def run(number: int) -> None:
        for i in range(100):
            robot = Robot(arena.served.hub, f"crowd-{number}-{i}")
            acks.append(robot.open())
            if acks[-1].accepted or robot.ack.accepted:
                opened.append(robot)
            else:
                robot.transport.close()

    with attack(arena, caplog) as made:
        threads = [threading.Thread(target=run, args=(i,)) for i in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * WAIT_S)
    codes = Counter(ack.code for ack in acks)
    assert len(acks) == 1000 and set(codes) <= {RejectCode.NONE, RejectCode.FULL, RejectCode.BUSY}
    assert codes[RejectCode.NONE] == places == made["session_opened"]
    assert made["reject_full"] + made["reject_busy"] == 1000 - places
    for robot in opened:
        assert robot.close().outcome == "closed"


def test_a_robot_that_opens_again_and_again_leaves_nothing_behind(arena, caplog):
    robot = Robot(arena.served.hub, "restless")
    opens, closes = arena.policy.count("open", "restless"), arena.policy.count("close", "restless")
    with attack(arena, caplog) as made:
        for _ in range(300):
            assert robot.open(features=[]).accepted
    assert made["session_opened"] == 300 and made["session_closed"] == 299
    assert robot.close().outcome == "closed"
    arena.served.settle()
    assert arena.policy.count("open", "restless") - opens == arena.policy.count("close", "restless") - closes == 300


# --- at the end ------------------------------------------------------------------------------------------------------


def test_after_all_that_nothing_waits_and_nothing_is_remembered(arena):
    pipeline, registry = arena.served.daemon.pipeline, arena.served.daemon.registry
    arena.eve.step(1)
    ids = {session.session_id for session in registry.all()}
    assert {session.client for session in registry.all()} == {"well-behaved", "eve"}
    assert set(pipeline._scheduler._served) <= ids and set(pipeline._deadlines) <= ids
    assert arena.beside.answered > 2 and arena.beside.wrong == []
