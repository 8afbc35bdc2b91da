"""Arrays on the wire: type string, shape, raw little-endian bytes. Nothing that carries code."""

from __future__ import annotations

from math import prod
from typing import Annotated

import msgspec
import numpy as np

from serving.wire.errors import LimitError, MessageError
from serving.wire.limits import DTYPES, HALF, LABEL_MAX, NDIM_MAX, Limits

Dimension = Annotated[int, msgspec.Meta(ge=0)]


class Tensor(msgspec.Struct, frozen=True):
    """An array as it is sent."""

    dtype: Annotated[str, msgspec.Meta(max_length=LABEL_MAX)]
    shape: Annotated[list[Dimension], msgspec.Meta(max_length=32)]
    data: memoryview


def encode_tensor(array: np.ndarray | None) -> Tensor | None:
    """An array to send: C order, little-endian; a view of it where it is so already.

    Raises MessageError on a dtype that nobody decodes.
    """
    if array is None:
        return None
    shape = list(np.shape(array))  # first: what follows makes one dimension of none
    array = np.ascontiguousarray(array)
    little = array.dtype.newbyteorder("<")
    if little.str not in (*DTYPES, HALF):
        raise MessageError(f"want an array of {', '.join(DTYPES)}", str(array.dtype), "convert it to float32")
    array = array.astype(little, copy=False)
    if not array.size:
        return Tensor(array.dtype.str, shape, memoryview(b""))  # an empty view cannot be cast
    return Tensor(array.dtype.str, shape, memoryview(array.reshape(-1).view(np.uint8)))


def decode_tensor(tensor: Tensor | None, name: str, limits: Limits, *, half: bool = False) -> np.ndarray | None:
    """A writable, contiguous copy; with `half`, float16 is taken too, as chunks may have it.

    Raises MessageError or LimitError before anything of that size is made.
    """
    if tensor is None:
        return None
    if tensor.dtype not in DTYPES and not (half and tensor.dtype == HALF):
        got = "object dtype, refused" if "O" in tensor.dtype else repr(tensor.dtype[:40])
        raise MessageError(f"want dtype {', '.join(DTYPES)} in {name}", got, "send float32")
    if len(tensor.shape) > NDIM_MAX:
        raise LimitError(f"want at most {NDIM_MAX} dimensions in {name}", f"{len(tensor.shape)}", "flatten it")
    dtype = np.dtype(tensor.dtype)
    values = prod(tensor.shape)
    if values > limits.tensor_values_max:
        raise LimitError(f"want at most {limits.tensor_values_max} values in {name}", f"{values}", "send less")
    if values * dtype.itemsize != tensor.data.nbytes:
        got = f"{tensor.data.nbytes} bytes for shape {tensor.shape}"
        raise MessageError(f"want {values * dtype.itemsize} bytes of data in {name}", got, "send shape and data alike")
    array = np.frombuffer(tensor.data, dtype).reshape(tensor.shape).copy()
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():  # NumPy would count with such a byte
        raise MessageError(f"want booleans of 0 and 1 in {name}", "another byte", "send uint8")
    return array


def check_finite(array: np.ndarray | None, name: str) -> None:
    """Raise MessageError on NaN and infinity."""
    if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MessageError(f"want finite numbers in {name}", "NaN or infinity", "check the sensor")
