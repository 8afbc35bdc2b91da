"""Messages: what is sent arrives; unknown keys are skipped, absent ones take the default, wrong types are refused."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.wire import messages
from serving.wire.errors import LimitError, MessageError
from serving.wire.messages import (
    KINDS,
    ActionChunk,
    Event,
    Observation,
    Reset,
    ResetAck,
    SessionAck,
    SessionClose,
    SessionOpen,
    SessionRequest,
    Status,
    decode,
    encode,
)
from tests.serving.wire import golden, strategies

# the specification of schema version 1: each field and its default
CAPABILITIES: dict[str, Any] = {
    "model_repo": "", "model_revision": "", "policy_type": "", "action_names": [], "expected_cameras": [],
    "state_dim": 0, "chunk_size": 0, "trained_fps": 0.0, "supports_rtc": False, "rtc_execution_horizon": 0,
    "serving_mode": "", "warmed_up": False,
}  # fmt: skip
SCHEMA_1: dict[type[msgspec.Struct], dict[str, Any]] = {
    Observation: {
        "state": None, "images": {}, "task": "", "inference_delay_steps": 0, "prefix_model": None,
        "prefix_robot": None, "episode_start": False,
    },
    ActionChunk: {
        "seq_id_echo": 0, "client_mono_ns_echo": 0, "episode_id_echo": 0, "chunk_model": None, "chunk_robot": None,
        "queue_wait_ms": 0.0, "inference_ms": 0.0, "superseded_seqs": 0, "server_load": 0.0,
    },
    SessionOpen: {
        "op": "open", "client_uuid": "", "robot_type": "", "policy_type": "", "fps": 0.0, "action_names": [],
        "camera_names": [], "state_dim": 0, "schema_version": 1, "rtc_enabled": False, "task": "", "tags": {},
    },
    SessionAck: {
        **CAPABILITIES, "accepted": False, "error": "", "warnings": [], "session_id": "", "schema_version": 1,
        "server_load": 0.0,
    },
    Status: {
        **CAPABILITIES, "min_schema_version": 1, "max_schema_version": 1, "active_sessions": 0, "max_sessions": 0,
    },
    Reset: {"client_uuid": "", "episode_id": 0},
    ResetAck: {"ok": True, "error": ""},
    SessionClose: {"op": "close", "client_uuid": "", "session_id": ""},
}  # fmt: skip
FIELDS = [(kind, field.name) for kind in KINDS for field in msgspec.structs.fields(kind)]
EMPTY_MAP = msgpack.packb({})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_message_survives_the_trip(kind, data):
    message = data.draw(strategies.of_type(kind))
    body = encode(message)
    assert decode(body, kind) == message
    again = msgpack.unpackb(body, raw=False)
    assert list(again) == list(kind.__struct_fields__), "another library finds every field, in our order"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(extra=st.dictionaries(st.text(max_size=6).map(lambda text: f"x-{text}"), strategies.TREES, max_size=3))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_unknown_keys_are_skipped_wherever_they_stand(kind, extra):
    plain = msgpack.unpackb(encode(kind()), raw=False)
    assert decode(msgpack.packb({**extra, **plain}), kind) == kind()
    assert decode(msgpack.packb({**plain, **extra}), kind) == kind()


@pytest.mark.parametrize(("kind", "defaults"), SCHEMA_1.items(), ids=[kind.__name__ for kind in SCHEMA_1])
def test_absent_keys_take_the_default_of_the_specification(kind, defaults):
    message = decode(EMPTY_MAP, kind)
    for name, default in defaults.items():
        value = getattr(message, name)
        assert value == default and type(value) is type(default), name


@pytest.mark.parametrize("vector", golden.WHOLE.values(), ids=golden.WHOLE)
def test_each_key_may_be_absent_alone(vector):
    for name in vector.map:
        rest = {key: value for key, value in vector.map.items() if key != name}
        message = decode(msgpack.packb(rest), vector.kind)
        whole = decode(vector.body, vector.kind)
        for other in vector.kind.__struct_fields__:
            assert getattr(message, other) == getattr(vector.kind() if other == name else whole, other)


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in FIELDS])
@pytest.mark.parametrize("wrong", [msgpack.ExtType(5, b"code"), msgpack.Timestamp(1, 2)], ids=["ext", "timestamp"])
def test_a_wrong_type_is_refused_with_the_field(kind, name, wrong):
    with pytest.raises(MessageError) as caught:
        decode(msgpack.packb({name: wrong}), kind)
    assert f"$.{name}" in str(caught.value) and kind.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fields", "path"),
    [
        (Observation, {"task": 5}, "$.task"),
        (Observation, {"task": None}, "$.task"),
        (Observation, {"inference_delay_steps": 1.5}, "$.inference_delay_steps"),
        (Observation, {"inference_delay_steps": True}, "$.inference_delay_steps"),
        (Observation, {"episode_start": 1}, "$.episode_start"),
        (Observation, {"state": [1.0]}, "$.state"),
        (Observation, {"state": {"dtype": "<f4", "shape": [1]}}, "data"),
        (Observation, {"state": {"dtype": 4, "shape": [1], "data": b""}}, "$.state.dtype"),
        (Observation, {"state": {"dtype": "<f4", "shape": [-1], "data": b""}}, "$.state.shape[0]"),
        (Observation, {"state": {"dtype": "<f4", "shape": [0, "1"], "data": b""}}, "$.state.shape[1]"),
        (Observation, {"state": {"dtype": "<f4", "shape": [1], "data": "text"}}, "$.state.data"),
        (Observation, {"images": {"a": b"jpeg"}}, "$.images[...]"),
        (Observation, {"images": {"a": {"codec": "jpeg"}}}, "data"),
        (Observation, {"images": {1: {"data": b""}}}, "$.images"),
        (Observation, {"history": [{}, {"age_steps": "x"}]}, "$.history[1].age_steps"),
        (SessionOpen, {"fps": "30"}, "$.fps"),
        (SessionOpen, {"action_names": "x"}, "$.action_names"),
        (SessionOpen, {"action_names": ["x", 1]}, "$.action_names[1]"),
        (SessionOpen, {"tags": {"a": 1}}, "$.tags[...]"),
        (SessionRequest, {"op": "delete"}, "$.op"),
        (SessionAck, {"session_tag": "text"}, "$.session_tag"),
        (Status, {"image_sizes": {"a": [1]}}, "$.image_sizes[...]"),
        (Status, {"image_sizes": {"a": [0, 224]}}, "$.image_sizes[...][0]"),
    ],
)
def test_wrong_values_are_refused_with_their_path(kind, fields, path):
    with pytest.raises(MessageError) as caught:
        decode(msgpack.packb(fields), kind)
    assert path in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("kind", "fields", "path"),
    [
        (Observation, "buffer_left_ms", "$.buffer_left_ms"),
        (SessionOpen, "fps", "$.fps"),
        (Status, "wait_p95_ms", "$.wait_p95_ms"),
        (ActionChunk, "stages_ms", "$.stages_ms[...]"),
    ],
)
def test_numbers_are_finite(kind, fields, path, value):
    sent = {"predict": value} if fields == "stages_ms" else value
    with pytest.raises(MessageError) as caught:
        decode(msgpack.packb({fields: sent}), kind)
    assert "finite" in str(caught.value) and path in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"\xc0", b"\x90", b"\x01", b"\xa1a", b"\x80\x80", b"\x81", b"\x81\xa4task", b"\xc1", b"\x81\x01\x01",
        b"\x81\xa2\xff\xfe\xa2\xff", b"\x81\xa4task\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1x\xdd\xff\xff\xff\xff", b"\x81\xa1x" + b"\x91" * 5000, b"\x81\xa1x" + b"\x81\xa0" * 5000,
        b"\x81\xa7history" + b"\x91" * 5000, b'{"task": "json"}', b"\x80\x04\x95pickle", b"\0" * 100,
    ],
)  # fmt: skip
def test_what_is_no_such_map_is_refused(body):
    for kind in KINDS:
        with pytest.raises(MessageError):
            decode(body, kind)


def test_an_integer_may_stand_for_a_float_and_not_the_other_way_round():
    fps = decode(msgpack.packb({"fps": 30}), SessionOpen).fps
    assert fps == 30.0 and type(fps) is float
    with pytest.raises(MessageError, match="state_dim"):
        decode(msgpack.packb({"state_dim": 14.0}), SessionOpen)


def test_text_is_utf8():
    with pytest.raises(MessageError, match="utf-8"):
        decode(b"\x81\xa4task\xa2\xff\xfe", Observation)


def test_an_empty_body_asks_for_a_session_and_is_nothing_else():
    assert decode(b"", SessionRequest).op == "open" and decode(b"", SessionOpen) == SessionOpen()
    for kind in set(KINDS) - {SessionRequest, SessionOpen}:
        with pytest.raises(MessageError):
            decode(b"", kind)


def test_a_question_without_op_asks_for_a_session():
    assert decode(msgpack.packb({"client_uuid": "a"}), SessionRequest).op == "open"
    assert decode(encode(SessionClose("close", "a")), SessionRequest).op == "close"


def test_a_complaint_never_quotes_much_of_what_was_sent():
    with pytest.raises(MessageError) as caught:
        decode(msgpack.packb({"op": "x" * 100_000}), SessionRequest)
    assert len(str(caught.value)) < 500 and "$.op" in str(caught.value)


def test_blobs_are_not_copied():
    data = bytes(1 << 20)
    body = encode(Observation(images={"a": messages.Image(memoryview(data))}))
    found = decode(body, Observation).images["a"].data
    assert isinstance(found, memoryview) and found.obj is body


def test_errors_of_the_wire_are_value_errors_that_say_what_to_do():
    error = LimitError("want little", "much", "send less")
    assert isinstance(error, ValueError) and str(error) == "want little\n  got: much\n  do: send less"
    assert Event() == decode(EMPTY_MAP, Event)
