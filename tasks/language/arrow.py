"""The two language columns in Arrow: their exact types, arrays made from rows, and rows read back from any older type.

Rows become arrays once per episode. Frames share them: the list that stands on every frame is one `take` over those
few rows, so that no Python object exists per frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import RowError
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT, Column

# Tool calls are JSON texts of Arrow's JSON type, not plain strings. LeRobot's loader reads both (it casts to its own
# features), yet a reader that is given no features, such as a streaming one, sees calls with the JSON type and bare
# text without it. The type is always written out, so that it never depends on what a shard happens to hold.
JSON_TEXT = pa.json_()
TEXT = pa.string()


def _list_of(item: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("element", item))  # the name parquet prescribes, so that types read back are the same


CALLS = _list_of(JSON_TEXT)


def _row_type(column: Column) -> pa.StructType:
    fields = [pa.field("role", TEXT, nullable=False), pa.field("content", TEXT), pa.field("style", TEXT)]
    if column == PERSISTENT:
        fields.append(pa.field("timestamp", pa.float32(), nullable=False))  # as the frames' own timestamps
    return pa.struct([*fields, pa.field("camera", TEXT), pa.field("tool_calls", CALLS)])


COLUMN_TYPES: dict[Column, pa.ListType] = {c: _list_of(_row_type(c)) for c in (PERSISTENT, EVENTS)}
_encode_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False).encode
TEXT_FIELDS = ("role", "content", "style", "camera")


def sort_persistent(rows: Sequence[Row]) -> list[Row]:
    """Rows in stored order: time, style, role; staged order breaks ties."""
    times = np.array([r.timestamp for r in rows], dtype=np.float32).tolist()  # ties as they will be stored
    keys = [(t, r.style or "", r.role or "") for t, r in zip(times, rows, strict=True)]
    return [rows[i] for i in sorted(range(len(rows)), key=keys.__getitem__)]


def persistent_array(rows: Sequence[Row], frames: int) -> pa.ListArray:
    """One episode's sorted rows, the same on each of its frames."""
    return persistent_arrays([rows], [frames])


def events_array(rows: Sequence[Row], timestamps: np.ndarray) -> pa.ListArray:
    """One episode's rows, each on its frame; RowError when a row's timestamp is no frame's."""
    return events_arrays([rows], [timestamps])


def persistent_arrays(episodes: Sequence[Sequence[Row]], frames: Sequence[int]) -> pa.ListArray:
    """For each episode its sorted rows, the same on each of `frames[i]` frames; one episode after the other."""
    counts = np.array([len(rows) for rows in episodes], dtype=np.int32)
    firsts = np.cumsum(counts, dtype=np.int32) - counts
    once = _struct_array([row for rows in episodes for row in sort_persistent(rows)], PERSISTENT)
    at = [np.tile(np.arange(a, a + n, dtype=np.int32), f) for a, n, f in zip(firsts, counts, frames, strict=True)]
    values = once.take(pa.array(np.concatenate([np.empty(0, np.int32), *at])))
    return _lists(np.repeat(counts, frames), values, PERSISTENT)


def events_arrays(episodes: Sequence[Sequence[Row]], timestamps: Sequence[np.ndarray]) -> pa.ListArray:
    """Each row on the frame (float32 timestamps, ascending) whose timestamp it has; one episode after the other.

    Raises RowError when a row's timestamp is no frame's.
    """
    ordered: list[Row] = []
    counts = []
    for rows, of_frames in zip(episodes, timestamps, strict=True):
        at = frames_of([r.timestamp for r in rows], of_frames)
        keys = [(f, r.style or "", r.role or "", r.camera or "") for f, r in zip(at, rows, strict=True)]
        ordered += [rows[i] for i in sorted(range(len(rows)), key=keys.__getitem__)]
        counts.append(np.bincount(np.asarray(at, dtype=np.int64), minlength=len(of_frames)))
    return _lists(np.concatenate([np.empty(0, np.int64), *counts]), _struct_array(ordered, EVENTS), EVENTS)


