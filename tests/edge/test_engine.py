"""The engine over a network in memory, against a real daemon; the control loop is stepped by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge.engine import Engine
from edge.errors import ContractError, EdgeError, LinkError
from edge.robots.base import Reading, RobotFeatures
from edge.settings import InferenceSettings, SafetySettings
from edge.state import State
from network.memory_transport import Hub, MemoryTransport
from serving.policies.base import Camera
from serving.wire.header import MessageType, unpack
from serving.wire.messages import ActionChunk, encode
from serving.wire.tensors import encode_tensor
from tests.serving.driver import KEYS, Served
from tests.serving.mock_policy import CAMERA, DIM, ROWS, MockPolicy

WAIT_S = 10.0
NAMES = ("x", "y", "z")
FAST = {
    "request_timeout_s": 0.6,
    "handshake_timeout_s": 0.5,
    "reconnect_initial_backoff_s": 0.05,
    "degraded_after_s": 0.2,
}
RTC = {"rtc": True}


class Hand:
    """A control loop stepped by hand, on an engine with a server."""

    def __init__(
        self, hub: Hub, names: tuple[str, ...] = NAMES, safety: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        self.changes: list[tuple[State, State]] = []
        self._changed = threading.Condition()
        self.engine = Engine(
            InferenceSettings(**{"client_uuid": "robot-1", **FAST, **settings}), SafetySettings(**(safety or {})),
            RobotFeatures("arm", names, names, {"front": (16, 24)}), KEYS, 30.0, "stack",
            dial=lambda: MemoryTransport(hub), on_transition=self._note,
        )  # fmt: skip
        self.ticks = 0

    def _note(self, old: State, new: State, event: object, why: str) -> None:
        with self._changed:
            self.changes.append((old, new))
            self._changed.notify_all()

    def until_state(self, state: State) -> None:
        """Wait until the engine has come to a state."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.engine.state is state, WAIT_S), (self.engine.state, self.changes)

    def look(self, value: float | None = None) -> None:
        """Notify an observation; its state says which tick it is of."""
        self.ticks += 1
        state = np.full(DIM, self.ticks if value is None else value, np.float32)
        self.engine.notify_observation(Reading(state, {"front": np.full((16, 24, 3), 90, np.uint8)}, time.monotonic()))

    def tick(self) -> np.ndarray | None:
        """One control step."""
        self.look()
        return self.engine.get_action()

    def until_action(self) -> np.ndarray:
        """Step until the policy's next action comes."""
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            action = self.tick()
            if action is not None and self.engine.dispatched.source == "policy":
                return action
            time.sleep(0.005)
        raise AssertionError(f"no action; {self.engine.stats()}")

    def until(self, test: Callable[[], Any]) -> None:
        """Wait, without stepping, until something comes true."""
        end_s = time.monotonic() + WAIT_S
        while not test():
            assert time.monotonic() < end_s, self.engine.stats()
            time.sleep(0.005)

    def counted(self, name: str) -> int:
        """A counter."""
        return self.engine.stats().counters[name]


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(policy: MockPolicy | None = None, **settings: Any) -> Served:
        running.append(Served(policy or MockPolicy(), **settings))
        return running[-1]

    yield start
    for served in running:
        served.stop()


@pytest.fixture
def drive(serve) -> Iterator[Callable[..., Hand]]:
    hands: list[Hand] = []

    def start(served: Served, **settings: Any) -> Hand:
        hands.append(Hand(served.hub, **settings))
        hands[-1].engine.start()
        hands[-1].engine.resume()
        return hands[-1]

    yield start
    for hand in hands:
        hand.engine.stop()


def rtc_policy(**spec: Any) -> MockPolicy:
    """A policy that continues chunks."""
    return MockPolicy(rtc=True, execution_horizon=ROWS, prefix_form="robot", **spec)


# --- rows and steps ---------------------------------------------------------------------------------------------------


def test_every_action_is_the_row_of_its_own_control_step(serve, drive):
    hand = drive(serve())
    executed = 0
    seen_at: dict[float, int] = {}  # the state notified -> rows executed before it
    for _ in range(100):
        seen_at[float(hand.ticks + 1)] = executed
        action = hand.tick()
        if action is None:
            time.sleep(0.005)
            continue
        said = hand.engine.dispatched
        state = round(float(action[0] / 2 - 0.01 * said.row))
        assert seen_at[float(state)] + said.row == said.step == executed
        executed += 1
    assert executed > 50


