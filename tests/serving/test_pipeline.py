"""From mailbox to answer: every request gets its own actions or its own error, and nothing else."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.errors import PredictError
from serving.pipeline import TICK_S
from serving.policies.base import Camera, Chunk
from serving.record import OK, STAGES
from serving.wire import features
from serving.wire.errors import EventCode
from serving.wire.header import TAG_BYTES, MessageType
from serving.wire.images import encode_image
from serving.wire.limits import DEFAULT_LIMITS
from serving.wire.messages import ROBOT, ActionChunk, Event, Frame
from serving.wire.tensors import Tensor, decode_tensor, encode_tensor
from tests.serving.driver import PICTURE
from tests.serving.mock_policy import CAMERA, DIM, ROWS, WAIT_S, MockPolicy, chunk_of


def array(tensor: Tensor | None) -> np.ndarray:
    found = decode_tensor(tensor, "chunk", DEFAULT_LIMITS, half=True)
    assert found is not None
    return found


def actions(state: float) -> np.ndarray:
    """What the mock answers, robot space."""
    return chunk_of(np.full(DIM, state, np.float32)) * 2


def prefix(rows: int, value: float = 0.5, columns: int = DIM, dtype: str = "<f4") -> Tensor | None:
    return encode_tensor(np.full((rows, columns), value, dtype))


# --- an answer -------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_policys_in_both_spaces_with_the_request_echoed(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    robot.episode = 3
    seq = robot.put(robot.body(1.5), client_mono_ns=-77)
    message = robot.answer(seq)
    assert isinstance(message, ActionChunk)
    np.testing.assert_array_equal(array(message.chunk_robot), actions(1.5))
    np.testing.assert_array_equal(array(message.chunk_model), actions(1.5) / 2)
    assert (message.seq_id_echo, message.client_mono_ns_echo, message.episode_id_echo) == (seq, -77, 3)
    header, tag, _ = robot.heard[0]
    assert (header.msg_type, header.seq_id, header.episode_id) == (MessageType.CHUNK, seq, 3)
    assert (header.client_mono_ns, header.session_epoch, header.schema_version) == (-77, robot.epoch, 1)
    assert tag == robot.ack.session_tag and len(tag) == TAG_BYTES
    assert message.server_load == 1 / 8 and message.superseded_seqs == 0


def test_every_stage_is_timed_and_told(serve):
    served = serve(MockPolicy())
    robot = served.robot("ann")
    message = robot.answer(robot.send())
    assert isinstance(message, ActionChunk)
    record = served.seen.record("ann", 1)
    assert set(record.stages_s) == set(STAGES) and all(s >= 0 for s in record.stages_s.values())
    assert message.stages_ms is not None and set(message.stages_ms) == set(STAGES) - {"encode"}
    assert message.queue_wait_ms == pytest.approx(record.waited_s * 1e3)
    assert message.inference_ms == pytest.approx(record.inference_s * 1e3)
    assert (record.outcome, record.chunk_rows, record.batch, record.client) == (OK, ROWS, 1, "ann")
    assert record.session_id == robot.ack.session_id


def test_a_stage_that_takes_long_is_the_one_that_is_told(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate("predict")
    robot.send()
    gate.wait()
    robot.send()  # lies in the mailbox for as long
    threading.Event().wait(0.06)
    gate.open()
    first, second = served.seen.record("ann", 1), served.seen.record("ann", 2)
    assert first.stages_s["predict"] >= 0.05 > first.stages_s["preprocess"]
    assert second.stages_s["queue"] >= 0.05


def test_robots_get_their_own_answers_only(serve):
    """Many robots at once, batched, each with its own state: no answer is another's."""
    policy = MockPolicy(batch_max=4)
    served = serve(policy, sessions_max=6, finish_threads=3)
    robots = [served.robot(f"robot-{i}") for i in range(6)]
    failed: list[str] = []

    def run(number: int) -> None:
        for step in range(15):
            state = 100.0 * number + step
            if not np.array_equal(robots[number].step(state), actions(state)):
                failed.append(f"robot-{number} step {step}")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {name for name, _ in policy.requests} == {robot.name for robot in robots}
    for robot in robots:
        assert all(tag == robot.ack.session_tag for _, tag, _ in robot.heard) and len(robot.heard) == 15


