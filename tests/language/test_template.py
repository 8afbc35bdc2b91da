"""Texts with placeholders, cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RecipeError
from tasks.language.template import Slot, names_in, parse_template

TASK = Slot("task")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("${task}", (TASK,)),
        ("Do ${task}.", ("Do ", TASK, ".")),
        ("${task}${task}", (TASK, TASK)),
        ("${plan:-no plan}", (Slot("plan", "no plan"),)),
        ("${plan:-}", (Slot("plan", ""),)),
        ("${plan:-a:-b}", (Slot("plan", "a:-b"),)),
        ("${plan:-two\nlines}", (Slot("plan", "two\nlines"),)),
        ("$${task}", ("${task}",)),
        ("a $${ b", ("a ${ b",)),
        ("$$${task}", ("$${task}",)),
        ("5 $, {braces} and }", ("5 $, {braces} and }",)),
        ("${größe}", (Slot("größe"),)),
        ("${_x1}", (Slot("_x1"),)),
    ],
)
def test_texts_are_cut_at_placeholders(text, pieces):
    assert parse_template(text) == pieces


@pytest.mark.parametrize(
    "text", ["${", "${}", "${ task}", "${task", "${1st}", "${a-b}", "${a:b}", "${a{b}}", "x ${a.b} y"]
)
def test_broken_placeholders_are_refused_with_the_way_to_write_them(text):
    with pytest.raises(RecipeError, match="placeholders like") as raised:
        parse_template(text)
    assert "${" in raised.value.got and "$${" in raised.value.remedy


def test_names_are_told_in_order():
    assert names_in(parse_template("${b} ${a:-x} $${c} ${b}")) == ["b", "a", "b"]


@given(st.text(st.sampled_from("ab$ {}"), max_size=12))
def test_any_text_can_be_written(text):
    assert "".join(parse_template(text.replace("${", "$${"))) == text
