"""Export: what is added, what stays, what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.check import check_dataset
from tasks.dataset.layout import open_dataset
from tasks.dataset.shards import open_parquet
from tasks.errors import DatasetError, RowError, SettingsError
from tasks.interchange import ExportOptions, export_labels
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, MODULES, PERSISTENT
from tasks.staging import Staging
from tasks.write import write_dataset
from tests.interchange.forms import DESCRIPTION, EPISODES, TASKS, add_column, make, with_subtasks
from tests.tiny import SHARD, column, stage, times, tree

TEXTS = ["reach for 0", "lift – slowly", "reach for 1"]


def annotate(root: Path, staged: Path, lengths: dict[int, int], modules=MODULES) -> Path:
    staging = Staging(staged)
    staged_modules = stage(staging, lengths, modules)
    dataset = open_dataset(root)
    provenance = {"staged": "digest", "runs": []}
    write_dataset(dataset, staging, staged_modules, output=None, provenance=provenance, drop_subtask_index=False)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Episodes of 6, 4 and 5 frames, the last without rows."""
    return annotate(make(tmp_path / "d"), tmp_path / "staged", {0: 6, 1: 4})


def info(root: Path) -> dict:
    return json.loads((root / "meta/info.json").read_text())


@pytest.mark.parametrize("in_place", [False, True])
def test_subtask_index_stands_on_every_frame_beside_a_table_of_texts(root, tmp_path, in_place):
    before = tree(root)
    report = export_labels(root, "subtask_index", None if in_place else tmp_path / "out")
    out = report.path
    assert out == (root if in_place else tmp_path / "out") and (in_place or tree(root) == before)
    assert column(out, "subtask_index") == [0, 0, 0, 1, 1, 1, 2, 2, 1, 1]
    assert column(out, "subtask_index", 1) == [-1] * 5
    texts = pq.read_table(out / "meta/subtasks.parquet")
    assert texts.to_pydict() == {"subtask_index": [0, 1, 2], "subtask": TEXTS}
    assert json.loads(texts.schema.metadata[b"pandas"])["index_columns"] == ["subtask"]
    assert info(out)["features"]["subtask_index"] == {"dtype": "int64", "shape": [1], "names": None}
    assert (report.episodes, report.labels, report.texts, report.without) == (2, 4, 3, (2,))
    assert check_dataset(out).findings == []


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"write_page_index": True}])
def test_other_columns_and_row_groups_stay(root, tmp_path, options):
    path = root / SHARD.format(c=0, f=0)
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        for start, stop in ((0, 6), (6, 10)):
            writer.write_table(table.slice(start, stop - start))
    export_labels(root, "subtask_index", tmp_path / "out")
    new = pq.ParquetFile(tmp_path / "out" / SHARD.format(c=0, f=0))
    assert new.read().drop_columns(["subtask_index"]).equals(table)
    assert new.schema_arrow.names == [*table.column_names, "subtask_index"]
    assert [new.metadata.row_group(i).num_rows for i in range(2)] == [6, 4]
    group = new.metadata.row_group(1)
    last = group.column(group.num_columns - 1).statistics
    assert (last.min, last.max) == (1, 2)
    assert group.column(0).compression == options.get("compression", "snappy").upper()  # copied, not encoded again


def test_a_column_in_the_midst_is_replaced_where_asked(tmp_path):
    root = with_subtasks(make(tmp_path / "d"), [[2] * 6, [2] * 4, [2] * 5])
    annotate(root, tmp_path / "staged", {0: 6})  # puts the language columns behind it
    before = tree(root)
    with pytest.raises(DatasetError, match="want a dataset without labels of that form") as caught:
        export_labels(root, "subtask_index", None)
    assert "--replace" in caught.value.remedy and tree(root) == before
    export_labels(root, "subtask_index", None, ExportOptions(replace=True))
    assert column(root, "subtask_index")[:7] == [0, 0, 0, 1, 1, 1, -1]
    names = open_parquet(root / SHARD.format(c=0, f=0)).schema_arrow.names
    assert names.count("subtask_index") == 1 and check_dataset(root).findings == []


def test_lists_of_subtasks_stand_in_the_episodes_metadata(root, tmp_path):
    before = pq.read_table(root / EPISODES)
    export_labels(root, "sarm", tmp_path / "out")
    after = pq.read_table(tmp_path / "out" / EPISODES)
    assert after.select(before.column_names).equals(before)
    new = after.select([n for n in after.column_names if n not in before.column_names]).to_pylist()
    assert new[0] == {
        "sparse_subtask_names": TEXTS[:2],
        "sparse_subtask_start_times": [0.0, 0.3],
        "sparse_subtask_end_times": [0.3, 0.6],
        "sparse_subtask_start_frames": [0, 3],
        "sparse_subtask_end_frames": [2, 5],
    }
    assert set(new[2].values()) == {None}
    assert info(tmp_path / "out") == info(root)
    export_labels(tmp_path / "out", "sarm", None, ExportOptions(sarm_level="dense"))
    with pytest.raises(DatasetError, match="dense_subtask_names"):
        export_labels(tmp_path / "out", "sarm", None, ExportOptions(sarm_level="dense"))


