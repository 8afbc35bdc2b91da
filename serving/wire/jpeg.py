"""What a JPEG says of itself before any of it is decoded. ITU-T T.81, annex B.

Only pictures that are decoded in one pass over their data are taken: several passes (progressive) cost memory for all
coefficients, and time by the number of passes, which the sender chooses.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from serving.wire.errors import MessageError

SEGMENTS_MAX = 512  # before the data; cameras write about ten, a colour profile may take 255
BLOCK = 8  # pixels on a side
BITS_PER_BLOCK_MIN = 2  # one for the mean, one for "nothing else"

_SEGMENT = Struct(">BBH")  # 0xFF, marker, length without the marker
_FRAME = Struct(">BHHB")  # bits a sample, height, width, components
_BEGIN, _SCAN = b"\xff\xd8", 0xDA
_ONE_PASS = (0xC0, 0xC1)  # sequential with Huffman codes
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # what says a size, one for each kind of JPEG
_ALONE = frozenset(range(0xD0, 0xDA)) | {0x00, 0x01, 0xFF}  # markers without a length, which have no place here


def jpeg_size(data: memoryview, name: str) -> tuple[int, int]:
    """(height, width). Raises MessageError on anything but a grey or colour JPEG of one pass that has the data."""
    try:
        return _walk(data, name)
    except (StructError, IndexError):
        raise _wrong(name, "one that ends within its header") from None


def _walk(data: memoryview, name: str) -> tuple[int, int]:
    if data[:2] != _BEGIN:
        raise _wrong(name, "something else")
    at, frame_at = 2, 0
    for _ in range(SEGMENTS_MAX):
        escape, marker, length = _SEGMENT.unpack_from(data, at)
        if escape != 0xFF or marker in _ALONE or length < 2:
            raise _wrong(name, "one whose header is damaged")
        if marker in _FRAMES:
            if frame_at:
                raise _wrong(name, "one that says its size twice")
            if marker not in _ONE_PASS:
                raise _wrong(name, "a progressive or other rare kind", "encode it as baseline JPEG")
            frame_at = at + _SEGMENT.size
        elif marker == _SCAN:
            if not frame_at:
                raise _wrong(name, "one without a size")
            return _checked(data, frame_at, at + 2 + length, data[at + _SEGMENT.size], name)
        at += 2 + length
    raise _wrong(name, f"more than {SEGMENTS_MAX} segments before the data")


def _checked(data: memoryview, frame_at: int, data_at: int, scanned: int, name: str) -> tuple[int, int]:
    """The size, if the picture is one that we decode, comes in one pass, and if the data can be all of it."""
    bits, height, width, components = _FRAME.unpack_from(data, frame_at)
    if bits != 8 or components not in (1, 3):
        raise _wrong(name, f"one of {components} components of {bits} bits", "convert it to RGB before encoding")
    if scanned != components:
        raise _wrong(name, "one that comes in several passes", "encode it as baseline JPEG")
    factors = [divmod(data[frame_at + _FRAME.size + 1 + 3 * i], 16) for i in range(components)]
    if not height or not width or not all(1 <= h <= 4 and 1 <= v <= 4 for h, v in factors):
        raise _wrong(name, f"{width}x{height} pixels with sampling {factors}")
    if components == 1:
        factors = [(1, 1)]  # a grey picture's sampling factor means nothing
    wide, high = BLOCK * max(h for h, _ in factors), BLOCK * max(v for _, v in factors)
    blocks = -(-width // wide) * -(-height // high) * sum(h * v for h, v in factors)
    data_bytes = len(data) - data_at
    if data_bytes * 8 < blocks * BITS_PER_BLOCK_MIN:
        raise _wrong(name, f"{max(data_bytes, 0)} bytes of data for {width}x{height} pixels")
    return height, width


def _wrong(name: str, got: str, remedy: str = "encode the picture again") -> MessageError:
    return MessageError(f"want a whole JPEG in {name}", got, remedy)
