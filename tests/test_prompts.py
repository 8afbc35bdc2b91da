"""The prompt files: complete, renderable, and their JSON examples are answers that the program accepts."""

from __future__ import annotations

import json
import re
import string

import pytest
from pydantic import BaseModel

import prompts
from tasks import questions

ANSWERS: dict[str, type[BaseModel]] = {
    "plan_video_task": questions.VideoTask,
    "plan_subtask_describe": questions.Description,
    "plan_subtasks": questions.Segments,
    "plan_subtask_relabel": questions.RelabeledSegment,
    "plan_memory": questions.Memory,
    "plan_task_rephrasings": questions.Rephrasings,
    "plan_task_aug_axes": questions.TaskAugAxes,
    "interjections_initial_speech": questions.InitialSpeech,
    "interjections_interjection": questions.Interjection,
    "judge_labels": questions.LabelVerdict,
    **{f"vqa_{kind}": model for kind, model in questions.VQA_ANSWERS.items()},
}
PARTS = {
    "sheet_preamble",
    "clip_preamble",
    "motion_facts",
    "boundary_rules",
    "coordinates_pixel",
    "coordinates_norm1000",
    "coordinates_norm1",
}
NUMBERS = {"x_min": "1", "y_min": "2", "x_max": "3", "y_max": "4", "x": "1", "y": "2"}


def placeholders(name: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(prompts.text(name)) if field}


def rendered(name: str) -> str:
    return prompts.render(name, **{p: f"<{p}>" for p in placeholders(name)})


def test_every_prompt_is_known() -> None:
    assert set(prompts.names()) == set(ANSWERS) | PARTS


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_the_example_is_an_answer_that_is_accepted(name: str) -> None:
    last = rendered(name).strip().splitlines()[-1]
    example = re.sub(r"(?<=[\[ ])(x_min|y_min|x_max|y_max|x|y)(?=[,\]])", lambda m: NUMBERS[m[1]], last)
    answer = ANSWERS[name].model_validate(json.loads(example))
    assert set(json.loads(example)) == set(ANSWERS[name].model_fields)
    assert answer.model_dump()


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_only_json_is_asked_for(name: str) -> None:
    assert "Reply with one JSON object and nothing else" in prompts.text(name)


@pytest.mark.parametrize("name", sorted(set(ANSWERS) | PARTS))
def test_braces_stand_in_the_example_alone(name: str) -> None:
    lines = rendered(name).rstrip("\n").split("\n")
    before = lines[:-1] if name in ANSWERS else lines
    assert not [line for line in before if "{" in line or "}" in line]
    assert all(line == line.strip() or line.startswith("  ") for line in lines)
    assert len("\n".join(lines)) < 4500  # short enough to be read to the end


@pytest.mark.parametrize("name", ["plan_video_task", "plan_subtask_describe", "plan_subtasks", "plan_subtask_relabel"])
def test_prompts_about_pictures_tell_how_to_read_them_and_leave_the_kind_to_that(name: str) -> None:
    assert "preamble" in placeholders(name)
    if name != "plan_subtask_relabel":  # which always shows sheets
        assert not re.search(r"sheet|grid|box|tile|clip", prompts.text(name))


def test_only_the_preamble_of_sheets_speaks_of_sheets() -> None:
    assert "contact sheets" in prompts.text("sheet_preamble")
    assert not re.search(r"sheet|grid|box|tile|cell", prompts.text("clip_preamble"))


def test_describe_and_segment_share_one_notion_of_an_event() -> None:
    for name in ("plan_subtask_describe", "plan_subtasks"):
        assert "boundary_rules" in placeholders(name)
        assert "[0, <duration>]" in rendered(name)


@pytest.mark.parametrize("kind", sorted(questions.VQA_ANSWERS))
def test_visual_questions_name_their_type_and_the_picture(kind: str) -> None:
    text = rendered(f"vqa_{kind}")
    assert f'type "{kind}"' in text and "<width> x <height> pixels" in text
    assert ("<coordinates_rule>" in text) is (kind in ("bbox", "keypoint"))
    assert '"question"' in text and '"answer"' in text


@pytest.mark.parametrize("name", ["plan_subtask_describe", "plan_subtasks"])
def test_without_facts_nothing_is_said_of_them(name: str) -> None:
    bare = prompts.render(name, **{p: "" for p in placeholders(name)})
    assert "facts" in placeholders(name) and "facts" not in bare.lower()


def test_relations_of_the_prompt_are_those_of_the_schema() -> None:
    listed = re.search(r"one of: ([a-z_, ]+)\.", prompts.text("vqa_spatial"))
    assert listed
    relations = questions.Spatial.model_json_schema()["properties"]["relation"]["enum"]
    assert listed[1].split(", ") == relations


def test_a_prompt_can_be_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    before = prompts.digest("vqa_count")
    (tmp_path / "own.txt").write_text("Count for {task}.")
    monkeypatch.setenv("CUEBOOK_PROMPT_VQA_COUNT", str(tmp_path / "own.txt"))
    assert prompts.render("vqa_count", task="tea") == "Count for tea."
    assert prompts.digest("vqa_count") != before
