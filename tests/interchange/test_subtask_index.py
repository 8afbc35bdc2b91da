"""Import of subtask_index and meta/subtasks.parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import DatasetError
from tasks.interchange import import_labels
from tests.interchange.forms import add_column, imported, make, rows, with_subtasks, write_texts
from tests.tiny import column, tree

INDICES = [[0, 0, 1, 1, 2, 2], [-1, 0, -1, 1], [-1] * 5]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return with_subtasks(make(tmp_path / "d"), INDICES)


def test_spans_begin_on_their_frames_and_the_first_one_on_the_first(root):
    report = imported(root)
    assert rows(root) == [[(0, "reach"), (2, "lift"), (4, "drop")], [(0, "reach"), (3, "lift")], []]
    assert report.form == "subtask_index" and report.rows == {"subtask": 5} and report.without == [2]
    second = report.episodes[1]
    assert (second.extended_frames, second.unlabelled_frames) == (1, 1)
    assert report.counts()["spans_extended"] == 1


def test_the_old_column_and_its_texts_stay(root):
    texts = (root / "meta/subtasks.parquet").read_bytes()
    before = column(root, "subtask_index")
    imported(root)
    assert column(root, "subtask_index") == before and (root / "meta/subtasks.parquet").read_bytes() == texts


@pytest.mark.parametrize("index", [None, "__index_level_0__", "name"])
def test_the_text_may_be_the_index_that_pandas_keeps(root, index):
    write_texts(root, "subtask", ["a", "b", "c"], index=index)
    imported(root)
    assert rows(root)[0] == [(0, "a"), (2, "b"), (4, "c")]


def test_the_order_of_the_table_does_not_matter(root):
    table = pa.table({"subtask_index": [2, 0, 1], "__index_level_0__": ["c", "a", "b"]})
    pq.write_table(table, root / "meta/subtasks.parquet")
    imported(root)
    assert rows(root)[0] == [(0, "a"), (2, "b"), (4, "c")]


@pytest.mark.parametrize(
    ("kind", "wrap", "none"),
    [
        (pa.float64(), lambda v: v, float("nan")),
        (pa.float32(), lambda v: v, None),
        (pa.int32(), lambda v: v, None),
        (pa.list_(pa.int64()), lambda v: [v], None),
        (pa.list_(pa.int64()), lambda v: [v], []),
        (pa.list_(pa.int64(), 1), lambda v: [v], None),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_other_types_hold_the_same_labels(tmp_path, kind, wrap, none, packed):
    root = make(tmp_path / "d", packed=packed)
    add_column(root, "subtask_index", [[none if i < 0 else wrap(i) for i in e] for e in INDICES], kind)
    write_texts(root, "subtask", ["reach", "lift", "drop"])
    report = import_labels(root)
    assert rows(root) == [[(0, "reach"), (2, "lift"), (4, "drop")], [(0, "reach"), (3, "lift")], []]
    assert report.episodes[1].unlabelled_frames == 1


def refused(root: Path, match: str, **kwargs) -> str:
    """The import raises, says what to do and changes nothing; its text."""
    before = tree(root)
    with pytest.raises(DatasetError, match=match) as caught:
        import_labels(root, **kwargs)
    assert tree(root) == before and caught.value.remedy
    return str(caught.value)


def test_missing_texts_are_refused(root):
    (root / "meta/subtasks.parquet").unlink()
    refused(root, "meta/subtasks.parquet")


def test_an_index_without_a_text_is_refused_with_its_place(root):
    write_texts(root, "subtask", ["reach", "lift"])
    text = refused(root, "want a text in meta/subtasks.parquet")
    assert "2 on frame 4 of episode 0" in text and "has 0, 1" in text
    imported(root, only_episodes=[1])


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_text_is_refused(root, empty):
    write_texts(root, "subtask", ["reach", empty, "drop"])
    assert "whose text is empty" in refused(root, "want a text")


def test_two_texts_of_one_index_are_refused(root):
    table = pa.table({"subtask_index": [0, 0], "subtask": ["a", "b"]})
    pq.write_table(table, root / "meta/subtasks.parquet")
    refused(root, "want each subtask_index once")


def test_a_table_without_the_columns_is_refused(root):
    pq.write_table(pa.table({"id": [0], "subtask": ["a"]}), root / "meta/subtasks.parquet")
    assert "columns id, subtask" in refused(root, "want an integer column subtask_index")


def test_numbers_that_are_no_indices_are_refused(tmp_path):
    root = make(tmp_path / "d")
    add_column(root, "subtask_index", [[0.5] * 6, [0.0] * 4, [0.0] * 5], pa.float64())
    write_texts(root, "subtask", ["a"])
    refused(root, "want whole numbers in column subtask_index")


def test_several_values_on_a_frame_are_refused(tmp_path):
    root = make(tmp_path / "d")
    add_column(root, "subtask_index", [[[0]] * 6, [[0], [0, 1], [0], [0]], [[0]] * 5], pa.list_(pa.int64()))
    write_texts(root, "subtask", ["a", "b"])
    assert "2 on frame 1 of episode 1" in refused(root, "at most one value on a frame")


def test_a_form_that_is_not_there_is_refused(tmp_path):
    root = make(tmp_path / "d")
    refused(root, "want column subtask_index", form="subtask_index")
    refused(root, "want labels to import")


def test_nothing_to_import_is_refused(root):
    assert "no label in 1 episodes" in refused(root, "want labels to import", only_episodes=[2])
