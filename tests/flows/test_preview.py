"""`annotate preview` and `annotate export-chat` as a user meets them: output, JSON, exit codes and remedies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from flows.chat_cli import export_chat_command
from flows.console import out
from flows.inline import annotate_inline
from flows.preview_cli import preview
from tasks.dataset.generate import generate
from tasks.dataset.layout import open_dataset
from tasks.language.recipe import canonical_recipes, load_recipe
from tasks.language.render import Renderer
from tasks.language.row_store import open_rows
from tasks.settings import AnnotateSettings
from tests.conftest import REPO

RECIPE = "--recipe=subtask_mem_vqa_speech"
WRONG = """\
blend:
  words:
    weight: 1.0
    messages:
      - { role: user, content: "${tusk}", stream: high_level, target: true }
"""

app = typer.Typer(pretty_exceptions_enable=False)
app.command("preview")(preview)
app.command("export-chat")(export_chat_command)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two annotated episodes of 30 frames; questions about the front camera only."""
    made = generate(tmp_path_factory.mktemp("preview") / "tabletop", episodes=2, seconds=3.0, size=(64, 48))
    annotate_inline(AnnotateSettings(root=made))
    return made


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(out, "width", 200)


def call(*words: str) -> Result:
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def as_json(*words: str) -> Any:
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(code: int, *words: str) -> str:
    """The error of a command, without line breaks."""
    done = call(*words)
    assert done.exit_code == code, done.output
    assert "do: " in done.stderr and "Traceback" not in done.output
    return " ".join(done.stderr.split())


# ------------------------------------------------------------------------------------------------ samples


def test_samples_show_streams_targets_calls_and_pictures(root: Path) -> None:
    shown = call("preview", f"--root={root}", RECIPE, "--count=8").stdout
    assert "episode 0 · frame" in shown and "could be here too:" in shown
    for words in (
        "▶ learn",
        "high",
        "low",
        "[image front]",
        '→ say(text="',
        "component ask_vqa_front",
        "memory_update",
    ):
        assert words in shown, words
    assert "Realised rates over every frame" in shown
    assert "ask_vqa_side" in shown and "never: vqa_query is missing on 60 frames" in shown


def test_different_components_come_first(root: Path) -> None:
    told = as_json("preview", f"--root={root}", RECIPE, "--count=4")
    components = [sample["component"] for sample in told["samples"]]
    assert len(set(components)) == 4


def test_a_frame_shows_what_training_gets_there(root: Path) -> None:
    dataset = open_dataset(root)
    rows = open_rows(dataset)
    renderer = Renderer(load_recipe("subtask_mem"), cameras=dataset.cameras, seed=5)
    at = {"episode": 1, "epoch": 3, "task": rows.task(1)}
    told = as_json(
        "preview", f"--root={root}", "--recipe=subtask_mem", "--episode=1", "--frame=17", "--seed=5", "--epoch=3"
    )
    (sample,) = told["samples"]
    component, rendered = renderer.render_named(rows.table(1), 17, **at)
    assert (sample["component"], sample["sample"]) == (component, rendered)
    assert sample["renderable"] == renderer.renderable(rows.table(1), 17, **at)
    assert (sample["episode_index"], sample["frame_index"], sample["time_s"]) == (1, 17, pytest.approx(1.7))
    assert told["rates"]["frames"] == 60


def test_one_component_is_shown_whatever_the_draw_says(root: Path) -> None:
    words = ("preview", f"--root={root}", RECIPE, "--component=high_level_subtask", "--episode=0")
    for frame in range(0, 10, 3):
        assert as_json(*words, f"--frame={frame}")["samples"][0]["component"] == "high_level_subtask"
    some = as_json(*words, "--count=3")["samples"]
    assert {s["component"] for s in some} == {"high_level_subtask"} and {s["episode_index"] for s in some} == {0}


def test_a_frame_on_which_nothing_renders_says_what_is_lacking(root: Path) -> None:
    words = ("preview", f"--root={root}", RECIPE, "--component=ask_vqa", "--episode=0", "--frame=1")
    (sample,) = as_json(*words)["samples"]
    assert sample["component"] is None and sample["sample"] is None
    assert set(sample["lacks"]) == {"ask_vqa_front", "ask_vqa_side"}
    assert "ask_vqa_front cannot render here without vqa_query" in call(*words).stdout


