"""Answers over real HTTP from a server that behaves."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import threading

import pytest

from tasks.answers.client import ChatClient
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers.question import Question
from tasks.errors import AnswererError
from tasks.questions import VQA_ANSWERS, Memory
from tasks.settings import VlmSettings
from tests.answers.bad_server import BadServer, blocks, pictures, prompt
from tests.answers.conftest import count, memory, picture, subtasks
from tests.conftest import REPO


def test_a_batch_comes_back_typed_and_in_order(connect):
    with BadServer() as server:
        replies = connect(server).answer([subtasks(6.0), memory(), subtasks(12.0), count()])
    assert [type(r.answer).__name__ for r in replies] == ["Segments", "Memory", "Segments", "Count"]
    assert replies[0].answer.subtasks[-1].end == 6.0
    assert replies[2].answer.subtasks[-1].end == 12.0
    assert all(r.reason is None for r in replies)


def test_no_questions_no_requests(connect):
    with BadServer() as server:
        assert connect(server).answer([]) == []
        assert server.bodies == []


def test_a_request_is_pictures_first_as_the_same_jpeg_then_the_prompt(connect):
    shots = [picture(1), picture(2, "the previous segment")]
    with BadServer() as server:
        connect(server, max_new_tokens=77, temperature=0.5).answer([memory("and now?", *shots)])
        body = server.bodies[0]
    kinds = [b["type"] for b in blocks(body)]
    assert kinds == ["image_url", "text", "image_url", "text"]
    assert blocks(body)[1]["text"] == "the previous segment"
    sent = [base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in pictures(body)]
    assert sent == [s.jpeg for s in shots]
    assert prompt(body).startswith("and now? Reply as")
    assert (body["max_tokens"], body["temperature"], body["model"]) == (77, 0.5, "test-vlm")
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["memory"]


def test_own_reply_limit_of_a_question(connect):
    with BadServer() as server:
        connect(server).answer([memory(max_tokens=99)])
        assert server.bodies[0]["max_tokens"] == 99


def test_thinking_is_controllable(connect):
    with BadServer() as server:
        plain, told = (
            connect(server),
            connect(server, reasoning_effort="low", chat_template_kwargs={"enable_thinking": True}),
        )
        plain.answer([memory()])
        told.answer([memory()])
        before, after = server.bodies
    assert "reasoning_effort" not in before and before["chat_template_kwargs"] == {"enable_thinking": False}
    assert (after["reasoning_effort"], after["chat_template_kwargs"]) == ("low", {"enable_thinking": True})


@pytest.mark.parametrize(("structured", "kind"), [("json_object", "json_object"), ("off", None)])
def test_the_format_can_be_fixed(connect, structured, kind):
    with BadServer() as server:
        assert connect(server, structured=structured).answer([memory()])[0].answer
        assert server.bodies[0].get("response_format", {}).get("type") == kind


def test_the_key_is_sent(connect):
    with BadServer() as server:
        connect(server, api_key="secret").answer([memory()])
        assert server.headers[0]["Authorization"] == "Bearer secret"


def test_usage_counts_requests_tokens_and_time(connect):
    with BadServer("prose", times=1) as server:
        usage = connect(server).answer([memory()])[0].usage
    assert (usage.requests, usage.tokens_in, usage.tokens_out) == (2, 22, 14)
    assert usage.latency_s > 0


def test_every_visual_answer_fits_its_schema(connect, tmp_path, monkeypatch):
    (tmp_path / "any.txt").write_text("look")
    questions = []
    for kind, answer in VQA_ANSWERS.items():
        monkeypatch.setenv(f"CUEBOOK_PROMPT_VQA_{kind.upper()}", str(tmp_path / "any.txt"))
        questions.append(Question(f"vqa_{kind}", answer, {}, (picture(1),), phase="vqa"))
    with BadServer() as server:
        replies = connect(server).answer(questions)
    assert [type(r.answer) for r in replies] == list(VQA_ANSWERS.values())


def test_connections_are_kept(connect):
    with BadServer() as server:
        answerer = connect(server, client_concurrency=1)
        for _ in range(5):
            answerer.answer([memory()])
        assert len(server.bodies) == 5
        assert server.connections == 1


def test_one_limit_for_all_threads_and_answerers(connect):
    with BadServer() as server:
        server.gate.clear()
        answerers = [connect(server, client_concurrency=3), connect(server, client_concurrency=3)]
        threads = [
            threading.Thread(target=answerers[i % 2].answer, args=([memory(j) for j in range(5)],)) for i in range(6)
        ]
        for thread in threads:
            thread.start()
        assert server.wait_for(lambda: server.in_flight == 3)
        server.gate.set()
        for thread in threads:
            thread.join(20)
        assert len(server.bodies) == 30
        assert server.max_in_flight == 3


def test_plan_questions_overtake_visual_ones(connect):
    with BadServer() as server:
        server.gate.clear()
        answerer = connect(server, client_concurrency=1)
        slow = threading.Thread(target=answerer.answer, args=([count(i) for i in range(4)],))
        slow.start()
        assert server.wait_for(lambda: server.in_flight == 1)
        fast = threading.Thread(target=answerer.answer, args=([memory()],))
        fast.start()
        while len(answerer._open) < 5:  # the plan question is queued, not yet sent
            fast.join(0.01)
        server.gate.set()
        slow.join(10)
        fast.join(10)
        names = ["plan" if "memory" in prompt(b) else "vqa" for b in server.bodies]
    assert names == ["vqa", "plan", "vqa", "vqa", "vqa"]


def test_close_fails_waiting_callers_at_once_and_is_idempotent(connect):
    with BadServer("hang") as server:
        answerer = connect(server, request_timeout_s=60.0)
        caught: list[AnswererError] = []

        def ask() -> None:
            try:
                answerer.answer([memory(i) for i in range(40)])
            except AnswererError as error:
                caught.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert server.wait_for(lambda: server.in_flight >= 1)
        answerer.close()
        thread.join(5)
        answerer.close()
        assert not thread.is_alive() and "stopped" in str(caught[0])
        pool_threads = [t for t in threading.enumerate() if t.name.startswith("vlm-")]
        for thread in pool_threads:
            thread.join(5)  # requests in flight are broken off too, not left to their time-out
        assert not any(t.is_alive() for t in pool_threads)
    with pytest.raises(AnswererError, match="stopped"):
        answerer.answer([memory()])


ASKING = """
import sys
from tasks.answers.openai import OpenAIAnswerer
from tasks.settings import VlmSettings
from tests.answers.conftest import memory

