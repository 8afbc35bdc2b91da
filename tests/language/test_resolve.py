"""The four resolvers on rows that can be read off, and rows as loaders hand them over."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from tasks.errors import AmbiguousRowsError, RowError
from tasks.language.arrow import events_array, persistent_array
from tasks.language.expression import Selector, parse_binding
from tasks.language.resolve import (
    EpisodeTable,
    active_at,
    call_of,
    emitted_at,
    nth_next,
    nth_prev,
    resolve,
    rows_of,
    scalar,
)
from tasks.language.rows import Row, say

FPS = 10.0
SUBTASK = Selector(style="subtask")
FIRST, SECOND, THIRD = (
    Row("assistant", text, "subtask", t) for text, t in (("reach", 0.0), ("grasp", 1.0), ("lift", 2.0))
)
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def table(*states: Row, events: tuple[tuple[int, Row], ...] = ()) -> EpisodeTable:
    return EpisodeTable.at_fps(states, events, FPS)


STEPS = table(FIRST, SECOND, THIRD)


def of(expression: str, rows: EpisodeTable, frame: int) -> str | None:
    """What a binding says."""
    row = resolve(rows, frame, parse_binding(expression))
    return row and row.content


# --- states --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "active", "emitted", "before", "after"),
    [
        (0, FIRST, FIRST, None, SECOND),
        (5, FIRST, None, None, SECOND),
        (9, FIRST, None, None, SECOND),
        (10, SECOND, SECOND, FIRST, THIRD),
        (11, SECOND, None, FIRST, THIRD),
        (20, THIRD, THIRD, SECOND, None),
        (999, THIRD, None, SECOND, None),
    ],
)
def test_states_at_a_frame(frame, active, emitted, before, after):
    assert active_at(STEPS, frame, SUBTASK) is active
    assert emitted_at(STEPS, frame, SUBTASK) is emitted
    assert nth_prev(STEPS, frame, SUBTASK) is before
    assert nth_next(STEPS, frame, SUBTASK) is after


def test_counting_goes_further_than_one():
    assert nth_prev(STEPS, 25, SUBTASK, 2) is FIRST
    assert nth_prev(STEPS, 25, SUBTASK, 3) is None
    assert nth_next(STEPS, 0, SUBTASK, 2) is THIRD
    assert nth_next(STEPS, 0, SUBTASK, 3) is None


def test_before_the_first_state_next_counts_from_it_and_nothing_was():
    late = table(SECOND, THIRD)
    assert active_at(late, 5, SUBTASK) is None
    assert nth_prev(late, 5, SUBTASK) is None
    assert nth_next(late, 5, SUBTASK) is SECOND
    assert nth_next(late, 5, SUBTASK, 2) is THIRD


def test_nothing_is_found_where_nothing_is():
    empty = table()
    for look in (active_at, emitted_at, nth_prev, nth_next):
        assert look(empty, 0, SUBTASK) is None


@pytest.mark.parametrize(("shift_frames", "found"), [(-0.6, False), (-0.4, True), (0.4, True), (0.6, False)])
def test_a_state_counts_within_half_a_frame(shift_frames, found):
    """Bit equality of times is not needed; a tenth of a second would match several frames at once."""
    row = Row("assistant", "grasp", "subtask", (10 + shift_frames) / 30)
    rows = EpisodeTable.at_fps([row], (), 30)
    assert emitted_at(rows, 10, SUBTASK) is (row if found else None)
    assert sum(emitted_at(rows, frame, SUBTASK) is row for frame in range(30)) == 1


def test_states_closer_than_a_tenth_of_a_second_do_not_contradict_each_other():
    rows = [Row("assistant", str(f), "subtask", f / 30) for f in range(6)]
    near = EpisodeTable.at_fps(rows, (), 30)
    assert [emitted_at(near, f, SUBTASK).content for f in range(6)] == list("012345")


def test_of_several_states_on_one_frame_the_latest_is_in_force():
    early, late = Row("assistant", "early", "subtask", 0.98), Row("assistant", "late", "subtask", 1.03)
    both = table(late, FIRST, early)
    assert active_at(both, 10, SUBTASK) is late and emitted_at(both, 10, SUBTASK) is late
    assert nth_prev(both, 10, SUBTASK) is early and nth_prev(both, 10, SUBTASK, 2) is FIRST


def test_frames_say_where_states_begin_even_where_a_broken_clock_stood_still():
    early, late = Row("assistant", "early", "subtask", 0.5), Row("assistant", "late", "subtask", 0.5)
    stuck = EpisodeTable([(5, late), (3, early)], ())
    assert [active_at(stuck, frame, SUBTASK) for frame in (2, 3, 4, 5)] == [None, early, early, late]
    assert nth_prev(stuck, 5, SUBTASK) is early


def test_states_that_begin_at_once_contradict_each_other_in_every_resolver():
    twin = Row("assistant", "grab", "subtask", 1.0)
    twins = table(FIRST, SECOND, twin, THIRD)
    for look, frame in ((active_at, 15), (emitted_at, 10), (nth_prev, 25), (nth_next, 5)):
        with pytest.raises(AmbiguousRowsError, match="one row of style=subtask at frame") as raised:
            look(twins, frame, SUBTASK)
        assert "2 rows" in raised.value.got and "grasp" in raised.value.got and raised.value.remedy
        assert isinstance(raised.value, ValueError)
    assert active_at(twins, 25, SUBTASK) is THIRD
    assert nth_prev(twins, 25, SUBTASK, 2) is FIRST


def test_a_selector_settles_a_contradiction_or_is_named_in_it():
    rows = table(Row("user", "red", "motion", 0.0), Row("assistant", "blue", "motion", 0.0))
    assert of("active_at(t, style=motion, role=user)", rows, 3) == "red"
    again = table(Row("user", "red", "motion", 0.0), Row("user", "blue", "motion", 0.0))
    with pytest.raises(AmbiguousRowsError, match="style=motion, role=user"):
        of("active_at(t, style=motion, role=user)", again, 3)


def test_one_style_does_not_count_for_another():
    rows = table(FIRST, Row("assistant", "nothing yet", "memory", 0.5), SECOND)
    assert of("active_at(t, style=memory)", rows, 20) == "nothing yet"
    assert of("nth_prev(style=subtask)", rows, 20) == "reach"


# --- events --------------------------------------------------------------------------------------------------------

ASKED = tuple(
    (4, Row(role, f"{role} {camera[-5:]}", "vqa", 0.4, camera))
    for camera in (FRONT, WRIST)
    for role in ("user", "assistant")
)
SPOKEN = table(
    FIRST, events=((4, Row.speech("on my way", 0.4)), (4, Row("user", "hurry", "interjection", 0.4)), *ASKED)
)


def test_events_are_on_their_frame_alone():
    assert of("emitted_at(t, style=interjection)", SPOKEN, 4) == "hurry"
    assert of("emitted_at(t, style=interjection)", SPOKEN, 3) is None
    assert of("emitted_at(t, style=interjection)", SPOKEN, 5) is None


def test_a_camera_settles_which_question_is_meant():
    assert of(f"emitted_at(t, style=vqa, role=user, camera={FRONT})", SPOKEN, 4) == "user front"
    assert of(f"emitted_at(t, style=vqa, role=assistant, camera={WRIST})", SPOKEN, 4) == "assistant wrist"
    with pytest.raises(AmbiguousRowsError, match="style=vqa, role=user") as raised:
        of("emitted_at(t, style=vqa, role=user)", SPOKEN, 4)
    assert "camera" in raised.value.remedy


def test_speech_is_found_by_its_tool():
    row = resolve(SPOKEN, 4, parse_binding("emitted_at(t, role=assistant, tool_name=say)"))
    assert row.tool_calls == say("on my way")
    assert resolve(SPOKEN, 4, parse_binding("emitted_at(t, tool_name=wave)")) is None


def test_any_event_is_meant_where_nothing_is_asked():
    one = table(events=((0, Row("user", "hurry", "interjection", 0.0)),))
    assert of("emitted_at(t)", one, 0) == "hurry"
    with pytest.raises(AmbiguousRowsError, match="any row") as raised:
        of("emitted_at(t)", SPOKEN, 4)
    assert "6 rows" in raised.value.got


def test_frames_with_events_are_told_in_order():
    rows = table(events=((7, ASKED[0][1]), (2, ASKED[1][1]), (7, ASKED[2][1])))
    assert rows.event_frames == [2, 7]


# --- rephrasings ---------------------------------------------------------------------------------------------------


def test_rephrasings_are_the_users_and_not_blank_in_the_order_in_which_they_are_stored():
    texts = ("tidy up", " ", "clean the table", None, "")
    rows = [Row("user", text, "task_aug", 0.0) for text in texts]
    assert table(*rows, Row("assistant", "no", "task_aug", 0.0)).rephrasings == ("tidy up", "clean the table")


# --- rows as others hand them over ---------------------------------------------------------------------------------


def test_rows_come_from_mappings_and_none_is_skipped():
    raw = [{"role": "assistant", "content": "reach", "style": "subtask", "timestamp": 0.5}, None, SECOND]
    assert rows_of(raw) == [Row("assistant", "reach", "subtask", 0.5), SECOND]
    assert rows_of(None) == rows_of([]) == []


def test_events_get_the_time_of_their_frame():
    assert rows_of([{"role": "user", "content": "hurry", "style": "interjection"}], 0.4)[0].timestamp == 0.4
    assert rows_of([{"role": "user", "content": "a", "style": "subtask", "timestamp": 0.0}], 0.4)[0].timestamp == 0.0


def test_rows_come_back_from_arrow_as_they_went_in():
    """As loaders hand over one frame: plain values, or Arrow scalars."""
    states, spoken = [FIRST, Row("user", "tidy up", "task_aug", 0.0), SECOND], Row.speech("ja, größer", 0.5)
    times = np.array([0.0, 0.5, 1.0], dtype=np.float32)
    for stored, expected in ((persistent_array(states, 3), states), (events_array([spoken], times), [spoken])):
        frame = stored[1]
        assert rows_of(frame.as_py(), 0.5) == expected
        assert rows_of(frame.values, 0.5) == expected


def test_fields_may_be_scalars_of_any_library():
    torch = pytest.importorskip("torch")
    for time in (
        np.float32(0.5),
        np.array(0.5),
        np.array([0.5]),
        torch.tensor(0.5),
        torch.tensor([0.5]),
        pa.scalar(0.5),
    ):
        (row,) = rows_of(
            [{"role": ["user"], "content": pa.scalar("hi"), "style": np.str_("subtask"), "timestamp": time}]
        )
        assert row == Row("user", "hi", "subtask", 0.5)
        assert type(row.timestamp) is float


@pytest.mark.parametrize("item", ["reach", 5, ["role", "user"], ("a", 1)])
def test_what_is_no_mapping_is_no_row(item):
    with pytest.raises(TypeError, match="want language rows as mappings") as raised:
        rows_of([item])
    assert repr(item) in str(raised.value)


def test_tool_calls_stored_as_json_text_are_found_by_their_tool():
    for stored in ([json.dumps(c) for c in say("hello")], np.array([json.dumps(say("hello")[0])]), say("hello")):
        events = [(0, row) for row in rows_of([{"role": "assistant", "tool_calls": stored}])]
        found = resolve(EpisodeTable((), events), 0, parse_binding("emitted_at(t, tool_name=say)"))
        assert found.tool_calls == say("hello")


def test_calls_that_are_no_json_stay_as_they_are_and_match_no_tool():
    (row,) = rows_of([{"role": "assistant", "tool_calls": ["say hello", 7, {"function": "say"}, {"name": "say"}]}])
    assert row.tool_calls == ["say hello", 7, {"function": "say"}, {"name": "say"}]
    assert resolve(EpisodeTable((), [(0, row)]), 0, parse_binding("emitted_at(t, tool_name=say)")) is None
    assert rows_of([{"role": "assistant", "tool_calls": []}])[0].tool_calls is None


def test_a_call_may_come_in_a_list_of_one():
    assert call_of(['{"a": 1}']) == call_of(pa.scalar('{"a": 1}')) == {"a": 1}
    assert call_of("{broken") == "{broken"


@pytest.mark.parametrize(
    "value",
    [[], ["a", "b"], (), (1, 2), np.array([]), np.array([1, 2]), pa.scalar(["a", "b"]), pa.array(["a"]), object(), {1}],
    ids=lambda value: type(value).__name__,
)
def test_anything_but_one_value_is_refused(value):
    with pytest.raises(RowError, match="want one value") as raised:
        scalar(value)
    assert type(value).__name__.removesuffix("Scalar") in raised.value.got or "list" in raised.value.got


def test_a_tensor_of_two_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(RowError, match="want one value"):
        scalar(torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("value", [None, "text", 5, 0.5, True, {"a": 1}])
def test_plain_values_pass(value):
    assert scalar(value) is value
    assert scalar([[value]]) is value