# --- batches ---------------------------------------------------------------------------------------------------------


def batched(serve: Any, policy: MockPolicy, sends: dict[str, dict[str, Any]], **settings: Any) -> list[list[str]]:
    """Who was predicted together when these came in while the policy was busy with another."""
    served = serve(policy, **settings)
    robots = {name: served.robot(name, rtc_enabled=True) for name in sends}
    first = served.robot("first")
    gate = policy.gate("predict")
    first.send()
    gate.wait()
    arrived = policy.hooks["prepare"] = _Counted()
    for name, fields in sends.items():
        robots[name].send(**fields)
    arrived.wait(min(len(sends), 2 * policy.spec.batch_max - 1))  # more are not prepared ahead
    gate.open()
    for name in sends:
        robots[name].chunk(1)
    served.settle()
    return [sorted(item.client for item in batch) for batch in policy.batches[1:]]


class _Counted:
    """A hook that counts, to be waited for."""

    def __init__(self) -> None:
        self._changed, self._count = threading.Condition(), 0

    def __call__(self, value: Any) -> Any:
        with self._changed:
            self._count += 1
            self._changed.notify_all()
        return value

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, WAIT_S)


RTC = dict(rtc=True, prefix_form="model", execution_horizon=4)


def test_what_waits_together_is_predicted_together(serve):
    sends = {name: {"state": i} for i, name in enumerate("abc")}
    assert batched(serve, MockPolicy(batch_max=4), sends) == [["a", "b", "c"]]


def test_a_batch_has_at_most_as_many_as_the_policy_takes(serve):
    found = batched(serve, MockPolicy(batch_max=2), {name: {} for name in "abcd"})
    assert sum(map(len, found)) == 4 and len(found[0]) == max(map(len, found)) == 2


def test_only_requests_of_one_delay_and_prefix_share_a_batch(serve):
    sends = {
        "a": {"inference_delay_steps": 1, "prefix_model": prefix(3)},
        "b": {"inference_delay_steps": 2, "prefix_model": prefix(3)},
        "c": {"inference_delay_steps": 1, "prefix_model": prefix(2)},
        "d": {"inference_delay_steps": 1, "prefix_model": prefix(3)},
        "e": {},
    }
    policy = MockPolicy(batch_max=8, **RTC)
    found = batched(serve, policy, sends, rules={"rtc": True})
    assert sorted(found) == [["a", "d"], ["b"], ["c"], ["e"]]
    assert len({len(item.request.prefix_model) for item in policy.batches[1]}) == 1  # type: ignore[arg-type]


def test_a_policy_that_takes_mixed_delays_gets_them_together(serve):
    sends = {"a": {"inference_delay_steps": 1, "prefix_model": prefix(3)}, "b": {"inference_delay_steps": 2}, "c": {}}
    policy = MockPolicy(batch_max=8, mixed_delays=True, **RTC)
    assert batched(serve, policy, sends, rules={"rtc": True}) == [["a", "b", "c"]]


@pytest.mark.parametrize("mixed", [False, True])
def test_pictures_of_other_sizes_make_another_batch(serve, mixed):
    other = {CAMERA: encode_image(np.zeros((8, 8, 3), np.uint8))}
    sends = {"a": {}, "b": {"images": other}, "c": {}, "d": {"images": other}}
    found = batched(serve, MockPolicy(batch_max=8, mixed_delays=mixed), sends)
    assert sorted(found) == [["a", "c"], ["b", "d"]]


def test_a_lone_robot_never_waits_for_others(serve):
    served = serve(MockPolicy(batch_max=8), max_wait_s=WAIT_S)
    robot = served.robot("ann")
    for state in range(3):
        robot.step(state)
    assert all(record.stages_s["wait"] < WAIT_S / 4 for record in served.seen.records)