def test_the_first_chunk_loses_no_row_although_it_took_long(serve, drive):
    served = serve()
    gate = served.policy.gate("predict")
    hand = drive(served, request_timeout_s=5, degraded_after_s=5)
    hand.look()
    gate.wait()
    for _ in range(5):
        assert hand.tick() is None
    gate.open()
    hand.until(lambda: hand.engine.stats().left_rows)
    hand.tick()
    assert hand.engine.dispatched.row == 0


def test_a_reset_while_a_request_flies_discards_its_chunk(serve, drive):
    served = serve()
    hand = drive(served, request_timeout_s=5, degraded_after_s=5)
    hand.until_action()
    gate = served.policy.gate("predict")
    hand.until(lambda: hand.tick() is None or gate.entered)  # the queue runs down until the next request
    gate.wait()
    hand.engine.reset()
    assert hand.engine.get_action() is None
    gate.open()
    hand.until(lambda: hand.counted("foreign") == 1)
    assert hand.engine.stats().left_rows == 0
    hand.until_action()
    assert hand.engine.dispatched.origin.episode_id == 1


def test_an_episode_does_not_wait_for_the_last_ones_answer(serve, drive):
    served = serve()
    hand = drive(served, request_timeout_s=30, degraded_after_s=30)
    gate = served.policy.gate("finish")
    hand.look()
    gate.wait()
    hand.engine.reset()
    hand.look()
    hand.until(lambda: hand.counted("requests") == 2)
    gate.open()
    hand.until_action()
    assert hand.engine.dispatched.origin.episode_id == 1 and hand.counted("resends") == 0


def test_an_episode_begins_at_the_server_with_its_first_request_alone(serve, drive):
    served = serve()
    hand = drive(served)
    for _ in range(2):
        for _ in range(4 * ROWS):
            hand.until_action()
        hand.engine.reset()
    starts = [request.episode_start for _, request in served.policy.requests]
    assert starts[0] and sum(starts) == 2


def test_what_was_seen_in_the_last_episode_is_not_sent_in_the_next(serve, drive):
    served = serve()
    hand = drive(served)
    hand.until_action()
    hand.engine.pause()
    hand.look(value=500.0)
    hand.engine.reset()
    hand.engine.resume()
    hand.until_action()
    assert not [r for _, r in served.policy.requests if r.moment.state[0] == 500.0]


def test_the_tail_is_sent_and_the_chunk_that_continues_it_takes_its_place(serve, drive):
    served = serve(rtc_policy(), rules=RTC)
    hand = drive(served)
    for _ in range(6 * ROWS):
        hand.until_action()
        time.sleep(1 / 30)  # the pace it was told: a faster one would leave no tail
    requests = [request for _, request in served.policy.requests]
    assert requests[0].prefix_robot is None and requests[0].prefix_model is None
    tails = [r.prefix_robot if r.prefix_robot is not None else r.prefix_model for r in requests[1:]]
    assert any(tail is not None and 0 < len(tail) <= ROWS for tail in tails)
    assert hand.counted("late_chunks") == 0


def test_stale_rows_are_never_executed_and_a_fresh_chunk_is(serve, drive):
    served = serve()
    hand = drive(served, max_action_age_s=0.3, buffer_time_s=0.1)
    hand.until_action()
    hand.engine.pause()
    assert hand.engine.stats().left_rows
    oldest_s = hand.engine.dispatched.origin.observed_s
    hand.until(lambda: time.monotonic() - oldest_s > 0.6)
    assert hand.engine.get_action() is None
    assert hand.counted("stale_drops") > 0
    hand.engine.resume()
    hand.until_action()
    assert hand.engine.dispatched.age_ms < 300


