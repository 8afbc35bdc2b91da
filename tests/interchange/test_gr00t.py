"""Import of annotation.* columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dataset.layout import open_dataset
from tasks.errors import DatasetError, DatasetVersionError, SettingsError
from tasks.interchange import FormOptions, import_labels
from tests.conftest import real_dataset
from tests.interchange.forms import DESCRIPTION, TASKS, VALIDITY, add_column, imported, make, rows
from tests.tiny import tree

COARSE = "annotation.human.action.coarse_action"
CHANGING = [[2, 2, 3, 3, 3, 3], [2, 2, 2, 2], [0] * 5]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make(tmp_path / "d")
    add_column(root, DESCRIPTION, CHANGING)
    add_column(root, VALIDITY, [[1] * 6, [1, 1, 0, 1], [1] * 5])
    return root


def test_what_differs_from_the_task_becomes_subtasks_and_validity_is_no_text(root):
    report = imported(root)
    assert rows(root) == [[(0, TASKS[2]), (2, TASKS[3])], [(0, TASKS[2])], []]
    assert report.without == [2]  # it repeats the task
    assert report.choices == [f"{DESCRIPTION} -> subtask", f"{VALIDITY} is skipped: it says which frames are valid"]


def test_a_map_is_taken_at_its_word(root):
    add_column(root, COARSE, [[3, 3, 2, 2, 3, 3], [0] * 4, [3] * 5])
    mapping = f"{DESCRIPTION}=subtask, {COARSE}=task_aug"
    report = imported(root, "gr00t", FormOptions(gr00t_map=mapping))
    assert rows(root)[2] == [(0, TASKS[0])]
    assert rows(root, "task_aug") == [[(0, TASKS[3]), (0, TASKS[2])], [(0, TASKS[0])], [(0, TASKS[3])]]
    assert report.rows == {"subtask": 4, "task_aug": 4} and report.choices == [
        f"{DESCRIPTION} -> subtask",
        f"{COARSE} -> task_aug",
    ]
    (row,) = [r for r in report.episodes[1].rows if r.style == "task_aug"]
    assert row.role == "user"


def test_the_column_that_says_most_is_chosen_and_the_others_are_named(root):
    add_column(root, COARSE, [[2, 3, 2, 3, 2, 3], [2] * 4, [2] * 5])
    report = imported(root)
    assert report.choices[0] == f"{COARSE} -> subtask"
    assert any(c.startswith(f"{DESCRIPTION} is not imported") for c in report.choices)
    assert len(rows(root)[0]) == 6


@pytest.mark.parametrize(
    ("kind", "wrap"), [(pa.list_(pa.int64()), lambda v: [v]), (pa.list_(pa.int32(), 1), lambda v: [v])]
)
def test_lists_of_one_index_are_read(tmp_path, kind, wrap):
    root = make(tmp_path / "d")
    add_column(root, DESCRIPTION, [[wrap(v) for v in e] for e in CHANGING], kind)
    imported(root)
    assert rows(root)[0] == [(0, TASKS[2]), (2, TASKS[3])]


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.string())])
def test_texts_in_the_column_itself_are_read(tmp_path, kind):
    root = make(tmp_path / "d")
    texts = [["a", "a", "b ", "b", "", None], ["c"] * 4, [None] * 5]
    wrapped = [[v if kind == pa.string() else v and [v] for v in e] for e in texts]
    add_column(root, "annotation.language", wrapped, kind)
    report = imported(root)
    assert rows(root) == [[(0, "a"), (2, "b")], [(0, "c")], []]
    assert report.episodes[0].unlabelled_frames == 2


def test_a_description_that_only_repeats_the_task_is_nothing_to_import(tmp_path):
    root = make(tmp_path / "d")
    add_column(root, DESCRIPTION, [[0] * 6, [0] * 4, [0] * 5])
    with pytest.raises(DatasetError, match="says more than the task") as caught:
        import_labels(root)
    assert "only repeats the task" in str(caught.value)
    imported(root, "gr00t", FormOptions(gr00t_map=f"{DESCRIPTION}=subtask"))
    assert rows(root) == [[(0, TASKS[0])]] * 3


def test_validity_alone_is_no_label(tmp_path):
    root = make(tmp_path / "d")
    add_column(root, VALIDITY, [[1] * 6, [1] * 4, [1] * 5])
    with pytest.raises(DatasetError, match="want labels to import"):
        import_labels(root)


def test_an_index_without_a_task_is_refused_where_it_is_asked_for(tmp_path):
    root = make(tmp_path / "d")
    add_column(root, DESCRIPTION, [[9] * 6, [2] * 4, [2] * 5])
    with pytest.raises(DatasetError, match="9 on frame 0 of episode 0"):
        import_labels(root, "gr00t", FormOptions(gr00t_map=f"{DESCRIPTION}=subtask"))
    with pytest.raises(DatasetError, match="9 on frame 0 of episode 0"):
        import_labels(root)


@pytest.mark.parametrize(
    ("mapping", "match"),
    [
        ("annotation.human.action.task_descripton=subtask", f"did you mean {DESCRIPTION}"),
        (f"{DESCRIPTION}=subtasks", "use one of subtask"),
        (f"{DESCRIPTION}=vqa", "want a style that holds over time"),
        (DESCRIPTION, "want COLUMN=STYLE"),
        ("", "want a column"),
        (f"{DESCRIPTION}=subtask,{VALIDITY}=subtask", "want one column for the style subtask"),
        (f"{DESCRIPTION}=subtask,{DESCRIPTION}=plan", "want each column once"),
    ],
)
def test_maps_that_do_not_fit_are_refused(root, mapping, match):
    with pytest.raises(SettingsError, match=match):
        import_labels(root, "gr00t", FormOptions(gr00t_map=mapping))


def test_a_column_that_a_shard_lacks_is_refused(root):
    path = sorted(root.glob("data/**/*.parquet"))[1]
    pq.write_table(pq.read_table(path).drop_columns([DESCRIPTION]), path)
    with pytest.raises(DatasetError, match=f"want column {DESCRIPTION} in every shard"):
        import_labels(root, "gr00t", FormOptions(gr00t_map=f"{DESCRIPTION}=subtask"))


def test_a_plan_needs_subtasks_beside_it(root):
    before = tree(root)
    with pytest.raises(DatasetError, match="want subtasks in episode 0 beside rows of plan"):
        import_labels(root, "gr00t", FormOptions(gr00t_map=f"{DESCRIPTION}=plan"))
    assert tree(root) == before


def test_a_dataset_of_an_older_version_is_to_be_converted_first():
    with pytest.raises(DatasetVersionError, match="convert it"):
        import_labels(real_dataset("gr1-pick-place-v2"))


def test_columns_as_in_a_real_recording_of_that_kind(dataset_copy):
    """The two annotation columns of a real recording, with their types, on the generated dataset."""
    names = {f.name: f.type for f in pq.read_schema(next(real_dataset("gr1-pick-place-v2").rglob("*.parquet")))}
    kinds = {n: kind for n, kind in names.items() if n.startswith("annotation.")}
    assert set(kinds) == {DESCRIPTION, VALIDITY}
    episodes = open_dataset(dataset_copy).episodes()
    tasks = pq.read_table(dataset_copy / "meta/tasks.parquet").num_rows
    half = [[e.episode_index % tasks] * 20 + [(e.episode_index + 1) % tasks] * (e.frames - 20) for e in episodes]
    add_column(dataset_copy, DESCRIPTION, half, kinds[DESCRIPTION])
    add_column(dataset_copy, VALIDITY, [[1] * e.frames for e in episodes], kinds[VALIDITY])
    imported(dataset_copy)
    assert [[frame for frame, _ in e] for e in rows(dataset_copy)] == [[0, 20]] * len(episodes)
