"""Bindings as texts: parsed once, with every argument known, or refused with the way to write them."""

from __future__ import annotations

import pytest

from tasks.errors import RecipeError, RowError
from tasks.language import styles
from tasks.language.expression import Binding, Selector, parse_binding
from tasks.language.styles import EVENTS, PERSISTENT, Style, register_style

SUBTASK = Selector(style="subtask")


@pytest.mark.parametrize(
    ("text", "binding"),
    [
        ("active_at(t, style=subtask)", Binding("active_at", SUBTASK)),
        ("active_at(style=subtask)", Binding("active_at", SUBTASK)),
        ("  active_at ( t ,  style = 'subtask' ) \n", Binding("active_at", SUBTASK)),
        ('active_at(style="subtask", t)', Binding("active_at", SUBTASK)),
        ("emitted_at(t)", Binding("emitted_at", Selector())),
        ("emitted_at()", Binding("emitted_at", Selector())),
        ("nth_prev(style=memory)", Binding("nth_prev", Selector(style="memory"), 1)),
        ("nth_prev(style=memory, offset=12)", Binding("nth_prev", Selector(style="memory"), 12)),
        ("nth_next(offset='2', style=plan)", Binding("nth_next", Selector(style="plan"), 2)),
        (
            "emitted_at(t, style=vqa, role=assistant, camera=observation.images.front)",
            Binding("emitted_at", Selector("vqa", "assistant", None, "observation.images.front")),
        ),
        (
            "emitted_at(t, role=assistant, tool_name=say)",
            Binding("emitted_at", Selector(role="assistant", tool_name="say")),
        ),
        (
            "emitted_at(t, style=vqa, camera='left, upper')",
            Binding("emitted_at", Selector(style="vqa", camera="left, upper")),
        ),
        (
            'emitted_at(t, style=vqa, camera="its (own)=name")',
            Binding("emitted_at", Selector(style="vqa", camera="its (own)=name")),
        ),
        ("emitted_at(t, camera=${camera})", Binding("emitted_at", Selector(camera="${camera}"))),
        ("emitted_at(t, style=subtask)", Binding("emitted_at", SUBTASK)),
    ],
)
def test_expressions_are_parsed(text, binding):
    assert parse_binding(text) == binding


@pytest.mark.parametrize(
    "text",
    [
        "",
        "subtask",
        "active_at",
        "active_at(t, style=subtask",
        "active_at t, style=subtask)",
        "active_at(t, style=subtask) or plan",
        "active_at(t, style=subtask) active_at(t)",
        "active_at(t,, style=subtask)",
        "active_at(t, style=subtask,)",
        "active_at(t, style='subtask)",
        "active_at(t, style==subtask)",
        "active_at(t, style=sub task)",
        "active_at(0.5, style=subtask)",
        "active_at(t=0.5, style=subtask)",
        "nth_prev(style=memory, offset=-1)",
        "nth_prev(style=memory, offset=1.0)",
        "nth_prev(style=memory, offset=²)",
        "nth_prev(style=memory, 1)",
        "emitted_at(t, style=None)",
        "emitted_at(t, role=${camera})",
        "__import__('os').system('true')",
    ],
)
def test_what_is_no_expression_is_refused_with_a_remedy(text):
    with pytest.raises(RecipeError) as raised:
        parse_binding(text)
    assert raised.value.wanted.startswith("want") and raised.value.got and raised.value.remedy
    assert isinstance(raised.value, ValueError)


def test_a_long_line_of_commas_and_quotes_is_refused_at_once():
    """No pattern here takes more than a moment, whatever it is given."""
    for text in ("active_at(" + "'," * 3000 + ")", "active_at(" + ",\"'" * 3000 + ")"):
        with pytest.raises(RecipeError):
            parse_binding(text)


def test_selectors_say_what_they_ask_for():
    assert str(Selector("vqa", "user", None, "front")) == "style=vqa, role=user, camera=front"
    assert str(Selector()) == "any row"


@pytest.mark.parametrize(
    ("text", "of_events"),
    [
        ("emitted_at(t)", True),
        ("emitted_at(t, style=interjection)", True),
        ("emitted_at(t, style=memory)", False),
        ("active_at(t, style=memory)", False),
    ],
)
def test_a_binding_knows_whether_it_looks_at_events(text, of_events):
    assert parse_binding(text).of_events is of_events


@pytest.fixture
def registered(monkeypatch):
    """A project's own styles, for one test."""
    monkeypatch.setattr(styles, "_STYLES", dict(styles._STYLES))
    register_style(Style("gripper", PERSISTENT, ("robot",)))
    register_style(Style("gaze", EVENTS, ("user",), needs_camera=True))


def test_registered_styles_are_known_by_column_camera_and_role(registered):
    assert parse_binding("active_at(t, style=gripper, role=robot)").selector == Selector("gripper", "robot")
    assert parse_binding("emitted_at(t, style=gaze, camera=front)").of_events
    assert not parse_binding("emitted_at(t, style=gripper)").of_events
    with pytest.raises(RecipeError, match="stays in force"):
        parse_binding("active_at(t, style=gaze)")
    with pytest.raises(RecipeError, match="no camera"):
        parse_binding("active_at(t, style=gripper, camera=front)")
    with pytest.raises(RecipeError, match="a role of robot, user"):
        parse_binding("active_at(t, style=gripper, role=human)")


def test_styles_are_unknown_until_they_are_registered():
    with pytest.raises(RecipeError, match="a style of subtask"):
        parse_binding("active_at(t, style=gripper)")


def test_a_style_is_registered_once(registered):
    register_style(Style("gripper", PERSISTENT, ("robot",)))
    with pytest.raises(RowError, match="new style name"):
        register_style(Style("gripper", EVENTS, ("robot",)))
