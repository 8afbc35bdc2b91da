"""The assignment is the best there is: compared with trying everything."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.evaluate.assign import assign, assign_in_order
from tasks.evaluate.segments import match_boundaries, match_spans, temporal_ious
from tasks.segments import Span

tables = st.tuples(st.integers(0, 4), st.integers(0, 5)).flatmap(
    lambda shape: arrays(float, shape, elements=st.sampled_from([-1.0, 0.0, 0.1, 0.25, 0.5, 0.7, 1.0]))
)
times = st.lists(st.integers(0, 60).map(lambda i: i / 10), max_size=5, unique=True).map(sorted)


def best_total(scores: np.ndarray) -> float:
    """Try every one-to-one choice."""
    rows, columns = scores.shape
    totals = [0.0]
    for n in range(1, min(rows, columns) + 1):
        for chosen in combinations(range(rows), n):
            totals += [
                sum(scores[i, j] for i, j in zip(chosen, p, strict=True)) for p in permutations(range(columns), n)
            ]
    return max(totals)


@given(tables)
@settings(max_examples=300, deadline=None)
def test_assignment_is_one_to_one_and_the_best(scores: np.ndarray) -> None:
    pairs = assign(scores)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(scores[i, j] > 0 for i, j in pairs)
    assert abs(sum(scores[i, j] for i, j in pairs) - best_total(scores)) < 1e-9


def test_a_large_assignment_is_found() -> None:
    order = np.random.default_rng(0).permutation(120)
    scores = np.random.default_rng(1).uniform(0, 0.5, (120, 120))
    scores[np.arange(120), order] = 1.0
    assert [j for _, j in assign(scores)] == order.tolist()


@given(times, times)
@settings(max_examples=200, deadline=None)
def test_in_order_is_the_best_of_all_for_what_is_ordered_in_time(left: list[float], right: list[float]) -> None:
    """Spans between neighbouring times: their overlaps cannot cross."""
    a, b = ([Span("x", s, e) for s, e in pairwise(cuts)] for cuts in (left, right))
    ious = temporal_ious(a, b)
    total = sum(ious[i, j] for i, j in assign_in_order(ious))
    assert abs(total - best_total(ious)) < 1e-9


def test_a_thousand_spans_are_matched_at_once() -> None:
    a = [Span(f"step {i}", i, i + 1) for i in range(1000)]
    b = [Span(f"step {i}", i + 0.4, i + 1.4) for i in range(1000)]
    matched = match_spans(a, b)
    assert len(matched) == 1000 and all(m.left.text == m.right.text for m in matched)


@given(times, times, st.sampled_from([0.3, 0.5, 1.0, 2.0]))
@settings(max_examples=300, deadline=None)
def test_boundaries_found_are_as_many_and_as_near_as_can_be(
    left: list[float], right: list[float], within: float
) -> None:
    def choices():
        for n in range(min(len(left), len(right)), 0, -1):
            for a in combinations(range(len(left)), n):
                for b in permutations(range(len(right)), n):
                    apart = [abs(left[i] - right[j]) for i, j in zip(a, b, strict=True)]
                    if max(apart) <= within + 1e-6:
                        yield n, sum(apart)

    most, nearest = max(((n, -total) for n, total in choices()), default=(0, 0.0))
    pairs = match_boundaries(left, right, within)
    assert len(pairs) == most
    assert sum(abs(left[i] - right[j]) for i, j in pairs) <= -nearest + 1e-6