def test_a_request_waits_for_one_being_decoded_but_no_longer_than_agreed(serve):
    policy = MockPolicy(batch_max=8)
    served = serve(policy, max_wait_s=0.05)
    slow, quick = served.robot("slow"), served.robot("quick")
    gate = policy.gate("prepare")
    slow.send(1)
    gate.wait()
    del policy.hooks["prepare"]
    quick.step(2)  # although the other is still being prepared
    assert 0.04 <= served.seen.record("quick", 1).stages_s["wait"] < WAIT_S / 4
    gate.open()
    np.testing.assert_array_equal(slow.chunk(1), actions(1))


def test_the_most_urgent_is_served_first(serve):
    policy = MockPolicy()
    served = serve(policy, decode_threads=1)
    first = served.robot("first")
    robots = {name: served.robot(name) for name in ("patient", "urgent", "silent")}
    gate = policy.gate("prepare")
    first.send()
    gate.wait()
    robots["patient"].send(buffer_left_ms=9000.0)
    robots["silent"].send()  # says nothing: a second is assumed
    robots["urgent"].send(buffer_left_ms=10.0)
    gate.open()
    for robot in robots.values():
        robot.chunk(1)
    assert [client for client, _ in policy.requests] == ["first", "urgent", "silent", "patient"]


def test_how_long_a_robot_can_go_on_counts_only_where_that_was_agreed(serve):
    policy = MockPolicy()
    served = serve(policy, decode_threads=1)
    first, liar = served.robot("first"), served.robot("liar", features=[features.EVENTS])
    honest = served.robot("honest")
    gate = policy.gate("prepare")
    first.send()
    gate.wait()
    liar.send(buffer_left_ms=0.0)
    honest.send(buffer_left_ms=10.0)
    gate.open()
    liar.chunk(1)
    honest.chunk(1)
    assert [client for client, _ in policy.requests] == ["first", "honest", "liar"]


def test_a_body_that_would_keep_the_network_busy_is_not_asked_how_urgent_it_is():
    from serving.decode import buffer_left_s

    assert buffer_left_s(msgspec.msgpack.encode({"x": [0] * 100, "buffer_left_ms": 5.0})) == 0.005
    assert buffer_left_s(msgspec.msgpack.encode({"x": [0] * 1_000_000, "buffer_left_ms": 5.0})) is None
    for left_ms, found in ((-3.0, 0.0), (float("nan"), None), (float("inf"), None), (None, None), ("x", None)):
        assert buffer_left_s(msgspec.msgpack.encode({"buffer_left_ms": left_ms})) == found


# --- the newest observation ------------------------------------------------------------------------------------------


def test_the_newest_observation_wins_and_the_others_are_counted_in_its_answer(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate("predict")
    robot.send(0)
    gate.wait()
    for state in (1, 2, 3):
        last = robot.send(state)
    gate.open()
    np.testing.assert_array_equal(robot.chunk(last), actions(3))
    message = robot.answer(last)
    assert isinstance(message, ActionChunk) and message.superseded_seqs == 2
    assert served.seen.record("ann", last).superseded == 2 and served.seen.drops["superseded"] == 2
    message = robot.answer(robot.send(4))
    assert isinstance(message, ActionChunk) and message.superseded_seqs == 0  # read once
    assert [request.moment.state[0] for _, request in policy.requests] == [0, 3, 4]  # type: ignore[index]


def test_what_waits_in_the_mailbox_is_taken_as_soon_as_the_turn_ends(serve):
    """Not when an idle thread next looks around."""
    policy = MockPolicy()
    served = serve(policy)
    robot, took_s = served.robot("ann"), []
    for _ in range(5):
        gate = policy.gate("finish")
        robot.send(1)
        gate.wait()
        waiting = robot.send(2)
        started_s = time.monotonic()
        gate.open()
        robot.chunk(waiting)
        took_s.append(time.monotonic() - started_s)
        served.settle()
    assert min(took_s) < TICK_S / 4


def test_no_robot_has_two_requests_under_way(serve):
    policy = MockPolicy(batch_max=8)
    served = serve(policy, decode_threads=3)
    robot = served.robot("ann")
    gate = policy.gate("predict")
    robot.send(0)
    gate.wait()
    robot.send(1)
    assert policy.count("prepare") == 1  # the second lies in the mailbox until the first is answered
    gate.open()
    robot.chunk(2)
    assert [len(batch) for batch in policy.batches] == [1, 1]


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["prepare", "predict", "finish", "forget"])
def test_a_step_that_raises_fails_its_request_only(serve, step, caplog):
    policy = MockPolicy(batch_max=4)
    served = serve(policy)
    ill, well = served.robot("ill"), served.robot("well")
    well.step(1)
    policy.fail(step, RuntimeError("secret insides"))
    event = ill.event(EventCode.INTERNAL, ill.send(2))
    assert "RuntimeError" in event.reason and "secret" not in event.reason and event.retryable
    assert event.seq_id_echo == 1
    assert served.seen.record("ill", 1).outcome.startswith("error: internal: ")
    assert "secret insides" in caplog.text  # for whoever runs the server
    del policy.hooks[step]
    np.testing.assert_array_equal(well.step(3), actions(3))
    np.testing.assert_array_equal(ill.step(4), actions(4))


