"""Thrift's compact protocol, as far as parquet footers and page heads need it.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from tasks.errors import DatasetError

BOOLEANS, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = (1, 2), 3, 4, 5, 6, 7, 8, 9, 10, 12
STOP = b"\0"  # ends a struct
SHORT_LIST_MAX = 14
VARINTS = frozenset({I16, I32, I64})
WIDTHS = {1: 0, 2: 0, BYTE: 1, DOUBLE: 8}  # a boolean field lives in its head


def open_field(data: bytes, at: int, before: int) -> tuple[int, int, int]:
    """Id and type of the field that begins here, and where its value begins; `before` is the id of the one before."""
    head = data[at]
    if head >> 4:
        return before + (head >> 4), head & 0x0F, at + 1
    field, at = signed(data, at + 1)
    return field, head & 0x0F, at


def open_list(data: bytes, at: int) -> tuple[int, int, int]:
    """How many items, of which type, and where the first one begins."""
    head = data[at]
    if head >> 4 <= SHORT_LIST_MAX:
        return head >> 4, head & 0x0F, at + 1
    count, at = unsigned(data, at + 1)
    return count, head & 0x0F, at


def unsigned(data: bytes, at: int) -> tuple[int, int]:
    """A size and the byte after it."""
    byte = data[at]
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, at + 1


def signed(data: bytes, at: int) -> tuple[int, int]:
    """A number and the byte after it."""
    value, at = unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at


def after(data: bytes, at: int, kind: int) -> int:
    """The byte after a value. Most of a footer is passed here, hence the loops without calls."""
    if kind in VARINTS:
        while data[at] & 0x80:
            at += 1
        return at + 1
    if kind == STRUCT:
        while head := data[at]:
            at += 1
            if not head >> 4:  # a long field id follows
                at = after(data, at, I16)
            if (kind := head & 0x0F) in VARINTS:
                while data[at] & 0x80:
                    at += 1
                at += 1
            elif kind == BINARY and data[at] < 0x80:
                at += data[at] + 1
            else:
                at = after(data, at, kind)
        return at + 1
    if kind == BINARY:
        size, at = unsigned(data, at)
        return at + size
    if kind in (LIST, SET):
        count, item, at = open_list(data, at)
        if item in VARINTS:
            for _ in range(count):
                while data[at] & 0x80:
                    at += 1
                at += 1
            return at
        for _ in range(count):
            at = after(data, at, BYTE if item in BOOLEANS else item)
        return at
    if kind in WIDTHS:
        return at + WIDTHS[kind]
    raise DatasetError("want a parquet footer", f"thrift type {kind}", "report this as a bug")


def unsigned_bytes(value: int) -> bytes:
    """A size, written."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed_bytes(value: int) -> bytes:
    """A number, written zigzag: small ones are short."""
    return unsigned_bytes((value << 1) ^ (value >> 63))


def head_bytes(step: int, kind: int) -> bytes:
    """The head of a field `step` ids after the one before."""
    return bytes([step << 4 | kind])


def list_bytes(count: int, kind: int = STRUCT) -> bytes:
    """The head of a list."""
    if count <= SHORT_LIST_MAX:
        return bytes([count << 4 | kind])
    return bytes([0xF0 | kind]) + unsigned_bytes(count)
