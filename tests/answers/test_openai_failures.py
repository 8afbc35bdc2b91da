"""Answers over real HTTP from servers that misbehave in every way."""

from __future__ import annotations

import base64
import io
import logging
import socket
import threading
import time

import pytest
from PIL import Image

from tasks.answers import failures
from tasks.answers.client import CallError
from tasks.answers.failures import Verdict, judge, pause_s
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers.question import Picture, Question
from tasks.errors import AnswererError
from tests.answers.bad_server import BadServer, pictures
from tests.answers.conftest import count, memory, picture, subtasks


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}/v1"


def in_thread(answerer: OpenAIAnswerer, questions: list[Question]) -> tuple[threading.Thread, list[AnswererError]]:
    """Ask in a thread of its own; the list holds the error that ended the batch, if one did."""
    errors: list[AnswererError] = []

    def ask() -> None:
        try:
            answerer.answer(questions)
        except AnswererError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, errors


# ---------------------------------------------------------------- replies that are no answer


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("prose", "no JSON object"),
        ("half_json", "no JSON object"),
        ("wrong_shape", "memory: Field required"),
        ("empty", "the reply is empty"),
        ("null", "the reply is empty"),
        ("no_choices", "the reply is empty"),
        ("no_message", "the reply is empty"),
        ("html", "the reply is empty"),
    ],
)
def test_a_bad_reply_is_corrected_once_then_skipped(connect, mode, why):
    with BadServer(mode) as server:
        reply = connect(server).answer([memory()])[0]
        assert reply.answer is None and why in reply.reason
        assert len(reply.reason) < 700
        assert reply.preview.startswith("Sure! I see") == (mode == "prose")
        first, second = server.bodies
        assert second["messages"][:1] == first["messages"]
        assert [m["role"] for m in second["messages"]] == ["user", "assistant", "user"]
        assert second["messages"][1]["content"]
        assert "bare JSON" in second["messages"][2]["content"]


@pytest.mark.parametrize("mode", ["prose", "half_json", "wrong_shape", "empty", "null", "no_choices", "html"])
def test_the_correction_can_save_the_question(connect, mode):
    with BadServer(mode, times=1) as server:
        reply = connect(server).answer([memory()])[0]
        assert reply.answer.memory
        assert len(server.bodies) == 2


def test_the_correction_names_the_misfit(connect):
    with BadServer("wrong_shape", times=1) as server:
        connect(server).answer([memory()])
        _, shown, asked = server.bodies[1]["messages"]
    assert shown["content"] == '{"unexpected": 1}'
    assert "memory: Field required" in asked["content"]


@pytest.mark.parametrize("mode", ["think", "invalid_utf8"])
def test_thoughts_and_broken_bytes_cost_no_extra_request(connect, mode):
    with BadServer(mode) as server:
        assert connect(server).answer([count()])[0].answer.count == 1
        assert len(server.bodies) == 1


def test_a_cut_reply_is_asked_again_with_twice_the_tokens(connect):
    with BadServer("cut") as server:
        reply = connect(server, max_new_tokens=512).answer([memory()])[0]
        assert reply.answer is not None
        assert [b["max_tokens"] for b in server.bodies] == [512, 1024]


def test_a_reply_that_stays_cut_is_corrected_then_skipped(connect):
    with BadServer("cut", tokens_enough=10_000) as server:
        reply = connect(server, max_new_tokens=512).answer([memory()])[0]
        assert [b["max_tokens"] for b in server.bodies] == [512, 1024, 1024]
    assert reply.answer is None and "cut off" in reply.reason


def test_when_twice_the_tokens_do_not_fit_the_context_a_shorter_reply_is_asked_for(connect):
    with BadServer("cut_small") as server:
        reply = connect(server, max_new_tokens=512).answer([memory("x", picture(1), picture(2), picture(3))])[0]
        assert reply.answer is not None
        assert [b["max_tokens"] for b in server.bodies] == [512, 1024, 512]
        assert len(pictures(server.bodies[-1])) == 3


# ---------------------------------------------------------------- formats