def test_what_a_policy_says_about_a_request_is_told(serve, caplog):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    policy.fail("prepare", PredictError("want a closed gripper", "an open one", "close it"))
    event = robot.event(EventCode.INTERNAL, robot.send())
    assert "want a closed gripper" in event.reason and "close it" in event.reason
    assert "Traceback" not in caplog.text


def test_one_request_that_breaks_a_batch_takes_nobody_with_it(serve):
    policy = MockPolicy(batch_max=4)
    served = serve(policy)
    first = served.robot("first")
    robots = {name: served.robot(name) for name in ("a", "poison", "c")}
    gate = policy.gate("predict")
    first.send()
    gate.wait()
    arrived = policy.hooks["prepare"] = _Counted()
    for i, robot in enumerate(robots.values()):
        robot.send(i)
    arrived.wait(3)
    policy.fail("predict", ValueError("no"), when=lambda batch: any(item[0, 0] == 1 for item in batch))
    gate.open()
    robots["poison"].event(EventCode.INTERNAL, 1)
    for i, name in ((0, "a"), (2, "c")):
        np.testing.assert_array_equal(robots[name].chunk(1), actions(i))
        assert served.seen.record(name, 1).batch == 1
    assert [len(batch) for batch in policy.batches] == [1, 3, 1, 1, 1]
    assert len(served.seen.records) == 4


@pytest.mark.parametrize("answers", [[], None, 7, [1, 2]], ids=["none", "null", "number", "too many"])
def test_a_policy_that_gives_another_number_of_answers_is_an_error(serve, answers):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    policy.hooks["predict"] = lambda _: answers
    robot.event(EventCode.INTERNAL, robot.send())
    del policy.hooks["predict"]
    robot.step()


def spoilt(change: Any) -> Any:
    def hook(chunk: Chunk) -> Any:
        return change(chunk.model.copy(), chunk.robot.copy())

    return hook


def with_value(value: float, space: str) -> Any:
    def change(model: np.ndarray, robot: np.ndarray) -> Chunk:
        (model if space == "model" else robot)[2, 1] = value
        return Chunk(model, robot)

    return spoilt(change)


