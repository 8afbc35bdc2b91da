"""The canonical recipes on annotated datasets: every component comes true, and no message is empty or half said."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tasks.errors import RecipeError
from tasks.language.recipe import RECIPES_DIR, Recipe, canonical_recipes, load_recipe
from tasks.language.render import Renderer, Sample
from tasks.language.rows import Row
from tests.conftest import REPO
from tests.language.conftest import Annotated, Labelled

WEIGHTS = {
    "subtask": {"high_level_subtask": 0.30, "low_level_execution": 0.70},
    "subtask_joint": None,
    "subtask_mem": {"high_level_subtask": 0.25, "low_level_execution": 0.60, "memory_update": 0.15},
    "subtask_mem_vqa_speech": {
        "high_level_subtask": 0.25,
        "low_level_execution": 0.40,
        "memory_update": 0.10,
        "user_interjection_response": 0.10,
        "speech_acknowledgement": 0.10,
        "ask_vqa": 0.15,
    },
    "pi05_hirobot": {
        "memory_update": 0.10,
        "user_interjection_response": 0.16,
        "opening_plan": 0.16,
        "high_level_subtask": 0.15,
        "low_level_execution": 0.35,
        "ask_vqa": 0.20,
    },
}
COMPONENTS = [(recipe, part) for recipe, parts in WEIGHTS.items() for part in parts or ["recipe"]]
EPOCHS_MAX = 200  # far more than a component that can render on three frames needs to be drawn
LABELS = re.compile(r"(?i)(memory|subtask|plan|none|null)?\s*[:\-–]?\s*$")


def component(recipe: str, name: str) -> Recipe:
    """One component as a recipe of its own."""
    whole = load_recipe(recipe)
    if whole.blend is None:
        return whole
    return load_recipe(whole.blend[name].model_dump(exclude_none=True, exclude={"weight", "route"}))


def samples(recipe: Recipe, dataset: Annotated, epoch: int = 0) -> Iterator[tuple[Labelled, int, str, Sample]]:
    """Everything that a recipe renders over a dataset: episode, frame, component, sample."""
    renderer = Renderer(recipe, cameras=dataset.cameras)
    for labelled in dataset.episodes:
        table, episode = labelled.table, labelled.episode
        for frame in range(episode.frames):
            key = {"episode": episode.episode_index, "epoch": epoch, "task": episode.task}
            if (named := renderer.render_named(table, frame, **key)) is not None:
                yield labelled, frame, *named


def texts(message: dict[str, Any]) -> list[str]:
    """All that a message says."""
    content = message.get("content", [])
    if isinstance(content, str):
        return [content]
    return [text for block in content for key, text in block.items() if key != "type"]


def check(sample: Sample, cameras: tuple[str, ...]) -> None:
    """What holds for every sample."""
    messages, streams, targets = sample["messages"], sample["message_streams"], sample["target_message_indices"]
    assert len(messages) == len(streams) > 0
    assert set(streams) <= {"high_level", "low_level"}
    assert targets == sorted(set(targets)) and all(0 <= i < len(messages) for i in targets)
    assert targets or "low_level" in streams
    assert all(messages[i]["role"] == "assistant" for i in targets)
    for message in messages:
        assert message.get("content") or message.get("tool_calls"), message
        for text in texts(message):
            assert "${" not in text and not LABELS.fullmatch(text), message
            assert not re.search(r":\s*$", text), message
        for block in message["content"] if isinstance(message.get("content"), list) else ():
            assert block["type"] in ("text", "image") and "if_present" not in block
            assert block["type"] != "image" or block["feature"] in cameras


# --- what is shipped -----------------------------------------------------------------------------------------------


def test_every_recipe_is_known_here():
    assert set(canonical_recipes()) == set(WEIGHTS)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name):
    blend = load_recipe(name).blend
    assert (blend and {part: c.weight for part, c in blend.items()}) == WEIGHTS[name]


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_file_says_what_it_is_for(name):
    schema, *comments = (RECIPES_DIR / f"{name}.yaml").read_text().splitlines()[:4]  # trains what, when, notes
    assert schema == "# yaml-language-server: $schema=recipe.schema.json"
    assert all(re.match(r"# \S.{20,}", line) for line in comments), comments
    assert "Use it" in comments[1]


def test_schema_is_made_from_the_model():
    made = runpy.run_path(str(REPO / "docs/make_recipe_schema.py"))["text"]()
    assert (RECIPES_DIR / "recipe.schema.json").read_text() == made, "run python docs/make_recipe_schema.py"


def validator() -> Any:
    schema = json.loads((RECIPES_DIR / "recipe.schema.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("name", WEIGHTS)
def test_recipes_validate_in_an_editor(name):
    validator().validate(yaml.safe_load((RECIPES_DIR / f"{name}.yaml").read_text()))


SAY = {"role": "assistant", "content": "${subtask}", "stream": "high_level", "target": True}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"messages": []},
        {"messages": [SAY], "blend": {}},
        {"messages": [{**SAY, "stream": "mid_level"}]},
        {"messages": [{k: v for k, v in SAY.items() if k != "stream"}]},
        {"messages": [{k: v for k, v in SAY.items() if k != "content"}]},
        {"messages": [{**SAY, "tragte": True}]},
        {"messages": [{**SAY, "content": [{"text": "no type"}]}]},
        {"messages": [SAY], "cameras": []},
        {"blend": {"a": {"messages": [SAY]}}},
        {"blend": {"a": {"messages": [SAY], "weight": 0}}},
        {"blend": {"a": {"weight": 1, "blend": {"b": {"messages": [SAY], "weight": 1}}}}},
        {"blend": {"a": {"messages": [SAY], "weight": 1, "route": "speech"}}},
    ],
)
def test_editor_and_program_refuse_the_same(wrong):
    assert list(validator().iter_errors(wrong))
    with pytest.raises(RecipeError):
        load_recipe(wrong)


# --- what it gives on data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("which", ["tabletop", "humanoid"])
def test_every_component_is_realised(name, which, request):
    """Where the dataset has its rows, and it has all rows: each component is drawn at some frame of some epoch."""
    dataset: Annotated = request.getfixturevalue(which)
    missing = set(Renderer(load_recipe(name), cameras=dataset.cameras).names)
    for epoch in range(EPOCHS_MAX):
        missing -= {component for *_, component, _ in samples(load_recipe(name), dataset, epoch)}
        if not missing:
            return
    pytest.fail(f"never drawn: {', '.join(sorted(missing))}")


@pytest.mark.parametrize(("recipe", "part"), COMPONENTS, ids=lambda x: x)
@pytest.mark.parametrize("which", ["tabletop", "humanoid"])
def test_no_message_is_empty_or_half_said(recipe, part, which, request):
    dataset: Annotated = request.getfixturevalue(which)
    rendered = 0
    for *_, sample in samples(component(recipe, part), dataset):
        check(sample, dataset.cameras)
        rendered += 1
    assert rendered, "renders nowhere"


@pytest.mark.parametrize(("recipe", "part"), COMPONENTS, ids=lambda x: x)
def test_no_message_is_half_said_whatever_rows_are_missing(recipe, part, tabletop):
    """The same with each style left out in turn, as in datasets that were annotated in part."""
    first = tabletop.episodes[0]
    for style in {row.style for row in first.rows}:
        rows = [row for row in first.rows if row.style != style]
        some = Annotated(tabletop.root, tabletop.cameras, [Labelled(first.episode, rows)])
        for *_, sample in samples(component(recipe, part), some):
            check(sample, tabletop.cameras)


def test_frames_with_questions_on_two_cameras(tabletop):
    """One question about one picture: query, picture and answer belong to the same camera, and both get their turn."""
    assert len(tabletop.cameras) == 2
    answered = {name: set() for name in ("subtask_mem_vqa_speech", "pi05_hirobot")}
    for name, seen in answered.items():
        for labelled, frame, _, sample in samples(component(name, "ask_vqa"), tabletop):
            user, assistant = sample["messages"]
            (image, query) = user["content"]
            seen.add(image["feature"])
            rows = {row.role: row.content for row in labelled.at(frame, "vqa", image["feature"])}
            assert rows == {"user": query["text"], "assistant": assistant["content"]}
        assert seen == set(tabletop.cameras)


def test_a_frame_with_a_question_is_not_spent_on_anything_frequent(tabletop):
    for labelled, frame, drawn, _ in samples(load_recipe("subtask_mem_vqa_speech"), tabletop):
        asked = any(labelled.at(frame, "vqa", camera) for camera in tabletop.cameras)
        sparse = drawn.startswith("ask_vqa") or drawn in ("user_interjection_response", "speech_acknowledgement")
        assert sparse or not asked


def said(row: Row) -> str:
    return row.tool_calls[0]["function"]["arguments"]["text"]


@pytest.mark.parametrize("name", ["subtask_mem_vqa_speech", "pi05_hirobot"])
@pytest.mark.parametrize("which", ["tabletop", "humanoid"])
def test_answers_to_a_person_show_what_the_person_said(name, which, request):
    dataset: Annotated = request.getfixturevalue(which)
    frames = set()
    for labelled, frame, _, sample in samples(component(name, "user_interjection_response"), dataset):
        frames.add((labelled.episode.episode_index, frame))
        (person,), (robot,) = labelled.at(frame, "interjection"), labelled.at(frame, None)
        *_, asked, answer = sample["messages"]
        assert asked == {"role": "user", "content": person.content}
        assert [c["function"]["arguments"]["text"] for c in answer["tool_calls"]] == [said(robot)]
        assert ("content" in answer) == (name == "pi05_hirobot")
    interjections = [r for e in dataset.episodes for r in e.rows if r.style == "interjection"]
    assert len(frames) == len(interjections) > 0


FIRST_WORDS = [("subtask_mem_vqa_speech", "speech_acknowledgement"), ("pi05_hirobot", "opening_plan")]


@pytest.mark.parametrize(("name", "part"), FIRST_WORDS)
def test_the_first_words_are_learned_on_the_first_frame(name, part, humanoid):
    found = list(samples(component(name, part), humanoid))
    assert {frame for _, frame, _, _ in found} == {0}  # with an interjection it would be an answer
    opening = {labelled.episode.episode_index: sample for labelled, _, _, sample in found}
    assert len(opening) == len(humanoid.episodes)
    for labelled in humanoid.episodes:
        task, answer = opening[labelled.episode.episode_index]["messages"]
        assert task["role"] == "user"
        assert answer["tool_calls"] == labelled.at(0, None)[0].tool_calls


@pytest.mark.parametrize(("name", "part"), FIRST_WORDS)
@pytest.mark.parametrize("which", ["tabletop", "humanoid"])
def test_questions_on_the_first_frame_leave_room_for_the_first_words(name, part, which, request):
    """Every annotated episode has a question there: it must not always win."""
    dataset: Annotated = request.getfixturevalue(which)
    renderer = Renderer(load_recipe(name), cameras=dataset.cameras)
    table = dataset.episodes[0].table
    drawn = Counter(renderer.render_named(table, 0, episode=0, epoch=e, task="tidy up")[0] for e in range(EPOCHS_MAX))
    assert drawn[part] > EPOCHS_MAX // 10
    assert sum(n for name, n in drawn.items() if name.startswith("ask_vqa")) > EPOCHS_MAX // 10


@pytest.mark.parametrize(("name", "exact"), [("subtask_mem", False), ("pi05_hirobot", True)])
def test_memory_is_learned_with_what_was_completed(name, exact, humanoid):
    """In the older recipe on the memory's own frame, in the newer one from then on."""
    for labelled in humanoid.episodes:
        one = Annotated(humanoid.root, humanoid.cameras, [labelled])
        frames = [frame for _, frame, _, sample in samples(component(name, "memory_update"), one)]
        (memory,) = (row for row in labelled.rows if row.style == "memory")
        begins = labelled.episode.nearest(memory.timestamp)
        assert frames == ([begins] if exact else list(range(begins, labelled.episode.frames)))
        *_, sample = next(samples(component(name, "memory_update"), one))
        completed, target = sample["messages"][-2:]
        first = min((r for r in labelled.rows if r.style == "subtask"), key=lambda r: r.timestamp)
        assert completed["content"] == f"Completed subtask: {first.content}"
        assert target["content"] == memory.content
        assert len(sample["messages"]) == 3  # the first memory has no previous one


def test_the_last_subtask_has_no_next_one_to_learn(humanoid):
    for labelled, frame, _, sample in samples(component("pi05_hirobot", "high_level_subtask"), humanoid):
        starts = sorted(r.timestamp for r in labelled.rows if r.style == "subtask")
        assert labelled.episode.times[frame] < starts[-1]
        assert sample["messages"][-1]["content"] != sample["messages"][-2]["content"]


def test_joint_recipe_acts_without_words_where_no_subtask_is_known(tabletop):
    first = tabletop.episodes[0]
    rows = [row for row in first.rows if row.style != "subtask"]
    bare = Annotated(tabletop.root, tabletop.cameras, [Labelled(first.episode, rows)])
    rendered = [sample for *_, sample in samples(load_recipe("subtask_joint"), bare)]
    assert len(rendered) == first.episode.frames
    assert all(s["message_streams"] == ["low_level"] and not s["target_message_indices"] for s in rendered)
