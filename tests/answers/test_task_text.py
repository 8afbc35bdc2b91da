"""Task sentences: understood where the table knows their shape, left alone otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.answers.task_text import VERBS, imperative, parse_task, without_arm


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Pick up the yellow bottle on the table.", [("pick up", ("the yellow bottle",), "", "")]),
        ("put the red cube in the blue box", [("put", ("the red cube",), "in", "the blue box")]),
        (
            "Put the red cube and the green ball on the white tray",
            [("put", ("the red cube", "the green ball"), "on", "the white tray")],
        ),
        (
            "Put the red can, the green ball and the yellow cube in the blue box.",
            [("put", ("the red can", "the green ball", "the yellow cube"), "in", "the blue box")],
        ),
        ("stack the green cube on the red cube", [("stack", ("the green cube",), "on", "the red cube")]),
        ("Place the cup on top of the plate", [("place", ("the cup",), "on top of", "the plate")]),
        ("move the cube from the table to the box", [("move", ("the cube",), "to", "the box")]),
        ("open the drawer", [("open", ("the drawer",), "", "")]),
        ("Pour the water into the glass", [("pour", ("the water",), "into", "the glass")]),
        ("pick the cube up", [("pick up", ("the cube",), "", "")]),
        ("please grab the mug", [("grab", ("the mug",), "", "")]),
        ("place the cup next to the plate with the left arm", [("place", ("the cup",), "next to", "the plate")]),
        (
            "pick the pear from the counter and place it in the plate",
            [("place", ("the pear",), "in", "the plate")],
        ),
        (
            "put the red cube in the blue box and the green ball on the tray",
            [("put", ("the red cube",), "in", "the blue box"), ("put", ("the green ball",), "on", "the tray")],
        ),
        (
            "open the drawer, then put the spoon in the drawer",
            [("open", ("the drawer",), "", ""), ("put", ("the spoon",), "in", "the drawer")],
        ),
        (
            "put the salt and pepper shaker on the shelf",
            [("put", ("the salt and pepper shaker",), "on", "the shelf")],
        ),
    ],
)
def test_known_shapes(text, steps):
    task = parse_task(text)
    assert task is not None
    assert [(s.verb.name, s.objects, s.preposition, s.target) for s in task.steps] == steps


@pytest.mark.parametrize(
    "text",
    [
        "",
        "test",
        "拿起瓶子",
        "Nimm die Flasche",
        "The robot picks up a cube",
        "grab it",
        "bring me the cup",
        "set the table",
        "put the cube in the box and the tray",
        "Pick up the cube. Then wait.",
        "open",
        "put " + "very " * 70 + "big cube in the box",
    ],
)
def test_unknown_shapes_tell_nothing(text):
    assert parse_task(text) is None


def test_summary_of_several_steps():
    task = parse_task("put the cup on the tray and put the fork on the tray")
    assert task is not None
    assert (task.objects, task.preposition, task.target) == (("the cup", "the fork"), "on", "the tray")
    two = parse_task("put the cup on the tray and put the fork in the box")
    assert two is not None and two.target == ""


def test_imperative_is_the_sentence_to_say_after_please():
    assert imperative(' "Put the Lego brick in the box." ') == "put the Lego brick in the box"
    assert imperative("The robot waits") is None


def test_the_arm_can_be_left_out():
    assert without_arm("pick up the cup with the left arm") == "pick up the cup"
    assert without_arm("lift the pot using both hands") == "lift the pot"
    assert without_arm("fill the cup with water") == "fill the cup with water"


def test_past_tenses_keep_their_particle():
    assert VERBS["pick up"].past == "picked up" and VERBS["put down"].past == "put down"


WORDS = st.sampled_from(
    [*VERBS, "the", "cube", "and", ",", "then", "in", "on top of", "it", "from", "with the left arm", "."]
)


@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=20).map(" ".join)))
def test_never_raises_and_never_invents(text):
    task = parse_task(text)
    if task is not None:
        said = [word for s in task.steps for part in (*s.objects, s.preposition, s.target) for word in part.split()]
        assert said and all(word.casefold() in text.casefold() for word in said)
