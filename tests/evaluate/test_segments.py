"""Measures of spans: values worked out by hand, and laws that hold for any spans."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluate.compare import compare_episode
from tasks.evaluate.labels import edit_distance, normalise, same, token_f1
from tasks.evaluate.report import MEASURES, EpisodeResult
from tasks.evaluate.segments import (
    active,
    boundaries,
    boundary_scores,
    edit_score,
    frame_scores,
    match_spans,
    offsets,
    segmental_f1,
)
from tasks.evaluate.source import Annotated, Source
from tasks.segments import Span

END_S = 10.0
LABELS = ("pick up the cup", "put the cup on the shelf", "Pick up a cup.", "wipe")
NOBODY = Source("x", None, "dataset", {})  # type: ignore[arg-type]


def spans_at(*cuts: float, labels: tuple[str, ...] = LABELS, end_s: float = END_S) -> list[Span]:
    """Spans that fill the episode, with boundaries at `cuts`."""
    edges = [0.0, *cuts, end_s]
    return [Span(labels[i % len(labels)], a, b) for i, (a, b) in enumerate(pairwise(edges))]


def annotated(spans: list[Span]) -> Annotated:
    return Annotated(0, "", [i / 10 for i in range(100)], END_S, spans, rows={"subtask": len(spans)})


def compared(a: list[Span], b: list[Span]) -> EpisodeResult:
    return compare_episode(annotated(a), annotated(b), NOBODY, NOBODY)


@st.composite
def any_spans(draw: st.DrawFn) -> list[Span]:
    """Ordered spans without overlap, some with gaps, labels that repeat."""
    edges = sorted(draw(st.lists(st.integers(0, 100), min_size=0, max_size=9, unique=True)))
    out = [Span(draw(st.sampled_from(LABELS)), a / 10, b / 10) for a, b in pairwise(edges)]
    return [s for s in out if draw(st.booleans()) or draw(st.booleans())]


# ------------------------------------------------------------------------------------------------ by hand


def test_boundaries_lie_inside_and_count_once() -> None:
    assert boundaries(spans_at(2.0, 7.5), 0.0, END_S) == [2.0, 7.5]
    gap = [Span("a", 0.0, 2.0), Span("b", 3.0, 9.0)]
    assert boundaries(gap, 0.0, END_S) == [2.0, 3.0, 9.0], "the subtask ends, and none begins at once"
    assert boundaries([Span("a", 0.0, END_S)], 0.0, END_S) == []


def test_precision_recall_and_f1_by_hand() -> None:
    found, wanted = [2.0, 4.0, 8.0], [2.4, 7.1]
    assert [s.value for s in boundary_scores(found, wanted, 0.5)] == pytest.approx([1 / 3, 1 / 2, 2 / 5])
    assert [s.value for s in boundary_scores(found, wanted, 1.0)] == pytest.approx([2 / 3, 1.0, 4 / 5])
    assert offsets(found, wanted, 1.0) == pytest.approx([-0.4, 0.9])


def test_one_boundary_is_found_once() -> None:
    assert boundary_scores([5.0, 5.2, 5.4], [5.1], 0.5)[2].value == pytest.approx(2 / 4)


@pytest.mark.parametrize(("left", "right", "value"), [([], [], 1.0), ([1.0], [], 0.0), ([], [1.0], 0.0)])
def test_without_boundaries(left: list[float], right: list[float], value: float) -> None:
    assert [s.value for s in boundary_scores(left, right, 1.0)] == [value] * 3


def test_overlap_by_hand() -> None:
    a = [Span("pick", 0.0, 4.0), Span("put", 4.0, 10.0)]
    b = [Span("pick", 0.0, 5.0), Span("put", 5.0, 10.0)]
    assert [m.iou for m in match_spans(a, b)] == pytest.approx([4 / 5, 5 / 6])
    assert segmental_f1(a, b, 0.5, labelled=True).value == 1.0
    assert segmental_f1(a, b, 0.81, labelled=True).value == 0.5
    assert segmental_f1(a, [Span("put", 0.0, 5.0), Span("put", 5.0, 10.0)], 0.5, labelled=True).value == 0.5
    assert segmental_f1(a, [Span("x", 0.0, 5.0), Span("y", 5.0, 10.0)], 0.5, labelled=False).value == 1.0


def test_spans_without_counterpart_lower_the_overlap() -> None:
    values = compared([Span("a", 0.0, 5.0), Span("b", 5.0, END_S)], [Span("a", 0.0, 5.0)])
    assert values.value("iou") == pytest.approx(2 / 3) and values.value("iou_matched") == 1.0


def test_edit_score_counts_order_not_time() -> None:
    a = [Span(t, i, i + 1) for i, t in enumerate(("pick", "put", "wipe"))]
    b = [Span(t, 2 * i, 2 * i + 1) for i, t in enumerate(("Pick.", "wipe"))]
    assert edit_score(a, b).value == pytest.approx(2 / 3)
    assert edit_distance("kitten", "sitting") == 3


def test_frames_of_a_gap_agree_only_with_a_gap() -> None:
    a, b = [Span("pick", 0.0, 5.0)], [Span("pick", 0.0, 4.0), Span("put", 4.0, 6.0)]
    times = [i / 10 for i in range(100)]
    assert active(a, times)[49] == "pick" and active(a, times)[50] is None
    assert frame_scores(a, b, times).value == pytest.approx((40 + 40) / 100)


def test_labels_are_compared_without_case_articles_and_punctuation() -> None:
    assert normalise("  Pick up THE “red-ish” cup!") == "pick up red ish cup"
    assert same("Put the cup on a shelf.", "put cup on the shelf") and not same("pick up", "put down")
    assert token_f1("pick up the red cup", "pick up cup") == pytest.approx(2 * 3 / 7)
    assert token_f1("cup cup", "cup") == pytest.approx(2 / 3)
    assert token_f1("", " ") == 1.0 and token_f1("", "cup") == 0.0
    assert not same("a", "…") and not same("a", "the"), "where nothing else is left, it counts"
    assert token_f1("把杯子放下", "把杯子放下") == 1.0


# ------------------------------------------------------------------------------------------------ laws


@given(any_spans(), any_spans())
@settings(max_examples=200, deadline=None)
def test_all_measures_lie_between_zero_and_one(a: list[Span], b: list[Span]) -> None:
    result = compared(a, b)
    assert set(result.scores) == {m.name for m in MEASURES}
    for name in result.scores:
        value = result.value(name)
        assert value is None or -1e-9 <= value <= 1 + 1e-9, name


@given(any_spans())
@settings(max_examples=100, deadline=None)
def test_anything_equals_itself(spans: list[Span]) -> None:
    result = compared(spans, spans)
    assert all(result.value(m.name) in (None, pytest.approx(1.0)) for m in MEASURES)
    assert not spans or result.value("label_exact") == 1.0


@given(any_spans(), any_spans())
@settings(max_examples=200, deadline=None)
def test_the_sides_may_change_places(a: list[Span], b: list[Span]) -> None:
    there, back = compared(a, b), compared(b, a)
    for measure in MEASURES:
        if measure.symmetric:
            assert there.value(measure.name) == pytest.approx(back.value(measure.name), abs=1e-4), measure.name
        elif "precision" in measure.name:
            assert there.value(measure.name) == pytest.approx(back.value(measure.name.replace("precision", "recall")))


@given(any_spans(), any_spans())
@settings(max_examples=200, deadline=None)
def test_more_tolerance_never_finds_less(a: list[Span], b: list[Span]) -> None:
    result = compared(a, b)
    rising = [[f"boundary_{n}_{t}s" for t in ("0.5", "1", "2")] for n in ("precision", "recall", "f1")]
    rising += [[f"f1_{k}{suffix}" for k in (50, 25, 10)] for suffix in ("", "_unlabelled")]
    rising += [[f"f1_{k}", f"f1_{k}_unlabelled"] for k in (10, 25, 50)]
    for names in rising:
        values = [result.value(n) for n in names]
        assert values == sorted(values), names


@given(any_spans(), any_spans(), st.sampled_from([0.1, 0.25, 0.5]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_segmental_f1_is_the_plain_count_above_half(a: list[Span], b: list[Span], k: float, labelled: bool) -> None:
    """Above one half no span can have two counterparts: counting pairs is the whole story."""

    def iou(x: Span, y: Span) -> float:
        both = max(0.0, min(x.end, y.end) - max(x.start, y.start))
        return both / (x.length_s + y.length_s - both)

    pairs = sum(iou(x, y) >= k + 0.5 - 1e-9 and (not labelled or same(x.text, y.text)) for x in a for y in b)
    expected = 2 * pairs / (len(a) + len(b)) if a or b else 1.0
    assert segmental_f1(a, b, k + 0.5, labelled).value == pytest.approx(expected)
