"""Wrong recipes: each has its own error, which says where in the file, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.errors import RecipeError
from tasks.language.recipe import load_recipe
from tasks.language.render import Renderer
from tests.language.wrong_recipes import ALL, TURNS


def error_of(path: Path) -> RecipeError:
    with pytest.raises(RecipeError) as raised:
        load_recipe(path)
    assert isinstance(raised.value, ValueError)
    return raised.value


@pytest.mark.parametrize("wrong", ALL, ids=lambda w: w.name)
def test_a_wrong_recipe_is_told_where_and_what_to_do(wrong, tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(wrong.text)
    error = error_of(path)
    assert error.wanted.endswith(f"{wrong.where} (chat.yaml, line {wrong.line})")
    assert wrong.wanted in error.wanted
    assert wrong.got in error.got
    assert wrong.remedy in error.remedy
    assert "more error" not in error.remedy
    assert "pydantic" not in str(error) and "input" not in str(error).lower()


@pytest.mark.parametrize(
    "wrong", [w for w in ALL if "twice" not in w.name or "key" not in w.name], ids=lambda w: w.name
)
def test_a_mapping_gets_the_same_error_without_a_line(wrong, tmp_path):
    data = yaml.safe_load(wrong.text)
    if not isinstance(data, dict):
        return
    path = tmp_path / "chat.yaml"
    path.write_text(wrong.text)
    of_file = error_of(path)
    with pytest.raises(RecipeError) as raised:
        load_recipe(data)
    assert (raised.value.got, raised.value.remedy) == (of_file.got, of_file.remedy)
    assert raised.value.wanted == of_file.wanted.removesuffix(f" (chat.yaml, line {wrong.line})")


def test_no_two_kinds_share_an_error(tmp_path):
    texts = []
    for i, wrong in enumerate(ALL):
        path = tmp_path / f"{i}.yaml"
        path.write_text(wrong.text)
        texts.append(str(error_of(path)).replace(path.name, "").replace(f"line {wrong.line}", ""))
    assert len(set(texts)) == len(ALL) > 25


# --- files that are no recipe at all -------------------------------------------------------------------------------

NO_YAML = {
    "a bracket that is not closed": ("messages: [{role: user}\nblend: x\n", "line 2", "in it needs quotes"),
    "a colon without quotes": ("messages:\n  - content: a: b\n", "line 2", "in it needs quotes"),
    "a tab": ("messages:\n\t- a\n", "line 2", "in it needs quotes"),
    "an alias to nothing": ("messages: *turns\n", "turns", "in it needs quotes"),
    "two documents": ("blend: {}\n---\nblend: {}\n", "line 2", "in it needs quotes"),
    "a call of a program": ("blend: !!python/object/apply:os.getcwd []\n", "line 1", "in it needs quotes"),
    "a day that is none": ("blend: 2020-99-99\n", "month", "in it needs quotes"),
    "a control character": ("blend: \x07\n", "#x0007", "in it needs quotes"),
    "brackets without end": ("[" * 1500, "recursion", "quotes"),
}


@pytest.mark.parametrize("name", NO_YAML)
def test_what_is_no_yaml_is_said_with_its_line(name, tmp_path):
    text, got, remedy = NO_YAML[name]
    path = tmp_path / "chat.yaml"
    path.write_text(text)
    error = error_of(path)
    assert "YAML" in error.wanted and "chat.yaml" in error.wanted
    assert got in error.got and remedy in error.remedy
    assert "unicode string" not in error.got


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "a: &a [*a, *a]\n",
        "a: &a {b: *a}\n",
    ],
    ids=["a few lines that are 40 million", "a list of itself", "a mapping of itself"],
)
def test_aliases_cannot_make_a_small_file_huge(text, tmp_path):
    (tmp_path / "chat.yaml").write_text(text)
    error = error_of(tmp_path / "chat.yaml")
    assert (
        "at most 10000 YAML nodes in chat.yaml" in error.wanted and "alias" in error.got and "shorten" in error.remedy
    )


def test_turns_may_be_shared_by_an_alias(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(
        "messages:\n  - &say {role: user, stream: low_level, content: hi}\n  - *say\n  - {<<: *say, role: tool}\n"
    )
    assert [turn.role for turn in load_recipe(path).messages] == ["user", "user", "tool"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", "null\n", "---\n"])
def test_an_empty_file_is_told_how_to_begin(text, tmp_path):
    (tmp_path / "chat.yaml").write_text(text)
    error = error_of(tmp_path / "chat.yaml")
    assert "a mapping at the top (chat.yaml" in error.wanted and error.got == "nothing" and "messages:" in error.remedy


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_bytes(b"messages: \xff\xfe")
    error = error_of(path)
    assert "readable" in error.wanted and "chat.yaml" in error.got and "decode" in error.got
    path.unlink()
    path.symlink_to(path)  # a loop
    assert "want a recipe file" in error_of(path).wanted


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("subtask_men", "did you mean subtask_mem?"),
        ("recipes/subtask_joined.yaml", "did you mean subtask_joint?"),
        ("zebra", "use one of"),
    ],
)
def test_an_unknown_recipe_is_told_the_nearest_one(name, remedy):
    with pytest.raises(RecipeError, match="the name of a canonical recipe") as raised:
        load_recipe(name)
    assert raised.value.got == name and remedy in raised.value.remedy


def test_a_folder_is_no_recipe(tmp_path):
    assert "want a recipe file" in error_of(tmp_path).wanted


def test_several_errors_are_told_one_by_one_the_misspelt_key_first(tmp_path):
    """A misspelt key comes before the missing one that it causes; the rest are counted."""
    path = tmp_path / "chat.yaml"
    path.write_text(
        "messages:\n  - {role: robot, content: a, stream: low_level}\n  - {role: user, contents: a, steam: x}\n"
    )
    error = error_of(path)
    assert error.got == "'contents'" and "line 3" in error.wanted
    assert error.remedy == "did you mean content? (3 more errors in this recipe)"


def test_an_error_in_yaml_with_windows_line_ends_names_the_same_line(tmp_path):
    wrong = TURNS[1]
    path = tmp_path / "chat.yaml"
    path.write_bytes(("\ufeff" + wrong.text.replace("\n", "\r\n")).encode())
    assert f"(chat.yaml, line {wrong.line})" in error_of(path).wanted


# --- what only a dataset can tell ----------------------------------------------------------------------------------

CAMERAS = ("observation.images.front", "observation.images.wrist")


def of_cameras(cameras) -> dict:
    return {"cameras": cameras, "messages": [{"role": "user", "content": "${camera}", "stream": "low_level"}]}


def test_a_camera_that_the_dataset_lacks_is_told_the_nearest_one():
    recipe = load_recipe({"blend": {"ask": {**of_cameras(["front", "wirst"]), "weight": 1.0}}})
    with pytest.raises(RecipeError, match="cameras of ask") as raised:
        Renderer(recipe, cameras=CAMERAS)
    assert raised.value.got == "'wirst'" and raised.value.remedy == "did you mean wrist?"
    with pytest.raises(RecipeError) as raised:
        Renderer(load_recipe(of_cameras(["z"])), cameras=CAMERAS)
    assert raised.value.remedy == "write cameras: all"


def test_a_recipe_for_cameras_on_a_dataset_without_any():
    with pytest.raises(RecipeError, match="want cameras for a recipe") as raised:
        Renderer(load_recipe(of_cameras("all")), cameras=())
    assert "without any" in raised.value.got and "another recipe" in raised.value.remedy


def test_components_that_get_one_name():
    blend = {
        "ask": {**of_cameras("all"), "weight": 1.0},
        "ask_front": {"weight": 1.0, "messages": [{"role": "user", "content": "a", "stream": "low_level"}]},
    }
    with pytest.raises(RecipeError, match="a name of its own") as raised:
        Renderer(load_recipe({"blend": blend}), cameras=CAMERAS)
    assert raised.value.got == "ask_front" and "rename" in raised.value.remedy