@pytest.mark.parametrize(
    "hook",
    [
        with_value(np.nan, "robot"),
        with_value(np.nan, "model"),
        with_value(np.inf, "robot"),
        with_value(-np.inf, "model"),
        spoilt(lambda m, r: Chunk(m[:-1], r[:-1])),
        spoilt(lambda m, r: Chunk(m, r[:, :-1])),
        spoilt(lambda m, r: Chunk(m[None], r[None])),
        spoilt(lambda m, r: Chunk(m.T, r.T)),
        spoilt(lambda m, r: Chunk(m, r.astype(np.float64) * 1e300)),
        spoilt(lambda m, r: Chunk(m, None)),
        spoilt(lambda m, r: Chunk(m.astype(str).astype(object), r)),
        spoilt(lambda m, r: Chunk(m, np.full_like(r, "x", dtype=object))),
        spoilt(lambda m, r: None),
        spoilt(lambda m, r: r),
    ],
    ids=[
        "nan", "nan model", "inf", "inf model", "short", "narrow", "ndim", "turned", "too large", "none", "text",
        "objects", "no chunk", "array",
    ],
)  # fmt: skip
def test_no_wrong_action_ever_leaves_the_server(serve, hook, request):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    policy.hooks["finish"] = hook
    if request.node.callspec.id == "text":  # numbers in words are numbers
        np.testing.assert_array_equal(robot.step(1), actions(1))
        return
    robot.event(EventCode.INTERNAL, robot.send(1))
    del policy.hooks["finish"]
    robot.step(2)
    assert [type(message) for _, _, message in robot.heard] == [Event, ActionChunk]
    assert served.seen.record("ann", 1).chunk_rows == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"state": None}, "none"),
        ({"state": encode_tensor(np.zeros(DIM + 1, np.float32))}, "(4,)"),
        ({"state": encode_tensor(np.zeros((1, DIM), np.float32))}, "(1, 3)"),
        ({"state": encode_tensor(np.array([1, np.nan, 0], np.float32))}, "NaN"),
        ({"state": encode_tensor(np.array([1, np.inf, 0], np.float32))}, "infinity"),
        ({"state": encode_tensor(np.full(DIM, 1e300))}, "infinity"),  # a double too large for a float
        ({"state": encode_tensor(np.ones(DIM, bool))}, "bool"),
        ({"state": Tensor("|O", [3], memoryview(b"x" * 24))}, "object dtype, refused"),
        ({"state": Tensor("<c8", [3], memoryview(b"x" * 24))}, "<c8"),
        ({"state": Tensor("<f4", [3], memoryview(b"x" * 8))}, "8 bytes"),
        ({"state": Tensor("<f4", [1 << 40], memoryview(b""))}, "values"),
        ({"state": Tensor("<f4", [1, 1, 1, 1, 3], memoryview(b"x" * 12))}, "dimensions"),
        ({"images": {}}, "no observation.images.front"),
        ({"images": {"observation.images.wrist": PICTURE}}, "no observation.images.front"),
    ],
)
def test_a_wrong_observation_gets_its_reason_and_never_reaches_the_policy(serve, fields, said):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    event = robot.event(EventCode.BAD_REQUEST, robot.send(**fields))
    assert said in event.reason and not event.retryable
    assert policy.requests == [] and served.seen.record("ann", 1).error_code == "bad_request"
    robot.step(1)


def test_a_state_is_finite_also_where_the_policy_declares_none(serve):
    policy = MockPolicy(state_dim=0)
    served = serve(policy)
    robot = served.robot("ann")
    robot.event(EventCode.BAD_REQUEST, robot.send(state=encode_tensor(np.array([np.nan]))))
    robot.event(EventCode.BAD_REQUEST, robot.send(state=encode_tensor(np.full(DIM, 1e300))))
    np.testing.assert_array_equal(robot.chunk(robot.send(state=None)), actions(0))


def test_pictures_nobody_looks_at_are_checked_but_not_decoded(serve, monkeypatch):
    import serving.decode

    decoded: list[str] = []
    real = serving.decode.decode_image
    monkeypatch.setattr(serving.decode, "decode_image", lambda image, name: decoded.append(name) or real(image, name))
    served = serve(MockPolicy())
    robot = served.robot("ann")
    robot.chunk(robot.send(images={CAMERA: PICTURE, "extra": PICTURE}))
    assert decoded == [f"images.{CAMERA}"]
    broken = {CAMERA: PICTURE, "extra": encode_image(np.zeros((8, 8, 3), np.uint8)).__class__(memoryview(b"no"))}
    robot.event(EventCode.BAD_REQUEST, robot.send(images=broken))


def test_a_recorder_that_fails_ends_no_request(serve, caplog):
    def broken(record: object) -> None:
        raise OSError("no space left")

    served = serve(MockPolicy(), listeners=(broken,))
    robot = served.robot("ann")
    for state in range(20):
        robot.step(state)
    robot.event(EventCode.BAD_REQUEST, robot.put(b"\xc1"))
    assert served.daemon.healthy and len(served.seen.records) == 21
    assert 1 <= caplog.text.count("no space left") <= 12  # and the log stays short


