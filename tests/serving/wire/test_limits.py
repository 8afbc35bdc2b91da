"""Every bound on what comes from the network, each at its edge and one beyond it, before memory is spent on it.

| Bound | Held by |
| --- | --- |
| body 16 MiB, or as configured | `decode` |
| values of a body, its keys included | `decode` |
| each list, map and string of each message | its type |
| strings 4 KiB of UTF-8 | `decode` |
| 32 tags | the type of SessionOpen |
| finite numbers | `decode` of messages, `decode_request` of arrays |
| 16 pictures, pixels as their headers declare | `check_images` |
| 4 dimensions, six dtypes, values, bytes as the shape says | `decode_tensor` |
| prefix: columns of the action, rows of a chunk, floats | `decode_request` |
| delay within a chunk | `decode_request` |
| frames of history | `decode_request` |
"""

from __future__ import annotations

import struct
import time
import tracemalloc
from typing import Any, get_args, get_origin

import msgpack
import msgspec
import numpy as np
import pytest

from serving.decode import decode_request
from serving.policies.base import Request
from serving.session import Agreement, Session
from serving.wire.errors import LimitError, MessageError
from serving.wire.images import Image, encode_image
from serving.wire.limits import (
    DEFAULT_LIMITS,
    DTYPES,
    LABEL_MAX,
    MIB,
    NDIM_MAX,
    OBJECTS_MAX,
    TAGS_MAX,
    TEXT_MAX,
    Limits,
)
from serving.wire.messages import KINDS, Frame, Observation, SessionOpen, decode, encode
from serving.wire.tensors import Tensor, encode_tensor
from tests.serving.wire.targets import CAMERAS, SPEC

PICTURE = encode_image(np.zeros((8, 8, 3), np.uint8))
GOOD: dict[str, Any] = {"state": encode_tensor(np.zeros(3, np.float32)), "images": {CAMERAS[0]: PICTURE}}


def ask(limits: Limits = DEFAULT_LIMITS, *, rtc: bool = True, **fields: Any) -> Request:
    """An observation all the way to the policy's door."""
    session = Session("robot", Agreement(rtc=rtc), policy=None, publisher=None, opened_s=1.0)  # type: ignore[arg-type]
    return decode_request(encode(Observation(**{**GOOD, **fields})), session, SPEC, limits, "task")


def refused(kind: type[MessageError] = MessageError, limits: Limits = DEFAULT_LIMITS, **fields: Any) -> str:
    """Why an observation gets no further."""
    with pytest.raises(kind) as caught:
        ask(limits, **fields)
    return str(caught.value)


def test_the_bounds_are_those_of_the_specification_or_below():
    assert DEFAULT_LIMITS.body_bytes_max == 16 * MIB and DEFAULT_LIMITS.images_max == 16
    assert DEFAULT_LIMITS.pixels_max <= 64_000_000 and NDIM_MAX == 4 and TEXT_MAX == 4096 and TAGS_MAX == 32
    assert set(DTYPES) == {"<f4", "<f8", "<i4", "<i8", "|u1", "|b1"}


def test_a_body_is_bounded_before_it_is_looked_at():
    body = encode(Observation(**GOOD))
    assert decode(body, Observation, Limits(body_bytes_max=len(body))) == decode(body, Observation)
    with pytest.raises(LimitError, match=f"at most {len(body) - 1} bytes"):
        decode(body, Observation, Limits(body_bytes_max=len(body) - 1))
    for kind in KINDS:
        with pytest.raises(LimitError, match="at most 16777216 bytes"):
            decode(bytes(16 * MIB + 1), kind)


WIDE = {
    "a list that nobody reads": b"\x81\xa1x\xdd" + struct.pack(">I", MIB) + b"\xc0" * MIB,
    "many keys": b"\xdf" + struct.pack(">I", MIB) + b"\xa0\xc0" * MIB,
    "one key many times": b"\xdf" + struct.pack(">I", MIB) + (msgpack.packb("images") + b"\x80") * MIB,
    "one key many times, inside": b"\x81\xa5state\xdf" + struct.pack(">I", MIB) + b"\xa4data\xc4\x00" * MIB,
    "maps in maps": b"\x81\xa1x" + b"\x81\xa0" * MIB,
    "lists in lists": b"\x81\xa1x" + b"\x91" * MIB,
    "more than there is": b"\x81\xa1x\xdd\xff\xff\xff\xff" + b"\xc0" * MIB,
    "numbers": b"\x81\xa1x\xdd" + struct.pack(">I", MIB) + b"\xcb\0\0\0\0\0\0\0\0" * MIB,
}


