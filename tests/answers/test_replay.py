"""Recorded answers come back exactly."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.answers.question import Reply, Usage
from tasks.answers.replay import NOT_RECORDED, RecordingAnswerer, ReplayAnswerer, question_digest
from tasks.dataset.episode import Episode
from tasks.errors import AnswererError
from tasks.questions import Memory, Segments
from tests.answers.bad_server import BadServer
from tests.answers.conftest import count, memory, picture, subtasks


def episode(index: int) -> Episode:
    times = np.arange(4, dtype=np.float32)
    return Episode(index, "task", times, np.arange(4), Path("data.parquet"), 0, 0, 1.0)


class Counting:
    """Answers with a number that grows, so that no two answers are alike."""

    model_id = "counting"
    vqa_types = frozenset({"count"})
    needs_pictures = False

    def __init__(self) -> None:
        self.asked = 0

    def preflight(self) -> None: ...

    def close(self) -> None: ...

    def answer(self, questions):
        replies = []
        for question in questions:
            self.asked += 1
            if question.inputs.get("note") == "unknown":
                replies.append(Reply(None))
            elif question.inputs.get("note") == "broken":
                replies.append(Reply(None, "the server was down"))
            else:
                replies.append(Reply(Memory(memory=f"answer {self.asked}"), usage=Usage(1, 2, 3, 0.1)))
        return replies


def recorded(path: Path, *batches) -> list[list[Reply]]:
    recording = RecordingAnswerer(Counting(), path)
    recording.preflight()
    replies = [recording.answer(batch) for batch in batches]
    recording.close()
    recording.close()
    return replies


def test_a_real_run_is_replayed_without_the_server(connect, tmp_path):
    questions = [subtasks(7.0, picture(1)), memory("a", picture(1)), count("b")]
    with BadServer() as server:
        recording = RecordingAnswerer(connect(server), tmp_path / "run" / "answers.jsonl")
        recording.preflight()
        first = recording.answer(questions)
        recording.close()
    replay = ReplayAnswerer(tmp_path / "run" / "answers.jsonl", "some-other-model")
    replay.preflight()
    again = replay.answer(questions)
    assert replay.model_id == "replay:test-vlm"
    assert [r.answer for r in again] == [r.answer for r in first]
    assert isinstance(again[0].answer, Segments)
    assert again[0].usage.requests == 0


def test_skips_are_replayed_as_they_were(tmp_path):
    batch = [memory("unknown"), memory("broken"), memory("fine")]
    recorded(tmp_path / "a.jsonl", batch)
    replies = ReplayAnswerer(tmp_path / "a.jsonl").answer(batch)
    assert [r.reason for r in replies] == [None, "the server was down", None]
    assert [r.answer is None for r in replies] == [True, True, False]


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


def test_a_later_answer_replaces_an_earlier_one_but_a_failure_does_not(tmp_path):
    path = tmp_path / "a.jsonl"
    [_, [last]] = recorded(path, [memory()], [memory()])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    failed = {**lines[-1], "answer": None, "reason": "the server was down"}
    with path.open("a") as f:
        f.write(json.dumps(failed) + "\n")
    assert ReplayAnswerer(path).answer([memory()])[0].answer == last.answer


def test_what_was_not_recorded_is_skipped(tmp_path):
    recorded(tmp_path / "a.jsonl", [memory("a", picture(1))])
    replay = ReplayAnswerer(tmp_path / "a.jsonl")
    others = [memory("b", picture(1)), memory("a", picture(2)), memory("a")]
    assert [r.reason for r in replay.answer(others)] == [NOT_RECORDED] * 3


def test_the_identity_of_a_question_is_all_that_shapes_its_answer(tmp_path, monkeypatch):
    question = memory("a", picture(1))
    same = question_digest(question, "m")
    assert question_digest(replace(question, phase="vqa", episode=episode(3)), "m") == same
    different = [
        question_digest(question, "other model"),
        question_digest(replace(question, inputs={"note": "b"}), "m"),
        question_digest(replace(question, pictures=(picture(2),)), "m"),
        question_digest(replace(question, pictures=(picture(1, "caption"),)), "m"),
        question_digest(replace(question, answer=Segments), "m"),
    ]
    (tmp_path / "new.txt").write_text("another prompt {note}")
    monkeypatch.setenv("CUEBOOK_PROMPT_PLAN_MEMORY", str(tmp_path / "new.txt"))
    different.append(question_digest(question, "m"))
    assert len({same, *different}) == 7


def test_a_line_cut_by_a_kill_is_ignored_and_then_written_over(tmp_path):
    path = tmp_path / "a.jsonl"
    recorded(path, [memory("a")])
    path.write_bytes(path.read_bytes() + b'{"digest": "12')
    assert ReplayAnswerer(path).answer([memory("a")])[0].answer is not None
    recorded(path, [memory("b")])
    assert all(r.answer for r in ReplayAnswerer(path).answer([memory("a"), memory("b")]))


def test_many_threads_write_whole_lines(tmp_path):
    recording = RecordingAnswerer(Counting(), tmp_path / "a.jsonl")
    batches = [[memory(f"{i}-{j}") for j in range(20)] for i in range(8)]
    threads = [threading.Thread(target=recording.answer, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recording.close()
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
        (b"\xff\xfe\n", "line 1"),
    ],
)
def test_an_unusable_recording_is_refused_before_the_run(tmp_path, content, words):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AnswererError, match=words) as caught:
        ReplayAnswerer(path).preflight()
    assert str(path) in str(caught.value) and "--vlm.replay_path" in str(caught.value)


def test_of_two_recorded_models_one_must_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    recorded(path, [memory("a")])
    line = json.loads(path.read_text())
    with path.open("a") as f:
        f.write(json.dumps({**line, "model": "second"}) + "\n")
    with pytest.raises(AnswererError, match="counting, second"):
        ReplayAnswerer(path, "third").preflight()
    ReplayAnswerer(path, "second").preflight()


def test_a_recording_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(AnswererError, match=r"--vlm\.record_path"):
        RecordingAnswerer(Counting(), tmp_path / "folder.jsonl").preflight()
