"""Questions as chat messages."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tasks.answers import messages
from tasks.answers.byte_cache import ByteCache
from tasks.answers.messages import user_message
from tasks.answers.question import Clip
from tasks.errors import VideoError
from tests.answers.conftest import picture


def clip(path: Path, digest: str = "d") -> Clip:
    return Clip(path, digest, 1.0, 64, 48, 2.0)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_urls", ByteCache(1000))


def test_pictures_come_first_behind_their_captions_and_the_text_last(tmp_path):
    path = tmp_path / "c.mp4"
    path.write_bytes(b"mp4")
    content = user_message("what?", (picture(1, "before"), picture(2)), (clip(path),))["content"]
    assert [p["type"] for p in content] == ["text", "image_url", "image_url", "video_url", "text"]
    assert content[0]["text"] == "before" and content[-1]["text"] == "what?"
    sent = content[1]["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
    assert base64.b64decode(sent) == picture(1).jpeg
    assert user_message("", ())["content"] == [{"type": "text", "text": ""}]


def test_what_is_sent_is_encoded_once(tmp_path):
    path = tmp_path / "c.mp4"
    path.write_bytes(b"mp4")
    first = user_message("a", (picture(1),), (clip(path),))["content"]
    path.unlink()
    again = user_message("b", (picture(1),), (clip(path),))["content"]
    assert first[0]["image_url"]["url"] is again[0]["image_url"]["url"]
    assert first[1]["video_url"]["url"] is again[1]["video_url"]["url"]


def test_what_is_kept_is_bounded(tmp_path):
    for i in range(100):
        user_message("a", (picture(i),))
    assert 500 < messages._urls.bytes <= 1000
    path = tmp_path / "c.mp4"
    path.write_bytes(bytes(2000))
    assert len(user_message("a", (), (clip(path, "large"),))["content"][0]["video_url"]["url"]) > 2000
    assert messages._urls.bytes <= 1000


def test_a_clip_that_is_gone_is_told(tmp_path):
    with pytest.raises(VideoError, match=r"c\.mp4"):
        user_message("a", (), (clip(tmp_path / "c.mp4"),))


def test_a_correction_shows_the_start_of_the_reply():
    said = messages.correction("x" * 10_000, "no JSON")
    assert said[0] == {"role": "assistant", "content": "x" * messages.REPLY_CHARS_MAX}
    assert "no JSON" in said[1]["content"]
    assert messages.correction(" ", "empty")[0]["content"] == "(nothing)"
