"""Import of SARM columns of meta/episodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import DatasetError, SettingsError
from tasks.interchange import FormOptions, import_labels
from tests.interchange.forms import imported, make, rows, sarm_columns, with_sarm, with_subtasks
from tests.tiny import tree

SPARSE = [[("reach", 0, 3), ("lift", 3, 5)], None, [("reach", 0, 2), ("lift", 2, 4)]]
DENSE = [[("a", 0, 1), ("b", 1, 3), ("c", 3, 5)], [("a", 0, 4)], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "d")


def test_frames_are_taken_and_null_episodes_left_as_they_are(root):
    with_sarm(root, sarm_columns("sparse_", SPARSE))
    report = imported(root)
    assert rows(root) == [[(0, "reach"), (3, "lift")], [], [(0, "reach"), (2, "lift")]]
    assert report.form == "sarm" and report.without == [1]
    assert "level sparse" in report.choices[0] and len(report.choices) == 1
    assert report.total("unlabelled_frames") == 0  # ends count the last frame in, or are the next start


@pytest.mark.parametrize(
    ("level", "texts"), [(None, [(0, "a"), (1, "b"), (3, "c")]), ("sparse", [(0, "reach"), (3, "lift")])]
)
def test_dense_labels_win_unless_sparse_ones_are_asked_for(root, level, texts):
    with_sarm(root, sarm_columns("sparse_", SPARSE) | sarm_columns("dense_", DENSE))
    report = imported(root, "sarm", FormOptions(sarm_level=level))
    assert rows(root)[0] == texts
    assert f"level {level or 'dense'}" in report.choices[0]
    assert f"--sarm.level={'dense' if level else 'sparse'}" in report.choices[1]


def test_columns_without_prefix_are_sparse(root):
    columns = sarm_columns("", SPARSE)
    with_sarm(root, columns | sarm_columns("sparse_", [None, None, None]))
    imported(root, "sarm", FormOptions(sarm_level="sparse"))
    assert rows(root)[0] == [(0, "reach"), (3, "lift")]


def test_times_are_taken_where_frames_are_missing(root):
    columns = sarm_columns("sparse_", SPARSE)
    columns["sparse_subtask_start_frames"][2] = None
    columns["sparse_subtask_start_times"] = [[9.0, 9.0], None, [0.0, 0.32]]  # the first is not looked at
    columns["sparse_subtask_end_times"] = [[9.0, 9.0], None, [0.32, 1.0]]
    with_sarm(root, columns)
    imported(root)
    assert rows(root)[0] == [(0, "reach"), (3, "lift")] and rows(root)[2] == [(0, "reach"), (3, "lift")]


def test_starts_alone_are_enough(root):
    columns = sarm_columns("dense_", DENSE)
    with_sarm(root, {n: columns[n] for n in ("dense_subtask_names", "dense_subtask_start_frames")})
    report = imported(root)
    assert rows(root)[0] == [(0, "a"), (1, "b"), (3, "c")]
    assert report.total("unlabelled_frames") == report.total("overlaps") == 0


def test_gaps_overlaps_and_late_starts_are_reported(root):
    with_sarm(
        root, sarm_columns("sparse_", [[("a", 1, 1), ("b", 4, 5), ("c", 4, 6)], [("a", 0, 3), ("b", 1, 3)], None])
    )
    report = imported(root)
    assert rows(root) == [[(0, "a"), (4, "c")], [(0, "a"), (1, "b")], []]
    first, second = report.episodes
    assert (first.extended_frames, first.unlabelled_frames, first.hidden) == (1, 2, 1)
    assert (second.overlaps, second.extended_frames) == (1, 0)


def test_an_end_may_lie_past_the_episode_by_a_rounded_second(root):
    with_sarm(root, sarm_columns("sparse_", [[("a", 0, 16)], None, None]))
    imported(root)
    assert rows(root)[0] == [(0, "a")]


def test_equal_neighbours_are_one_row(root):
    with_sarm(root, sarm_columns("sparse_", [[("a", 0, 2), (" a ", 2, 4), ("b", 4, 5)], None, None]))
    imported(root)
    assert rows(root)[0] == [(0, "a"), (4, "b")]


def changed(name: str, value: list) -> dict[str, list]:
    columns = sarm_columns("sparse_", SPARSE)
    columns[f"sparse_subtask_{name}"][0] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (changed("start_frames", [0]), "want 2 values in sparse_subtask_start_frames of episode 0"),
        (changed("end_frames", [1, 2, 3]), "want 2 values in sparse_subtask_end_frames of episode 0"),
        (changed("start_frames", [0, 6]), "6, while the episode ends at 5 frames"),
        (changed("start_frames", [-1, 3]), "-1, while"),
        (changed("end_frames", [3, 17]), "17, while"),
        (changed("end_frames", [3, 2]), "want the end of 'lift' not before its start"),
        (changed("names", ["reach", None]), "want a text as each name"),
        (changed("names", [" ", "lift"]), "want a text as each name"),
        (changed("start_frames", [0, None]), "want whole numbers"),
    ],
)
def test_lists_that_do_not_fit_are_refused(root, columns, match):
    with_sarm(root, columns)
    before = tree(root)
    with pytest.raises(DatasetError, match=match) as caught:
        import_labels(root)
    assert caught.value.remedy and tree(root) == before
    assert import_labels(root, only_episodes=[2], dry_run=True).rows == {"subtask": 2}


@pytest.mark.parametrize(("times", "match"), [([0.0, 0.6], "0.6, while"), ([0.0, float("nan")], "want seconds")])
def test_times_outside_the_episode_are_refused(root, times, match):
    columns = changed("start_times", times)
    with_sarm(root, {n: c for n, c in columns.items() if "frames" not in n})
    with pytest.raises(DatasetError, match=match):
        import_labels(root)


def test_names_without_places_are_refused(root):
    with_sarm(root, {"sparse_subtask_names": [["a"], None, None]})
    with pytest.raises(DatasetError, match="or the frames"):
        import_labels(root)


def test_a_level_without_labels_is_refused(root):
    with_sarm(root, sarm_columns("sparse_", SPARSE))
    with pytest.raises(DatasetError, match="dense_subtask_names") as caught:
        import_labels(root, "sarm", FormOptions(sarm_level="dense"))
    assert "labels in sparse_subtask_names" in str(caught.value)


def test_two_forms_must_be_chosen_from(root):
    with_subtasks(with_sarm(root, sarm_columns("sparse_", SPARSE)), [[0] * 6, [0] * 4, [0] * 5])
    with pytest.raises(SettingsError, match="want one form") as caught:
        import_labels(root)
    assert "subtask_index and sarm" in str(caught.value)
    with pytest.raises(SettingsError, match=r"want --sarm\.level with --from=sarm"):
        import_labels(root, "subtask_index", FormOptions(sarm_level="dense"))
    assert imported(root, options=FormOptions(sarm_level="sparse")).form == "sarm"  # the option says which is meant
