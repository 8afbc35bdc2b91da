"""Hypothesis strategies: every message from its own type, and bodies that are nearly right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgpack
import msgspec
import numpy as np
import simplejpeg
from hypothesis import strategies as st

from serving.wire.images import Image
from serving.wire.limits import DTYPES, HALF
from serving.wire.tensors import Tensor, encode_tensor
from tests.serving.wire import golden

ELEMENTS_MAX = 3  # of a list or map, where its type allows as many


def _array(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    return np.frombuffer(data[: math.prod(shape) * np.dtype(dtype).itemsize], dtype).reshape(shape)


ARRAYS = st.one_of(
    st.builds(
        _array,
        st.sampled_from([d for d in (*DTYPES, HALF) if d != "|b1"]),
        st.lists(st.integers(0, 3), max_size=4),
        st.binary(min_size=3**4 * 8, max_size=3**4 * 8),
    ),
    st.lists(st.booleans(), max_size=6).map(lambda values: np.array(values, bool)),
)  # fmt: skip


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values that a field of this type may have."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.builds(kind, **{f.name: of_type(f.type) for f in msgspec.structs.fields(kind)})
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(args[0], args[1])
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, UnionType):
        return st.one_of(of_type(arg) for arg in args)
    return _collection(origin, args, 0, ELEMENTS_MAX)


def _bounded(kind: Any, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    if kind is int:
        return st.integers(-(2**63) if meta.ge is None else meta.ge, 2**64 - 1 if meta.le is None else meta.le)
    least, most = meta.min_length or 0, min(ELEMENTS_MAX, meta.max_length or ELEMENTS_MAX)
    if kind is str:
        return st.text(max_size=most)
    if kind is bytes:
        return st.binary(max_size=most)
    return _collection(get_origin(kind), get_args(kind), least, most)


def _collection(origin: Any, args: tuple[Any, ...], least: int, most: int) -> st.SearchStrategy[Any]:
    if origin is list:
        return st.lists(of_type(args[0]), min_size=least, max_size=most)
    assert origin is dict, f"no strategy for {origin}"
    return st.dictionaries(of_type(args[0]), of_type(args[1]), max_size=most)


_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=8),
    bool: st.booleans(),
    NoneType: st.none(),
    memoryview: st.binary(max_size=8).map(memoryview),
    Tensor: ARRAYS.map(encode_tensor),
    Image: st.binary(max_size=8).map(lambda data: Image(memoryview(data)))
    | st.just(Image(memoryview(b"\0" * 6), "raw", [1, 2, 3])),
}

# --- bodies that are nearly right -----------------------------------------------------------------------------------

_KEYS = st.sampled_from(
    ["state", "images", "prefix_model", "prefix_robot", "history", "task", "inference_delay_steps", "episode_start",
     "buffer_left_ms", "send_mono_ns", "dtype", "shape", "data", "codec", "age_steps", "observation.images.front",
     "observation.images.wrist"]
)  # fmt: skip
_ATOMS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
    | st.binary(max_size=64) | st.just(golden.JPEG) | st.sampled_from(["jpeg", "raw", *DTYPES, HALF, "|O"])
)  # fmt: skip
TREES = st.recursive(
    _ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS | st.text(max_size=4), inner, max_size=6),
    max_leaves=24,
)


@st.composite
def _damaged(draw: st.DrawFn, whole: Sequence[bytes]) -> bytes:
    """One of some good ones with some bytes replaced, taken out, put in or repeated."""
    body = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(body))), draw(st.integers(0, 16))
        kind = draw(st.sampled_from(["replace", "remove", "insert", "repeat", "cut"]))
        if kind == "replace":
            body[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "remove":
            del body[at : at + length]
        elif kind == "insert":
            body[at:at] = draw(st.binary(max_size=16))
        elif kind == "repeat":
            body[at:at] = body[at : at + length] * draw(st.integers(1, 8))
        else:
            del body[at:]
    return bytes(body)


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    """An observation of the right form with values that a robot would not send."""
    value = draw(TREES)
    message = dict(golden.WHOLE["observation"].map)
    path = [draw(st.sampled_from(sorted(message)))]
    place: Any = message
    while isinstance(place[path[-1]], dict | list) and place[path[-1]] and draw(st.booleans()):
        place[path[-1]] = place = dict(enumerate(inner)) if isinstance(inner := place[path[-1]], list) else dict(inner)
        path.append(draw(st.sampled_from(sorted(place))))
    place[path[-1]] = value
    return msgpack.packb(_lists_again(message))


def _lists_again(value: Any) -> Any:
    if isinstance(value, dict):
        values = {k: _lists_again(v) for k, v in value.items()}
        return list(values.values()) if values and all(isinstance(k, int) for k in values) else values
    return value


_GOLDEN = [v.body for v in (*golden.WHOLE.values(), *golden.OF_SCHEMA_1.values())]
WHOLE_PICTURES = [
    golden.JPEG,
    *(
        simplejpeg.encode_jpeg(np.arange(h * w * 3, dtype=np.uint8).reshape(h, w, 3), colorsubsampling=s)
        for h, w, s in ((16, 16, "420"), (9, 17, "444"), (8, 24, "422"), (17, 9, "Gray"))
    ),
]
BODIES = st.one_of(st.binary(max_size=256), _damaged(_GOLDEN), _requests(), TREES.map(msgpack.packb))
PICTURES = st.binary(max_size=256) | _damaged(WHOLE_PICTURES)
