"""Keys: the same on both sides without asking, and nothing that a stranger writes into one gets through."""

from __future__ import annotations

import re
import unicodedata

import pytest
import zenoh
from hypothesis import given
from hypothesis import strategies as st

from serving.wire.errors import KeyNameError
from serving.wire.keys import RESERVED, ROOT, Keys, client_id, sanitize
from serving.wire.limits import CLIENT_ID_MAX, SEGMENT_MAX

TOWELS = Keys.of("lerobot/pi0_towels", "main", "fold the towel")
PREFIX = "@lerobot/lerobot-pi0_towels/main/fold-the-towel"


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("a/*$?# b", "a-b"),
        ("  hello  ", "hello"),
        ("/leading/trailing/", "leading-trailing"),
        ("Case_is.kept-1", "Case_is.kept-1"),
        ("..a--.b..", "a--.b"),
        ("@lerobot", "lerobot"),
        ("status_1", "status_1"),
        ("Status", "Status"),
        ("fold 毛巾", "fold"),
        ("x" * SEGMENT_MAX, "x" * SEGMENT_MAX),
    ],
)
def test_a_name_becomes_one_segment(name, segment):
    assert sanitize(name) == segment


@pytest.mark.parametrize("name", ["", "***", "/?#$*", "   ", "---", "...", "。、", *sorted(RESERVED), "/status/"])
def test_a_name_that_leaves_nothing_or_a_reserved_word_is_refused(name):
    with pytest.raises(KeyNameError) as caught:
        sanitize(name)
    assert isinstance(caught.value, ValueError)
    assert ("collides with reserved" if "stat" in name or name in RESERVED else "empty chunk") in str(caught.value)


def test_a_long_name_is_refused_and_not_cut():
    with pytest.raises(KeyNameError, match=str(SEGMENT_MAX)):
        sanitize("x" * (SEGMENT_MAX + 1))
    with pytest.raises(KeyNameError, match=f"at most {CLIENT_ID_MAX}"):
        client_id("x" * (CLIENT_ID_MAX + 1))
    with pytest.raises(KeyNameError) as caught:
        sanitize("。" * 10_000)
    assert len(str(caught.value)) < 300


def test_a_name_in_another_script_becomes_its_hash():
    assert sanitize("毛巾を畳む") == "u-8edddfaf8011"
    assert sanitize("毛巾") != sanitize("毛布")
    composed, decomposed = (unicodedata.normalize(form, "ガ") for form in ("NFC", "NFD"))
    assert composed != decomposed and sanitize(composed) == sanitize(decomposed)


@given(st.text(max_size=200))
def test_any_text_becomes_a_segment_that_stays_itself_or_is_refused(text):
    try:
        segment = sanitize(text)
    except KeyNameError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", segment)
    assert segment not in RESERVED and sanitize(segment) == segment
    assert str(zenoh.KeyExpr(f"{ROOT}/{segment}/obs")) == f"{ROOT}/{segment}/obs"


def test_both_sides_come_to_the_same_keys():
    assert TOWELS.prefix == PREFIX
    assert Keys.of("/home/me/model", "").prefix == "@lerobot/home-me-model/main/default"
    assert Keys.of("m", "v1.0", "some task", service="bench").prefix == "@lerobot/m/v1.0/bench"
    assert Keys.of("m", root="@lab").prefix == "@lab/m/main/default"


@pytest.mark.parametrize("root", ["lerobot", "", "@", "@a/b", "@*", "@a b"])
def test_a_root_that_wildcards_match_is_refused(root):
    with pytest.raises(KeyNameError):
        Keys.of("m", root=root)


def test_the_keys_of_a_service():
    assert {
        "status": TOWELS.status,
        "session": TOWELS.session,
        "own session": TOWELS.session_of("r"),
        "observation": TOWELS.observation("r"),
        "observation for a replica": TOWELS.observation("r", "0a1b"),
        "action": TOWELS.action("r"),
        "reset": TOWELS.reset("r"),
        "reset at a replica": TOWELS.reset("r", "0a1b"),
        "alive": TOWELS.alive("r"),
        "server": TOWELS.server_alive,
        "replica": TOWELS.replica_alive("0a1b"),
    } == {
        "status": f"{PREFIX}/status",
        "session": f"{PREFIX}/session",
        "own session": f"{PREFIX}/r/session",
        "observation": f"{PREFIX}/r/obs",
        "observation for a replica": f"{PREFIX}/r/0a1b/obs",
        "action": f"{PREFIX}/r/action",
        "reset": f"{PREFIX}/r/reset",
        "reset at a replica": f"{PREFIX}/r/0a1b/reset",
        "alive": f"{PREFIX}/r/alive",
        "server": f"{PREFIX}/server/alive",
        "replica": f"{PREFIX}/server/0a1b/alive",
    }


def test_wildcards_of_strangers_never_reach_the_tree_and_ours_reach_one_level():
    for stranger in ("**", "*/**", "*/*/*/*/*/obs", "**/obs"):
        assert not zenoh.KeyExpr(stranger).intersects(zenoh.KeyExpr(TOWELS.observation("r")))
    ours = zenoh.KeyExpr(TOWELS.observation("*"))
    assert ours.includes(zenoh.KeyExpr(TOWELS.observation("r")))
    assert not ours.intersects(zenoh.KeyExpr(TOWELS.observation("r", "0a1b")))
    assert not ours.intersects(zenoh.KeyExpr(TOWELS.action("r")))


def test_a_robot_is_known_by_its_key():
    for key in (
        TOWELS.observation("robot-1"),
        TOWELS.observation("robot-1", "0a1b"),
        TOWELS.reset("robot-1"),
        TOWELS.alive("robot-1"),
        TOWELS.session_of("robot-1"),
    ):
        assert TOWELS.client_of(key) == "robot-1"


@pytest.mark.parametrize(
    "rest",
    [
        "*/obs", "**/obs", "**", "*", "$*/obs", "a$*/obs", "obs", "session", "", "/", "/obs", "a/", "//", "a//obs",
        "server/alive", "server/0a1b/alive", "status/obs", "alive/alive", "a/server/obs", "a/*/obs", "a/b/c/obs",
        "a/status", "a/elsewhere", "a b/obs", "a\n/obs", "a\0/obs", "ü/obs", "-a/obs", "a-/obs", ".a/obs", "../obs",
        "@a/obs", "a/@b/obs", f"{'x' * (CLIENT_ID_MAX + 1)}/obs", f"{'x' * 300}/obs", "a/obs/", "a/obs\n",
    ],
)  # fmt: skip
def test_a_key_that_we_would_not_write_names_nobody(rest):
    assert TOWELS.client_of(f"{PREFIX}/{rest}") is None


def test_a_key_of_another_service_names_nobody():
    for prefix in ("@lerobot/other/main/fold-the-towel", f"{PREFIX}x", "", f"x{PREFIX}"):
        assert TOWELS.client_of(f"{prefix}/robot-1/obs") is None


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_.*$@/-]{0,40}", fullmatch=True))
def test_whatever_a_key_says_a_robot_is_a_valid_segment(rest):
    client = TOWELS.client_of(f"{PREFIX}/{rest}")
    assert client is None or (client_id(client) == client and rest.startswith(f"{client}/"))
