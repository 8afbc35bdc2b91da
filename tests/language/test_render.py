"""One frame rendered: which turns remain, what they say, and what the sample tells the trainer."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

from tasks.errors import AmbiguousRowsError
from tasks.language.recipe import load_recipe
from tasks.language.render import Renderer, Sample
from tasks.language.resolve import EpisodeTable
from tasks.language.rows import Row, say
from tests.conftest import REPO

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
CAMERAS = (FRONT, WRIST)
TASK = "tidy the table"


def turn(content: Any = None, role: str = "assistant", stream: str = "high_level", **more: Any) -> dict[str, Any]:
    return {"role": role, "stream": stream, **({} if content is None else {"content": content}), **more}


ASK = turn("${task}", "user")
TELL = turn("${subtask}", target=True, if_present="subtask")

STATES = [
    Row("assistant", "reach", "subtask", 0.0),
    Row("assistant", "grasp", "subtask", 1.0),
    Row("assistant", "the cup is held", "memory", 1.0),
    Row("assistant", " ", "plan", 1.0),
]
EVENTS = [
    (4, Row("user", "hurry", "interjection", 0.4)),
    (4, Row.speech("on my way", 0.4)),
    (6, Row("assistant", "both at once", "interjection", 0.6, tool_calls=say("yes"))),
    *(
        (8, Row(role, f"{role} {camera[-5:]}", "vqa", 0.8, camera))
        for camera in CAMERAS
        for role in ("user", "assistant")
    ),
]
TABLE = EpisodeTable.at_fps(STATES, EVENTS, 10.0)


def render(*turns: dict[str, Any], frame: int = 0, task: str | None = TASK, **recipe: Any) -> Sample | None:
    renderer = Renderer(load_recipe({"messages": list(turns), **recipe}), cameras=CAMERAS)
    sample = renderer.render(TABLE, frame, episode=0, task=task)
    assert renderer.renderable(TABLE, frame, task=task) == ([] if sample is None else ["recipe"])
    return sample


def said(sample: Sample | None) -> list[Any] | None:
    """What the turns say, in order."""
    return sample and [message.get("content") for message in sample["messages"]]


# --- what a sample looks like --------------------------------------------------------------------------------------


def test_a_sample_tells_streams_and_targets_beside_its_messages():
    assert render(ASK, TELL, turn("act", "user", "low_level"), frame=3) == {
        "messages": [
            {"role": "user", "content": TASK},
            {"role": "assistant", "content": "reach"},
            {"role": "user", "content": "act"},
        ],
        "message_streams": ["high_level", "high_level", "low_level"],
        "target_message_indices": [1],
    }


def test_the_state_changes_with_its_frame():
    assert [said(render(TELL, frame=f)) for f in (9, 10)] == [["reach"], ["grasp"]]


def test_an_action_needs_no_text_to_learn():
    sample = render(turn("${subtask}", "user", "low_level", if_present="subtask"))
    assert sample["target_message_indices"] == [] and sample["message_streams"] == ["low_level"]


def test_one_turn_can_be_said_and_acted_on():
    sample = render(turn("${subtask}", stream="low_level", target=True))
    assert sample["target_message_indices"] == [0] and sample["message_streams"] == ["low_level"]


# --- which turns remain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "frame", "expected"),
    [
        # a turn whose guard is absent is left out; the rest remains
        ([turn("Heard: ${interjection}", "user", if_present="interjection"), TELL], 4, ["Heard: hurry", "reach"]),
        ([turn("Heard: ${interjection}", "user", if_present="interjection"), TELL], 5, ["reach"]),
        # with the only target gone there is nothing to learn
        ([ASK, turn("${memory}", target=True, if_present="memory")], 0, None),
        ([ASK, turn("${memory}", target=True, if_present="memory")], 10, [TASK, "the cup is held"]),
        # a target that would be empty is absent, guarded or not
        ([ASK, turn("${memory}", target=True)], 0, None),
        ([turn("Next: ${memory}", target=True), TELL], 0, ["reach"]),
        # a label that would dangle takes the whole component along
        ([turn("Memory: ${memory}", "user"), TELL], 0, None),
        ([turn("Memory: ${memory}", "user"), TELL], 10, ["Memory: the cup is held", "grasp"]),
        # a guard on another name does not excuse it
        ([turn("Memory: ${memory}", "user", if_present="subtask"), TELL], 0, None),
        # a row that says nothing is as good as none
        ([turn("Plan: ${plan}", "user", if_present="plan"), TELL], 10, ["grasp"]),
        ([turn("Plan: ${plan}", "user"), TELL], 10, None),
        # a default stands in for what is missing, and only then
        ([turn("Memory: ${memory:-none yet}", "user"), TELL], 0, ["Memory: none yet", "reach"]),
        ([turn("Memory: ${memory:-none yet}", "user"), TELL], 10, ["Memory: the cup is held", "grasp"]),
        ([turn("Plan: ${plan:-none yet}", "user"), TELL], 10, ["Plan: none yet", "grasp"]),
        # a turn that has nothing left to say is left out
        ([turn("${memory:-}", "user"), TELL], 0, ["reach"]),
        ([turn(" ${memory:-}\n", "user"), TELL], 0, ["reach"]),
        ([turn("${memory:-}", target=True), ASK], 0, None),
        # left out where something is there
        ([turn("Nobody spoke.", "user", if_absent="interjection"), TELL], 5, ["Nobody spoke.", "reach"]),
        ([turn("Nobody spoke.", "user", if_absent="interjection"), TELL], 4, ["reach"]),
    ],
)
def test_turns_remain_where_they_can_be_said_in_full(turns, frame, expected):
    assert said(render(*turns, frame=frame)) == expected


def test_an_event_that_is_missing_renders_nothing():
    respond = [turn("${interjection}", "user"), turn(target=True, if_present="speech", tool_calls_from="speech")]
    assert render(*respond, frame=3) is None
    assert render(*respond, frame=4)["messages"] == [
        {"role": "user", "content": "hurry"},
        {"role": "assistant", "tool_calls": say("on my way")},
    ]


# --- tool calls ----------------------------------------------------------------------------------------------------


def test_tool_calls_stand_beside_content():
    sample = render(turn("${interjection}", target=True, tool_calls_from="interjection"), frame=6)
    assert sample["messages"] == [{"role": "assistant", "content": "both at once", "tool_calls": say("yes")}]


def test_a_row_without_tool_calls_adds_none():
    sample = render(turn("${subtask}", target=True, tool_calls_from="interjection"), frame=4)
    assert sample["messages"] == [{"role": "assistant", "content": "reach"}]
    assert render(ASK, turn(target=True, tool_calls_from="subtask")) is None


@pytest.mark.parametrize("content", ["${memory:-}", [{"type": "text", "text": "${memory}", "if_present": "memory"}]])
def test_tool_calls_remain_where_there_are_no_words(content):
    both = turn(content, target=True, tool_calls_from="speech")
    assert render(both, frame=4)["messages"] == [{"role": "assistant", "tool_calls": say("on my way")}]
    assert render(both, frame=5) is None


# --- blocks --------------------------------------------------------------------------------------------------------


def test_texts_in_blocks_are_filled_in_at_any_depth():
    block = {"type": "tool", "input": {"steps": ["${subtask}", {"now": "${task}"}], "n": 2, "ok": True, "none": None}}
    sample = render(turn([block], "user"), TELL)
    assert said(sample)[0] == [
        {"type": "tool", "input": {"steps": ["reach", {"now": TASK}], "n": 2, "ok": True, "none": None}}
    ]


def test_blocks_are_left_out_one_by_one():
    blocks = [
        {"type": "image", "feature": FRONT},
        {"type": "text", "text": "Memory: ${memory}", "if_present": "memory"},
        {"type": "text", "text": "${plan:-}"},
        {"type": "text", "text": "Plan: ${plan}", "if_present": "plan"},
        {"type": "text", "text": "${task}"},
    ]
    picture, task = blocks[0], {"type": "text", "text": TASK}
    assert said(render(turn(blocks, "user"), TELL))[0] == [picture, task]
    memory = {"type": "text", "text": "Memory: the cup is held"}
    assert said(render(turn(blocks, "user"), TELL, frame=10))[0] == [picture, memory, task]


def test_a_block_that_lacks_a_text_takes_its_component_along_but_not_where_it_is_optional():
    blocks = [{"type": "text", "text": "Memory: ${memory}"}]
    assert render(turn(blocks, "user"), TELL) is None
    assert said(render(turn(blocks, "user", if_present="memory"), TELL)) == ["reach"]
    assert said(render(turn(blocks, target=True), TELL)) == ["reach"]


def test_a_picture_whose_words_are_gone_is_not_learned():
    blocks = [{"type": "image", "feature": FRONT}, {"type": "text", "text": "${memory:-}"}]
    assert render(ASK, turn(blocks, target=True)) is None
    assert said(render(turn(blocks, "user"), TELL)) == [[{"type": "image", "feature": FRONT}], "reach"]


# --- cameras -------------------------------------------------------------------------------------------------------

OF_CAMERA = {
    "vqa": "emitted_at(t, style=vqa, role=assistant, camera=${camera})",
    "vqa_query": "emitted_at(t, style=vqa, role=user, camera=${camera})",
}


def test_each_camera_gets_its_own_picture_question_and_answer():
    asked = [{"type": "image", "feature": "${camera}"}, {"type": "text", "text": "${vqa_query}"}]
    recipe = {"messages": [turn(asked, "user"), turn("${vqa}", target=True)], "bindings": OF_CAMERA, "cameras": "all"}
    renderer = Renderer(load_recipe(recipe), cameras=CAMERAS)
    assert renderer.renderable(TABLE, 8) == ["recipe_front", "recipe_wrist"]
    seen = {name: s for name, s in (renderer.render_named(TABLE, 8, episode=e) for e in range(20))}
    for name, camera in (("recipe_front", FRONT), ("recipe_wrist", WRIST)):
        question = [{"type": "image", "feature": camera}, {"type": "text", "text": f"user {camera[-5:]}"}]
        assert said(seen[name]) == [question, f"assistant {camera[-5:]}"]
    assert renderer.renderable(TABLE, 7) == []


def test_questions_on_two_cameras_hurt_only_who_asks_without_a_camera():
    with pytest.raises(AmbiguousRowsError, match="style=vqa"):
        render(turn("${vqa}", target=True), frame=8)
    assert said(render(TELL, frame=8)) == ["reach"]


@pytest.mark.parametrize(
    "rare",
    [
        turn("x ${vqa:-none}", target=True),
        turn("x", target=True, tool_calls_from="vqa"),
        turn("x", target=True, if_absent="vqa"),
        turn([{"type": "text", "text": "x", "more": ["${vqa:-none}"]}], target=True),
        turn([{"type": "text", "text": "x"}, {"type": "text", "text": "y", "if_present": "vqa"}], target=True),
    ],
    ids=["default", "tool calls", "if_absent", "default in a block", "guard of a block"],
)
def test_contradictions_are_met_before_the_draw_wherever_a_row_is_used(rare, caplog):
    """Else training would stop at the one epoch that draws the component."""
    parts = {"rare": {"weight": 1e-9, "messages": [rare]}, "often": {"weight": 1.0, "messages": [TELL]}}
    with pytest.raises(AmbiguousRowsError):
        Renderer(load_recipe({"blend": parts})).render(TABLE, 8, episode=0)
    lenient = Renderer(load_recipe({"blend": parts}), on_ambiguous="skip")
    with caplog.at_level(logging.WARNING):
        assert [lenient.render_named(TABLE, 8, episode=e)[0] for e in range(3)] == ["often"] * 3
    assert len(caplog.records) == 1 and "rare" in caplog.text


# --- the task ------------------------------------------------------------------------------------------------------

REPHRASED = EpisodeTable([(0, Row("user", f"way {i}", "task_aug", 0.0)) for i in range(4)], ())
BOTH = Renderer(load_recipe({"messages": [turn("${task}", target=True), turn("${canonical_task}", "user")]}))


@pytest.mark.parametrize(
    ("table", "task", "override", "spoken"),
    [
        (TABLE, TASK, None, {TASK}),
        (TABLE, TASK, "stop", {"stop"}),
        (REPHRASED, TASK, None, {f"way {i}" for i in range(4)}),
        (REPHRASED, TASK, "stop", {"stop"}),
    ],
)
def test_an_override_beats_rephrasings_and_they_beat_the_datasets_task(table, task, override, spoken):
    samples = [BOTH.render(table, f, episode=0, task=task, task_override=override) for f in range(64)]
    assert {said(sample)[0] for sample in samples} == spoken
    assert {said(sample)[1] for sample in samples} == {TASK}


@pytest.mark.parametrize("task", [None, "", " \n"])
def test_without_a_task_nothing_that_speaks_of_it_renders(task):
    assert render(ASK, TELL, task=task) is None
    assert said(render(turn("Task: ${task}", "user", if_present="task"), TELL, task=task)) == ["reach"]
    assert said(render(turn("${task:-anything}", "user"), TELL, task=task)) == ["anything", "reach"]


def test_a_binding_may_stand_in_for_the_task():
    assert said(render(ASK, TELL, bindings={"task": "nth_next(style=subtask)"})) == ["grasp", "reach"]


# --- blends --------------------------------------------------------------------------------------------------------

BLEND = {
    "blend": {
        "tell": {"weight": 1.0, "messages": [ASK, TELL]},
        "recall": {"weight": 1.0, "messages": [turn("${memory}", target=True)]},
        "ask": {
            "weight": 0.01,
            "route": "vqa",
            "cameras": "all",
            "bindings": OF_CAMERA,
            "messages": [turn("${vqa}", target=True)],
        },
    }
}


def test_no_weight_is_spent_on_what_cannot_render():
    renderer = Renderer(load_recipe(BLEND), cameras=CAMERAS)
    assert {renderer.render_named(TABLE, 0, episode=e, task=TASK)[0] for e in range(50)} == {"tell"}
    assert {renderer.render_named(TABLE, 10, episode=e, task=TASK)[0] for e in range(50)} == {"tell", "recall"}
    assert {renderer.render_named(TABLE, 8, episode=e, task=TASK)[0] for e in range(50)} == {"ask_front", "ask_wrist"}


@pytest.mark.parametrize(
    ("hashed", "drawn"),
    [(0, "a"), (2**62 - 2**12, "a"), (2**62, "b"), (3 * 2**62 - 2**12, "b"), (3 * 2**62, "c"), (2**64 - 1, "c")],
)
def test_a_draw_on_the_edge_goes_to_the_next_component_and_rounding_to_the_last(monkeypatch, hashed, drawn):
    monkeypatch.setattr("tasks.language.render._hash", lambda text: hashed)
    blend = {name: {"weight": weight, "messages": [TELL]} for name, weight in (("a", 1.0), ("b", 2.0), ("c", 1.0))}
    assert Renderer(load_recipe({"blend": blend})).render_named(TABLE, 0, episode=0)[0] == drawn


def test_what_is_missing_is_told_by_component():
    renderer = Renderer(load_recipe(BLEND), cameras=CAMERAS)
    assert renderer.missing(TABLE, 0) == {
        "tell": ("task",),
        "recall": ("memory",),
        "ask_front": ("vqa",),
        "ask_wrist": ("vqa",),
    }
    assert renderer.missing(TABLE, 10, task=TASK) == {"ask_front": ("vqa",), "ask_wrist": ("vqa",)}


def test_what_was_drawn_is_counted():
    renderer = Renderer(load_recipe(BLEND), cameras=CAMERAS)
    empty = EpisodeTable((), ())
    for frame in range(3):
        assert renderer.render(empty, frame, episode=0) is None
        assert renderer.render(TABLE, frame, episode=0, task=TASK)
    assert renderer.counts == {"nothing": 3, "tell": 3}


def test_rendering_needs_neither_arrow_nor_torch():
    """A trainer that has its rows already loads no more than this."""
    loaded = "{'pyarrow', 'torch', 'numpy', 'av'} & {*sys.modules}"
    script = f"import sys, tasks.language.render, tasks.language.recipe; print({loaded})"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_binding_may_name_a_camera_in_short():
    answer = {"vqa": "emitted_at(t, style=vqa, role=assistant, camera=wrist)"}
    assert said(render(turn("${vqa}", target=True), frame=8, bindings=answer)) == ["assistant wrist"]
    elsewhere = {"vqa": "emitted_at(t, style=vqa, role=assistant, camera=ceiling)"}
    assert render(turn("${vqa}", target=True), frame=8, bindings=elsewhere) is None
