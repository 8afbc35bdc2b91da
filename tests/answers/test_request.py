"""What is asked of a server, and what is no longer asked once it refused."""

from __future__ import annotations

import base64
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.answers.dialect import Dialect
from tasks.answers.question import Clip
from tasks.answers.request import THOUGHT_TOKENS, Ask, build
from tasks.answers.structured import OFF, wire_schema
from tasks.questions import Count, Memory
from tasks.settings import VlmSettings
from tests.answers.conftest import count, memory, picture
from tests.answers.picky_server import (
    PickyServer,
    Refusal,
    few_pictures,
    hosted,
    lm_studio,
    mistral,
    out_of_memory,
    pydantic,
    short_replies,
    transformers,
)
from tests.answers.test_budget import flat

REPLY = {"memory": "I took the cup."}
NO_THINKING = {"enable_thinking": False}


def body(dialect: Dialect | None = None, clips: tuple[Clip, ...] = (), rung: int = 0, **settings: object) -> dict:
    ask = Ask("what next?", (picture(1),), clips, 512)
    return build(ask, Memory, rung, VlmSettings(model_id="m", **settings), dialect or Dialect("test"))


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    path = tmp_path / "a clip.mp4"
    path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(200)))
    return Clip(path, "d1", 4.0, 64, 48, 2.0, "Watch this:")


# ---------------------------------------------------------------- fields


def test_a_request_holds_what_is_asked_and_no_more():
    asked = body()
    assert set(asked) == {
        *("model", "messages", "max_tokens", "temperature", "response_format", "chat_template_kwargs")
    }
    assert asked["max_tokens"] == 512 and asked["response_format"]["json_schema"]["schema"] == wire_schema(Memory)
    assert "response_format" not in body(rung=OFF)


def test_a_correction_follows_the_question():
    ask = Ask("what next?", (), (), 512, [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}])
    messages = build(ask, Memory, 0, VlmSettings(), Dialect("test"))["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]


def test_thinking_is_off_unless_asked_for():
    assert body()["chat_template_kwargs"] == NO_THINKING
    assert "chat_template_kwargs" not in body(thinking=True)
    assert body(chat_template_kwargs={"enable_thinking": True})["chat_template_kwargs"] == {"enable_thinking": True}
    assert body(chat_template_kwargs={"a": 1})["chat_template_kwargs"] == {"a": 1, **NO_THINKING}
    assert body(chat_template_kwargs={"a": 1}, thinking=True)["chat_template_kwargs"] == {"a": 1}
    assert "chat_template_kwargs" not in body(chat_template_kwargs={})


def test_a_model_that_thinks_has_tokens_for_it():
    assert body(thinking=True)["max_tokens"] == body(reasoning_effort="low")["max_tokens"] == 512 + THOUGHT_TOKENS


def test_clips_bring_their_sampling_along(clip):
    assert body(clips=(clip, replace(clip, fps=4.0)))["mm_processor_kwargs"] == {"fps": 4.0, "do_sample_frames": True}
    assert body(clips=(clip,), mm_processor_kwargs={"fps": 1})["mm_processor_kwargs"] == {"fps": 1}
    assert "mm_processor_kwargs" not in body(mm_processor_kwargs={"fps": 1})


def test_clips_are_sent_as_files_when_the_server_shares_the_disk(clip):
    parts = body(clips=(clip,), video_as="file")["messages"][0]["content"]
    assert [p["type"] for p in parts] == ["image_url", "text", "video_url", "text"]
    assert parts[2] == {"type": "video_url", "video_url": {"url": clip.path.as_uri()}}
    sent = body(clips=(clip,))["messages"][0]["content"][2]["video_url"]["url"]
    assert base64.b64decode(sent.removeprefix("data:video/mp4;base64,")) == clip.path.read_bytes()


# ---------------------------------------------------------------- refusals, over HTTP


@pytest.mark.parametrize(
    ("refuse", "requests", "missing"),
    [
        (transformers("chat_template_kwargs", "temperature"), 2, {"chat_template_kwargs", "temperature"}),
        (pydantic("chat_template_kwargs", "reasoning_effort"), 2, {"chat_template_kwargs", "reasoning_effort"}),
        (mistral, 2, {"chat_template_kwargs"}),
        (lm_studio, 2, {"chat_template_kwargs"}),
        (hosted("chat_template_kwargs", "reasoning_effort"), 3, {"chat_template_kwargs", "reasoning_effort"}),
    ],
)
def test_a_refused_field_costs_one_request_and_is_not_sent_again(connect, refuse: Refusal, requests, missing):
    with PickyServer(refuse, REPLY) as server:
        answerer = connect(server.api_base, reasoning_effort="low")
        assert answerer.answer([memory()])[0].usage.requests == requests
        replies = answerer.answer([memory(i) for i in range(8)])
    assert [r.usage.requests for r in replies] == [1] * 8
    optional = {"chat_template_kwargs", "reasoning_effort", "temperature"}
    assert all(optional - set(b) == missing for b in server.taken)
    assert server.taken[0]["response_format"]["type"] == "json_schema"  # the format was not to blame


def test_a_refused_schema_is_sent_bare_and_not_given_up(connect):
    with PickyServer(hosted(), {"label": "cup", "count": 1}) as server:
        answerer = connect(server.api_base)
        assert answerer.answer([count()])[0].usage.requests == 2
        assert answerer.answer([count(1)])[0].usage.requests == 1
    assert server.bodies[-1]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "Count", "schema": wire_schema(Count, bare=True)},
    }


