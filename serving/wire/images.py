"""Pictures on the wire: JPEG or raw, RGB on both ends, sizes known from the header before anything is decoded."""

from __future__ import annotations

from math import prod
from typing import Annotated

import msgspec
import numpy as np
import simplejpeg

from serving.wire.buffers import Buffers
from serving.wire.errors import LimitError, MessageError
from serving.wire.jpeg import jpeg_size
from serving.wire.limits import Limits
from serving.wire.tensors import Dimension

JPEG, RAW = "jpeg", "raw"
QUALITY, QUALITY_MAX = 90, 100
CHANNELS = 3

_buffers = Buffers()  # of decoded pictures


class Image(msgspec.Struct, frozen=True, omit_defaults=True):
    """A picture as it is sent."""

    data: memoryview
    codec: Annotated[str, msgspec.Meta(max_length=16)] = JPEG
    shape: Annotated[list[Dimension], msgspec.Meta(max_length=4)] | None = None  # [height, width, 3], raw only


def encode_image(rgb: np.ndarray, quality: int = QUALITY) -> Image:
    """A uint8 RGB picture (height, width, 3) as JPEG, raw with quality 0. Raises MessageError on anything else."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.shape[2:] != (CHANNELS,) or not rgb.size:
        got = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise MessageError("want a uint8 picture (height, width, 3)", got, "convert it to RGB")
    if quality > QUALITY_MAX:
        raise MessageError(f"want a quality of 1 to {QUALITY_MAX}, or 0 for raw", f"{quality}", f"use {QUALITY}")
    rgb = np.ascontiguousarray(rgb)
    if quality <= 0:
        return Image(memoryview(rgb).cast("B"), RAW, list(rgb.shape))
    return Image(memoryview(simplejpeg.encode_jpeg(rgb, quality=quality, colorspace="RGB", colorsubsampling="420")))


def image_size(image: Image, name: str) -> tuple[int, int]:
    """(height, width) as the header says; nothing is decoded. Raises MessageError."""
    if image.codec == RAW:
        shape = image.shape or []
        if len(shape) != 3 or shape[2] != CHANNELS or not shape[0] * shape[1]:
            raise MessageError(f"want shape [height, width, 3] in {name}", f"{shape}", "send RGB")
        if shape[0] * shape[1] * CHANNELS != image.data.nbytes:
            raise MessageError(f"want {shape} bytes in {name}", f"{image.data.nbytes} bytes", "send the whole picture")
        return shape[0], shape[1]
    if image.codec != JPEG:
        raise MessageError(f"want codec jpeg or raw in {name}", repr(image.codec), "use jpeg")
    size = jpeg_size(image.data, name)
    try:
        known = simplejpeg.decode_jpeg_header(image.data)[:2]
    except KeyError as err:  # the library has no name for 4:4:1
        raise MessageError(f"want a JPEG of a common sampling in {name}", "4:4:1", "encode it as 4:2:0") from err
    except ValueError as err:
        raise MessageError(f"want a whole JPEG in {name}", str(err), "encode the picture again") from err
    if known != size:  # the decoder goes by its own reading
        raise MessageError(f"want a JPEG of one size in {name}", f"{known} and {size}", "encode the picture again")
    return size


def check_images(images: dict[str, Image], limits: Limits, name: str = "images") -> dict[str, int]:
    """Pixels of each. Raises LimitError when there are too many, or too many pixels in all."""
    if len(images) > limits.images_max:
        raise LimitError(f"want at most {limits.images_max} pictures in {name}", f"{len(images)}", "send fewer cameras")
    pixels = {camera: prod(image_size(image, f"{name}.{camera}")) for camera, image in images.items()}
    if (total := sum(pixels.values())) > limits.pixels_max:
        raise LimitError(f"want at most {limits.pixels_max} pixels in {name}", f"{total}", "send smaller pictures")
    return pixels


def decode_image(image: Image, name: str) -> np.ndarray:
    """A checked picture (see check_images) as uint8 RGB (height, width, 3). Raises MessageError."""
    if image.codec != JPEG:
        return np.frombuffer(image.data, np.uint8).reshape(*image_size(image, name), CHANNELS).copy()
    try:
        height, width = simplejpeg.decode_jpeg_header(image.data)[:2]
        memory = _buffers.take(height * width * CHANNELS)
        return simplejpeg.decode_jpeg(image.data, colorspace="RGB", buffer=memory)
    except (ValueError, KeyError) as err:
        raise MessageError(f"want a whole JPEG in {name}", str(err), "encode the picture again") from err