def test_a_chunk_longer_than_actions_may_age_is_followed_in_time(serve, drive):
    policy = MockPolicy(chunk_size=60)
    policy.hooks["prepare"] = lambda prepared: replace(prepared, model=np.repeat(prepared.model, 10, axis=0))
    served = serve(policy)
    hand = drive(served, max_action_age_s=0.6, buffer_time_s=0.1)  # of the two seconds that a chunk lasts
    hand.until_action()
    for _ in range(75):
        time.sleep(1 / 30)
        assert hand.tick() is not None
    assert hand.counted("stale_drops") == 0 and hand.counted("starved_ticks") == 0
    assert hand.counted("requests") <= 12


def test_a_chunk_that_adds_nothing_puts_off_no_request_until_the_queue_is_stale(serve, drive):
    """The first answer is so late that another is asked for at once, from the same step: it reaches no further."""
    policy = MockPolicy(chunk_size=60)
    policy.hooks["prepare"] = lambda prepared: replace(prepared, model=np.repeat(prepared.model, 10, axis=0))
    slow = [0.4]
    policy.hooks["predict"] = lambda answers: (time.sleep(slow.pop() if slow else 0.0), answers)[1]
    hand = drive(serve(policy), max_action_age_s=0.6, buffer_time_s=0.55, degraded_after_s=5, request_timeout_s=5)
    hand.look()
    hand.until(lambda: hand.counted("requests") == 2)
    assert hand.counted("merges") >= 1
    for _ in range(45):
        assert hand.tick() is not None, hand.engine.stats()
        time.sleep(1 / 30)
    assert hand.counted("starved_ticks") == 0


# --- without a server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fallback", "names", "expected"),
    [
        ("hold", ("a.pos", "b.pos", "c.pos"), None),
        ("hold", ("a.pos", "b.pos", "c.vel"), "stop"),
        ("repeat_last", ("a.pos", "b.pos", "c.pos"), "repeat_last"),
        ("stop", ("a.pos", "b.vel", "c.vel"), "stop"),
        ("zero", ("a.vel", "b.vel", "c.vel"), "stop"),
    ],
)
def test_the_fallback_acts_by_joint_and_is_marked(serve, drive, fallback, names, expected):
    served = serve(MockPolicy(action_names=names))
    hand = drive(served, names=names, fallback=fallback, repeat_last_max_s=60)
    last = hand.until_action()
    hand.engine.pause()
    while (action := hand.engine.get_action()) is not None and hand.engine.dispatched.source == "policy":
        last = action
    if expected is None:
        assert action is None and hand.engine.dispatched is None
    else:
        assert hand.engine.dispatched.source == expected
        velocities = [name.endswith(".vel") for name in names]
        wanted = last if expected == "repeat_last" else np.where(velocities, 0, last)
        np.testing.assert_array_equal(action, wanted)
        assert hand.counted("fallback_ticks") >= 1
    assert hand.counted("starved_ticks") >= 1


def test_a_repeated_action_is_repeated_for_a_while_only(serve, drive):
    hand = drive(serve(), fallback="repeat_last", repeat_last_max_s=0.1)
    hand.until_action()
    hand.engine.pause()
    hand.until(lambda: (hand.engine.get_action() is not None) and hand.engine.dispatched.source == "repeat_last")
    hand.until(lambda: hand.engine.get_action() is None)


def test_a_hung_server_degrades_then_stalls_and_recovers(serve, drive):
    served = serve()
    hand = drive(served, request_timeout_s=5)
    for _ in range(3 * ROWS):
        hand.until_action()
    gate = served.policy.gate("predict")
    while hand.tick() is not None:
        time.sleep(0.005)
    hand.until_state(State.STALLED)
    hand.until(lambda: (hand.tick(), hand.counted("resends"))[1] >= 1)
    gate.open()
    hand.until_action()
    hand.until_state(State.STREAMING)
    assert (State.STREAMING, State.DEGRADED) in hand.changes or (State.STREAMING, State.STALLED) in hand.changes


def test_a_server_that_goes_and_comes_back_is_asked_again_at_once(serve, drive):
    served = serve()
    hand = drive(served, reconnect_initial_backoff_s=5, reconnect_max_backoff_s=5)
    hand.until_action()
    served.transport.close()  # as a crash: nobody is told
    hand.until_state(State.RECONNECTING)
    for _ in range(2 * ROWS):
        hand.tick()  # never raises
    again = serve(MockPolicy(), hub=served.hub, server_id="replica-2")
    began_s = time.monotonic()
    hand.until_action()
    assert time.monotonic() - began_s < 4, "it waited for the back-off, not for the server"
    assert again.policy.requests and hand.counted("reconnects") == 1


