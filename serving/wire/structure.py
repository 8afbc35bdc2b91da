"""How many values a MessagePack body has, counted before any of them is made.

Blobs are stepped over, so an honest body takes microseconds whatever its size. A hostile one of the same size may hold
millions of tiny values, or of repeated keys, and would keep the decoder busy for most of a second.
"""

from __future__ import annotations

from serving.wire.errors import LimitError
from serving.wire.limits import OBJECTS_MAX


def _fixed() -> list[tuple[int, int]]:
    """By first byte: how long a value is, and how many follow inside it. (0, 0) where its length comes behind."""
    table = [(1, 0)] * 256
    for n in range(16):
        table[0x80 + n] = (1, 2 * n)  # fixmap
        table[0x90 + n] = (1, n)  # fixarray
    for n in range(32):
        table[0xA0 + n] = (1 + n, 0)  # fixstr
    for first, size in zip(range(0xCA, 0xD4), (5, 9, 2, 3, 5, 9, 2, 3, 5, 9), strict=True):
        table[first] = (size, 0)  # numbers
    for first, size in zip(range(0xD4, 0xD9), (1, 2, 4, 8, 16), strict=True):
        table[first] = (2 + size, 0)  # fixext
    for first in _COUNTED:
        table[first] = (0, 0)
    return table


_COUNTED = {  # first byte: bytes of the count, other bytes of the head, bytes and values for each one counted
    0xC4: (1, 1, 1, 0), 0xC5: (2, 1, 1, 0), 0xC6: (4, 1, 1, 0),  # bin
    0xC7: (1, 2, 1, 0), 0xC8: (2, 2, 1, 0), 0xC9: (4, 2, 1, 0),  # ext
    0xD9: (1, 1, 1, 0), 0xDA: (2, 1, 1, 0), 0xDB: (4, 1, 1, 0),  # str
    0xDC: (2, 1, 0, 1), 0xDD: (4, 1, 0, 1),  # array
    0xDE: (2, 1, 0, 2), 0xDF: (4, 1, 0, 2),  # map
}  # fmt: skip
_FIXED = _fixed()


def check_structure(body: bytes) -> None:
    """Raise LimitError when a body holds, or claims to hold, more than OBJECTS_MAX values. What else may be wrong with
    it is the decoder's to say."""
    at, end, seen, wanted = 0, len(body), 0, 1
    if end <= OBJECTS_MAX:  # each value is at least a byte
        return
    while seen < wanted and at < end:
        first = body[at]
        size, inside = _FIXED[first]
        if not size:
            width, head, bytes_each, values_each = _COUNTED[first]
            count = int.from_bytes(body[at + 1 : at + 1 + width], "big")
            size, inside = head + width + bytes_each * count, values_each * count
        at += size
        seen += 1
        wanted += inside
        if wanted > OBJECTS_MAX:
            raise LimitError(f"want at most {OBJECTS_MAX} values in a message", "more", "send arrays as tensors")
