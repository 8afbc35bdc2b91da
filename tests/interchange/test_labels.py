"""Labels made of indices and of spans: what is merged, cut, left out and counted."""

from __future__ import annotations

import numpy as np

from tasks.interchange.labels import Found, Label, from_indices, from_spans, to_indices

TEXTS = {0: "reach", 1: "lift", 2: "reach"}


def test_runs_of_an_index_are_labels_and_equal_neighbours_are_one():
    found = from_indices(np.array([0, 0, 2, 1, 1]), TEXTS)
    assert found.labels == (Label("reach", 0, 3), Label("lift", 3, 5))
    assert (found.unlabelled, found.late) == (0, 0)


def test_frames_without_a_label_are_counted_and_do_not_part_equal_labels():
    found = from_indices(np.array([-1, 0, -1, 0, 1]), TEXTS)
    assert [(label.text, label.start) for label in found.labels] == [("reach", 1), ("lift", 4)]
    assert (found.unlabelled, found.late) == (2, 1)
    assert from_indices(np.array([-1, -1]), TEXTS) == Found(unlabelled=2)


def test_a_label_holds_until_the_next_one_whatever_its_end_says():
    found = from_spans([Label("a", 2, 5), Label("b", 4, 7), Label("c", 9, 10)], 12)
    assert found.labels == (Label("a", 2, 4), Label("b", 4, 9), Label("c", 9, 12))
    assert (found.overlaps, found.unlabelled, found.hidden) == (1, 2 + 1 + 1, 0)  # 0, 1, 8 and 11


def test_ends_may_count_the_last_frame_in_or_not():
    inclusive = from_spans([Label("a", 0, 4), Label("b", 5, 9)], 10)
    exclusive = from_spans([Label("a", 0, 5), Label("b", 5, 10)], 10)
    assert inclusive == exclusive
    assert (inclusive.unlabelled, inclusive.overlaps) == (0, 0)


def test_of_two_labels_on_one_frame_the_later_in_the_list_wins():
    found = from_spans([Label("b", 5, 9), Label("a", 0, 0), Label("c", 0, 5)], 10)
    assert found.labels == (Label("c", 0, 5), Label("b", 5, 10))
    assert found.hidden == 1


def test_indices_say_where_no_label_is():
    assert to_indices([Label("a", 1, 3)], 5, {"a": 7}).tolist() == [-1, 7, 7, -1, -1]
