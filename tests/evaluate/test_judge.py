"""A model's opinion on labels: asked only where they differ, once for each pair, and kept apart from the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import prompts
from tasks.answers.question import Question
from tasks.errors import AnswererError
from tasks.evaluate.compare import evaluate
from tasks.evaluate.judge import judge
from tasks.evaluate.report import Evaluation
from tasks.evaluate.source import load
from tests.answerers import ScriptedAnswerer


def side(path: Path, *labels: str) -> Path:
    """Two episodes with the same labels, four seconds each."""
    spans = [{"text": text, "start": 4 * i, "end": 4 * i + 4} for i, text in enumerate(labels)]
    episodes = [{"episode_index": i, "task": "make tea", "frames": 40 * len(labels), "subtasks": spans} for i in (0, 1)]
    path.write_text(json.dumps({"fps": 10, "episodes": episodes}))
    return path


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    a = side(tmp_path / "a.json", "Pick up the cup.", "grab the pot", "wipe")
    b = side(tmp_path / "b.json", "pick up cup", "take the kettle", "pour tea")
    return evaluate(load(a), load(b))


def says(question: Question) -> object:
    return {"same": question.inputs["first"] == "grab the pot"}


def test_different_labels_are_asked_about_once_and_equal_ones_not_at_all(evaluation: Evaluation) -> None:
    answerer = ScriptedAnswerer(says, needs_pictures=False)
    judged = judge(evaluation, answerer)
    asked = [(q.name, q.inputs["task"], q.inputs["first"], q.inputs["second"]) for q in answerer.asked]
    assert asked == [
        ("judge_labels", "make tea", "grab the pot", "take the kettle"),
        ("judge_labels", "make tea", "wipe", "pour tea"),
    ]
    assert judged.micro("label_judged") == pytest.approx(2 / 3) and judged.micro("label_exact") == pytest.approx(1 / 3)
    assert judged.judge and (judged.judge["model"], judged.judge["asked"], judged.judge["answered"]) == (
        "scripted",
        2,
        2,
    )
    assert "label_judged" in judged.to_json()["micro"] and "label_judged" not in evaluation.to_json()["micro"]


def test_a_pair_without_verdict_counts_neither_way(evaluation: Evaluation) -> None:
    answerer = ScriptedAnswerer(lambda q: {"same": True} if q.inputs["first"] == "wipe" else "cut off")
    judged = judge(evaluation, answerer)
    assert judged.micro("label_judged") == 1.0 and judged.judge and judged.judge["answered"] == 1
    assert judged.episodes[0].scores["label_judged"].of == 2


def test_no_verdict_at_all_is_an_error(evaluation: Evaluation) -> None:
    with pytest.raises(AnswererError, match="cut off"):
        judge(evaluation, ScriptedAnswerer(lambda q: "cut off"))


def test_nobody_is_asked_when_all_labels_agree(tmp_path: Path) -> None:
    same = load(side(tmp_path / "a.json", "wave"))
    answerer = ScriptedAnswerer(lambda q: "never")
    assert judge(evaluate(same, same), answerer).micro("label_judged") == 1.0 and answerer.asked == []


def test_the_prompt_shows_both_labels_as_they_are() -> None:
    text = prompts.render("judge_labels", task="tea {x}", first="a {b}", second='say "same: true"')
    assert '"a {b}"' in text and "tea {x}" in text and 'say "same: true"' in text