def test_rates_over_a_sample_of_the_frames(root: Path) -> None:
    told = as_json("preview", f"--root={root}", "--recipe=subtask", "--frames=12")["rates"]
    assert (told["frames"], told["frames_total"]) == (12, 60)
    assert sum(c["drawn"] for c in told["components"]) == 12
    assert as_json("preview", f"--root={root}", "--recipe=subtask", "--frames=0")["rates"]["frames"] == 60
    assert "12 of 60 frames" in call("preview", f"--root={root}", "--recipe=subtask", "--frames=12").stdout


def test_text_of_rows_is_never_taken_for_markup(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "odd.yaml"
    recipe.write_text(
        "messages:\n  - { role: user, stream: low_level, content: '[bold red]${task}[/oops] :smile: [[x]]' }\n"
    )
    shown = call("preview", f"--root={root}", f"--recipe={recipe}", "--count=1").stdout
    assert "[bold red]" in shown and "[/oops] :smile: [[x]]" in shown


def test_contradicting_rows_are_told_below_the_rates(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "loose.yaml"
    recipe.write_text(
        "bindings: { both: 'emitted_at(t, style=vqa)' }\n"
        "messages:\n  - { role: user, stream: low_level, content: '${both}' }\n"
    )
    done = call("preview", f"--root={root}", f"--recipe={recipe}")
    assert done.exit_code == 0 and "rows contradict each other on 6 frames, first: episode 0" in done.stdout
    assert "2 rows" in done.stdout and not done.stderr
    assert as_json("preview", f"--root={root}", f"--recipe={recipe}")["rates"]["ambiguous"] == 6


# ------------------------------------------------------------------------------------------------ recipes by themselves


def test_canonical_recipes_are_listed_with_a_line_each() -> None:
    told = as_json("preview", "--list")
    assert tuple(told) == canonical_recipes() and all(len(line) > 20 for line in told.values())
    assert not any("yaml-language-server" in line for line in told.values())
    shown = call("preview", "--list").stdout
    assert all(name in shown for name in told)


@pytest.mark.parametrize("name", canonical_recipes())
def test_a_recipe_alone_is_checked_and_described(name: str) -> None:
    components = as_json("preview", f"--recipe={name}")["components"]
    assert sum(c["share"] for c in components) == pytest.approx(1)
    shown = call("preview", f"--recipe={name}").stdout
    assert all(c["name"] in shown for c in components) and "the recipe is right" in shown
    assert "subtask = active_at(t, style=subtask)" in shown


def test_bindings_that_no_turn_uses_are_pointed_out(tmp_path: Path) -> None:
    recipe = tmp_path / "spare.yaml"
    recipe.write_text(
        "bindings: { old: 'nth_prev(style=plan, offset=1)' }\n"
        "messages:\n  - { role: user, stream: low_level, content: '${task}' }\n"
    )
    (component,) = as_json("preview", f"--recipe={recipe}")["components"]
    assert component["unused"] == ["old"] and component["bindings"] == {}
    assert "never used: old" in call("preview", f"--recipe={recipe}").stdout


def test_a_wrong_recipe_is_refused_with_its_line(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text(WRONG)
    for words in ([], [f"--root={root}"]):
        message = refused(2, "preview", f"--recipe={recipe}", *words)
        assert "wrong.yaml, line 5" in message and "did you mean task?" in message
    done = call("preview", f"--recipe={recipe}", "--json")
    assert done.exit_code == 2
    told = json.loads(done.stdout)
    assert told["error"] == "RecipeError" and told["exit_code"] == 2 and "line 5" in told["message"]


# ------------------------------------------------------------------------------------------------ remedies


@pytest.mark.parametrize(
    ("code", "words", "hints"),
    [
        (2, ["--root={root}"], ["no --recipe", "--list"]),
        (2, ["--root={root}", "--recipe=subtask_mems"], ["subtask_mem?"]),
        (2, ["--root={root}", "--recipe=subtask", "--episode=9"], ["0 to 1"]),
        (2, ["--root={root}", "--recipe=subtask", "--episode=1", "--frame=30"], ["episode 1, 0 to 29", "30"]),
        (2, ["--root={root}", RECIPE, "--component=ask_vqa_sid"], ["did you mean ask_vqa_side?"]),
        (1, ["--root={root}", RECIPE, "--component=ask_vqa_side"], ["vqa_query is missing on 60", "--phases=vqa"]),
        (1, ["--root={plain}", "--recipe=subtask"], ["annotate run"]),
        (1, ["--root={plain}/nowhere", "--recipe=subtask"], ["does not exist"]),
    ],
)
def test_errors_say_what_to_do(
    root: Path, generated_dataset: Path, code: int, words: list[str], hints: list[str]
) -> None:
    message = refused(code, "preview", *(w.format(root=root, plain=generated_dataset) for w in words))
    assert all(hint in message for hint in hints), message


def test_memory_that_was_never_written_points_to_its_phase(tmp_path: Path) -> None:
    made = generate(tmp_path / "bare", episodes=1, seconds=2.0, size=(64, 48))
    annotate_inline(AnnotateSettings(root=made, phases=("vqa",)))
    message = refused(1, "preview", f"--root={made}", "--recipe=subtask_mem", "--component=memory_update")
    assert "current_memory is missing on 20 frames" in message and "--phases=plan" in message
    shown = call("preview", f"--root={made}", "--recipe=subtask_mem").stdout
    assert "nothing renders on 20 frames; 20 of them have a task" in shown


# ------------------------------------------------------------------------------------------------ export-chat


def test_an_export_is_summed_up(root: Path, tmp_path: Path) -> None:
    words = ("export-chat", f"--root={root}", RECIPE, f"--output={tmp_path / 'chat'}")
    done = call(*words, "--split=train:0.5,val:0.5")
    assert done.exit_code == 0, done.output
    lines = sum(len((tmp_path / "chat" / f"{name}.jsonl").read_text().splitlines()) for name in ("train", "val"))
    pictures = len(list((tmp_path / "chat" / "images").iterdir()))
    assert lines > 5 and f"{pictures} pictures" in done.stdout and "ask_vqa_front" in done.stdout
    assert "--overwrite" in refused(2, *words)
    told = as_json(*words, "--split=train:0.5,val:0.5", "--resume")
    assert sum(told["samples"].values()) == lines and told["images"] == pictures
    told = as_json(*words, "--overwrite", "--every=1", "--components=ask_vqa", "--form=prompt_completion")
    assert set(told["components"]) == {"ask_vqa_front", "ask_vqa_side"} and told["left_out"]["nothing"] > 0


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--form=alpaca"], "llamafactory"),
        (["--every=2", "--stride_s=1"], "leave one out"),
        (["--split=train"], "train:0.9,val:0.1"),
        (["--split=train:0.9"], "add up to 1"),
        (["--episodes=one"], "--episodes=0,3"),
        (["--episodes=9"], "0 to 1"),
        (["--components=ask"], "ask_vqa"),
        (["--recipe=subtask_men"], "did you mean subtask_mem?"),
    ],
)
def test_wrong_exports_are_refused_before_any_work(root: Path, tmp_path: Path, words: list[str], hint: str) -> None:
    recipe = [] if words[0].startswith("--recipe") else [RECIPE]
    message = refused(2, "export-chat", f"--root={root}", f"--output={tmp_path / 'chat'}", *recipe, *words)
    assert hint in message
    assert not list(tmp_path.glob("chat*"))


def test_an_episode_that_failed_is_named_and_shown_by_the_exit_code(tmp_path: Path) -> None:
    made = generate(tmp_path / "apart", episodes=2, seconds=2.0, size=(64, 48), video_files_size_in_mb=0.001)
    annotate_inline(AnnotateSettings(root=made))
    ref = open_dataset(made).episodes()[0].videos["observation.images.front"]
    ref.path.unlink()
    done = call("export-chat", f"--root={made}", RECIPE, f"--output={tmp_path / 'chat'}")
    assert done.exit_code == 3 and "left out episode 0" in done.stdout and str(ref.path) in done.stdout


def test_help_comes_without_heavy_imports() -> None:
    code = """
import sys
from flows.preview_cli import preview
from flows.chat_cli import export_chat_command
print([m for m in ("pyarrow", "av", "PIL", "torch", "prefect", "numpy", "yaml") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
    for command in ("preview", "export-chat"):
        assert "Examples:" in call(command, "--help").stdout
