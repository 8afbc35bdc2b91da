"""A real vision-language model behind real HTTP: a server that holds replies to the schema, and one that does not."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.answers import client
from tasks.answers.ledger import Ledger, LedgerAnswerer
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers.question import Question, Reply, Usage
from tasks.answers.replay import ReplayAnswerer
from tasks.settings import VlmSettings
from tests.answers.conftest import PROMPTS
from tests.every_question import SIDE, every_question, picture, question

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("xgrammar")

from tests.constrained_server import ConstrainedServer

TOKENS_OF_A_PICTURE = 4 + 3  # its places, and the tokens around them
PICTURES = sum(len(q.pictures) for q in every_question())


@pytest.fixture(autouse=True)
def shipped_prompts(prompt_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real prompts, not the small ones of this folder's other tests."""
    for name in PROMPTS:
        monkeypatch.delenv(f"CUEBOOK_PROMPT_{name.upper()}")


@pytest.fixture(scope="module")
def server(tiny_vlm: Path) -> Iterator[ConstrainedServer]:
    """The tiny model behind HTTP."""
    running = ConstrainedServer(tiny_vlm)
    yield running
    running.close()


def ask(vlm: VlmSettings, questions: list[Question]) -> tuple[list[Reply], list[tuple[Question, Reply]]]:
    """Replies and what was noted, after the whole life of an answerer."""
    notes: list[tuple[Question, Reply]] = []
    answerer = OpenAIAnswerer(vlm, lambda q, r: notes.append((q, r)))
    try:
        answerer.preflight()
        return answerer.answer(questions), notes
    finally:
        answerer.close()


def total(replies: list[Reply]) -> Usage:
    """What they cost together."""
    return sum((r.usage for r in replies), Usage())


def test_every_question_type_is_answered_over_http(server: ConstrainedServer) -> None:
    vlm = VlmSettings(backend="openai", model_id=server.model, api_base=server.api_base, temperature=0)
    asked = every_question()
    replies, notes = ask(vlm, asked)
    assert [type(r.answer) for r in replies] == [q.answer for q in asked]
    assert server.pictures == [(SIDE, SIDE)] * PICTURES
    counted = [r["usage"] for r in server.replies]
    noted = total([r for _, r in notes])
    assert noted.requests == len(counted) == len(asked)
    assert noted.tokens_in == sum(u["prompt_tokens"] for u in counted) > 1000
    assert noted.tokens_out == sum(u["completion_tokens"] for u in counted) > 100


def test_every_question_type_is_replayed_from_the_ledger(server: ConstrainedServer, tmp_path: Path) -> None:
    vlm = VlmSettings(backend="openai", model_id=server.model, api_base=server.api_base, temperature=0)
    ledger = Ledger(tmp_path / "ledger.jsonl", "run-1", server.model, True, None)
    answerer = LedgerAnswerer(OpenAIAnswerer(vlm, ledger.note), ledger)
    try:
        answerer.preflight()
        first = answerer.answer(every_question())
    finally:
        answerer.close()
    again = ReplayAnswerer(tmp_path).answer(every_question())
    assert [r.answer for r in again] == [r.answer for r in first] and None not in [r.answer for r in again]


def test_pictures_over_http_are_those_in_process(server: ConstrainedServer, tiny_vlm: Path) -> None:
    from tasks.answers.local import local_answerer

    vlm = VlmSettings(backend="openai", model_id=server.model, api_base=server.api_base, temperature=0)
    asked = [question("vqa_attribute", picture("red")), question("vqa_spatial", picture("blue"))]
    over_http, _ = ask(vlm, asked)
    inside = local_answerer(vlm.model_copy(update={"backend": "transformers", "batch_size": 1}))
    try:
        assert [r.answer for r in inside.answer(asked)] == [r.answer for r in over_http]
    finally:
        inside.close()


@pytest.mark.slow
def test_transformers_serve_is_started_asked_and_ended(
    tiny_vlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Path(sys.executable).with_name("transformers")
    if not command.exists():
        pytest.skip("no transformers command: pip install 'transformers[serving]'")
    (tmp_path / "hub").mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    counted = seen_usages(monkeypatch)
    port = free_port()
    vlm = VlmSettings(
        backend="openai",
        model_id=str(tiny_vlm),
        api_base=f"http://127.0.0.1:{port}/v1",
        auto_serve=True,
        serve_port=port,
        serve_command=f"{command} serve {{model}} --host 127.0.0.1 --port {{port}} --device cpu",
        gpus_per_server=0,
        client_concurrency=2,
        temperature=0,
        max_new_tokens=16,
    )
    asked, notes = every_question(), []
    answerer = OpenAIAnswerer(vlm, lambda q, r: notes.append((q, r)), tmp_path / "logs")
    try:
        answerer.preflight()
        counted.clear()  # what it took to see whether the server is ready
        replies = answerer.answer(asked)
        noted, before = total([r for _, r in notes]), len(counted)
        answerer.answer([question("plan_video_task", picture("red"))])
        one = counted[before]["prompt_tokens"]
        before = len(counted)
        answerer.answer([question("plan_video_task", *[picture("red")] * 3)])
        assert counted[before]["prompt_tokens"] == one + 2 * TOKENS_OF_A_PICTURE
        served = answerer.slots()
    finally:
        answerer.close()
    assert [(s.state, s.busy) for s in served] == [("up", 0)]
    assert "POST /v1/chat/completions" in "".join(f.read_text() for f in (tmp_path / "logs").iterdir())
    for q, reply in zip(asked, replies, strict=True):  # nothing holds this server's model to a schema
        assert reply.answer is None and reply.reason, q.name
        assert reply.usage.requests >= 2, q.name  # shown its own reply once
        assert reply.preview or "empty" in reply.reason
    counted = counted[: noted.requests]
    assert sorted(q.name for q, _ in notes[: len(asked)]) == sorted(q.name for q in asked)
    assert noted.tokens_in == sum(u["prompt_tokens"] for u in counted)
    assert noted.tokens_out == sum(u["completion_tokens"] for u in counted) > 0
    assert not is_listening(port)


def seen_usages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """What servers say in their chat replies."""
    seen: list[dict[str, int]] = []
    read = client._completion

    def spy(reply: dict) -> client.Completion:
        seen.append(reply["usage"])
        return read(reply)

    monkeypatch.setattr(client, "_completion", spy)
    return seen


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_listening(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0
