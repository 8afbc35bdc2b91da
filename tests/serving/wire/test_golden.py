"""Golden bytes: what we write is what another MessagePack library writes for the same map, and stays so."""

from __future__ import annotations

import msgpack
import msgspec
import pytest

from serving.wire.messages import decode, encode
from tests.serving.wire import golden

ALL = {**golden.WHOLE, **golden.OF_SCHEMA_1}


@pytest.mark.parametrize("vector", ALL.values(), ids=ALL)
def test_another_library_writes_the_same_bytes(vector):
    assert msgpack.packb(vector.map, use_bin_type=True) == vector.body


@pytest.mark.parametrize("vector", golden.WHOLE.values(), ids=golden.WHOLE)
def test_we_write_the_same_bytes_and_every_field_is_among_them(vector):
    assert encode(decode(vector.body, vector.kind)) == vector.body
    assert list(vector.map) == list(vector.kind.__struct_fields__)


@pytest.mark.parametrize("vector", ALL.values(), ids=ALL)
def test_each_field_arrives_as_it_was_sent(vector):
    message = msgspec.to_builtins(decode(vector.body, vector.kind), builtin_types=(bytes, memoryview))
    for name, sent in vector.map.items():
        assert _same(sent, message[name]), name


@pytest.mark.parametrize("vector", golden.OF_SCHEMA_1.values(), ids=golden.OF_SCHEMA_1)
def test_a_peer_of_schema_1_reads_its_own_fields_in_what_we_write(vector):
    """Fields that came later stand beside the old ones; none of these is renamed, re-typed or left out."""
    written = msgpack.unpackb(encode(decode(vector.body, vector.kind)), raw=False)
    for name, sent in vector.map.items():
        assert _same(written[name], sent) and type(written[name]) is type(sent), name


def _same(sent: object, got: object) -> bool:
    """Equal, where maps may have more keys on one side: fields with their defaults."""
    if isinstance(sent, dict) and isinstance(got, dict):
        return all(_same(value, got.get(key, _DEFAULTS.get(key))) for key, value in sent.items())
    if isinstance(sent, list) and isinstance(got, list):
        return len(sent) == len(got) and all(map(_same, sent, got))
    return got is not None and bytes(got) == sent if isinstance(sent, bytes) else sent == got


_DEFAULTS = {"codec": "jpeg", "shape": None}  # of a picture: not sent when it is a JPEG
