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
# How text is handed to the parquet writer: it takes dictionary indices as they are instead of hashing every frame's
# copy of the same words. Files do not show it.
CODED_TEXT = pa.dictionary(pa.int32(), pa.string())


def _list_of(item: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("element", item))  # the name parquet prescribes, so that types read back are the same


def _row_type(text: pa.DataType, column: Column) -> pa.StructType:
    fields = [pa.field("role", text, nullable=False), pa.field("content", text), pa.field("style", text)]
    if column == PERSISTENT:
        fields.append(pa.field("timestamp", pa.float32(), nullable=False))  # as the frames' own timestamps
    return pa.struct([*fields, pa.field("camera", text), pa.field("tool_calls", _list_of(JSON_TEXT))])


COLUMN_TYPES: dict[Column, pa.ListType] = {c: _list_of(_row_type(TEXT, c)) for c in (PERSISTENT, EVENTS)}
CODED_TYPES: dict[Column, pa.ListType] = {c: _list_of(_row_type(CODED_TEXT, c)) for c in (PERSISTENT, EVENTS)}
_encode_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False).encode
TEXT_FIELDS = ("role", "content", "style", "camera")


def sort_persistent(rows: Sequence[Row]) -> list[Row]:
    """Rows in stored order: time, style, role; staged order breaks ties."""
    return sorted(rows, key=lambda r: (_f32(r.timestamp), r.style or "", r.role or ""))


def persistent_array(rows: Sequence[Row], frames: int) -> pa.ListArray:
    """The same sorted rows on each of `frames` frames, of the coded type."""
    values = _struct_array(sort_persistent(rows), PERSISTENT, times=frames)
    return _lists(np.arange(frames + 1, dtype=np.int32) * len(rows), values, PERSISTENT)


def events_array(rows: Sequence[Row], timestamps: np.ndarray) -> pa.ListArray:
    """Each row on the frame (float32 timestamps, ascending) whose timestamp it has, of the coded type.

    Raises RowError when a row's timestamp is no frame's.
    """
    at = frames_of([r.timestamp for r in rows], timestamps)
    keys = [(f, r.style or "", r.role or "", r.camera or "") for f, r in zip(at, rows, strict=True)]
    ordered = [rows[i] for i in sorted(range(len(rows)), key=keys.__getitem__)]
    offsets = np.zeros(len(timestamps) + 1, dtype=np.int32)
    np.cumsum(np.bincount(np.asarray(at, dtype=np.int64), minlength=len(timestamps)), out=offsets[1:])
    return _lists(offsets, _struct_array(ordered, EVENTS), EVENTS)


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


def _lists(offsets: np.ndarray, values: pa.StructArray, column: Column) -> pa.ListArray:
    return pa.Array.from_buffers(
        CODED_TYPES[column], len(offsets) - 1, [None, pa.py_buffer(offsets)], null_count=0, children=[values]
    )


def _struct_array(rows: Sequence[Row], column: Column, times: int = 1) -> pa.StructArray:
    """The rows, `times` over."""
    row_type = CODED_TYPES[column].value_type
    children: list[pa.Array] = []
    for field in row_type:
        values = [getattr(row, field.name) for row in rows]
        if field.name in TEXT_FIELDS:
            if not field.nullable and None in values:
                raise RowError(f"want a {field.name} on every row", "null", "name who speaks: user or assistant")
            children.append(_coded(values, times))
        elif field.name == "timestamp":
            children.append(pa.array(np.tile(np.asarray(values, dtype=np.float32), times)))
        else:
            children.append(_tool_calls(values, times))
    return pa.StructArray.from_arrays(children, fields=list(row_type))


def _coded(values: list[str | None], times: int) -> pa.DictionaryArray:
    """Text as indices into its distinct words. Repeating costs four bytes a value, whatever the text."""
    words = {v: i for i, v in enumerate(dict.fromkeys(v for v in values if v is not None))}
    if not words:
        return pa.nulls(len(values) * times, CODED_TEXT)
    try:
        dictionary = pa.array(list(words), TEXT)
    except (pa.ArrowException, TypeError, UnicodeError) as err:
        raise RowError("want text in role, content, style and camera", str(err)) from err
    indices = np.tile(np.asarray([words.get(v, 0) for v in values], dtype=np.int32), times)
    mask = np.tile(np.asarray([v is None for v in values]), times) if None in values else None
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=mask), dictionary, safe=False)


def _tool_calls(calls: list[list[dict[str, Any]] | None], times: int) -> pa.ListArray:
    if not any(calls):  # most episodes' persistent rows; an empty list means no call as well
        return pa.nulls(len(calls) * times, _list_of(JSON_TEXT))
    texts = [call_text(call) for of_row in calls for call in of_row or []]
    offsets = np.cumsum([0, *(len(c or []) for c in calls)], dtype=np.int32)
    once = pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.ExtensionArray.from_storage(JSON_TEXT, pa.array(texts, TEXT)),  # no direct conversion exists
        type=_list_of(JSON_TEXT),
        mask=pa.array([not c for c in calls], pa.bool_()),
    )
    return once if times == 1 else once.take(pa.array(np.tile(np.arange(len(calls)), times)))


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