def frames_of(times: Sequence[float], timestamps: np.ndarray) -> list[int]:
    """Index of the frame that has exactly each time; RowError when none has."""
    if not times:
        return []
    wanted = np.asarray(times, dtype=np.float32)
    at = np.minimum(np.searchsorted(timestamps, wanted), len(timestamps) - 1)
    missed = np.flatnonzero(timestamps[at] != wanted)
    if len(missed):
        raise RowError(
            "want every event on the exact timestamp of a frame",
            f"{len(missed)} between frames, the first at {times[int(missed[0])]!r} s",
            "copy the frame's own timestamp (Episode.snap), do not compute it",
        )
    return at.tolist()


def rows_of_frame(cell: pa.ListScalar, timestamp: float | None = None) -> list[Row]:
    """Rows of one frame, whatever older type the column has; events are given the frame's timestamp."""
    return [_row(item, timestamp) for item in cell.as_py() or []]


def rows_of_events(column: pa.Array | pa.ChunkedArray, timestamps: np.ndarray) -> list[Row]:
    """All event rows of an episode, each with its frame's timestamp; frames without any cost no Python object."""
    rows: list[Row] = []
    lengths = _lengths(column)
    for frame in np.flatnonzero(lengths):
        rows += rows_of_frame(column[int(frame)], float(timestamps[frame]))
    return rows


def _lengths(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.int64)
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)


def _f32(value: float) -> float:
    return float(np.float32(value))


def _lists(lengths: np.ndarray, values: pa.StructArray, column: Column) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(
        COLUMN_TYPES[column], len(lengths), [None, pa.py_buffer(offsets)], null_count=0, children=[values]
    )


def _struct_array(rows: Sequence[Row], column: Column) -> pa.StructArray:
    if any(row.role is None for row in rows):
        raise RowError("want a role on every row", "null", "name who speaks: user or assistant")
    try:
        children = [
            pa.array([row.role for row in rows], TEXT),
            pa.array([row.content for row in rows], TEXT),
            pa.array([row.style for row in rows], TEXT),
            pa.array([row.camera for row in rows], TEXT),
            _tool_calls([row.tool_calls for row in rows]),
        ]
    except (pa.ArrowException, TypeError, UnicodeError) as err:
        raise RowError("want text in role, content, style and camera", str(err)) from err
    if column == PERSISTENT:
        children.insert(3, pa.array(np.array([row.timestamp for row in rows], dtype=np.float32)))
    return pa.StructArray.from_arrays(children, fields=list(COLUMN_TYPES[column].value_type))


def _tool_calls(calls: list[list[dict[str, Any]] | None]) -> pa.ListArray:
    if not any(calls):  # most episodes' persistent rows; an empty list means no call as well
        return pa.nulls(len(calls), CALLS)
    offsets, texts = [0], []
    for of_row in calls:
        texts += map(call_text, of_row or ())
        offsets.append(len(texts))
    storage = pa.array(texts, TEXT)
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.ExtensionArray.from_storage(JSON_TEXT, storage),  # no direct conversion exists
        type=CALLS,
        mask=pa.array([not c for c in calls], pa.bool_()),
    )


def call_text(call: Any) -> str:
    """A tool call as it is stored: JSON, keys sorted, so that equal calls are equal bytes."""
    return _encode_json(call)


def _row(item: dict[str, Any], timestamp: float | None) -> Row:
    time = item.get("timestamp") if timestamp is None else timestamp
    if time is None:
        raise RowError("want a timestamp on every persistent row", repr(item), "annotate this episode again")
    calls = [_call(c) for c in item.get("tool_calls") or []] or None
    return Row(item.get("role"), item.get("content"), item.get("style"), _f32(time), item.get("camera"), calls)  # type: ignore[arg-type]


def _call(stored: Any) -> Any:
    """A tool call from JSON text or from the struct that older writers inferred (absent keys read back as null)."""
    if not isinstance(stored, str):
        return _without_nulls(stored)
    try:
        return json.loads(stored)
    except ValueError:
        return stored


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value
