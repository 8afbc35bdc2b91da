"""Arrays: to the last bit, of the few kinds that are allowed, never larger than what was sent."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.wire.errors import LimitError, MessageError
from serving.wire.limits import DEFAULT_LIMITS, DTYPES, HALF, NDIM_MAX, Limits
from serving.wire.messages import Observation, decode, encode
from serving.wire.tensors import Tensor, check_finite, decode_tensor, encode_tensor
from tests.serving.wire.strategies import ARRAYS


def trip(array: np.ndarray, half: bool = False) -> np.ndarray:
    """Through a whole body."""
    sent = decode(encode(Observation(state=encode_tensor(array))), Observation).state
    found = decode_tensor(sent, "state", DEFAULT_LIMITS, half=half)
    assert found is not None
    return found


@given(ARRAYS)
def test_arrays_survive_to_the_last_bit(array):
    found = trip(array, half=True)
    assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()
    assert found.flags.writeable and found.flags.c_contiguous


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_every_float32_survives_nan_payloads_and_denormals_too(bits):
    array = np.array(bits, np.uint32).view(np.float32)
    assert (trip(array).view(np.uint32) == array.view(np.uint32)).all()


@pytest.mark.parametrize(
    "array", [np.float32(2.5), np.array(3), np.zeros(0, np.float32), np.zeros((0, 6)), np.zeros((2, 0))]
)
def test_arrays_of_no_dimension_or_no_value_survive(array):
    found = trip(array)
    assert found.shape == np.shape(array) and found.dtype == array.dtype and (found == array).all()


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", ">i8"])
def test_big_endian_is_sent_little_endian(dtype):
    sent = encode_tensor(np.array([[1, 2, 3]], dtype))
    assert sent is not None and sent.dtype == dtype.replace(">", "<")
    assert (trip(np.array([[1, 2, 3]], dtype)) == [[1, 2, 3]]).all()


def test_the_bytes_are_c_order_whatever_the_array_was():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (array.T, array[:, ::-1], array[::2, 1:], np.asfortranarray(array)):
        sent = encode_tensor(view)
        assert sent is not None and bytes(sent.data) == view.tobytes("C") and (trip(view) == view).all()


@pytest.mark.parametrize("array", [None])
def test_none_is_nil(array):
    assert encode_tensor(array) is None and decode_tensor(None, "state", DEFAULT_LIMITS) is None


def test_what_is_decoded_shares_nothing_with_the_body():
    body = bytearray(encode(Observation(state=encode_tensor(np.zeros(3, np.float32)))))
    found = decode_tensor(decode(bytes(body), Observation).state, "state", DEFAULT_LIMITS)
    assert found is not None
    found[:] = 7
    assert (decode_tensor(decode(bytes(body), Observation).state, "state", DEFAULT_LIMITS) == 0).all()


@pytest.mark.parametrize(
    "array",
    [
        np.array([None]), np.array(["text"]), np.array([b"bytes"]), np.array([1 + 2j]), np.zeros(2, "i2"),
        np.zeros(2, "u8"), np.zeros(2, "M8[s]"), np.zeros(2, [("a", "f4")]), np.zeros(2, np.longdouble),
    ],
    ids=lambda array: array.dtype.str,
)  # fmt: skip
def test_other_kinds_are_not_sent(array):
    with pytest.raises(MessageError, match="want an array of"):
        encode_tensor(array)


@pytest.mark.parametrize(
    "dtype", ["|O", "O", "<i2", ">f4", "f4", "float32", "<c8", "|V4", "<U1", "|S4", "<M8[s]", "", "x" * 200]
)
def test_other_kinds_are_not_decoded(dtype):
    with pytest.raises(MessageError) as caught:
        decode_tensor(Tensor(dtype, [1], memoryview(b"\0" * 8)), "state", DEFAULT_LIMITS)
    assert "state" in str(caught.value) and len(str(caught.value)) < 250
    assert ("object dtype" in str(caught.value)) == ("O" in dtype)


def test_halves_are_decoded_only_where_they_were_agreed_on():
    halves = encode_tensor(np.array([1.5, 2.5], np.float16))
    assert halves is not None and halves.dtype == HALF and HALF not in DTYPES
    with pytest.raises(MessageError, match="<f2"):
        decode_tensor(halves, "state", DEFAULT_LIMITS)
    assert (decode_tensor(halves, "chunk_robot", DEFAULT_LIMITS, half=True) == [1.5, 2.5]).all()


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2], b"\0" * 4),
        ([1], b"\0" * 8),
        ([], b""),
        ([0], b"\0"),
        ([2, 2], b"\0" * 12),
        ([1 << 19], b""),
        ([3], b"\0" * 13),
    ],
)
def test_shape_and_bytes_must_agree(shape, data):
    with pytest.raises(MessageError, match="state"):
        decode_tensor(Tensor("<f4", shape, memoryview(data)), "state", DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("shape", "said"), [([1] * (NDIM_MAX + 1), "dimensions"), ([1 << 62, 1 << 62], "values"), ([2**64 - 1], "values")]
)
def test_what_is_too_large_is_refused_before_anything_is_made(shape, said):
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match=said):
            decode_tensor(Tensor("<f4", shape, memoryview(b"\0" * 4)), "state", DEFAULT_LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_number_of_values_is_bounded_as_configured():
    sent = encode_tensor(np.zeros(9, np.float32))
    with pytest.raises(LimitError, match="at most 8 values"):
        decode_tensor(sent, "state", Limits(tensor_values_max=8))


def test_a_boolean_is_a_zero_or_a_one():
    assert trip(np.array([True, False])).tolist() == [True, False]
    with pytest.raises(MessageError, match="0 and 1"):
        decode_tensor(Tensor("|b1", [2], memoryview(b"\0\2")), "state", DEFAULT_LIMITS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(value):
    with pytest.raises(MessageError, match="finite numbers in state"):
        check_finite(np.array([0, value], np.float32), "state")
    check_finite(np.array([0, 3.4e38], np.float32), "state")
    check_finite(np.array([2**62]), "state")
    check_finite(None, "state")