def test_columns_without_prefix_follow_the_sparse_ones(root):
    table = pq.read_table(root / EPISODES)
    old = pa.array([["old"], None, None], pa.list_(pa.string()))
    pq.write_table(table.append_column("subtask_names", old), root / EPISODES)
    export_labels(root, "sarm", None, ExportOptions(replace=True))
    after = pq.read_table(root / EPISODES)
    assert after["subtask_names"].to_pylist() == after["sparse_subtask_names"].to_pylist() == [
        TEXTS[:2], ["reach for 1", "lift – slowly"], None,
    ]  # fmt: skip


def test_the_metadata_of_other_libraries_names_the_new_columns(root, tmp_path):
    for path, name in ((SHARD.format(c=0, f=0), "index"), (str(EPISODES), "length")):
        table = pq.read_table(root / path)
        features = {"info": {"features": {name: {"dtype": "int64", "_type": "Value"}, "gone": {}}}}
        metadata = {**(table.schema.metadata or {}), b"huggingface": json.dumps(features).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), root / path, row_group_size=6)
    export_labels(root, "subtask_index", tmp_path / "a")
    export_labels(root, "sarm", tmp_path / "b")
    shard, episodes = (
        json.loads(pq.read_schema(p).metadata[b"huggingface"])["info"]["features"]
        for p in (tmp_path / "a" / SHARD.format(c=0, f=0), tmp_path / "b" / EPISODES)
    )
    assert shard == {
        "index": {"dtype": "int64", "_type": "Value"},
        "subtask_index": {"dtype": "int64", "_type": "Value"},
    }
    assert episodes["sparse_subtask_end_frames"] == {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"}
    assert episodes["sparse_subtask_start_times"]["feature"]["dtype"] == "float64" and "gone" not in episodes


def test_task_indices_name_subtasks_and_new_tasks_are_added(root, tmp_path):
    rename = {"reach for 1": TASKS[2]}
    staging = Staging(tmp_path / "other")
    t = times(4)
    staged = [Row("assistant", rename["reach for 1"], "subtask", t[0]), Row("assistant", "new", "subtask", t[2])]
    staging.write(1, "plan", staged, key="k", facts={})
    write_dataset(open_dataset(root), staging, {1: ("plan",)}, output=None, provenance={}, drop_subtask_index=False)
    export_labels(root, "gr00t", tmp_path / "out")
    out = tmp_path / "out"
    assert column(out, DESCRIPTION) == [4, 4, 4, 5, 5, 5, 2, 2, 6, 6]
    assert column(out, DESCRIPTION, 1) == [0] * 5  # no subtask: the frame's own task
    assert pq.read_table(out / "meta/tasks.parquet")["task"].to_pylist() == [*TASKS, *TEXTS[:2], "new"]
    assert info(out)["total_tasks"] == 7 and info(out)["features"][DESCRIPTION]["dtype"] == "int64"
    assert check_dataset(out).findings == []
    export_labels(root, "gr00t", None, ExportOptions(gr00t_column="annotation.own"))
    with pytest.raises(SettingsError, match=r"begins with annotation\."):
        export_labels(root, "gr00t", tmp_path / "x", ExportOptions(gr00t_column="own"))


def test_a_tasks_table_of_pandas_keeps_its_index(root, tmp_path):
    metadata = {b"pandas": b'{"index_columns": ["__index_level_0__"], "columns": []}'}
    table = pa.table({"task_index": pa.array([3], pa.int64()), "__index_level_0__": pa.array(["t"], pa.large_string())})
    pq.write_table(table.replace_schema_metadata(metadata), root / "meta/tasks.parquet")
    export_labels(root, "gr00t", tmp_path / "out")
    after = pq.read_table(tmp_path / "out/meta/tasks.parquet")
    assert after.to_pydict() == {"task_index": [3, 4, 5, 6], "__index_level_0__": ["t", *TEXTS]}
    assert after.schema.metadata[b"pandas"] == metadata[b"pandas"]


def test_csv_says_each_span_on_a_line(root, tmp_path):
    before = tree(root)
    report = export_labels(root, "csv", tmp_path / "new" / "labels.csv")
    with report.path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["episode_index", "start_s", "end_s", "start_frame", "end_frame", "subtask"],
        ["0", "0.0", "0.3", "0", "3", "reach for 0"],
        ["0", "0.3", "0.6", "3", "6", "lift – slowly"],
        ["1", "0.0", "0.2", "0", "2", "reach for 1"],
        ["1", "0.2", "0.4", "2", "4", "lift – slowly"],
    ]
    assert tree(root) == before


