"""Recorded answers come back exactly."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.answers.identity import question_digest
from tasks.answers.ledger import Ledger, LedgerAnswerer
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers.question import UNFINISHED, Clip
from tasks.answers.replay import NOT_RECORDED, ReplayAnswerer
from tasks.errors import AnswererError
from tasks.questions import Segments
from tasks.settings import VlmSettings
from tests.answers.bad_server import BadServer
from tests.answers.conftest import count, memory, picture, subtasks
from tests.answers.ledgers import Counting, episode, keeping, recorded


def test_a_real_run_is_replayed_without_the_server(tmp_path):
    questions = [subtasks(7.0, picture(1)), memory("a", picture(1)), count("b")]
    path = tmp_path / "run" / "ledger.jsonl"
    ledger = Ledger(path, "run-1", "test-vlm", True, None)
    with BadServer() as server:
        vlm = VlmSettings(backend="openai", api_base=server.api_base, model_id="test-vlm")
        answerer = LedgerAnswerer(OpenAIAnswerer(vlm, ledger.note), ledger)
        answerer.preflight()
        first = answerer.answer(questions)
        answerer.close()
    for place in (path, path.parent):
        replay = ReplayAnswerer(place, "some-other-model")
        replay.preflight()
        again = replay.answer(questions)
        assert (replay.model_id, replay.recorded_model) == ("replay:test-vlm", "test-vlm")
        assert [r.answer for r in again] == [r.answer for r in first]
        assert isinstance(again[0].answer, Segments)
        assert again[0].usage.requests == 0


def test_skips_are_replayed_as_they_were(tmp_path):
    batch = [memory("unknown"), memory("broken"), memory("fine")]
    recorded(tmp_path / "a.jsonl", batch)
    replies = ReplayAnswerer(tmp_path / "a.jsonl").answer(batch)
    assert [r.reason for r in replies] == [None, "the server was down", None]
    assert [r.answer is None for r in replies] == [True, True, False]
    assert replies[1].preview == "<html> it broke"


def test_the_replay_is_asked_as_the_recorded_answerer_was(tmp_path):
    recorded(tmp_path / "a.jsonl", [memory()])
    replay = ReplayAnswerer(tmp_path / "a.jsonl")
    assert replay.needs_pictures is False and replay.vqa_types == {"count"}


def test_the_same_question_of_two_episodes_keeps_two_answers(tmp_path):
    one, two = memory(episode=episode(1)), memory(episode=episode(2))
    [[a], [b]] = recorded(tmp_path / "a.jsonl", [one], [two])
    assert a.answer != b.answer
    replay = ReplayAnswerer(tmp_path / "a.jsonl")
    assert [r.answer for r in replay.answer([two, one])] == [b.answer, a.answer]
    assert replay.answer([memory(episode=episode(9))])[0].answer is not None  # known question, new episode


def test_the_same_question_twice_in_a_batch_keeps_both_answers_in_order(tmp_path):
    """Two cameras that show nothing are asked the very same; calls end in any order."""
    twins = [memory("dark", picture(0), episode=episode(1)) for _ in range(3)]
    [first] = recorded(tmp_path / "a.jsonl", twins)
    assert len({r.answer.memory for r in first}) == 3
    again = ReplayAnswerer(tmp_path / "a.jsonl").answer(twins)
    assert [r.answer for r in again] == [r.answer for r in first]


def test_of_two_runs_the_later_answer_counts_but_a_failure_does_not(tmp_path):
    path = tmp_path / "a.jsonl"
    inner = Counting()
    recorded(path, [memory()], run_id="run-1", inner=inner)
    [[last]] = recorded(path, [memory()], run_id="run-2", inner=inner)
    _append_failure(path, run_id="run-3")
    assert ReplayAnswerer(path).answer([memory()])[0].answer == last.answer


def test_within_a_run_the_last_word_counts(tmp_path):
    """A phase that is tried again asks anew, and its rows come from the second time."""
    path = tmp_path / "a.jsonl"
    recorded(path, [memory()])
    _append_failure(path, run_id="run-1")
    assert ReplayAnswerer(path).answer([memory()])[0].reason == "the server was down"


def test_a_call_that_was_lost_says_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    [[answered]] = recorded(path, [memory()])
    _append_failure(path, run_id="run-1", reason=f"{UNFINISHED}: stopped", outcome="lost")
    assert ReplayAnswerer(path).answer([memory()])[0].answer == answered.answer


def _append_failure(path: Path, **changes: object) -> None:
    line = json.loads(path.read_text().splitlines()[-1])
    failed = {**line, "answer": None, "reason": "the server was down", "outcome": "skipped", **changes}
    with path.open("a") as f:
        f.write(json.dumps(failed) + "\n")


def test_what_was_not_recorded_is_skipped(tmp_path):
    recorded(tmp_path / "a.jsonl", [memory("a", picture(1))])
    replay = ReplayAnswerer(tmp_path / "a.jsonl")
    others = [memory("b", picture(1)), memory("a", picture(2)), memory("a")]
    assert [r.reason for r in replay.answer(others)] == [NOT_RECORDED] * 3


def test_the_identity_of_a_question_is_all_that_shapes_its_answer(tmp_path, monkeypatch):
    question = memory("a", picture(1))
    clip = Clip(tmp_path / "clip.mp4", "d1", 4.0, 64, 48, 2.0)
    same = question_digest(question, "m")
    assert question_digest(replace(question, phase="vqa", episode=episode(3)), "m") == same
    different = [
        question_digest(question, "other model"),
        question_digest(replace(question, inputs={"note": "b"}), "m"),
        question_digest(replace(question, pictures=(picture(2),)), "m"),
        question_digest(replace(question, pictures=(picture(1, "caption"),)), "m"),
        question_digest(replace(question, clips=(clip,)), "m"),
        question_digest(replace(question, clips=(replace(clip, digest="d2"),)), "m"),
        question_digest(replace(question, clips=(replace(clip, fps=1.0),)), "m"),
        question_digest(replace(question, answer=Segments), "m"),
    ]
    (tmp_path / "new.txt").write_text("another prompt {note}")
    monkeypatch.setenv("CUEBOOK_PROMPT_PLAN_MEMORY", str(tmp_path / "new.txt"))
    different.append(question_digest(question, "m"))
    assert len({same, *different}) == 10


def test_where_a_clip_lies_is_no_part_of_its_identity(tmp_path):
    clip = Clip(tmp_path / "a.mp4", "d1", 4.0, 64, 48, 2.0)
    here, there = (replace(memory(), clips=(c,)) for c in (clip, replace(clip, path=tmp_path / "b.mp4")))
    assert question_digest(here, "m") == question_digest(there, "m")


def test_recordings_with_fewer_keys_are_replayed(tmp_path):
    """What was recorded before ledgers told the cost of a call."""
    path = tmp_path / "a.jsonl"
    [[answered, failed]] = recorded(path, [memory("a"), memory("broken")])
    kept = ("digest", "model", "needs_pictures", "vqa_types", "name", "phase", "episode", "answer", "reason")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: line[k] for k in kept}) + "\n" for line in lines))
    replies = ReplayAnswerer(path).answer([memory("a"), memory("broken")])
    assert [r.answer for r in replies] == [answered.answer, None] and replies[1].reason == failed.reason


def test_many_threads_write_whole_lines(tmp_path):
    answerer = keeping(tmp_path / "a.jsonl")
    batches = [[memory(f"{i}-{j}") for j in range(20)] for i in range(8)]
    threads = [threading.Thread(target=answerer.answer, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answerer.close()
    replay = ReplayAnswerer(tmp_path / "a.jsonl")
    assert all(r.answer for batch in batches for r in replay.answer(batch))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "an empty file"),
        (b'{"digest": "cut', "an empty file"),
        (b"prose\n", "line 1"),
        (b'{"model": "m"}\n', "line 1"),
        (b"[1]\n", "line 1"),
        (b"\n\xff\xfe\n", "line 2"),
        (b'{"digest": "zz", "model": "m", "answer": null}\n', "line 1"),
        (b'{"digest": "11", "model": "m", "answer": null, "episode": 1e99}\n', "line 1"),
    ],
)
def test_an_unusable_recording_is_refused_before_the_run(tmp_path, content, words):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AnswererError, match=words) as caught:
        ReplayAnswerer(path).preflight()
    assert str(path) in str(caught.value) and "--vlm.replay_path" in str(caught.value)


def test_a_folder_without_a_ledger_is_refused(tmp_path):
    with pytest.raises(AnswererError, match=r"ledger\.jsonl"):
        ReplayAnswerer(tmp_path).preflight()


def test_a_damaged_line_costs_no_other(tmp_path, caplog):
    """A full disk may leave half a line in the middle."""
    path = tmp_path / "a.jsonl"
    recorded(path, [memory("a")])
    path.write_bytes(path.read_bytes() + b'{"digest": "12\n')
    recorded(path, [memory("b")])
    with caplog.at_level(logging.WARNING):
        assert all(r.answer for r in ReplayAnswerer(path).answer([memory("a"), memory("b")]))
    assert "left out 1 lines" in caplog.text and "line 2" in caplog.text


def test_of_two_recorded_models_one_must_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    recorded(path, [memory("a")])
    line = json.loads(path.read_text())
    with path.open("a") as f:
        f.write(json.dumps({**line, "model": "second", "needs_pictures": True}) + "\n")
    with pytest.raises(AnswererError, match="counting, second"):
        ReplayAnswerer(path, "third").preflight()
    second = ReplayAnswerer(path, "second")
    second.preflight()
    assert second.model_id == "replay:second" and second.needs_pictures


def test_replies_can_be_recorded_again(tmp_path):
    recorded(tmp_path / "a.jsonl", [memory("a")])
    noted = []
    replay = ReplayAnswerer(tmp_path / "a.jsonl", note=lambda q, r: noted.append((q.name, r.answer)))
    [reply] = replay.answer([memory("a")])
    assert noted == [("plan_memory", reply.answer)]