def test_a_refused_schema_steps_down_once_for_the_process(connect, caplog):
    with BadServer("refuse_json_schema") as server:
        for answerer in (connect(server), connect(server)):
            assert answerer.answer([memory()])[0].answer is not None
        sent = [b["response_format"]["type"] for b in server.bodies]
    assert sent == ["json_schema", "json_object", "json_object"]
    assert "refuses response_format json_schema" in caplog.text


def test_all_formats_refused_still_answers(connect):
    with BadServer("refuse_all_formats") as server:
        answerer = connect(server)
        replies = answerer.answer([subtasks(9.0), memory(), count()])
        assert all(r.answer is not None for r in replies)
        before = len(server.bodies)
        answerer.answer([memory()])
        assert len(server.bodies) == before + 1
        assert "response_format" not in server.bodies[-1]


def test_an_unexplained_refusal_is_tried_without_a_format(connect):
    with BadServer("refuse_formats_silently") as server:
        answerer = connect(server)
        assert all(r.answer for r in answerer.answer([memory(i) for i in range(8)]))
        before = len(server.bodies)
        assert answerer.answer([memory()])[0].answer
        assert len(server.bodies) == before + 1  # learned


def test_a_fixed_format_is_not_stepped_down(connect):
    with BadServer("refuse_all_formats") as server:
        reply = connect(server, structured="json_schema").answer([memory()])[0]
    assert reply.answer is None and "response_format" in reply.reason


def test_newer_field_names_are_learned_even_by_requests_in_flight(connect):
    with BadServer("refuse_max_tokens") as server:
        answerer = connect(server)
        assert all(r.answer for r in answerer.answer([memory(i) for i in range(8)]))
        last = server.bodies[-1]
    assert "max_completion_tokens" in last and "max_tokens" not in last and "temperature" not in last


# ---------------------------------------------------------------- too many pictures


def test_an_overflow_drops_every_second_picture_but_not_the_ends(connect, caplog):
    shots = [picture(i) for i in range(9)]
    with BadServer("overflow", pictures_max=3) as server:
        assert connect(server).answer([memory("x", *shots)])[0].answer is not None
        counts = [len(pictures(b)) for b in server.bodies]
        full, last = pictures(server.bodies[0]), pictures(server.bodies[-1])
    assert counts == [9, 5, 3]
    assert last == [full[0], full[4], full[8]]
    assert "asking with 5 pictures in place of 9" in caplog.text


@pytest.mark.parametrize(("given", "requests"), [(1, 1), (2, 1), (12, 4)])
def test_an_overflow_that_stays_is_skipped(connect, given, requests):
    with BadServer("overflow", pictures_max=0) as server:
        reply = connect(server).answer([memory("x", *[picture(i) for i in range(given)])])[0]
        assert reply.answer is None and "maximum context length" in reply.reason
        assert len(server.bodies) == requests


def jpeg(width: int = 64, height: int = 48) -> Picture:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, "JPEG")
    return Picture(out.getvalue(), width, height)


def sizes(body: dict) -> list[tuple[int, int]]:
    """Width and height of each picture sent."""
    sent = [base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in pictures(body)]
    return [Image.open(io.BytesIO(data)).size for data in sent]


def test_after_an_overflow_all_is_still_shown_but_smaller(connect):
    with BadServer("overflow", pictures_max=3) as server:
        assert connect(server).answer([memory("x", *[jpeg() for _ in range(4)])])[0].answer is not None
        first, second = (sizes(b) for b in server.bodies)
    assert first == [(64, 48)] * 4
    assert len(second) == 2 and all(w < 64 and h > w for w, h in second)  # two by two, one below the other


def test_limits_of_the_model_are_kept_from_the_start(connect):
    with BadServer() as server:
        connect(server, max_images=2, max_pixels=4096).answer([memory("x", *[jpeg(128, 96) for _ in range(4)])])
        sent = sizes(server.bodies[0])
    assert len(sent) <= 2 and all(w * h <= 4096 for w, h in sent)


def test_pictures_in_which_places_are_named_keep_their_pixels(connect):
    with BadServer("overflow", pictures_max=0) as server:
        connect(server, max_pixels=4096).answer([count(pictures=(jpeg(128, 96), jpeg(128, 96)))])
        assert {size for body in server.bodies for size in sizes(body)} == {(128, 96)}


