"""`annotate import` and `annotate export` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from flows.interchange_cli import export_labels, import_labels
from tests.interchange.forms import make, rows, sarm_columns, with_sarm, with_subtasks

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("import")(import_labels)
app.command("export")(export_labels)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return with_subtasks(make(tmp_path / "d"), [[-1, 0, 1, 1, 2, 2], [0, 0, 1, 1], [-1] * 5])


def test_import_says_what_it_read_and_wrote(root):
    done = call("import", "--root", root)
    assert done.exit_code == 0 and rows(root)[0][0] == (0, "reach")
    assert "subtask_index of the data shards" in done.stdout
    assert "5 subtask" in done.stdout and "1 (1 frames)" in done.stdout and "1: 2" in done.stdout


def test_a_dry_run_lists_rows(root):
    done = call("import", "--root", root, "--dry_run")
    assert done.exit_code == 0 and "lift" in done.stdout and "0.20 s" in done.stdout
    assert "dry run" in done.stdout and rows(root) == [[], [], []]


def test_machines_get_json_and_nothing_else(root, tmp_path):
    done = call("import", f"--root={root}", "--json", "--only_episodes=0,1")
    summary = json.loads(done.stdout)
    assert summary["rows"] == {"subtask": 5} and summary["from"] == "subtask_index" and summary["written"]
    done = call("export", f"--root={root}", "--to=csv", f"--output={tmp_path / 'x.csv'}", "--json")
    assert json.loads(done.stdout)["labels"] == 5 and done.stderr == ""


def test_dotted_flags_reach_their_form(tmp_path):
    root = with_sarm(make(tmp_path / "d"), sarm_columns("sparse_", [[("a", 0, 6)], None, None]))
    done = call("import", f"--root={root}", "--from=sarm", "--sarm.level=dense", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["error"] == "DatasetError"
    assert call("import", f"--root={root}", "--sarm.level=sparse").exit_code == 0
    done = call("import", f"--root={root}", "--from=sarm", "--gr00t.map=a=subtask", "--json")
    assert done.exit_code == 2 and "--gr00t.map with --from=gr00t" in json.loads(done.stdout)["message"]


def test_export_adds_to_a_new_dataset_or_in_place(root, tmp_path):
    call("import", f"--root={root}")
    done = call("export", f"--root={root}", "--to=gr00t", f"--output={tmp_path / 'out'}")
    assert done.exit_code == 0 and "5, 3 different texts" in done.stdout
    assert call("export", f"--root={root}", "--to=subtask_index", "--in_place").exit_code == 1
    assert call("export", f"--root={root}", "--to=subtask_index", "--in_place", "--replace").exit_code == 0
    assert call("import", f"--root={tmp_path / 'out'}", "--from=gr00t", "--dry_run", "--replace").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to=csv"], "want either --output or --in_place"),
        (["--to=sarm", "--output=x", "--in_place"], "want either --output or --in_place"),
        (["--to=csvv", "--output=x"], "did you mean csv?"),
    ],
)
def test_flags_that_do_not_fit_are_wrong_usage(root, words, message):
    done = call("export", f"--root={root}", *words)
    assert done.exit_code == 2 and message in done.stderr


def test_episodes_that_are_no_numbers_are_wrong_usage(root):
    done = call("import", f"--root={root}", "--only_episodes=0,x")
    assert done.exit_code == 2 and "want episode indices" in done.stderr
