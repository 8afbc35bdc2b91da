"""docs/wire.md says what the code does: every table is compared."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from struct import Struct

import msgspec
import pytest

from serving.control import CONTROL_BODY_MAX
from serving.wire import features, limits, messages
from serving.wire.errors import RETRYABLE_EVENTS, RETRYABLE_REJECTS, EventCode, RejectCode
from serving.wire.header import HEADER_BYTES, TAG_BYTES, Header, MessageType
from serving.wire.keys import RESERVED, Keys, sanitize
from serving.wire.messages import Capabilities, Frame
from tests.serving.wire.test_messages import CAPABILITIES, SCHEMA_1

PAGE = Path(__file__).resolve().parents[3] / "docs" / "wire.md"
TEXT = PAGE.read_text()
CODE_WIDTHS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q"}


def tables(heading: str) -> list[list[list[str]]]:
    """Rows of each table under a heading, without their heads, as cells without backticks."""
    section = re.split(rf"^#+ {re.escape(heading)}$", TEXT, flags=re.M)
    assert len(section) == 2, f"want one heading {heading!r}"
    own = re.split(r"^#+ ", section[1], maxsplit=1, flags=re.M)[0]
    blocks = re.findall(r"(?:^\|.*\n)+", own, flags=re.M)
    rows = [
        [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in b.split("\n")[2:-1]]
        for b in blocks
    ]
    return rows


def table(heading: str) -> list[list[str]]:
    (only,) = tables(heading)
    return only


def messages_of_page() -> list[type[msgspec.Struct]]:
    """Every message that has a table of its own: SessionRequest is the first look at SessionOpen and SessionClose."""
    return [kind for kind in (*messages.KINDS, Capabilities, Frame) if kind is not messages.SessionRequest]


@pytest.mark.parametrize("kind", messages_of_page(), ids=lambda kind: kind.__name__)
def test_every_field_and_default_is_as_the_page_says(kind):
    base = set() if kind is Capabilities else set(Capabilities.__struct_fields__)
    inherited = base if issubclass(kind, Capabilities) else set()
    default = kind()
    ours = {
        name: msgspec.json.encode(getattr(default, name)).decode()
        for name in kind.__struct_fields__
        if name not in inherited
    }
    said = {row[0]: row[2] for row in table(kind.__name__)}
    assert list(said) == list(ours) and said == ours


@pytest.mark.parametrize("kind", messages_of_page(), ids=lambda kind: kind.__name__)
def test_what_is_of_schema_version_1_is_marked_so(kind):
    old = CAPABILITIES if kind is Capabilities else SCHEMA_1.get(kind, {})
    for name, _, _, since, _ in table(kind.__name__):
        assert (since == "1") == (name in old), name
        assert since in ("1", "+", *features.ALL), since


@pytest.mark.parametrize("kind", messages_of_page(), ids=lambda kind: kind.__name__)
def test_the_types_of_fields_are_as_the_page_says(kind):
    words = {"text": "str", "int": "int", "float": "float", "bool": "bool", "bytes": "bytes", "tensor": "Tensor"}
    types = {field.name: str(field.type) for field in msgspec.structs.fields(kind)}
    for name, said, *_ in table(kind.__name__):
        word = said.split()[0]
        expected = words.get(word, {"map": "dict", "list": "list"}.get(word, ""))
        assert expected and expected in types[name], (name, said, types[name])
        assert ("or nil" in said) == ("None" in types[name] or "Optional" in types[name]), name


def test_the_header_is_as_the_page_says():
    rows = table("The header")
    assert [row[1] for row in rows] == [field.name for field in fields(Header)]
    layout = Struct("<" + "".join(CODE_WIDTHS[row[2]] for row in rows))
    assert layout.size == HEADER_BYTES and f"{HEADER_BYTES} bytes" in TEXT
    assert f"{HEADER_BYTES + TAG_BYTES} bytes" in TEXT
    at = 0
    for offset, _, kind, _ in rows:
        assert int(offset) == at
        at += Struct("<" + CODE_WIDTHS[kind]).size
    assert rows[1][3] == ", ".join(f"{kind.value} {kind.name.lower()}" for kind in MessageType)


def test_the_keys_are_as_the_page_says():
    service = Keys("<P>")
    ours = {
        service.status, service.session, service.session_of("<id>"), service.reset("<id>"),
        service.reset("<id>", "<server>"), service.observation("<id>"), service.observation("<id>", "<server>"),
        service.action("<id>"), service.alive("<id>"), service.server_alive, service.replica_alive("<server>"),
    }  # fmt: skip
    assert {row[0] for row in table("Keys")} == ours
    for word in RESERVED:
        assert f"`{word}`" in TEXT
    for name, segment in (("lerobot/pi0_towels", "lerobot-pi0_towels"), ("毛巾を畳む", "u-8edddfaf8011")):
        assert f"`{name}` is `{segment}`" in TEXT and sanitize(name) == segment


def test_the_features_are_as_the_page_says():
    assert [row[0] for row in table("Features")] == list(features.ALL)


@pytest.mark.parametrize(
    ("heading", "codes", "retryable"),
    [("Events and codes", EventCode, RETRYABLE_EVENTS), ("Codes of refusal", RejectCode, RETRYABLE_REJECTS)],
)
def test_the_codes_are_as_the_page_says(heading, codes, retryable):
    said = [(int(row[0]), row[1], row[2]) for row in table(heading)]
    assert said == [(code.value, code.name, "yes" if code in retryable else "no") for code in codes]


def test_the_limits_are_as_the_page_says():
    said = {row[0]: int(row[1]) for row in table("Limits")}
    ours = {field.name: field.default for field in fields(limits.Limits)}
    ours |= {name: value for name, value in vars(limits).items() if name.endswith("_MAX")}
    assert said == ours and f"{CONTROL_BODY_MAX} for questions" in TEXT
    for dtype in (*limits.DTYPES, limits.HALF):
        assert f"`{dtype}`" in TEXT
