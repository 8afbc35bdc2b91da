"""The header: 27 bytes of one layout, for every value that fits."""

from __future__ import annotations

import struct
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.wire.errors import HeaderError
from serving.wire.header import HEADER_BYTES, TAG_BYTES, Header, unpack
from tests.serving.wire import golden

PLAIN = Header(1, 1, 7, 2, 123, 3)
FIELDS = {
    "schema_version": (0, 2**16 - 1),
    "msg_type": (0, 2**8 - 1),
    "seq_id": (0, 2**64 - 1),
    "episode_id": (0, 2**32 - 1),
    "client_mono_ns": (-(2**63), 2**63 - 1),
    "session_epoch": (0, 2**32 - 1),
}


@pytest.mark.parametrize("vector", golden.HEADERS.values(), ids=golden.HEADERS)
def test_golden_vectors(vector):
    tag, attachment = bytes.fromhex(vector["tag"]), bytes.fromhex(vector["hex"])
    assert Header(*vector["fields"]).pack(tag) == attachment
    assert unpack(attachment) == (Header(*vector["fields"]), tag)


def test_the_layout_is_that_of_schema_version_1():
    assert HEADER_BYTES == 27 and len(PLAIN.pack()) == HEADER_BYTES
    assert PLAIN.pack() == struct.pack("<HBQIqI", *astuple(PLAIN))
    places = {
        "schema_version": 0,
        "msg_type": 2,
        "seq_id": 3,
        "episode_id": 11,
        "client_mono_ns": 15,
        "session_epoch": 23,
    }
    for field, at in places.items():
        changed = replace(PLAIN, **{field: getattr(PLAIN, field) + 1}).pack()
        assert [i for i in range(HEADER_BYTES) if changed[i] != PLAIN.pack()[i]] == [at], field


@given(st.builds(Header, *(st.integers(*ends) for ends in FIELDS.values())), st.sampled_from([b"", b"12345678"]))
def test_whatever_fits_survives(header, tag):
    assert unpack(header.pack(tag)) == (header, tag)


@pytest.mark.parametrize("field", FIELDS)
def test_the_ends_of_each_field_fit_and_beyond_them_is_refused(field):
    least, most = FIELDS[field]
    for value in (least, most):
        assert getattr(unpack(replace(PLAIN, **{field: value}).pack())[0], field) == value
    for value in (least - 1, most + 1, 1.5, None, "1"):
        with pytest.raises(HeaderError):
            replace(PLAIN, **{field: value}).pack()


@pytest.mark.parametrize("length", [n for n in range(64) if n not in (HEADER_BYTES, HEADER_BYTES + TAG_BYTES)])
def test_another_length_is_refused(length):
    with pytest.raises(HeaderError, match=f"{length} bytes") as caught:
        unpack(bytes(length))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("length", [1, TAG_BYTES - 1, TAG_BYTES + 1])
def test_a_tag_of_another_length_is_not_sent(length):
    with pytest.raises(HeaderError, match="session tag"):
        PLAIN.pack(bytes(length))