# ---------------------------------------------------------------- failures that pass


@pytest.mark.parametrize("mode", ["429", "500", "503", "drop"])
def test_a_passing_failure_is_retried(connect, mode, caplog):
    with BadServer(mode, times=2) as server:
        reply = connect(server).answer([memory()])[0]
        assert reply.answer is not None and reply.usage.requests == 3
    assert "trying again" in caplog.text


def test_retry_after_is_honoured(connect):
    with BadServer("429", times=1, retry_after="0.3") as server:
        began = time.monotonic()
        assert connect(server, retry_backoff_s=0.0).answer([memory()])[0].answer is not None
        assert time.monotonic() - began >= 0.3


def test_pauses_double_with_jitter_and_are_bounded():
    error = CallError(503, "busy")
    assert 0.25 <= pause_s(error, 0, 0.5) <= 0.75
    assert 1.0 <= pause_s(error, 2, 0.5) <= 3.0
    assert pause_s(error, 30, 0.5) <= 1.5 * failures.BACKOFF_S_MAX
    assert pause_s(CallError(429, "", retry_after_s=9e9), 0, 0.5) == failures.RETRY_AFTER_S_MAX


@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_a_server_that_never_finishes_is_given_up_in_time(connect, mode):
    with BadServer(mode) as server:
        reply = connect(server, request_timeout_s=0.2, max_retries=1).answer([memory()])[0]
        assert reply.answer is None and "after 1 retries" in reply.reason
        assert len(server.bodies) == 2


def test_a_slow_server_is_waited_for(connect):
    with BadServer("slow", delay_s=0.3) as server:
        assert connect(server).answer([memory()])[0].answer is not None


def test_every_third_request_failing_loses_nothing(connect):
    with BadServer("500", every=3) as server:
        replies = connect(server, max_retries=8).answer([memory(i) for i in range(30)])
    assert all(r.answer is not None for r in replies)


def test_a_retry_pause_holds_no_slot(connect):
    with BadServer("429", times=1, retry_after="30") as server:
        answerer = connect(server, client_concurrency=1)
        stuck, errors = in_thread(answerer, [memory("stuck")])
        assert server.wait_for(lambda: len(server.bodies) == 1)
        assert answerer.answer([memory("other")])[0].answer is not None
        answerer.close()
        stuck.join(5)
        assert len(errors) == 1


# ---------------------------------------------------------------- failures that stay


@pytest.mark.parametrize("mode", ["404", "422"])
def test_another_refusal_skips_with_the_servers_words(connect, mode, caplog):
    with BadServer(mode) as server:
        reply = connect(server, structured="off").answer([memory()])[0]
        assert reply.answer is None and reply.reason.startswith(f"HTTP {mode}: ")
        assert len(server.bodies) == 1


def test_a_server_error_that_stays_is_skipped_after_the_retries(connect):
    with BadServer("500") as server:
        reply = connect(server).answer([memory()])[0]
        assert reply.answer is None and "HTTP 500: Internal Server Error (after 2 retries)" in reply.reason
        assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("mode", "remedy"), [("401", "--vlm.api_key"), ("403", "--vlm.api_key"), ("no_model", "--vlm.model_id")]
)
def test_a_wrong_key_or_model_ends_the_run_at_once(connect, mode, remedy):
    with BadServer(mode) as server:
        answerer = connect(server, client_concurrency=1)
        with pytest.raises(AnswererError, match=remedy):
            answerer.answer([memory(i) for i in range(50)])
        assert len(server.bodies) == 1
        with pytest.raises(AnswererError, match=remedy):
            answerer.answer([memory()])
        assert len(server.bodies) == 1


def test_the_end_reaches_callers_in_other_threads(connect):
    with BadServer("401", every=2) as server:
        server.gate.clear()
        answerer = connect(server, client_concurrency=2)
        callers = [in_thread(answerer, [memory(i) for i in range(20)]) for _ in range(4)]
        server.gate.set()
        for thread, _ in callers:
            thread.join(10)
    assert [len(errors) for _, errors in callers] == [1, 1, 1, 1]


