"""docs/recipes.md: its recipes give the samples it shows, its programs run, its picture and its commands are real."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command

from flows.chat_cli import export_chat_command
from flows.preview_cli import preview
from tasks.language.recipe import canonical_recipes, load_recipe
from tasks.language.render import Renderer
from tests.conftest import REPO
from tests.language.conftest import Annotated

PAGE = (REPO / "docs/recipes.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, body) for kind, body in BLOCK.findall(PAGE) if kind in ("yaml", "json", "python", "text")]
FRAME, TASK = 50, "put both blocks in the tray"
TEMPORAL = runpy.run_path(str(REPO / "docs/make_temporal.py"))


def shown(first: str, second: str) -> list[tuple[str, str]]:
    """Blocks of one kind with what stands right below them."""
    pairs = pairwise(BLOCKS)
    return [(body, result) for (kind, body), (after, result) in pairs if (kind, after) == (first, second)]


def test_there_is_something_to_test():
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("yaml") >= 5 and kinds.count("json") >= 4 and kinds.count("python") >= 3


@pytest.mark.parametrize("body", [body for kind, body in BLOCKS if kind == "yaml"])
def test_recipes_load(body):
    load_recipe(yaml.safe_load(body))


@pytest.mark.parametrize(("recipe", "sample"), shown("yaml", "json"))
def test_recipes_give_the_samples_that_are_shown(recipe, sample):
    """At the frame of the picture."""
    renderer = Renderer(load_recipe(yaml.safe_load(recipe)), cameras=(TEMPORAL["FRONT"], TEMPORAL["WRIST"]))
    assert renderer.render(TEMPORAL["table"](), FRAME, episode=0, task=TASK) == json.loads(sample)


def test_picture_is_made_from_the_resolvers():
    assert round(TEMPORAL["NOW_S"] * TEMPORAL["FPS"]) == FRAME
    assert (REPO / "docs/temporal.svg").read_text() == TEMPORAL["page"](), "run python docs/make_temporal.py"


def test_programs_run(tabletop: Annotated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each after the other, as a reader would; what one prints is what stands below it."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUEBOOK_CACHE", str(tmp_path / "cache"))
    Path("DATASET").symlink_to(tabletop.root)
    expected = dict(shown("python", "text"))
    for body in [body for kind, body in BLOCKS if kind == "python"]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(body, "recipes.md", "exec"), {"__name__": "__main__"})
        assert said.getvalue().strip() == expected.get(body, "").strip()


def test_table_names_every_canonical_recipe_with_its_weights():
    rows: dict[str, Any] = {}
    for line in PAGE.splitlines():
        if found := re.match(r"\| \[`(\w+)`\]\(.*\) \| .* \| (.*) \|$", line):
            rows[found[1]] = {name: float(w) for name, w in re.findall(r"`(\w+)` \((\d\.\d+)", found[2])}
    assert set(rows) == set(canonical_recipes())
    for name, weights in rows.items():
        assert weights == {part: c.weight for part, c in (load_recipe(name).blend or {}).items()}


def test_commands_have_the_flags_that_are_shown():
    known = {"preview": flags(preview), "export-chat": flags(export_chat_command)}
    lines = [line.split(" #")[0] for line in PAGE.splitlines() if line.startswith("annotate ")]
    assert len(lines) >= 5
    for line in lines:
        _, command, *arguments = line.split()
        assert {argument.split("=")[0] for argument in arguments} <= known[command], line


def flags(command: Callable[..., None]) -> set[str]:
    """Every flag of one command."""
    app = typer.Typer()
    app.command()(command)
    return {flag for parameter in get_command(app).params for flag in parameter.opts}
