"""Every call leaves a line, whatever became of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import replace

import pytest

from tasks.answers.ledger import Ledger
from tasks.answers.question import UNFINISHED, Clip, Reply
from tasks.answers.replay import ReplayAnswerer
from tasks.errors import AnswererError
from tasks.questions import Memory
from tests.answers.conftest import memory, picture
from tests.answers.ledgers import USAGE, episode, keeping, recorded


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def open_ledger(path, run_id: str = "run-1") -> Ledger:
    return Ledger(path, run_id, "counting", False, frozenset({"count"}))


def test_a_line_tells_what_was_asked_what_came_of_it_and_what_it_cost(tmp_path):
    path = tmp_path / "deep" / "ledger.jsonl"
    began = time.time()
    recorded(path, [memory("a", picture(1), picture(2), episode=episode(7))])
    [line] = lines(path)
    assert began - 1 < line.pop("time") < time.time() + 1
    assert len(line.pop("digest")) == 32 and line.pop("prompt")
    assert line == {
        "run_id": "run-1",
        "name": "plan_memory",
        "phase": "plan",
        "episode": 7,
        "server": "http://a/v1",
        "model": "counting",
        "needs_pictures": False,
        "vqa_types": ["count"],
        "pictures": 2,
        "picture_bytes": 2 * 34,
        "tokens_in": 30,
        "tokens_out": 7,
        "latency_s": 0.25,
        "attempts": 2,
        "outcome": "answered",
        "reason": None,
        "preview": "",
        "answer": {"memory": "answer 1"},
    }


def test_outcomes(tmp_path):
    path = tmp_path / "l.jsonl"
    ledger = open_ledger(path)
    replies = [Reply(Memory(memory="x")), Reply(None, "no", preview="<p>" * 200), Reply(None)]
    replies.append(Reply(None, f"{UNFINISHED}: the run was stopped", USAGE))
    for reply in replies:
        ledger.note(memory(), reply)
    found = lines(path)
    assert [line["outcome"] for line in found] == ["answered", "skipped", "unknown", "lost"]
    assert found[3]["tokens_in"] == USAGE.tokens_in, "what it cost is not lost with it"
    assert len(found[1]["preview"]) == 200


def test_clips_count_as_pictures(tmp_path):
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"x" * 1000)
    there = Clip(video, "d", 4.0, 64, 48, 2.0)
    gone = replace(there, path=tmp_path / "gone.mp4")
    path = tmp_path / "l.jsonl"
    open_ledger(path).note(replace(memory("a", picture(1)), clips=(there, gone)), Reply(None))
    [line] = lines(path)
    assert (line["pictures"], line["picture_bytes"]) == (3, 34 + 1000)


def test_text_that_json_cannot_hold_still_leaves_a_line(tmp_path):
    path = tmp_path / "l.jsonl"
    open_ledger(path).note(memory(), Reply(None, "bad \ud800 text é \u2028 end"))
    [line] = path.read_bytes().splitlines()
    assert json.loads(line)["reason"] == "bad ? text é \u2028 end"


def test_runs_follow_each_other_in_one_file(tmp_path):
    path = tmp_path / "l.jsonl"
    recorded(path, [memory("a")], run_id="run-1")
    recorded(path, [memory("b")], run_id="run-2")
    assert [line["run_id"] for line in lines(path)] == ["run-1", "run-2"]


@pytest.mark.parametrize("cut", [b'{"digest": "12', b'{"digest": "' + b"x" * 200_000])
def test_a_line_cut_by_a_kill_is_dropped_by_the_next_run(tmp_path, cut):
    path = tmp_path / "l.jsonl"
    recorded(path, [memory("a")])
    path.write_bytes(path.read_bytes() + cut)
    assert ReplayAnswerer(path).answer([memory("a")])[0].answer is not None
    recorded(path, [memory("b")])
    assert len(lines(path)) == 2


def test_a_file_of_one_cut_line_starts_anew(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_bytes(b'{"digest"')
    recorded(path, [memory("a")])
    assert len(lines(path)) == 1


def test_another_process_that_writes_keeps_its_last_line(tmp_path):
    """Nothing is cut off while others append: their last line may just be on its way."""
    path = tmp_path / "l.jsonl"
    first = keeping(path)
    first.answer([memory("a")])
    with path.open("ab") as f:
        f.write(b'{"digest": "on its way')
    second = keeping(path, "run-2")
    second.preflight()
    assert path.read_bytes().endswith(b"on its way")
    first.close()
    second.close()


def _write(path: str, run_id: str, calls: int) -> None:
    ledger = Ledger(path, run_id, "m", True, None)  # type: ignore[arg-type]
    for i in range(calls):
        ledger.note(memory(f"{i} " + "x" * 5000), Reply(None, "y" * 900))


def test_several_processes_append_whole_lines(tmp_path):
    path = tmp_path / "l.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(path, f"run-{i}", 100)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    found = lines(path)
    assert sorted({line["run_id"] for line in found}) == ["run-0", "run-1", "run-2"] and len(found) == 300


def test_a_ledger_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(AnswererError, match=r"--vlm\.record_path"):
        keeping(tmp_path / "folder.jsonl").preflight()


def test_a_disk_that_fills_up_ends_the_run_at_the_next_question(tmp_path):
    """The thread that answered is not disturbed, and what it learned reaches its phase."""
    answerer = keeping(tmp_path / "l.jsonl")
    answerer.preflight()
    full = os.open("/dev/full", os.O_WRONLY)
    answerer.ledger._file, kept = full, answerer.ledger._file
    os.close(kept)
    assert answerer.answer([memory("a")])[0].answer is not None
    with pytest.raises(AnswererError, match="No space left"):
        answerer.answer([memory("b")])
    answerer.close()


def test_a_question_that_cannot_be_put_down_ends_the_run_and_harms_no_thread(tmp_path):
    ledger = open_ledger(tmp_path / "l.jsonl")
    ledger.note(replace(memory(), name="no_such_prompt"), Reply(None))
    with pytest.raises(AnswererError, match="no_such_prompt"):
        ledger.check()


def test_a_call_that_ends_after_the_run_is_recorded(tmp_path):
    path = tmp_path / "l.jsonl"
    ledger = open_ledger(path)
    ledger.check()
    ledger.close()
    ledger.note(memory(), Reply(None, "late"))
    ledger.close()
    assert [line["reason"] for line in lines(path)] == ["late"]