def test_a_draining_server_is_left_for_another(serve, drive):
    first = serve()
    hand = drive(first)
    hand.until_action()
    second = serve(MockPolicy(), hub=first.hub, server_id="replica-2")
    first.stop()
    hand.until(lambda: (hand.tick(), second.policy.requests)[1])
    hand.until_action()
    assert hand.engine.stats().server_id == "replica-2"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"model_revision": "other"}, "begin a new run for another model"),
        ({"rtc": True, "execution_horizon": ROWS, "prefix_form": "robot"}, "RTC"),
    ],
)
def test_another_policy_after_a_reconnect_ends_the_run(serve, drive, other, said):
    served = serve()
    hand = drive(served)
    hand.until_action()
    served.transport.close()
    hand.until_state(State.RECONNECTING)
    serve(
        MockPolicy(**other),
        hub=served.hub,
        server_id="replica-2",
        rules=RTC if "rtc" in other else None,
    )
    hand.until_state(State.DEAD)
    assert hand.engine.failed and isinstance(hand.engine.failure, ContractError)
    assert said in str(hand.engine.failure)
    assert hand.engine.get_action() is None or hand.engine.dispatched.source == "policy"


def test_being_offline_for_too_long_ends_the_run_but_pauses_do_not_count(serve, drive):
    served = serve()
    hand = drive(served, max_offline_s=0.5)
    hand.until_action()
    hand.engine.pause()
    served.transport.close()
    hand.until_state(State.RECONNECTING)
    began_s = time.monotonic()
    hand.until(lambda: time.monotonic() - began_s > 1.0)
    assert not hand.engine.failed
    hand.engine.resume()
    hand.until_state(State.DEAD)
    assert isinstance(hand.engine.failure, LinkError) and "max_offline_s" in str(hand.engine.failure)


# --- strangers --------------------------------------------------------------------------------------------------------


class Forger:
    """Somebody else on the network, who sees what a robot sends and answers in the server's place."""

    def __init__(self, hub: Hub, engine: Engine) -> None:
        self._transport, self._engine = MemoryTransport(hub), engine
        self.seen: list[tuple[bytes, bytes]] = []
        ack = engine.capabilities
        self._transport.subscribe(KEYS.observation("robot-1", ack.server_id), self._hear)
        self._publisher = self._transport.publisher(KEYS.action("robot-1"), "action")

    def _hear(self, sample: Any) -> None:
        self.seen.append((sample.attachment, sample.body()))

    def answer(self, *, tag: bytes, rows: np.ndarray, seq: int = 0, stamp: int = 0, epoch: int = 0) -> None:
        """A chunk for the newest request, with fields moved by as much as is said."""
        header, _ = unpack(self.seen[-1][0])
        forged = type(header)(
            header.schema_version, MessageType.CHUNK, header.seq_id + seq, header.episode_id,
            header.client_mono_ns + stamp, header.session_epoch + epoch,
        )  # fmt: skip
        self._publisher.put(
            encode(ActionChunk(seq_id_echo=forged.seq_id, chunk_robot=encode_tensor(rows))), forged.pack(tag)
        )


def test_forged_chunks_are_never_merged(serve, drive):
    served = serve()
    gate = served.policy.gate("predict")
    hand = drive(served, request_timeout_s=30, degraded_after_s=30)
    forger = Forger(served.hub, hand.engine)
    hand.look()
    gate.wait()
    tag = hand.engine.capabilities.session_tag
    rows = np.full((ROWS, DIM), 666, np.float32)
    wrong = [
        {"tag": b""},
        {"tag": bytes(8)},
        {"tag": tag, "seq": 1},
        {"tag": tag, "stamp": 1},
        {"tag": tag, "epoch": 1},
    ]
    for i, forged in enumerate(wrong, 1):
        forger.answer(rows=rows, **forged)
        assert hand.counted("foreign") == i
    assert hand.engine.stats().left_rows == 0
    gate.open()
    assert hand.until_action()[0] < 600