@pytest.mark.parametrize("body", WIDE.values(), ids=WIDE)
def test_a_wide_or_deep_body_costs_nothing(body):
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match=f"at most {OBJECTS_MAX} values"):
            decode(body, Observation)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    begun_s = time.thread_time()
    with pytest.raises(LimitError):
        decode(body, Observation)
    assert time.thread_time() - begun_s < 0.05


def test_values_are_counted_whatever_their_kind():
    """One of each kind of MessagePack, again and again: any that were misread would end the count elsewhere."""
    kinds = [
        None, True, 1, -1, -100, 200, -200, 70_000, -70_000, 2**40, -(2**40), 1.5, "", "a", "a" * 40, "a" * 300,
        "a" * 70_000, b"", b"a" * 300, b"a" * 70_000, [], [1] * 20, {}, {"a": 1}, {str(i): i for i in range(20)},
        *(msgpack.ExtType(5, bytes(n)) for n in (1, 2, 4, 8, 16, 3, 300, 70_000)),
    ]  # fmt: skip
    values = sum(_count(value) for value in kinds)
    rest = OBJECTS_MAX - 3 - values  # the map, its key, the list
    assert decode(msgpack.packb({"x": [*kinds, *[0] * rest]}), Observation) == Observation()
    with pytest.raises(LimitError):
        decode(msgpack.packb({"x": [*kinds, *[0] * (rest + 1)]}), Observation)


