"""The four resolvers against plain list scans, over random rows, frames and selectors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import AmbiguousRowsError
from tasks.language import resolve
from tasks.language.expression import Binding, Selector
from tasks.language.resolve import EpisodeTable, active_at, emitted_at, nearest_frame, nth_next, nth_prev
from tasks.language.rows import Row, say
from tests.language import oracle
from tests.language.oracle import Contradiction, Episode

N = 24  # frames in an episode
SUBTASK = Selector(style="subtask")
STATES = ("subtask", "memory", "task_aug")
EVENTS = ("vqa", "interjection", None)
ROLES = ("user", "assistant")
CAMERAS = ("observation.images.front", "observation.images.wrist")
CALLS = (
    None,
    say("hello"),
    [{"type": "function", "function": {"name": "grip"}}],
    [*say("now"), {"type": "function", "function": {"name": "grip"}}],
)
HOUR_S = 3600
RATES = (10.0, 15.0, 24.0, 29.97, 30.0, 50.0, 60.0, 100.0)

fps = st.sampled_from([8.0, 10.0, 30.0])  # at 8 all times below are exact, halves of a frame included
frames = st.sampled_from((-1, 0, 0, 1, 1, 2, 3, 5, 10, N - 1, N - 1, N))
offsets = st.integers(1, 4)


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    """Few times and few kinds of rows, so that many coincide; each row says which one it is."""
    rate = draw(fps)
    quarters = (-9, -4, 0, 1, 3, 4, 5, 8, 20, 21, 40, 41, 43, 4 * N - 1)
    if rate == 8.0:
        quarters += (2, 6, 42)  # halfway between two frames
    times = st.sampled_from(quarters).map(lambda q: q / 4 / rate)
    states = st.builds(
        Row, st.sampled_from(ROLES), st.none(), st.sampled_from(STATES), times, tool_calls=st.sampled_from(CALLS)
    )
    events = st.builds(
        Row,
        st.sampled_from(ROLES),
        st.none(),
        st.sampled_from(EVENTS),
        st.just(0.0),
        st.sampled_from((None, *CAMERAS)),
        st.sampled_from(CALLS),
    )
    held = draw(st.lists(states, min_size=3, max_size=14))
    happening = draw(st.lists(st.tuples(st.sampled_from((0, 1, 2, N - 1)), events), max_size=10))
    return Episode(
        tuple(Row(r.role, f"state {i}", r.style, r.timestamp, None, r.tool_calls) for i, r in enumerate(held)),
        tuple(
            (at, Row(r.role, f"event {i}", r.style, at / rate, r.camera, r.tool_calls))
            for i, (at, r) in enumerate(happening)
        ),
        rate,
    )


def _grid() -> list[Binding]:
    """Every resolver with every selector, which rows of the test have or have not."""
    tools = (None, "say", "grip", "wave")
    of_states = [Selector(*fields) for fields in product(STATES, (None, *ROLES), tools)]
    of_events = [Selector(*fields) for fields in product(EVENTS, (None, *ROLES), tools, (None, *CAMERAS))]
    found = [Binding("active_at", s) for s in of_states] + [Binding("emitted_at", s) for s in of_states + of_events]
    return found + [Binding(name, s, n) for name in ("nth_prev", "nth_next") for s in of_states for n in (1, 3)]


ALL_BINDINGS = _grid()


def table_of(episode: Episode) -> EpisodeTable:
    return EpisodeTable.at_fps(episode.states, episode.events, episode.fps)


def answer(look: Callable[[], Row | None]) -> Row | str | None:
    """The row, or how many contradict each other."""
    try:
        return look()
    except Contradiction as err:
        return f"{err.rows} rows"
    except AmbiguousRowsError as err:
        return err.got.split(":")[0]


@settings(max_examples=60, deadline=None)
@given(episodes(), st.sets(frames, min_size=4, max_size=4))
def test_every_binding_means_what_a_plain_scan_finds(episode, some_frames):
    table = table_of(episode)
    for frame, binding in product(some_frames, ALL_BINDINGS):
        found = answer(lambda f=frame, b=binding: resolve.resolve(table, f, b))
        assert found == answer(lambda f=frame, b=binding: oracle.resolve(episode, f, b)), (frame, binding)


@settings(max_examples=30, deadline=None)
@given(episodes(), st.data())
def test_the_order_of_rows_does_not_matter(episode, data):
    shuffled = Episode(
        tuple(data.draw(st.permutations(episode.states))),
        tuple(data.draw(st.permutations(episode.events))),
        episode.fps,
    )
    frame = data.draw(frames)
    one, other = table_of(episode), table_of(shuffled)
    for binding in ALL_BINDINGS:
        found = answer(lambda b=binding: resolve.resolve(one, frame, b))
        assert found == answer(lambda b=binding: resolve.resolve(other, frame, b))


@settings(max_examples=40, deadline=None)
@given(episodes(), frames)
def test_the_present_and_the_past_never_look_ahead(episode, frame):
    known = Episode(tuple(r for r in episode.states if episode.begins(r) <= frame), episode.events, episode.fps)
    whole, so_far = table_of(episode), table_of(known)
    for binding in ALL_BINDINGS:
        if binding.resolver != "nth_next":
            found = answer(lambda b=binding: resolve.resolve(whole, frame, b))
            assert found == answer(lambda b=binding: resolve.resolve(so_far, frame, b))


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, N), min_size=1), frames, offsets)
def test_next_and_previous_undo_each_other(begins, frame, offset):
    table = EpisodeTable([(f, Row("assistant", str(f), "subtask", f / 10)) for f in begins], ())
    now = active_at(table, frame, SUBTASK)
    ahead = nth_next(table, frame, SUBTASK, offset)
    if ahead is not None:
        assert nth_prev(table, int(ahead.content), SUBTASK, offset) == now
        assert int(ahead.content) > frame
    back = nth_prev(table, frame, SUBTASK, offset)
    if back is not None:
        assert nth_next(table, int(back.content), SUBTASK, offset) == now
        assert nth_prev(table, frame, SUBTASK, offset + 1) == active_at(table, int(back.content) - 1, SUBTASK)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, N), max_size=8))
def test_next_walks_all_states_from_before_the_first(begins):
    table = EpisodeTable([(f, Row("assistant", str(f), "subtask", f / 10)) for f in begins], ())
    walked = [nth_next(table, -1, SUBTASK, n) for n in range(1, len(begins) + 1)]
    assert [int(row.content) for row in walked] == sorted(begins)
    assert nth_next(table, -1, SUBTASK, len(begins) + 1) is None


# --- float32 times of rows, float64 times of frames ------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
def test_no_frame_of_an_hour_is_missed_by_rounding(rate):
    count = int(HOUR_S * rate)
    times = (np.arange(count) / rate).astype(np.float32).tolist()
    assert [nearest_frame(time, rate) for time in times] == list(range(count))


@pytest.mark.parametrize("rate", RATES)
def test_a_state_begins_with_just_its_own_frame(rate):
    """At frames all over an hour whose float32 time lies after the float64 one: where comparing seconds is late."""
    exact = np.arange(int(HOUR_S * rate)) / rate
    late = np.flatnonzero(exact.astype(np.float32) > exact)
    chosen = late[:: max(1, len(late) // 400)].tolist()
    assert len(chosen) > 300 and chosen[-1] > 0.95 * len(exact)
    rows = [Row("assistant", str(f), "subtask", float(np.float32(f / rate))) for f in chosen]
    table = EpisodeTable.at_fps(rows, (), rate)
    for before, row, frame in zip([None, *rows], rows, chosen, strict=False):
        assert active_at(table, frame, SUBTASK) is row
        assert emitted_at(table, frame, SUBTASK) is row
        assert nth_prev(table, frame, SUBTASK) is before
        assert nth_next(table, frame - 1, SUBTASK) is row or frame - 1 in chosen
        if frame - 1 not in chosen:
            assert active_at(table, frame - 1, SUBTASK) is before
            assert emitted_at(table, frame - 1, SUBTASK) is None
            assert emitted_at(table, frame + 1, SUBTASK) is None or frame + 1 in chosen
