"""Messages that are lost, late, spoilt or forged while the robot runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from edge.state import State
from network.memory_transport import MemoryTransport
from network.transport import Sample
from serving.wire.errors import EventCode
from serving.wire.header import MessageType, unpack
from serving.wire.messages import ActionChunk, Event, decode, encode
from serving.wire.tensors import encode_tensor
from tests.edge.nodes import KEYS
from tests.edge.soundness import assert_sound, gaps, witnesses
from tests.edge.witness import ACTIONS, ROWS, chunk_of, witness
from tests.edge.world import FPS, World
from tests.network.zenoh_nodes import until


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def world(stack) -> Callable[..., World]:
    return lambda *args, **settings: World(stack, *args, **settings)


# --- messages that are lost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_lost_message_is_sent_again_before_anybody_misses_it(world, way):
    w = world(witness(wait_ms=100))
    drive = w.drive()
    drive.until_acts(4 * ROWS)  # so that it knows how long answers take
    p99_s = w.engine.stats().latency_p99_ms / 1e3
    before, sent = w.counted("resends"), len(w.proxy.sent)
    getattr(w.proxy, way).drop_next()
    w.until_counted("resends", before + 1)
    drive.until_acts(ROWS)
    lost, again = (unpack(attachment)[0] for _, _, attachment in w.proxy.sent[sent : sent + 2])
    assert again.seq_id == lost.seq_id + 1
    between_s = w.proxy.sent_s[sent + 1] - w.proxy.sent_s[sent]
    assert between_s <= 3 * p99_s, (between_s, p99_s)
    assert not gaps(drive.ticks) and w.counted("timeouts") == 0
    assert_sound(drive)


@pytest.mark.slow
@pytest.mark.parametrize("continues", [False, True], ids=["append", "rtc"])
def test_nothing_unsound_is_sent_through_a_storm(world, continues):
    w = world(witness(wait_ms=5, continues=continues), seed=7)
    drive = w.drive(degraded_after_s=0.2)
    storm = replace(w.proxy.up.weather, lose=0.2, duplicate=0.3, corrupt=0.2, delay_s=(0.0, 0.25))
    w.proxy.up.weather = w.proxy.down.weather = storm
    for _ in range(4):
        drive.until_acts(50)
        drive.reset()
    w.proxy.up.weather = w.proxy.down.weather = replace(storm, lose=0, duplicate=0, corrupt=0, delay_s=(0, 0))
    drive.until_acts(60)
    assert w.proxy.up.lost and w.counted("resends") and w.counted("foreign") + w.counted("malformed")
    assert_sound(drive)


# --- messages that are wrong ----------------------------------------------------------------------------------------


def _with(chunk: ActionChunk, **fields: object) -> bytes:
    for name, value in fields.items():
        setattr(chunk, name, value)
    return encode(chunk)


def _array(*shape: int, value: float = 7.0, dtype: str = "<f4"):
    return encode_tensor(np.full(shape, value, dtype))


WIDTH = len(ACTIONS)
MALFORMED: dict[str, Callable[[ActionChunk], bytes]] = {
    "nan": lambda c: _with(c, chunk_robot=_array(ROWS, WIDTH, value=np.nan)),
    "infinite": lambda c: _with(c, chunk_robot=_array(ROWS, WIDTH, value=np.inf)),
    "columns": lambda c: _with(c, chunk_robot=_array(ROWS, WIDTH - 1)),
    "one dimension": lambda c: _with(c, chunk_robot=_array(ROWS * WIDTH)),
    "no rows": lambda c: _with(c, chunk_robot=_array(0, WIDTH)),
    "too many rows": lambda c: _with(c, chunk_robot=_array(5000, WIDTH)),
    "words": lambda c: _with(c, chunk_robot=encode_tensor(np.full((ROWS, WIDTH), 7, "<i4"))),
    "nothing": lambda c: _with(c, chunk_robot=None, chunk_model=None),
    "cut off": lambda c: encode(c)[:-9],
    "no message": lambda c: b"\x93\x01\x02\x03",
    "empty": lambda c: b"",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_chunk_that_may_not_be_executed_is_not(world, kind):
    w = world()
    drive = w.drive(degraded_after_s=0.3)
    drive.until_acts(ROWS)
    spoil = MALFORMED[kind]
    w.proxy.down.change = lambda body, attachment: (spoil(decode(body, ActionChunk)), attachment)
    bad = w.counted("malformed") + w.counted("foreign")
    assert until(lambda: w.counted("malformed") + w.counted("foreign") > bad)
    merges = w.counted("merges")  # not before: a good answer may just have passed
    drive.until(lambda tick: tick.state != State.STREAMING)  # it is a failed request, and told so
    assert w.counted("merges") == merges
    w.proxy.down.change = None
    drive.until_state(State.STREAMING)
    drive.until_acts(5)
    assert_sound(drive)


def test_a_server_that_says_it_is_busy_or_broken_is_asked_again(world):
    w = world()
    drive = w.drive()

    def refuse(body: bytes, attachment: bytes) -> tuple[bytes, bytes]:
        header, tag = unpack(attachment)
        said = Event(int(EventCode.INTERNAL), "out of memory", header.seq_id, True, 50)
        return encode(said), replace(header, msg_type=MessageType.EVENT).pack(tag)

    w.proxy.down.change = refuse
    w.until_counted("events")
    w.proxy.down.change = None
    drive.until_acts(ROWS)
    assert_sound(drive)


def test_forged_messages_are_not_merged(world):
    """Somebody who knows all of a request but the session's tag, or all but its stamp, and who heard old messages."""
    w = world()
    drive = w.drive()
    drive.until_acts(ROWS)
    key = KEYS.action("robot-1")
    body = encode(ActionChunk(chunk_robot=encode_tensor(chunk_of(np.array([1, 0, 666, 1], np.float32), 1, 1, 0, ROWS))))
    (_, old_body, old_attachment), stop = w.proxy.heard[0], threading.Event()
    said = 0

    def forge() -> None:
        nonlocal said
        while not stop.wait(0.002):
            asked, tag = unpack(w.proxy.sent[-1][2])
            right = replace(asked, msg_type=MessageType.CHUNK)
            wrong = [replace(right, client_mono_ns=time.monotonic_ns()), replace(right, session_epoch=99)]
            wrong += [replace(right, seq_id=right.seq_id + n) for n in (-1, 1)]
            attachments = [header.pack(tag) for header in wrong] + [right.pack(b""), right.pack(bytes(8))]
            for attachment in attachments:
                w.proxy.say(key, body, attachment)
            w.proxy.say(key, old_body, old_attachment)
            said += len(attachments) + 1

    forger = threading.Thread(target=forge)
    forger.start()
    merges = w.counted("merges")
    drive.until_acts(5 * ROWS)
    stop.set()
    forger.join()
    assert said > 1000 and w.counted("foreign") == said
    assert w.counted("merges") > merges and not gaps(drive.ticks)
    assert all(said.robot == 1 for said in witnesses(drive.ticks))
    assert_sound(drive)