def _count(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(_count(k) + _count(v) for k, v in value.items())
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def test_blobs_are_stepped_over():
    body = encode(Observation(images={"a": Image(memoryview(b"\xc1" * (15 * MIB)))}))
    begun_s = time.thread_time()
    assert decode(body, Observation).images["a"].data.nbytes == 15 * MIB
    assert time.thread_time() - begun_s < 0.01


def test_no_list_map_or_string_of_any_message_is_without_a_bound():
    """Lengths that a sender claims are checked by these bounds before anything is made."""
    unbounded = []

    def look(kind: Any, place: str, bounded: bool = False) -> None:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for field in msgspec.structs.fields(kind):
                look(field.type, f"{place}.{field.name}")
        elif kind in (str, bytes) or get_origin(kind) in (list, dict):
            if not bounded:
                unbounded.append(place)
            for inner in get_args(kind):
                look(inner, f"{place}[]")
        elif metas := [m for m in getattr(kind, "__metadata__", ()) if isinstance(m, msgspec.Meta)]:
            look(get_args(kind)[0], place, any(m.max_length is not None for m in metas))
        elif get_origin(kind) is not None:
            for inner in get_args(kind):
                look(inner, place)

    for kind in KINDS:
        look(kind, kind.__name__)
    assert [place for place in unbounded if place != "SessionRequest.op"] == []


@pytest.mark.parametrize("letter", ["a", "é", "あ", "😀"])
def test_strings_are_bounded_in_bytes(letter):
    most = TEXT_MAX // len(letter.encode())
    assert ask(task=letter * most).task == letter * most
    assert "task" in refused(task=letter * (most + 1))


def test_tags_and_names_are_bounded():
    def opened(**fields: Any) -> SessionOpen:
        return decode(encode(SessionOpen(**fields)), SessionOpen)

    assert len(opened(tags={str(i): "v" for i in range(TAGS_MAX)}).tags) == TAGS_MAX
    assert opened(action_names=["x" * LABEL_MAX]).action_names
    for fields, field in (
        ({"tags": {str(i): "v" for i in range(TAGS_MAX + 1)}}, "$.tags"),
        ({"tags": {"a": "あ" * (TEXT_MAX // 3 + 1)}}, "$.tags"),
        ({"tags": {"k" * (LABEL_MAX + 1): "v"}}, "$.tags"),
        ({"action_names": ["x"] * 1025}, "$.action_names"),
        ({"action_names": ["x" * (LABEL_MAX + 1)]}, "$.action_names[0]"),
        ({"features": ["x"] * 65}, "$.features"),
        ({"robot_type": "x" * (TEXT_MAX + 1)}, "$.robot_type"),
    ):
        with pytest.raises(MessageError) as caught:
            opened(**fields)
        assert field in str(caught.value)


def test_pictures_are_counted_and_so_are_their_pixels():
    more = {CAMERAS[0]: PICTURE, **{str(i): PICTURE for i in range(16)}}
    assert "at most 16 pictures" in refused(LimitError, images=more)
    ask(images={CAMERAS[0]: PICTURE, **{str(i): PICTURE for i in range(15)}})
    assert "at most 127 pixels" in refused(
        LimitError, Limits(pixels_max=127), images={CAMERAS[0]: PICTURE, "not looked at": PICTURE}
    )


def test_pixels_of_all_frames_are_counted_together():
    history = [Frame(i, GOOD["state"], {CAMERAS[0]: PICTURE}) for i in (2, 1)]
    assert len(ask(Limits(pixels_max=3 * 64), history=history).history) == 2
    assert "at most 191 pixels" in refused(LimitError, Limits(pixels_max=191), history=history)


def test_frames_of_history_are_counted():
    frames = [Frame(i, GOOD["state"], {CAMERAS[0]: PICTURE}) for i in (3, 2, 1)]
    assert "history" in refused(LimitError, history=frames)
    assert "history" in refused(LimitError, Limits(history_frames_max=1), history=frames[1:])


@pytest.mark.parametrize("field", ["state", "prefix_model", "prefix_robot"])
@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("|O", [3], memoryview(bytes(24))),
        Tensor("<f2", [3], memoryview(bytes(6))),
        Tensor("<f4", [1, 1, 1, 1, 3], memoryview(bytes(12))),
        Tensor("<f4", [1 << 40], memoryview(b"")),
        Tensor("<f4", [3], memoryview(bytes(8))),
        encode_tensor(np.array([np.nan, 0, 0], np.float32)),
        encode_tensor(np.array([[np.inf, 0]], np.float32)),
        encode_tensor(np.array([[1e300, 0]])),
        encode_tensor(np.zeros((1, 3), np.float32)),
        encode_tensor(np.zeros((1, 2), np.int32)),
    ],
    ids=["object", "half", "dimensions", "values", "bytes", "nan", "infinity", "double", "columns", "integers"],
)
def test_arrays_are_bounded_wherever_they_stand(field, tensor):
    assert field in refused(**{field: tensor})


def test_a_prefix_has_the_columns_of_the_action_and_no_more_rows_than_a_chunk():
    rows = np.ones((SPEC.chunk_size + 1, SPEC.action_dim), np.float32)
    found = ask(prefix_model=encode_tensor(rows[:-1])).prefix_model
    assert found is not None and found.shape == (SPEC.chunk_size, SPEC.action_dim)
    assert f"at most {SPEC.chunk_size} rows" in refused(LimitError, prefix_model=encode_tensor(rows))
    assert "at most 4 rows" in refused(LimitError, Limits(prefix_rows_max=4), prefix_robot=encode_tensor(rows[:5]))
    assert ask(prefix_model=encode_tensor(rows[:0])).prefix_model is None


@pytest.mark.parametrize("delay", [SPEC.chunk_size + 1, 2**64 - 1])
def test_a_delay_lies_within_a_chunk(delay):
    assert ask(inference_delay_steps=SPEC.chunk_size).delay_steps == SPEC.chunk_size
    assert "inference_delay_steps" in refused(inference_delay_steps=delay)
    assert ask(rtc=False, inference_delay_steps=delay).delay_steps == 0  # nobody reads it


def test_values_of_an_array_are_counted_as_configured():
    assert "at most 2 values" in refused(LimitError, Limits(tensor_values_max=2))


@pytest.mark.parametrize(
    "wrong",
    [{"state": None}, {"inference_delay_steps": 51}, {"prefix_model": GOOD["state"]}, {"images": {}}],
    ids=["state", "delay", "prefix", "images"],
)
def test_no_picture_is_decoded_for_an_observation_that_is_refused_anyway(monkeypatch, wrong):
    decoded = []
    monkeypatch.setattr("serving.decode.decode_image", lambda image, name: decoded.append(name))
    frames = [Frame(1, GOOD["state"], {CAMERAS[0]: PICTURE})]
    refused(**{"history": [] if "images" in wrong else frames, **wrong})
    assert not decoded
