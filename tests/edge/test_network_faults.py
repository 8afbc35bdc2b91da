"""What goes wrong while the robot runs: the control thread never notices more than missing actions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from edge.errors import ContractError
from edge.state import State
from network.memory_transport import Hub, MemoryTransport
from network.transport import Transport
from serving.wire.errors import EventCode
from serving.wire.header import Header, MessageType, unpack
from serving.wire.messages import ActionChunk, Event, decode, encode
from serving.wire.tensors import encode_tensor
from tests.edge.drive import Drive, assert_sound, gaps, witnesses
from tests.edge.nodes import KEYS, MemoryServer, engine_for, running
from tests.edge.proxy import Proxy
from tests.edge.witness import ACTIONS, ROWS, WitnessPolicy, chunk_of, witness
from tests.network.zenoh_nodes import until

FPS = 60.0
WAIT_MS = 20.0  # of the policy, where nothing else is said
BACKOFF = {"reconnect_initial_backoff_s": 0.05, "reconnect_max_backoff_s": 0.2}


class World:
    """A robot and a server on a network in memory, with weather between them."""

    def __init__(self, stack: ExitStack, policy: WitnessPolicy | None = None, seed: int = 0, **server: object) -> None:
        self.stack, self.hub = stack, Hub()
        self.server = MemoryServer(self.hub, policy or witness(wait_ms=WAIT_MS), **server)
        stack.enter_context(self.server)
        self.proxies: list[Proxy] = []
        self._seed = seed
        self.transitions: list[tuple[State, State, str]] = []

    @property
    def proxy(self) -> Proxy:
        """What the robot dialled last."""
        return self.proxies[-1]

    @property
    def policy(self) -> WitnessPolicy:
        assert isinstance(self.server.policy, WitnessPolicy)
        return self.server.policy

    def dial(self) -> Transport:
        self.proxies.append(Proxy(MemoryTransport(self.hub), self._seed + len(self.proxies)))
        return self.proxies[-1]

    def drive(self, fps: float = FPS, **settings: object) -> Drive:
        """A robot that runs, and has acted."""

        def changed(old: State, new: State, event: object, why: str) -> None:
            self.transitions.append((old, new, why))

        engine = engine_for(dial=self.dial, fps=fps, on_transition=changed, **{**BACKOFF, **settings})
        self.engine = self.stack.enter_context(running(engine))
        drive = self.stack.enter_context(Drive(self.engine, fps))
        drive.until_acts()
        return drive

    def counted(self, name: str) -> int:
        return self.engine.stats().counters[name]

    def until_counted(self, name: str, number: int = 1) -> None:
        assert until(lambda: self.counted(name) >= number), (name, self.engine.stats())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def world(stack) -> Callable[..., World]:
    return lambda *args, **settings: World(stack, *args, **settings)


# --- the server goes, and comes back --------------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", ["hold", "repeat_last"])
def test_a_server_that_dies_never_raises_in_the_control_thread(world, fallback):
    w = world()
    drive = w.drive(fallback=fallback)
    w.server.crash()
    drive.until_state(State.RECONNECTING)
    drive.until(lambda tick: not tick.acts)
    drive.go_on(30)
    assert_sound(drive)
    idle = [tick for tick in drive.ticks if not tick.acts and tick.number > drive.ticks[-1].number - 20]
    assert {tick.source for tick in idle} == ({""} if fallback == "hold" else {"repeat_last", ""} & _sources(idle))


def _sources(ticks) -> set[str]:
    return {tick.source for tick in ticks}


def test_a_server_that_is_started_again_is_used_again(world):
    w = world()
    drive = w.drive()
    first = w.engine.capabilities.session_id
    w.server.crash()
    drive.until_state(State.RECONNECTING)
    w.server.start()
    drive.until_state(State.STREAMING)
    drive.until_acts(ROWS + 10)
    assert w.engine.capabilities.session_id != first
    assert_sound(drive)
    assert len({said.session for said in witnesses(drive.ticks)}) == 2
    # the new session is no reason to throw good rows away, nor to say that all is well before its first chunk
    path = [new for _, new, _ in w.transitions]
    assert State.CONNECTING in path[path.index(State.RECONNECTING) :], w.transitions


def test_a_server_that_comes_back_while_a_request_is_in_flight_is_noticed(world):
    """Its token is gone and there again before any timer ends: it is another server all the same."""
    w = world()
    drive = w.drive(degraded_after_s=30.0, request_timeout_s=60.0)
    w.policy.go.clear()
    asked = w.counted("requests")
    w.until_counted("requests", asked + 1)
    w.server.crash()
    w.policy.go.set()
    w.server.start()
    drive.until_acts()
    began_s = time.monotonic()
    w.until_counted("handshakes", 2)
    drive.until(lambda tick: tick.acts and len({s.session for s in witnesses(drive.ticks[-1:])} - {0}) > 0)
    w.until_counted("merges", 2)
    assert time.monotonic() - began_s < 10.0
    assert_sound(drive)


def test_a_server_that_does_not_know_the_session_any_more_is_asked_for_another(world):
    w = world()
    drive = w.drive()
    assert w.server.daemon is not None
    sessions = w.server.daemon.registry
    w.server.daemon.control.submit(lambda: sessions.remove(sessions.get("robot-1")))
    w.until_counted("handshakes", 2)
    drive.until_acts(ROWS)
    assert_sound(drive)


def test_another_replica_takes_over_from_one_that_drains(world):
    w = world(server_id="a")
    drive = w.drive()
    other = w.stack.enter_context(MemoryServer(w.hub, witness(wait_ms=WAIT_MS), server_id="b"))
    assert w.engine.capabilities.server_id == "a"
    w.server.stop()
    assert until(lambda: w.engine.capabilities.server_id == "b")
    drive.until_acts(2 * ROWS)  # what the first one gave is played to its end
    assert_sound(drive)
    assert not gaps(drive.ticks), "the buffer covers the change"
    assert {said.process for said in witnesses(drive.ticks[-5:])} == {other.policy.process}


def test_a_request_in_flight_of_a_lost_session_is_never_merged(world):
    """The old server's answer is late on its way, and comes when there is another session."""
    w = world()
    drive = w.drive()
    w.proxy.down.weather = replace(w.proxy.down.weather, delay_s=(1.0, 1.0))
    asked = w.counted("requests")
    w.until_counted("requests", asked + 1)
    assert until(lambda: w.proxy.down.passed > 1)
    w.server.crash()
    w.proxy.down.weather = replace(w.proxy.down.weather, delay_s=(0.0, 0.0))
    foreign = w.counted("foreign")
    w.server.start()
    w.until_counted("handshakes", 2)
    w.until_counted("foreign", foreign + 1)
    drive.until_acts(5)
    assert_sound(drive)