# --- what was agreed -------------------------------------------------------------------------------------------------


def test_events_go_to_those_who_know_them_only(serve):
    policy = MockPolicy()
    served = serve(policy)
    old = served.robot("old", features=[])
    old.put(b"\xc1")
    assert served.seen.record("old", 1).error_code == "bad_request"
    old.step(1)
    assert [type(message) for _, _, message in old.heard] == [ActionChunk]
    _, tag, message = old.heard[0]
    assert tag == b"" and message.chunk_model is not None and message.stages_ms is None


@pytest.mark.parametrize(
    ("asks", "both", "dtype"),
    [
        ({}, True, "<f4"),
        ({"chunk_form": ROBOT}, False, "<f4"),
        ({"accept_f16": True}, True, "<f2"),
        ({"chunk_form": ROBOT, "accept_f16": True}, False, "<f2"),
    ],
)
def test_chunks_come_in_the_forms_that_were_agreed(serve, asks, both, dtype):
    served = serve(MockPolicy())
    robot = served.robot("ann", **asks)
    message = robot.answer(robot.send(0.25))
    assert isinstance(message, ActionChunk) and message.chunk_robot is not None
    assert message.chunk_robot.dtype == dtype
    np.testing.assert_allclose(array(message.chunk_robot), actions(0.25), rtol=1e-3)
    assert (message.chunk_model is not None) == both
    assert robot.ack.f16 == (dtype == "<f2") and robot.ack.chunk_form == ("both" if both else ROBOT)


@pytest.mark.parametrize(("state", "dtype"), [(32_000.0, "<f2"), (33_000.0, "<f4"), (-33_000.0, "<f4")])
def test_actions_too_large_for_half_floats_are_sent_whole(serve, state, dtype):
    served = serve(MockPolicy())
    robot = served.robot("ann", accept_f16=True)
    message = robot.answer(robot.send(state))
    assert isinstance(message, ActionChunk) and message.chunk_robot is not None
    assert message.chunk_robot.dtype == dtype and np.isfinite(array(message.chunk_robot)).all()


def test_a_client_that_needs_the_prefix_in_model_space_gets_both_forms(serve):
    served = serve(MockPolicy(**RTC), rules={"rtc": True})
    robot = served.robot("ann", chunk_form=ROBOT, rtc_enabled=True)
    message = robot.answer(robot.send())
    assert isinstance(message, ActionChunk) and message.chunk_model is not None and robot.ack.chunk_form == "both"


# --- episodes --------------------------------------------------------------------------------------------------------