answerer = OpenAIAnswerer(VlmSettings(backend="openai", api_base=sys.argv[1], model_id="test-vlm"))
try:
    answerer.answer([memory(i) for i in range(40)])
except KeyboardInterrupt:
    answerer.close()
    print("stopped")
"""


def test_ctrl_c_ends_a_process_with_requests_in_flight():
    with BadServer("hang") as server:
        asking = subprocess.Popen([sys.executable, "-c", ASKING, server.api_base], cwd=REPO, stdout=subprocess.PIPE)
        try:
            assert server.wait_for(lambda: server.in_flight == 16, 30)
            asking.send_signal(signal.SIGINT)
            out, _ = asking.communicate(timeout=10)
        finally:
            asking.kill()
    assert (out.strip(), asking.returncode) == (b"stopped", 0)


def test_a_prompt_file_that_cannot_be_filled_names_itself(connect, tmp_path, monkeypatch):
    (tmp_path / "bad.txt").write_text("{nobody_gives_this}")
    monkeypatch.setenv("CUEBOOK_PROMPT_PLAN_MEMORY", str(tmp_path / "bad.txt"))
    with BadServer() as server, pytest.raises(AnswererError, match="CUEBOOK_PROMPT_PLAN_MEMORY"):
        connect(server).answer([memory()])


@pytest.mark.parametrize("base", ["localhost:8000/v1", "", "http://", "ftp://host/v1", "http://[::1"])
def test_an_impossible_address_is_refused(base):
    with pytest.raises(AnswererError, match="api_base"):
        OpenAIAnswerer(VlmSettings(backend="openai", api_base=base))


def test_a_key_that_cannot_be_sent_is_refused_and_not_shown():
    with pytest.raises(AnswererError) as caught:
        OpenAIAnswerer(VlmSettings(backend="openai", api_key="sec\nret"))
    assert "sec" not in str(caught.value).replace("printable", "")


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with BadServer() as server:
        assert isinstance(connect(server).answer([memory()])[0].answer, Memory)


def test_a_key_may_stay_in_the_environment(connect, monkeypatch):
    monkeypatch.setenv("SOME_VLM_KEY", "secret-1")
    client = ChatClient(VlmSettings(api_key="env:SOME_VLM_KEY"))
    assert client._http.headers["Authorization"] == "Bearer secret-1"
    client.close()
    with pytest.raises(AnswererError, match="OTHER_KEY"):
        ChatClient(VlmSettings(api_key="env:OTHER_KEY"))
