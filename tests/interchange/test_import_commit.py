"""How an import writes: all or nothing, only what it imports, and only when asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.dataset.layout import open_dataset
from tasks.dataset.lock import lock_dataset
from tasks.errors import DatasetBusyError, DatasetError, SettingsError
from tasks.interchange import import_labels
from tasks.language.styles import EVENTS, MODULES, PERSISTENT
from tasks.staging import Staging
from tasks.write import write_dataset
from tests.interchange.forms import imported, make, rows, with_subtasks
from tests.tiny import SHARD, column, stage, tree

INDICES = [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1], [-1] * 5]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return with_subtasks(make(tmp_path / "d"), INDICES)


@pytest.fixture
def annotated(root: Path, tmp_path: Path) -> Path:
    """Rows of every module on the episodes 0 and 2."""
    staging = Staging(tmp_path / "staged")
    provenance = {"staged": "digest", "runs": [{"run_id": "r"}], "own": 1}
    write_dataset(
        open_dataset(root), staging, stage(staging, {0: 6, 2: 5}, MODULES), output=None, provenance=provenance,
        drop_subtask_index=False,
    )  # fmt: skip
    return root


def test_rows_of_the_same_style_are_not_replaced_unasked(annotated):
    before = tree(annotated)
    with pytest.raises(DatasetError, match="want no subtask rows on the imported episodes") as caught:
        import_labels(annotated)
    assert "2 rows in episodes 0" in str(caught.value) and "--replace" in caught.value.remedy
    with pytest.raises(DatasetError):
        import_labels(annotated, dry_run=True)
    assert tree(annotated) == before
    imported(annotated, only_episodes=[1])
    assert rows(annotated)[1] == [(0, "reach"), (2, "lift")] and len(rows(annotated)[0]) == 2


def test_replaced_are_only_rows_of_the_imported_style_and_episodes(annotated):
    states, events = column(annotated, PERSISTENT), column(annotated, EVENTS)
    others = tree(annotated)[SHARD.format(c=0, f=1)]
    report = imported(annotated, replace=True)
    assert report.total("replaced_rows") == 2
    assert rows(annotated)[0] == [(0, "reach"), (2, "lift"), (4, "drop")]
    kept = [r for r in states[0] if r["style"] != "subtask"]
    assert [r for r in column(annotated, PERSISTENT)[0] if r["style"] != "subtask"] == kept and len(kept) == 4
    assert column(annotated, EVENTS) == events
    assert tree(annotated)[SHARD.format(c=0, f=1)] == others  # episode 2 has no labels: nothing is touched


def test_the_record_keeps_runs_and_no_longer_claims_their_rows(annotated):
    import_labels(annotated, replace=True)
    record = json.loads((annotated / "meta/cuebook.json").read_text())
    assert record["runs"] == [{"run_id": "r"}] and record["own"] == 1 and "staged" not in record
    (entry,) = record["interchange"]
    assert (entry["command"], entry["from"], entry["episodes"]) == ("import", "subtask_index", 2)
    assert str(annotated) not in json.dumps(record)
    import_labels(annotated, replace=True, only_episodes=[0])
    record = json.loads((annotated / "meta/cuebook.json").read_text())
    assert [e["episodes"] for e in record["interchange"]] == [1, 2]


def test_an_output_leaves_the_dataset_as_it_was(root, tmp_path):
    before = tree(root)
    report = imported(root, output=tmp_path / "new" / "out")
    assert report.dataset == tmp_path / "new" / "out" and report.shards_written == 2
    assert tree(root) == before and rows(tmp_path / "new" / "out")[0][0] == (0, "reach")


def test_an_output_that_holds_anything_is_not_replaced(root, tmp_path):
    output = Path(shutil.copytree(root, tmp_path / "out"))
    before = tree(output)
    with pytest.raises(DatasetError, match="want a new or empty folder"):
        import_labels(root, output=output)
    assert tree(output) == before
    (tmp_path / "empty").mkdir()
    imported(root, output=tmp_path / "empty")


def test_a_dry_run_says_all_and_writes_nothing(root, tmp_path):
    before = tree(tmp_path)
    report = import_labels(root, dry_run=True, output=tmp_path / "new")
    assert tree(tmp_path) == before and not (tmp_path / "new").exists()
    assert not report.written and report.counts()["rows"] == {"subtask": 5}
    listed = report.to_json()["imported"][1]
    assert listed["rows"][1] == {"style": "subtask", "timestamp": pytest.approx(0.2), "content": "lift"}
    assert import_labels(root).counts() == report.counts()


def test_nothing_is_written_when_the_write_fails(root, monkeypatch):
    before = tree(root)

    def broken(*_):
        raise DatasetError("broken")

    monkeypatch.setattr("tasks.write._verify", broken)
    with pytest.raises(DatasetError, match="broken"):
        import_labels(root)
    assert tree(root) == before and [p.name for p in root.parent.iterdir()] == ["d"]


def test_a_dataset_that_is_being_written_is_left_alone(root):
    import subprocess
    import sys

    code = f"from tasks.interchange import import_labels; import_labels({str(root)!r})"
    with lock_dataset(root):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert DatasetBusyError.__name__ in done.stderr
    imported(root)


def test_unknown_episodes_are_refused(root):
    with pytest.raises(SettingsError, match="want known episodes"):
        import_labels(root, only_episodes=[7])


def test_progress_is_told(root):
    heard = []
    import_labels(root, progress=lambda *event: heard.append(event))
    assert heard == [("reading labels", i, 3) for i in (1, 2, 3)] + [("writing", 0, 0)]