@pytest.mark.parametrize(
    "rows",
    [
        np.full((ROWS, DIM + 1), 1, np.float32),
        np.full((ROWS + 1, DIM), 1, np.float32),
        np.full((ROWS, DIM), np.nan, np.float32),
        np.full((ROWS, DIM), 1, np.int32),
        np.zeros((0, DIM), np.float32),
    ],
    ids=["columns", "rows", "nan", "integers", "empty"],
)
def test_a_chunk_that_may_not_be_executed_is_refused_and_asked_for_again(serve, drive, rows):
    served = serve()
    gate = served.policy.gate("predict")
    hand = drive(served, request_timeout_s=30, degraded_after_s=30)
    forger = Forger(served.hub, hand.engine)  # knows everything: as a server that went mad
    hand.look()
    gate.wait()
    forger.answer(tag=hand.engine.capabilities.session_tag, rows=rows)
    hand.until(lambda: hand.counted("malformed") == 1)
    assert hand.engine.stats().left_rows == 0
    gate.open()
    hand.until_action()


def test_a_policy_that_fails_is_asked_again_and_nothing_moves_meanwhile(serve, drive):
    served = serve()
    served.policy.fail("predict", RuntimeError("out of memory"), when=lambda _: len(served.policy.batches) < 3)
    hand = drive(served)
    hand.until_action()
    assert hand.counted("events") == 2


def test_a_server_that_never_answers_right_is_left_now_and_then_not_all_the_time(serve, drive):
    served = serve()
    served.policy.fail("predict", RuntimeError("broken"))
    hand = drive(served, request_timeout_s=0.1)
    hand.until(lambda: (hand.tick(), hand.counted("reconnects"))[1] >= 2)
    assert hand.counted("requests") <= 20
    assert hand.counted("handshakes") <= 4


# --- limits, tasks, sending -------------------------------------------------------------------------------------------


def test_the_first_action_goes_no_further_than_a_step_from_where_the_robot_stands(serve, drive):
    hand = drive(serve(), safety={"step_max": {"x": 0.25}})  # the mock doubles: far from where it stands
    action = None
    while action is None:
        hand.look(value=5.0)
        action = hand.engine.get_action()
    assert action[0] == 5.25 and action[1] == 10
    assert hand.engine.dispatched.limited == (0,) and hand.counted("limited") == 1


def test_chunks_beyond_a_limit_are_refused_where_that_is_asked_for(serve, drive):
    hand = drive(serve(), safety={"range": {"y": [-1000, -999]}, "on_limit": "reject"})
    hand.until(lambda: (hand.tick(), hand.counted("malformed"))[1] >= 2)
    assert hand.engine.stats().left_rows == 0


def test_a_new_task_is_asked_for_next_and_each_action_says_which_it_answers(serve, drive):
    served = serve()
    hand = drive(served)
    hand.until_action()
    assert hand.engine.dispatched_task == "stack"
    hand.engine.set_task("unstack")
    hand.until(lambda: hand.until_action() is not None and hand.engine.dispatched_task == "unstack")
    assert {request.task for _, request in served.policy.requests} == {"stack", "unstack"}


def test_pictures_are_shrunk_to_what_the_server_wants(serve, drive):
    served = serve(MockPolicy(cameras=(Camera(CAMERA, 8, 12),)))
    hand = drive(served)
    hand.until_action()
    assert {r.moment.images[CAMERA].shape for _, r in served.policy.requests} == {(8, 12, 3)}
    larger = drive(serve(), resize=False)
    larger.until_action()


def test_a_policy_that_looks_back_gets_the_last_frames(serve, drive):
    served = serve(MockPolicy(history_frames=3, history_step=2))
    hand = drive(served)
    for _ in range(4 * ROWS):
        hand.until_action()
    last = served.policy.requests[-1][1]
    states = [float(moment.state[0]) for moment in last.history] + [float(last.moment.state[0])]
    assert np.diff(states).tolist() == [2, 2]


