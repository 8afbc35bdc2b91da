"""Language columns in Arrow: exact types, faithful round trips, older types read back."""

from __future__ import annotations

import io
import json
import string

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import RowError
from tasks.language.arrow import COLUMN_TYPES, events_array, persistent_array, rows_of_events, rows_of_frame
from tasks.language.rows import Row, say
from tasks.language.styles import EVENTS, PERSISTENT

TIMES = (np.arange(40) / 30).astype(np.float32)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
CALLS = st.none() | st.lists(st.builds(lambda t: say(t)[0], TEXTS), min_size=1, max_size=2)
FRAME_TIMES = st.sampled_from([float(t) for t in TIMES])
NULLABLE = st.none() | TEXTS
ROWS = st.builds(Row, st.sampled_from(["user", "assistant"]), NULLABLE, NULLABLE, FRAME_TIMES, NULLABLE, CALLS)
row_lists = st.lists(ROWS, max_size=12)


def through_parquet(array: pa.Array) -> pa.ChunkedArray:
    """Written and read back."""
    sink = io.BytesIO()
    pq.write_table(pa.table([array], names=["c"]), sink)
    return pq.read_table(io.BytesIO(sink.getvalue())).column("c")


def test_types_are_written_out_as_the_columns_are_specified():
    row = COLUMN_TYPES[PERSISTENT].value_type
    assert [(f.name, f.nullable) for f in row] == [
        ("role", False),
        ("content", True),
        ("style", True),
        ("timestamp", False),
        ("camera", True),
        ("tool_calls", True),
    ]
    assert row.field("timestamp").type == pa.float32()
    assert row.field("tool_calls").type == pa.list_(pa.json_())
    assert [f.name for f in COLUMN_TYPES[EVENTS].value_type] == ["role", "content", "style", "camera", "tool_calls"]
    assert {row.field(n).type for n in ("role", "content", "style", "camera")} == {pa.string()}


@pytest.mark.parametrize("rows", [[], [Row("user", "a", "task_aug", 0.0)]])
def test_arrays_have_the_same_type_whatever_they_hold(rows):
    assert persistent_array(rows, 3).type == COLUMN_TYPES[PERSISTENT]
    assert events_array(rows, TIMES).type == COLUMN_TYPES[EVENTS]


@settings(max_examples=60, deadline=None)
@given(rows=row_lists, frames=st.integers(1, 5))
def test_persistent_rows_come_back_on_every_frame(rows, frames):
    array = persistent_array(rows, frames)
    array.validate(full=True)
    column = through_parquet(array)
    assert len(column) == frames
    for frame in range(frames):
        assert rows_of_frame(column[frame]) == sorted(rows, key=lambda r: (r.timestamp, r.style or "", r.role))


@settings(max_examples=60, deadline=None)
@given(rows=row_lists)
def test_events_come_back_on_their_own_frame_only(rows):
    array = events_array(rows, TIMES)
    array.validate(full=True)
    column = through_parquet(array)
    for frame, t in enumerate(TIMES):
        expected = sorted(
            (r for r in rows if np.float32(r.timestamp) == t),
            key=lambda r: (r.style or "", r.role or "", r.camera or ""),
        )
        assert rows_of_frame(column[frame], float(t)) == expected
    assert sorted(r.to_json() for r in rows_of_events(column, TIMES)) == sorted(r.to_json() for r in rows)


def test_persistent_rows_are_sorted_and_staged_order_breaks_ties():
    rows = [Row("user", c, "task_aug", 0.0) for c in "ba"] + [Row("assistant", "x", "plan", 0.0)]
    rows.insert(0, Row("assistant", "late", "plan", 1.0))
    got = rows_of_frame(through_parquet(persistent_array(rows, 1))[0])
    assert [r.content for r in got] == ["x", "b", "a", "late"]


@pytest.mark.parametrize("t", [0.01, -1.0, 99.0])
def test_an_event_between_frames_is_refused(t):
    with pytest.raises(RowError, match="exact timestamp of a frame") as err:
        events_array([Row("user", "x", "interjection", t)], TIMES)
    assert repr(t) in str(err.value) and "do:" in str(err.value)


def test_a_row_without_role_or_with_wrong_text_is_refused():
    with pytest.raises(RowError, match="role"):
        persistent_array([Row(None, "x", "plan", 0.0)], 2)
    with pytest.raises(RowError, match="text"):
        persistent_array([Row("user", 5, "plan", 0.0)], 2)


def legacy(items: list, timestamp: pa.DataType, calls: pa.DataType) -> pa.Array:
    fields = [("role", pa.string()), ("content", pa.string()), ("style", pa.string()), ("timestamp", timestamp)]
    return pa.array(items, pa.list_(pa.struct([*fields, ("tool_calls", calls)])))


ARGUMENTS = pa.struct([("text", pa.string()), ("other", pa.string())])
FUNCTION = pa.struct([("name", pa.string()), ("arguments", ARGUMENTS)])


@pytest.mark.parametrize(
    ("calls", "stored"),
    [
        (pa.list_(pa.struct([("type", pa.string()), ("function", FUNCTION)])), say("hi")),
        (pa.list_(pa.string()), [json.dumps(say("hi")[0])]),
    ],
    ids=["struct", "json text"],
)
def test_older_types_are_read(calls, stored):
    item = {"role": "assistant", "content": None, "style": None, "timestamp": 1 / 30, "tool_calls": stored}
    column = through_parquet(legacy([[item]], pa.float64(), calls))
    expected = Row("assistant", None, None, float(np.float32(1 / 30)), None, say("hi"))
    assert rows_of_frame(column[0]) == [expected]


def test_columns_of_nothing_are_read_as_no_rows():
    assert rows_of_events(pa.nulls(len(TIMES)), TIMES) == []
    assert rows_of_events(pa.array([[]] * len(TIMES), pa.list_(pa.null())), TIMES) == []
    assert rows_of_frame(pa.array([None], pa.list_(pa.null()))[0]) == []
    null_calls = legacy(
        [[{"role": "user", "content": "x", "style": "plan", "timestamp": 0.0}]], pa.float64(), pa.null()
    )
    assert rows_of_frame(null_calls[0]) == [Row("user", "x", "plan", 0.0)]


def test_text_that_is_no_json_survives_as_a_tool_call():
    column = persistent_array([Row("user", "x", "plan", 0.0, None, ["say hi"])], 1)
    assert rows_of_frame(through_parquet(column)[0])[0].tool_calls == ["say hi"]


def test_letters_outside_ascii_are_stored_as_they_are():
    row = Row.speech("größer – 好", 0.0)
    texts = through_parquet(events_array([row], TIMES))[0].as_py()[0]["tool_calls"]
    assert "größer – 好" in texts[0] and string.whitespace[1] not in texts[0]
