"""Recipes: what may be written, where they come from, and what their cameras make of them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tasks.errors import RecipeError
from tasks.language import styles
from tasks.language.components import compile_recipe, short_name
from tasks.language.recipe import DEFAULT_BINDINGS, RECIPES_DIR, Recipe, canonical_recipes, load_recipe
from tasks.language.render import Renderer
from tasks.language.styles import EVENTS, Style, register_style

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
SAY = {"role": "assistant", "content": "${subtask}", "stream": "high_level", "target": True}
ACT = {"role": "user", "content": "${task}", "stream": "low_level"}


def message_recipe(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


# --- where recipes come from ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", canonical_recipes())
def test_canonical_recipes_load_by_name_by_path_and_as_they_are(name):
    recipe = load_recipe(name)
    assert recipe == load_recipe(RECIPES_DIR / f"{name}.yaml") == load_recipe(str(RECIPES_DIR / f"{name}.yaml"))
    assert load_recipe(recipe) is recipe


def test_the_canonical_recipes_are_those_of_the_folder():
    assert set(canonical_recipes()) >= {"subtask", "subtask_joint", "subtask_mem", "subtask_mem_vqa_speech"}


def test_yaml_and_mapping_give_the_same_recipe(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text('messages:\n- {role: assistant, content: "${subtask}", stream: high_level, target: true}\n')
    assert load_recipe(path) == load_recipe(message_recipe(SAY))


@pytest.mark.parametrize("name", canonical_recipes())
def test_a_recipe_survives_being_written_as_a_mapping_and_pickled(name):
    """As the settings of a processor keep it."""
    recipe = load_recipe(name)
    plain = recipe.model_dump(mode="json", exclude_none=True)
    assert load_recipe(plain) == recipe == pickle.loads(pickle.dumps(recipe))


def test_a_recipe_cannot_be_changed_once_it_is_checked():
    recipe = load_recipe(message_recipe(SAY))
    with pytest.raises(ValueError, match="frozen"):
        recipe.weight = -1.0


def test_loading_leaves_the_mapping_alone():
    given = message_recipe(SAY, bindings={"next": "nth_next(style=subtask)"})
    load_recipe(given)
    assert given == message_recipe(SAY, bindings={"next": "nth_next(style=subtask)"})


# --- what may be written -------------------------------------------------------------------------------------------

RIGHT = {
    "a turn to be learned": message_recipe(SAY),
    "a turn to act on, without target": message_recipe(ACT),
    "every default binding": message_recipe(
        ACT, {**SAY, "content": "".join(f"${{{n}:-}}" for n in DEFAULT_BINDINGS) + "."}
    ),
    "both tasks": message_recipe({**ACT, "content": "${task} ${canonical_task}"}),
    "a default that is overridden": message_recipe(SAY, bindings={"subtask": "nth_next(style=subtask)"}),
    "a binding that is not used": message_recipe(SAY, bindings={"later": "nth_next(style=plan)"}),
    "the task bound to rows": message_recipe(ACT, bindings={"task": "active_at(style=subtask)"}),
    "tool calls without content": message_recipe(
        {"role": "assistant", "stream": "high_level", "target": True, "tool_calls_from": "speech"}
    ),
    "content null beside tool calls": message_recipe({**SAY, "content": None, "tool_calls_from": "speech"}),
    "a picture beside tool calls to be learned": message_recipe(
        {**SAY, "content": [{"type": "image", "feature": "x"}], "tool_calls_from": "speech"}
    ),
    "system and tool turns": message_recipe({**ACT, "role": "system"}, {**ACT, "role": "tool"}),
    "a whole number for a weight": {"blend": {"a": message_recipe(ACT, weight=2)}},
    "a weight outside of a blend": message_recipe(ACT, weight=0.5, route="vqa"),
    "cameras, all": message_recipe({**ACT, "content": "${camera}"}, cameras="all"),
    "cameras, by name": message_recipe({**ACT, "content": "${camera}"}, cameras=["front"]),
    "a guard that is the task": message_recipe({**ACT, "if_present": "task"}),
    "an escaped placeholder": message_recipe({**ACT, "content": "$${nobody}"}),
    "a block's guard": message_recipe({**ACT, "content": [{"type": "text", "text": "${plan}", "if_present": "plan"}]}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_accepted_and_compiles(name):
    recipe = load_recipe(RIGHT[name])
    assert Renderer(recipe, cameras=[FRONT, WRIST]).names


def test_a_registered_style_can_be_bound(monkeypatch):
    wave = message_recipe(SAY, bindings={"subtask": "emitted_at(t, style=gesture)"})
    with pytest.raises(RecipeError, match="a style of subtask"):
        load_recipe(wave)
    monkeypatch.setattr(styles, "_STYLES", dict(styles._STYLES))
    register_style(Style("gesture", EVENTS, ("assistant",)))
    assert load_recipe(wave).bindings == wave["bindings"]


def test_an_error_in_a_mapping_has_its_place_too():
    with pytest.raises(RecipeError) as raised:
        load_recipe({"blend": {"chat": message_recipe(ACT, {**SAY, "stream": "loud"}, weight=1.0)}})
    assert raised.value.wanted.endswith("at blend.chat.messages[1].stream")


# --- cameras -------------------------------------------------------------------------------------------------------


def names(recipe: dict[str, Any], *cameras: str) -> dict[str, float]:
    components, _ = compile_recipe(load_recipe(recipe), cameras)
    return {c.name: c.weight for c in components}


def blend_of(cameras: Any) -> dict[str, Any]:
    asked = message_recipe({**ACT, "content": "${camera}"}, cameras=cameras, weight=0.3)
    return {"blend": {"ask": asked, "act": message_recipe(ACT, weight=0.7)}}


@pytest.mark.parametrize(
    ("cameras", "dataset", "expected"),
    [
        ("all", (FRONT, WRIST), {"ask_front": 0.15, "ask_wrist": 0.15, "act": 0.7}),
        ("all", (FRONT,), {"ask_front": 0.3, "act": 0.7}),
        ("all", (), {"act": 0.7}),
        ("all", ("a.top", "b.top"), {"ask_a.top": 0.15, "ask_b.top": 0.15, "act": 0.7}),
        (["wrist"], (FRONT, WRIST), {"ask_wrist": 0.3, "act": 0.7}),
        ([WRIST], (FRONT, WRIST), {"ask_wrist": 0.3, "act": 0.7}),
        (["front"], (), {"ask_front": 0.3, "act": 0.7}),
    ],
)
def test_a_component_is_repeated_for_each_camera_and_its_weight_shared_out(cameras, dataset, expected):
    assert names(blend_of(cameras), *dataset) == expected


def test_a_short_name_that_two_cameras_share_is_no_name():
    with pytest.raises(RecipeError, match=r"a camera of a\.top, b\.top"):
        names(blend_of(["top"]), "a.top", "b.top")


def test_bindings_of_a_camera_stand_for_its_key():
    recipe = load_recipe(
        message_recipe(
            {**SAY, "content": "${vqa}"},
            bindings={"vqa": "emitted_at(t, style=vqa, camera=${camera})"},
            cameras=["front", "wrist"],
        )
    )
    _, slots = compile_recipe(recipe, [FRONT, WRIST])
    assert [b.selector.camera for b in slots.bindings if b is not None] == [FRONT, WRIST]
    assert short_name(FRONT) == "front" and short_name("front") == "front"


def test_components_that_ask_the_same_share_one_lookup():
    again = {"mine": "active_at(style='subtask')"}
    recipe = {
        "blend": {
            "a": message_recipe(SAY, weight=1.0),
            "b": message_recipe({**SAY, "content": "${mine}"}, bindings=again, weight=1.0),
        }
    }
    _, slots = compile_recipe(load_recipe(recipe), ())
    assert sum(b is not None for b in slots.bindings) == 1


def test_only_what_a_recipe_uses_is_looked_up():
    """So rows that contradict each other hurt only those who ask for them."""
    unused = {"later": "nth_next(style=plan)"}
    _, slots = compile_recipe(load_recipe(message_recipe(ACT, bindings=unused)), ())
    assert not any(slots.bindings)


def test_the_models_fields_tell_what_they_are_for():
    """They become the hints of an editor."""
    for model in (Recipe, load_recipe(message_recipe(SAY)).messages[0].__class__):
        assert all(field.description for field in model.model_fields.values())