# --- another server than the run began with -------------------------------------------------------------------------


def _dies(w: World, drive: Drive, policy: WitnessPolicy, says: str) -> None:
    w.server.crash()
    w.server.policy = policy
    w.server.start()
    drive.until_state(State.DEAD)
    assert w.engine.failed and not w.engine.ready
    assert isinstance(w.engine.failure, ContractError) and says in str(w.engine.failure)
    before = w.counted("merges")
    drive.go_on(10)
    assert w.counted("merges") == before and w.engine.state is State.DEAD
    assert_sound(drive)


def test_another_model_after_a_reconnect_ends_the_run(world):
    w = world()
    _dies(w, w.drive(), witness(wait_ms=WAIT_MS, revision="v2"), "want the model that this run began with")


def test_a_server_that_loses_rtc_ends_the_run(world):
    w = world(witness(wait_ms=WAIT_MS, continues=True))
    _dies(w, w.drive(), witness(wait_ms=WAIT_MS), "RTC")


def test_a_server_that_gains_rtc_ends_the_run(world):
    w = world(witness(wait_ms=WAIT_MS))
    drive = w.drive()
    _dies(w, drive, witness(wait_ms=WAIT_MS, continues=True), "RTC")


def test_other_joints_after_a_reconnect_end_the_run(world):
    w = world()
    swapped = (ACTIONS[1], ACTIONS[0], *ACTIONS[2:])
    _dies(w, w.drive(), witness(wait_ms=WAIT_MS, actions=swapped), "action names")


# --- a server that does not answer ----------------------------------------------------------------------------------


def test_a_hung_server_is_told_of_and_used_again(world):
    w = world()
    drive = w.drive(fallback="repeat_last", repeat_last_max_s=0.2, degraded_after_s=0.3)
    drive.until_acts(ROWS)
    w.policy.go.clear()
    drive.until_state(State.DEGRADED)
    drive.until_state(State.STALLED)
    drive.until(lambda tick: tick.source == "repeat_last")
    drive.until(lambda tick: tick.source == "")
    w.policy.go.set()
    drive.until_state(State.STREAMING)
    drive.until_acts(5)
    assert_sound(drive)


def test_nobody_is_offline_longer_than_told(world):
    w = world()
    drive = w.drive(max_offline_s=0.5)
    w.server.crash()
    gone_s = time.monotonic()
    drive.until_state(State.DEAD)
    assert 0.4 <= time.monotonic() - gone_s < 5.0
    assert w.engine.failed and "0.5 s" in str(w.engine.failure)
    assert_sound(drive)


def test_a_server_that_opens_sessions_and_never_answers_uses_up_the_budget_too(world):
    w = world()
    drive = w.drive(max_offline_s=1.0, request_timeout_s=0.2, degraded_after_s=0.1)
    w.policy.go.clear()
    drive.until_state(State.DEAD)
    assert_sound(drive)


def test_a_pause_longer_than_the_budget_costs_nothing_of_it(world):
    w = world()
    drive = w.drive(max_offline_s=0.6)
    drive.do(w.engine.pause)
    w.server.crash()
    assert until(lambda: w.engine.state is State.RECONNECTING)
    time.sleep(1.5)  # what is tested: time that passes
    assert w.engine.state is State.RECONNECTING and not w.engine.failed
    w.server.start()
    w.until_counted("handshakes", 2)  # it reconnects while it is paused
    drive.do(w.engine.resume)
    drive.until_acts(5)
    assert_sound(drive)
    assert w.engine.state is State.STREAMING