@pytest.mark.parametrize("mode", ["500", "404", "422", "prose", "half_json", "empty", "drop"])
def test_a_server_that_never_answers_well_ends_the_run(connect, mode):
    with BadServer(mode) as server:
        answerer = connect(server, retry_backoff_s=0.0, max_retries=0, client_concurrency=4)
        with pytest.raises(AnswererError, match=f"{failures.FIRST_FAILURES_MAX} questions and no answer; the last: ."):
            for _ in range(10):
                answerer.answer([memory(i) for i in range(10)])
        assert len(server.bodies) <= 3 * (failures.FIRST_FAILURES_MAX + 4)


def test_a_dead_server_ends_the_run_before_all_retries_are_spent(connect, closed_port):
    answerer = connect(closed_port, retry_backoff_s=0.0, max_retries=20)
    with pytest.raises(AnswererError, match=r"nothing to 48 requests.*cannot connect"):
        answerer.answer([memory(i) for i in range(10)])


def test_a_server_that_dies_midway_skips_first_and_then_ends_the_run(connect):
    server = BadServer().start()
    answerer = connect(server, max_retries=1, retry_backoff_s=0.0)
    assert answerer.answer([memory()])[0].answer is not None
    server.mode = "drop"
    skipped = answerer.answer([memory(i) for i in range(10)])
    assert all("broken connection" in r.reason and "after 1 retries" in r.reason for r in skipped)
    server.stop()
    with pytest.raises(AnswererError, match=f"{failures.SERVER_FAILURES_MAX} questions in a row failed"):
        answerer.answer([memory(i) for i in range(40)])


def test_misfits_of_a_living_server_do_not_end_a_run_that_had_answers(connect):
    with BadServer() as server:
        answerer = connect(server)
        answerer.answer([memory()])
        server.mode = "prose"
        replies = answerer.answer([memory(i) for i in range(failures.SERVER_FAILURES_MAX + 8)])
    assert all(r.answer is None for r in replies)


def test_retries_are_told_without_flooding(caplog):
    retries = failures.RetryLog()
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            retries.note("plan/x of episode 3", CallError(503, "busy"), 0.5)
    assert len(caplog.records) == 1
    assert "plan/x of episode 3: HTTP 503: busy; trying again in 0.5 s" in caplog.text


# ---------------------------------------------------------------- the words of real servers


@pytest.mark.parametrize(
    ("status", "message", "verdict"),
    [
        (None, "no answer within 5 s", Verdict.RETRY),
        (408, "timeout", Verdict.RETRY),
        (425, "too early", Verdict.RETRY),
        (429, "rate limit reached", Verdict.RETRY),
        (429, "You exceeded your current quota (insufficient_quota)", Verdict.FATAL),
        (502, "bad gateway", Verdict.RETRY),
        (400, "This model's maximum context length is 8192 tokens.", Verdict.SHRINK),
        (400, "The decoder prompt (length 9000) is longer than the maximum model length of 8192.", Verdict.SHRINK),
        (400, "the request exceeds the available context size", Verdict.SHRINK),
        (400, "At most 8 image(s) may be provided in one prompt.", Verdict.REFUSED),
        (400, "Prompt is too long (context_length_exceeded)", Verdict.SHRINK),
        (413, "(no message)", Verdict.SHRINK),
        (422, "Unexpected fields in the request: {'response_format'}", Verdict.FORMAT),
        (400, "guided decoding is disabled", Verdict.FORMAT),
        (501, "structured outputs are not implemented", Verdict.FORMAT),
        (404, "The model `x` does not exist.", Verdict.FATAL),
        (404, 'model "x" not found, try pulling it first', Verdict.FATAL),
        (400, "Server is pinned to model 'a', got 'b': it is pinned to a", Verdict.FATAL),
        (400, "this model does not support images", Verdict.FATAL),
        (404, "Not Found", Verdict.REFUSED),
        (302, "moved", Verdict.REFUSED),
    ],
)
def test_what_servers_say_is_understood(status, message, verdict):
    assert judge(CallError(status, message)) is verdict