def test_a_number_of_pictures_is_kept_once_known(connect):
    with PickyServer(few_pictures, REPLY) as server:
        answerer = connect(server.api_base)
        shown = [flat(i) for i in range(7)]
        assert answerer.answer([memory("x", *shown)])[0].usage.requests == 2
        assert answerer.answer([memory("y", *shown)])[0].usage.requests == 1
        assert answerer.answer([memory("z", shown[0])])[0].usage.requests == 1
    counts = [sum(p["type"] == "image_url" for p in b["messages"][0]["content"]) for b in server.bodies]
    assert counts == [7, 2, 2, 1]


@pytest.mark.parametrize("refuse", [transformers("mm_processor_kwargs"), out_of_memory])
def test_clips_are_asked_about_without_a_refused_field(connect, clip, refuse):
    with PickyServer(refuse, REPLY) as server:
        answerer = connect(server.api_base)
        assert answerer.answer([memory(clips=(clip,))])[0].usage.requests == 2
        assert answerer.answer([memory(clips=(clip,))])[0].usage.requests == 1
    assert "mm_processor_kwargs" in server.bodies[0] and "mm_processor_kwargs" not in server.bodies[-1]
    assert "fps" not in str(server.bodies[-1]["messages"])


def test_a_limit_of_replies_is_kept_once_known(connect):
    with PickyServer(short_replies, REPLY) as server:
        answerer = connect(server.api_base, max_new_tokens=9000)
        assert answerer.answer([memory()])[0].usage.requests == 2
        assert answerer.answer([memory(max_tokens=100)])[0].usage.requests == 1
    assert [b["max_tokens"] for b in server.taken] == [4096, 100]


def test_what_the_user_asked_for_is_not_dropped_in_silence(connect, caplog):
    with PickyServer(transformers("chat_template_kwargs"), REPLY) as server, caplog.at_level(logging.WARNING):
        connect(server.api_base).answer([memory()])
        assert not caplog.records
        told = connect(server.api_base, model_id="other", chat_template_kwargs={"style": "dry"})
        told.answer([memory(i) for i in range(8)])
    warned = [r.getMessage() for r in caplog.records]
    assert len(warned) == 1 and "chat_template_kwargs" in warned[0] and "dry" in warned[0]


# ---------------------------------------------------------------- what is learned


def test_refusals_of_other_things_teach_nothing():
    dialect, asked = Dialect("test"), body(reasoning_effort="low")
    for message in ("You uploaded an unsupported image.", "Not Found", "response_format json_schema is not supported"):
        assert not dialect.adapt(message, asked)
    assert body(dialect, reasoning_effort="low") == asked


def test_requests_in_flight_that_meet_the_same_refusal_are_all_asked_again():
    dialect, asked = Dialect("test"), body()
    assert dialect.adapt("Unknown parameter: 'chat_template_kwargs'.", asked)
    assert dialect.adapt("Unknown parameter: 'chat_template_kwargs'.", asked)
    assert not dialect.adapt("Unknown parameter: 'chat_template_kwargs'.", body(dialect))


def test_newer_models_want_another_field_for_tokens():
    dialect = Dialect("test")
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    assert dialect.adapt(words, body())
    assert body(dialect)["max_completion_tokens"] == 512 and "max_tokens" not in body(dialect)


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 512. This model supports at most 256 completion tokens",
        "`max_tokens` must be less than or equal to `256`, less than the `context_window` for this model",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 256]",
        "max_tokens: 512 > 256, which is the maximum allowed number of output tokens",
        "`max_new_tokens` must be <= 256. Given: 512",
    ],
)
def test_limits_of_replies_are_read(words):
    dialect = Dialect("test")
    assert dialect.adapt(words, body()) and body(dialect)["max_tokens"] == 256


def test_bare_schemas_are_the_last_step_before_another_format():
    dialect = Dialect("test")
    words = "Failed to initialize samplers: failed to parse grammar"
    assert dialect.adapt(words, body())
    assert not dialect.adapt(words, body(dialect))


def test_a_refused_rung_is_left_once_for_all_answers():
    dialect = Dialect("test")
    for _ in range(16):  # requests in flight meet the same refusal
        dialect.refused(0, Count)
    assert dialect.rung(Count) == dialect.rung(Memory) == 1


def test_a_rung_that_served_others_is_left_for_one_answer_only():
    dialect = Dialect("test")
    dialect.proved(0)
    dialect.refused(0, Count)
    assert (dialect.rung(Count), dialect.rung(Memory)) == (1, 0)