def test_copies_of_an_answer_with_other_actions_come_too_late(world):
    """Somebody who hears the robot's answers repeats each at once, many times, with actions of their own."""
    w = world()
    drive = w.drive()
    key = KEYS.action("robot-1")
    body = encode(ActionChunk(chunk_robot=encode_tensor(chunk_of(np.array([1, 0, 666, 1], np.float32), 1, 1, 0, ROWS))))
    said = 0

    def repeat(sample: Sample) -> None:
        nonlocal said
        for _ in range(8):
            w.proxy.say(key, body, sample.attachment)
            said += 1

    listener = MemoryTransport(w.hub)
    listener.subscribe(key, repeat)
    drive.until_acts(6 * ROWS)
    listener.close()
    assert said and not gaps(drive.ticks)
    assert_sound(drive)


# --- answers that take too long -------------------------------------------------------------------------------------


def test_answers_that_take_longer_than_a_chunk_lasts_are_told_of_and_the_robot_still_moves(world):
    w = world(witness(wait_ms=400, rows=6))  # 0.2 s of actions, every 0.4 s
    drive = w.drive()
    drive.until_acts(18)
    assert_sound(drive)
    stats = w.engine.stats()
    assert stats.counters["starved_ticks"] > 0
    states = {tick.state for tick in drive.ticks if tick.number > 30}
    assert states & {State.STALLED, State.DEGRADED}, states
    assert State.RECONNECTING not in states


def test_one_slow_answer_does_not_slow_the_rest_of_the_run(world):
    w = world()
    drive = w.drive(degraded_after_s=0.3)
    drive.until_acts(4 * ROWS)
    before = w.engine.stats().latency_p95_ms
    w.policy.go.clear()
    drive.until_state(State.STALLED)
    w.policy.go.set()
    drive.until_state(State.STREAMING)
    drive.until_acts(4 * ROWS)
    delays = [decode_delay(body) for _, body, _ in w.proxy.sent[-2:]]
    assert max(delays) <= np.ceil(before * FPS / 1e3) + 2, delays
    assert_sound(drive)


def decode_delay(body: bytes) -> int:
    """What an observation says of how long its answer will take."""
    from serving.wire.messages import Observation

    return decode(body, Observation).inference_delay_steps