def test_processors_forget_once_an_episode_and_a_shared_policy_never(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    for episode, start in ((0, True), (0, False), (1, False), (1, False), (2, True), (2, False)):
        robot.episode = episode
        robot.step(episode_start=start)
    assert policy.count("forget") == 3 and policy.count("reset") == 0


def test_an_exclusive_policy_forgets_with_the_session_and_with_each_episode(serve):
    policy = MockPolicy(shared=False)
    served = serve(policy)
    robot = served.robot("ann")
    for episode in (0, 0, 1, 1):
        robot.episode = episode
        robot.step()
    assert [step for step, _ in policy.calls if step in ("reset", "predict")] == [
        "reset", "predict", "predict", "reset", "predict", "predict",
    ]  # fmt: skip
    assert [record.policy_reset for record in served.seen.records] == [True, False, True, False]


@pytest.mark.parametrize("step", ["prepare", "reset"])
def test_a_policy_forgets_although_the_first_request_of_the_episode_failed(serve, step):
    policy = MockPolicy(shared=False)
    served = serve(policy)
    robot = served.robot("ann")
    robot.step()
    robot.episode = 1
    policy.fail(step, RuntimeError("not yet"))
    robot.event(EventCode.INTERNAL, robot.send())
    del policy.hooks[step]
    before = policy.count("reset")
    robot.step()
    assert policy.count("reset") == before + 1
    robot.step()
    assert policy.count("reset") == before + 1


def test_a_wrong_first_observation_does_not_begin_the_episode(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    robot.event(EventCode.BAD_REQUEST, robot.send(images={}))
    assert policy.count("forget") == 0
    robot.step()
    assert policy.count("forget") == 1


# --- prefix and delay ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["model", "robot"])
def test_prefix_and_delay_reach_the_policy_as_they_are(serve, form):
    """With their true length: zeros in place of missing rows would be actions."""
    policy = MockPolicy(**{**RTC, "prefix_form": form})
    served = serve(policy, rules={"rtc": True})
    robot = served.robot("ann", rtc_enabled=True)
    assert robot.ack.supports_rtc and robot.ack.rtc_execution_horizon == 4 and robot.ack.prefix_form == form
    rows = np.arange(2 * DIM, dtype=np.float32).reshape(2, DIM)
    robot.step(inference_delay_steps=2, prefix_model=encode_tensor(rows), prefix_robot=encode_tensor(rows * 2))
    (_, request), *_ = policy.requests
    np.testing.assert_array_equal(request.prefix_model, rows)
    np.testing.assert_array_equal(request.prefix_robot, rows * 2)
    assert request.delay_steps == 2 and request.prefix_model.dtype == np.float32


def test_an_exhausted_queue_is_no_prefix(serve):
    policy = MockPolicy(**RTC)
    served = serve(policy, rules={"rtc": True})
    robot = served.robot("ann", rtc_enabled=True)
    robot.step(prefix_model=prefix(0), inference_delay_steps=-4)
    assert policy.requests[0][1].prefix_model is None and policy.requests[0][1].delay_steps == 0


def test_without_rtc_prefix_and_delay_are_left_out(serve):
    policy = MockPolicy(**RTC)
    served = serve(policy)
    robot = served.robot("ann", rtc_enabled=True)
    assert not robot.ack.supports_rtc and robot.ack.warnings
    robot.step(prefix_model=prefix(2), inference_delay_steps=10_000)
    assert policy.requests[0][1].prefix_model is None and policy.requests[0][1].delay_steps == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"inference_delay_steps": ROWS + 1},
        {"inference_delay_steps": 2**62},
        {"prefix_model": prefix(ROWS + 1)},
        {"prefix_model": prefix(2, columns=DIM + 1)},
        {"prefix_model": prefix(2, value=np.nan)},
        {"prefix_model": prefix(2, value=1e300, dtype="<f8")},
        {"prefix_robot": prefix(2, value=np.inf)},
        {"prefix_model": encode_tensor(np.ones((2, DIM), np.int32))},
        {"prefix_model": encode_tensor(np.ones(DIM, np.float32))},
    ],
)
def test_a_wrong_prefix_or_delay_is_refused(serve, fields):
    policy = MockPolicy(**RTC)
    served = serve(policy, rules={"rtc": True})
    robot = served.robot("ann", rtc_enabled=True)
    robot.event(EventCode.BAD_REQUEST, robot.send(**fields))
    assert policy.requests == []
    robot.step(inference_delay_steps=ROWS, prefix_model=prefix(ROWS))


# --- task ------------------------------------------------------------------------------------------------------------


def test_the_task_of_a_request_is_its_own_or_the_sessions_or_the_services(serve):
    policy = MockPolicy()
    served = serve(policy)
    plain, named = served.robot("plain"), served.robot("named", task="fold")
    plain.step()
    named.step()
    named.step(task="pour")
    assert [request.task for _, request in policy.requests] == ["stack", "fold", "pour"]


def test_a_pinned_task_holds_for_every_request(serve):
    policy = MockPolicy()
    served = serve(policy, rules={"pinned_task": "stack"}, pinned_task="stack")
    robot = served.robot("ann")
    event = robot.event(EventCode.BAD_REQUEST, robot.send(task="fold"))
    assert "'stack'" in event.reason and "'fold'" in event.reason
    robot.step(task="stack")
    robot.step()
    assert [request.task for _, request in policy.requests] == ["stack", "stack"]


# --- history ---------------------------------------------------------------------------------------------------------