def test_a_pause_while_an_answer_is_overdue_does_not_end_the_run(world):
    w = world()
    drive = w.drive(max_offline_s=0.8, degraded_after_s=0.1, request_timeout_s=0.3)
    w.policy.go.clear()
    drive.until(lambda tick: tick.state in (State.DEGRADED, State.STALLED))
    drive.do(w.engine.pause)
    time.sleep(1.2)  # what is tested: time that passes
    assert not w.engine.failed
    w.policy.go.set()
    drive.do(w.engine.resume)
    drive.until_acts(5)
    assert_sound(drive)


def test_nothing_is_asked_while_paused_and_what_is_queued_is_played(world):
    w = world()
    drive = w.drive()
    drive.do(w.engine.pause)
    drive.until(lambda tick: not tick.acts)  # the queue has run dry
    asked = w.counted("requests") + w.counted("resends")
    drive.go_on(20)
    assert w.counted("requests") + w.counted("resends") == asked
    drive.do(w.engine.resume)
    drive.until_acts(5)
    assert_sound(drive)


# --- episodes -------------------------------------------------------------------------------------------------------


def test_a_reset_while_an_answer_is_on_its_way_leaves_nothing_of_the_old_episode(world):
    w = world()
    drive = w.drive()
    for _ in range(5):
        w.policy.go.clear()
        w.until_counted("requests", w.counted("requests") + 1)
        drive.reset()
        w.policy.go.set()
        drive.until_acts(3)
    assert_sound(drive)  # every row says its episode
    assert {said.episode for said in witnesses(drive.ticks)} == set(range(6))


def test_a_reset_while_reconnecting_starts_the_new_episode_with_the_new_session(world):
    w = world()
    drive = w.drive()
    w.server.crash()
    drive.until_state(State.RECONNECTING)
    drive.reset()
    assert drive.until(lambda tick: tick.episode == 1).source == ""
    w.server.start()
    drive.until_acts(5)
    assert_sound(drive)


def test_the_server_hears_of_every_new_episode(world):
    w = world()
    drive = w.drive()
    for _ in range(3):
        drive.reset()
        drive.until_acts()
    headers = [unpack(attachment)[0] for _, _, attachment in w.proxy.sent]
    assert {header.episode_id for header in headers} >= {1, 2, 3}
    episodes = [header.episode_id for header in headers]
    assert episodes == sorted(episodes)


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
    merges, bad = w.counted("merges"), w.counted("malformed") + w.counted("foreign")
    assert until(lambda: w.counted("malformed") + w.counted("foreign") > bad)
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
    """Somebody who hears nothing of ours but knows the key, and somebody who heard old messages."""
    w = world()
    drive = w.drive()
    drive.until_acts(ROWS)
    key = KEYS.action("robot-1")
    body = encode(ActionChunk(chunk_robot=encode_tensor(chunk_of(np.array([1, 0, 666, 1], np.float32), 1, 1, 0, ROWS))))
    rng = np.random.default_rng(3)
    (_, old_body, old_attachment), stop = w.proxy.heard[0], threading.Event()
    said = 0

    def forge() -> None:
        nonlocal said
        while not stop.wait(0.002):
            newest, tag = unpack(w.proxy.sent[-1][2])
            for seq in (newest.seq_id, newest.seq_id + 1):
                stamp = int(time.monotonic_ns())
                for epoch in (newest.session_epoch, newest.session_epoch + 1):
                    header = Header(1, MessageType.CHUNK, seq, newest.episode_id, stamp, epoch)
                    for wrong in (b"", rng.bytes(8), tag):  # even with the right tag the observation's stamp is missing
                        w.proxy.say(key, body, header.pack(wrong))
                        said += 1
            w.proxy.say(key, old_body, old_attachment)
            said += 1

    forger = threading.Thread(target=forge)
    forger.start()
    merges = w.counted("merges")
    drive.until_acts(3 * ROWS)
    stop.set()
    forger.join()
    assert said > 1000 and w.counted("foreign") >= said - 5
    assert w.counted("merges") > merges
    assert all(said.robot == 1 for said in witnesses(drive.ticks))
    assert not gaps(drive.ticks)
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


# --- the cable ------------------------------------------------------------------------------------------------------


def test_a_cable_that_is_out_for_a_moment_costs_no_action(world):
    w = world()
    drive = w.drive()
    drive.until_acts(ROWS // 2)
    w.proxy.cut()
    drive.until_state(State.RECONNECTING)
    drive.go_on(3)
    w.proxy.mend()
    drive.until_state(State.STREAMING)
    drive.until_acts(ROWS)
    assert not gaps(drive.ticks)
    assert_sound(drive)


def test_stop_is_quick_whatever_the_network_does(world):
    w = world()
    drive = w.drive()
    w.policy.go.clear()
    w.proxy.cut()
    drive.until_state(State.RECONNECTING)
    began_s = time.monotonic()
    w.engine.stop()
    assert time.monotonic() - began_s < 1.5
    assert w.engine.state is State.STOPPED and w.engine.get_action() is None
