"""The reference's bodies: MessagePack maps with OpenCV's JPEG in them, re-created from the specification of the wire.

Independent of `serving.wire`, so that it also shows that both sides mean the same bytes.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import msgpack
import numpy as np

HEADER = struct.Struct("<HBQIqI")  # schema, type, seq, episode, client's clock, epoch
SCHEMA, OBSERVATION, CHUNK = 1, 1, 2
QUALITY = 90


def pack(message: dict[str, Any]) -> bytes:
    """A body."""
    return msgpack.packb(message, use_bin_type=True)


def unpack(body: bytes) -> dict[str, Any]:
    """A body's map."""
    return msgpack.unpackb(body, raw=False)


def tensor(array: np.ndarray | None) -> dict[str, Any] | None:
    """An array as a nested map."""
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}


def array(sent: dict[str, Any] | None) -> np.ndarray | None:
    """A writable copy of what was sent."""
    if sent is None:
        return None
    dtype = np.dtype(sent["dtype"])
    if dtype.hasobject:
        raise ValueError("Refusing object dtype")
    return np.frombuffer(sent["data"], dtype).reshape(sent["shape"]).copy()


def image(rgb: np.ndarray) -> dict[str, Any]:
    """RGB as JPEG; OpenCV thinks in BGR."""
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ValueError("cannot encode the picture")
    return {"codec": "jpeg", "data": jpeg.tobytes()}


def picture(sent: dict[str, Any]) -> np.ndarray:
    """JPEG as RGB."""
    bgr = cv2.imdecode(np.frombuffer(sent["data"], np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError("undecodable JPEG")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