# --- beginning and ending ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "settings", "said"),
    [
        ({"action_names": ("y", "x", "z")}, {}, "at 0: y on the robot, x in the policy"),
        ({"action_names": ("x", "y")}, {}, "at 2: nothing on the robot, z in the policy"),
        ({"state_names": ("x",)}, {}, "a state of 3 numbers"),
        ({"cameras": {"top": (16, 24)}}, {}, "rename_map"),
    ],
)
def test_a_robot_that_does_not_fit_never_starts(serve, features, settings, said):
    served = serve()
    whole = {"robot_type": "arm", "state_names": NAMES, "action_names": NAMES, "cameras": {"front": (16, 24)}}
    engine = Engine(
        InferenceSettings(**FAST, **settings), SafetySettings(), RobotFeatures(**{**whole, **features}), KEYS, 30.0,
        "stack", dial=lambda: MemoryTransport(served.hub),
    )  # fmt: skip
    with pytest.raises(ContractError, match=said):
        engine.start()


def test_a_camera_is_renamed_on_the_robot(serve, drive):
    served = serve()
    engine = Engine(
        InferenceSettings(**FAST, rename_map={"top": CAMERA}), SafetySettings(),
        RobotFeatures("arm", NAMES, NAMES, {"top": (16, 24)}), KEYS, 30.0, "stack",
        dial=lambda: MemoryTransport(served.hub),
    )  # fmt: skip
    engine.start()
    engine.resume()
    engine.notify_observation(
        Reading(np.zeros(3, np.float32), {"top": np.zeros((16, 24, 3), np.uint8)}, time.monotonic())
    )
    served.seen.until(lambda: served.seen.records)
    engine.stop()
    assert list(served.policy.requests[0][1].moment.images) == [CAMERA]


def test_nobody_there_is_said_within_the_time_limit():
    engine = Engine(
        InferenceSettings(**FAST, connect_timeout_s=0.5), SafetySettings(),
        RobotFeatures("arm", NAMES, NAMES), KEYS, 30.0, "stack", dial=lambda: MemoryTransport(Hub()),
    )  # fmt: skip
    began_s = time.monotonic()
    with pytest.raises(LinkError, match="want a server on @lerobot/acme-mock/main/stack/status"):
        engine.start()
    assert time.monotonic() - began_s < 2
    engine.stop()


def test_a_server_that_comes_a_little_later_is_waited_for(serve):
    hub = Hub()
    threading.Timer(0.3, lambda: serve(MockPolicy(), hub=hub)).start()
    hand = Hand(hub, connect_timeout_s=10)
    hand.engine.start()
    assert hand.engine.ready
    hand.engine.stop()


def test_it_starts_paused_and_stops_once(serve):
    served = serve()
    hand = Hand(served.hub)
    hand.engine.reset()
    hand.engine.start()
    for _ in range(3):
        assert hand.tick() is None
    assert not served.policy.requests
    hand.engine.stop()
    hand.engine.stop()
    assert hand.engine.state is State.STOPPED and hand.engine.get_action() is None
    assert served.daemon.registry.get("robot-1") is None or served.daemon.registry.get("robot-1").closed
    with pytest.raises(EdgeError, match="never started"):
        hand.engine.start()


def test_readings_of_another_clock_are_said_and_end_the_run(serve, drive, monkeypatch):
    monkeypatch.setattr("edge.worker.ERROR_PAUSE_S", 0.01)
    hand = drive(serve())
    pictures = {"front": np.zeros((16, 24, 3), np.uint8)}
    hand.engine.notify_observation(Reading(np.zeros(DIM, np.float32), pictures, time.time() + 1e6))
    hand.until_state(State.DEAD)
    assert "time.monotonic()" in str(hand.engine.failure) or "monotonic clock" in str(hand.engine.failure)


def test_nothing_is_executed_after_the_end(serve, drive):
    hand = drive(serve())
    hand.until_action()
    assert hand.engine.stats().left_rows
    hand.engine.stop()
    assert hand.engine.get_action() is None


def test_stopping_does_not_wait_for_a_server_that_hangs(serve, drive):
    served = serve()
    hand = drive(served, handshake_timeout_s=30, request_timeout_s=30)
    hand.until_action()
    served.on_control(lambda: None)
    hold = threading.Event()
    assert served.daemon.control.submit(lambda: hold.wait(WAIT_S))  # questions are not answered any more
    began_s = time.monotonic()
    hand.engine.stop()
    assert time.monotonic() - began_s < 3
    hold.set()