def test_earlier_moments_reach_a_policy_that_looks_back(serve):
    policy = MockPolicy(history_frames=3)
    served = serve(policy)
    robot = served.robot("ann")
    frames = [Frame(age, encode_tensor(np.full(DIM, -age, np.float32)), {CAMERA: PICTURE}) for age in (2, 1)]
    robot.step(history=frames)
    moments = policy.requests[0][1].history
    assert [moment.state[0] for moment in moments] == [-2, -1]
    assert moments[0].images[CAMERA].shape == (16, 24, 3)
    robot.event(EventCode.BAD_REQUEST, robot.send(history=[*frames, frames[0]]))
    robot.event(EventCode.BAD_REQUEST, robot.send(history=[Frame(1, frames[0].state, {})]))


def test_pictures_of_all_moments_count_together(serve):
    from serving.wire.limits import Limits

    served = serve(MockPolicy(history_frames=3), limits=Limits(pixels_max=2 * 16 * 24))
    robot = served.robot("ann")
    frame = Frame(1, encode_tensor(np.zeros(DIM, np.float32)), {CAMERA: PICTURE})
    robot.step(history=[frame])
    event = robot.event(EventCode.BAD_REQUEST, robot.send(history=[frame, frame]))
    assert "pixels" in event.reason


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_request_whose_session_ends_is_not_counted_as_answered(serve):
    policy = MockPolicy()
    served = serve(policy, keep_bodies=True)
    robot = served.robot("ann")
    gate = policy.gate("finish")
    robot.send()
    gate.wait()
    assert robot.close().outcome == "closed"
    served.seen.until(lambda: served.seen.drops["session_closed"])
    served.control_idle()
    assert served.daemon.pipeline._finish.drain(WAIT_S)
    gate.open()
    record = served.seen.record("ann", 1)
    assert record.error_code == "session_closed" and record.reply_body == b"" and record.chunk_rows == 0
    assert robot.answers(1) == []


def test_stop_lets_what_is_predicted_be_answered(serve, monkeypatch):
    """The finish pool outlives the policy's thread: else the last answer would have nobody to send it."""
    monkeypatch.setattr("serving.pipeline.TICK_S", 0.01)
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    gate = policy.gate("predict")
    robot.send(1)
    gate.wait()
    stopping = threading.Thread(target=served.daemon.pipeline.stop, args=(WAIT_S,))
    stopping.start()
    with served.daemon.pipeline._wake:  # until it has said so
        assert served.daemon.pipeline._wake.wait_for(lambda: served.daemon.pipeline._stopping, WAIT_S)
    threading.Event().wait(0.1)  # idle threads look around several times
    gate.open()
    np.testing.assert_array_equal(robot.chunk(1), actions(1))
    stopping.join(WAIT_S)
    assert not any(thread.is_alive() for thread in served.daemon.pipeline._threads)
    served.daemon.control.stop(WAIT_S)
    served.daemon.stopped.set()  # there is nobody left to drain


def test_an_observation_into_a_session_that_closes_leaves_nothing_behind(serve):
    policy = MockPolicy()
    served = serve(policy)
    robot = served.robot("ann")
    session = served.session(robot)
    assert robot.close().outcome == "closed"
    served.settle()
    session.mailbox.put(_deposit(robot))
    served.daemon.pipeline.offer(session)
    started_s = time.monotonic()
    assert served.daemon.pipeline.drain(WAIT_S) and time.monotonic() - started_s < WAIT_S / 2
    pipeline = served.daemon.pipeline
    assert not pipeline._waiting and not pipeline._deadlines
    assert not pipeline._scheduler._ready_since and not pipeline._scheduler._served


def _deposit(robot: Any) -> Any:
    from serving.mailbox import Deposit
    from serving.wire.header import Header

    return Deposit(Header(1, 1, 1, 0, 0, 1), robot.body(), time.monotonic())


def test_cameras_may_be_none(serve):
    served = serve(MockPolicy(cameras=()))
    robot = served.robot("ann", camera_names=[])
    np.testing.assert_array_equal(robot.step(1, images={}), actions(1))
    served = serve(MockPolicy(cameras=(Camera("a"), Camera("b"))))
    assert not served.robot("bob", camera_names=["a", "b"]).ack.error
