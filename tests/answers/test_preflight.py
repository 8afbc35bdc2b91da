"""The check that a server can answer, before any work."""

from __future__ import annotations

import socket

import pytest

from tasks.errors import AnswererError
from tests.answers.bad_server import BadServer


def refusal(answerer) -> str:
    with pytest.raises(AnswererError) as caught:
        answerer.preflight()
    error = caught.value
    assert error.wanted and error.got and error.remedy
    return str(error)


def test_a_listed_model_needs_no_chat(connect):
    with BadServer() as server:
        connect(server).preflight()
        assert server.bodies == []


def test_nobody_listens(connect):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{s.getsockname()[1]}/v1"
    text = refusal(connect(base))
    assert base in text and "refused" in text and "vllm serve test-vlm" in text and "--vlm.api_base" in text


def test_a_wrong_model_names_those_there_and_the_nearest(connect):
    with BadServer(models="wrong") as server:
        text = refusal(connect(server))
    assert "other/model, test-vlm-2" in text and "--vlm.model_id=test-vlm-2" in text


@pytest.mark.parametrize("models", ["401", "403"])
def test_a_wrong_key(connect, models):
    with BadServer(models=models) as server:
        assert "--vlm.api_key" in refusal(connect(server))


@pytest.mark.parametrize("models", ["empty", "404", "405", "500", "501"])
@pytest.mark.parametrize("mode", ["ok", "422", "429", "prose", "empty"])
def test_without_a_list_any_sign_of_life_will_do(connect, models, mode):
    with BadServer(mode, models=models) as server:
        connect(server).preflight()
        assert server.bodies[0]["max_tokens"] == 1


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("no_model", "--vlm.model_id"),
        ("401", "--vlm.api_key"),
        ("404", "ending in /v1"),
        ("500", "Internal Server Error"),
        ("drop", "broken connection"),
    ],
)
def test_without_a_list_the_chat_decides(connect, mode, words):
    with BadServer(mode, models="empty") as server:
        assert words in refusal(connect(server))


@pytest.mark.parametrize(("mode", "models"), [("ok", "hang"), ("hang", "empty")])
def test_a_silent_server(connect, mode, models):
    with BadServer(mode, models=models) as server:
        assert "no answer within 0.2 s" in refusal(connect(server, request_timeout_s=0.2))


def test_a_wrong_path(connect):
    with BadServer() as server:
        text = refusal(connect(server.api_base.removesuffix("/v1")))
    assert "HTTP 404: Not Found" in text and "--vlm.api_base" in text