def test_csv_quotes_what_must_be_quoted(root, tmp_path):
    export_labels(root, "csv", tmp_path / "plan.csv", ExportOptions(style="plan"))
    with (tmp_path / "plan.csv").open(newline="", encoding="utf-8") as file:
        assert [line["plan"] for line in csv.DictReader(file)][:2] == ["1. reach\n2. lift", "1. lift"]


def test_csv_needs_a_new_file_outside_the_dataset(root, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(DatasetError, match="want a new file"):
        export_labels(root, "csv", tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "mine"
    with pytest.raises(SettingsError, match="outside the dataset"):
        export_labels(root, "csv", root / "meta/labels.csv")
    with pytest.raises(SettingsError, match="want a file for --to=csv"):
        export_labels(root, "csv", None)


@pytest.mark.parametrize(
    ("to", "style", "match"),
    [
        ("subtaks_index", "subtask", "did you mean subtask_index"),
        ("csv", "subtasks", "use one of subtask"),
        ("csv", "vqa", "want a style that holds over time"),
    ],
)
def test_unknown_forms_and_styles_are_refused(root, tmp_path, to, style, match):
    with pytest.raises(SettingsError, match=match):
        export_labels(root, to, tmp_path / "out", ExportOptions(style=style))


def test_styles_with_several_texts_at_a_time_are_refused(root, tmp_path):
    staging = Staging(tmp_path / "more")
    staged = [Row("assistant", "go", "subtask", 0.0), *(Row("user", f"say {i}", "task_aug", 0.0) for i in range(3))]
    staging.write(0, "plan", staged, key="k", facts={})
    write_dataset(open_dataset(root), staging, {0: ("plan",)}, output=None, provenance={}, drop_subtask_index=False)
    with pytest.raises(DatasetError, match="want one task_aug at a time in episode 0") as caught:
        export_labels(root, "subtask_index", tmp_path / "out", ExportOptions(style="task_aug"))
    assert "3 at 0 s" in str(caught.value) and not (tmp_path / "out").exists()


def test_nothing_to_export_is_refused(tmp_path):
    root = make(tmp_path / "d")
    for form, output in (("subtask_index", tmp_path / "out"), ("csv", tmp_path / "x.csv")):
        with pytest.raises(DatasetError, match="want subtask rows to export"):
            export_labels(root, form, output)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]


def test_an_output_that_holds_anything_is_not_replaced(root, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(DatasetError, match="want a new or empty folder"):
        export_labels(root, "sarm", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_record_keeps_what_a_run_wrote(root):
    export_labels(root, "sarm", None)
    record = json.loads((root / "meta/cuebook.json").read_text())
    assert record["staged"] == "digest" and record["interchange"][0]["command"] == "export"


def test_nothing_changes_when_a_shard_cannot_be_written(root, monkeypatch):
    before = tree(root)

    def broken(path, *_):
        if path.name == "file-001.parquet":
            raise RowError("broken")

    monkeypatch.setattr("tasks.interchange.columns._verify", broken)
    with pytest.raises(RowError):
        export_labels(root, "subtask_index", None)
    assert tree(root) == before and "d" in [p.name for p in root.parent.iterdir()]
    assert [p.name for p in root.parent.iterdir() if "cuebook" in p.name] == []


def test_rows_of_datasets_packed_otherwise_are_found(root, tmp_path):
    path = root / SHARD.format(c=0, f=0)
    pq.write_table(pq.read_table(path), path, row_group_size=7)
    export_labels(root, "subtask_index", tmp_path / "out")
    assert column(tmp_path / "out", "subtask_index") == [0, 0, 0, 1, 1, 1, 2, 2, 1, 1]
    states = column(tmp_path / "out", PERSISTENT)
    assert states == column(root, PERSISTENT) and column(tmp_path / "out", EVENTS) == column(root, EVENTS)
    new = pq.ParquetFile(tmp_path / "out" / SHARD.format(c=0, f=0)).metadata
    assert [new.row_group(i).num_rows for i in range(2)] == [7, 3]


def test_another_feature_is_not_disturbed(root, tmp_path):
    add_column(root, "extra", [list(range(6)), list(range(4)), list(range(5))])
    export_labels(root, "subtask_index", tmp_path / "out")
    assert np.array_equal(column(tmp_path / "out", "extra"), [*range(6), *range(4)])
