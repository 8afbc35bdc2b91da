"""The two language columns in Arrow: their exact types, arrays made from rows, rows read back from any older type.

Frames share rows: the list that stands on every frame is one `take` over those few rows. No Python object exists per
frame, and none per row either where rows come as a table already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
ROW_TABLE = pa.schema(
    [
        ("episode", pa.int32()),  # position among the episodes at hand
        ("order", pa.int64()),  # breaks ties between rows of one time, style and role
        *((name, TEXT) for name in TEXT_FIELDS),
        ("timestamp", pa.float64()),
        ("tool_calls", pa.list_(TEXT)),  # JSON texts
    ]
)
_EMPTY_TEXT = pa.scalar("", TEXT)


def row_table(rows: Iterable[tuple[int, int, Row]]) -> pa.Table:
    """The table of rows given as (episode, order, row). Raises RowError where a field has no text."""
    episodes, orders, given = zip(*rows, strict=True) if (rows := list(rows)) else ((), (), ())
    try:
        columns = [
            pa.array(episodes, pa.int32()),
            pa.array(orders, pa.int64()),
            *(pa.array([getattr(r, name) for r in given], TEXT) for name in TEXT_FIELDS),
            pa.array([r.timestamp for r in given], pa.float64()),
            pa.array([[call_text(c) for c in r.tool_calls] if r.tool_calls else None for r in given], pa.list_(TEXT)),
        ]
    except (pa.ArrowException, TypeError, UnicodeError) as err:
        raise RowError("want text in role, content, style and camera, and a number as timestamp", str(err)) from err
    return pa.Table.from_arrays(columns, schema=ROW_TABLE)


def persistent_array(rows: Sequence[Row], frames: int) -> pa.ListArray:
    """One episode's rows, sorted, the same on each of its frames."""
    return persistent_lists(row_table((0, i, r) for i, r in enumerate(rows)), 1, [(0, frames)])


def events_array(rows: Sequence[Row], timestamps: np.ndarray) -> pa.ListArray:
    """One episode's rows, each on its frame; RowError when a row's timestamp is no frame's."""
    return event_lists(row_table((0, i, r) for i, r in enumerate(rows)), [timestamps])


def persistent_lists(table: pa.Table, episodes: int, pieces: Sequence[tuple[int, int]]) -> pa.ListArray:
    """For each piece (episode, frames) the sorted rows of that episode, the same on each of so many frames."""
    time = table.column("timestamp").cast(pa.float32(), safe=False)  # ties are those of the stored values
    table = table.set_column(table.column_names.index("timestamp"), "timestamp", time)
    table = _sorted(table, {"episode": table.column("episode"), "timestamp": time}, ("style", "role"))
    counts = np.bincount(table.column("episode").to_numpy(), minlength=episodes)
    firsts = np.cumsum(counts) - counts
    at = [np.tile(np.arange(firsts[e], firsts[e] + counts[e]), frames) for e, frames in pieces]
    values = _struct_array(table, PERSISTENT).take(pa.array(np.concatenate([np.empty(0, np.int64), *at])))
    return _lists(np.repeat([counts[e] for e, _ in pieces], [frames for _, frames in pieces]), values, PERSISTENT)


def event_lists(table: pa.Table, timestamps: Sequence[np.ndarray]) -> pa.ListArray:
    """Each row on the frame (float32 timestamps, ascending) whose timestamp it has; one episode after the other.

    Raises RowError when a row's timestamp is no frame's.
    """
    episode, times = table.column("episode").to_numpy(), table.column("timestamp").to_numpy()
    starts = np.cumsum([0, *map(len, timestamps)])
    frame = np.zeros(len(table), dtype=np.int64)
    for i, of_frames in enumerate(timestamps):
        mine = np.flatnonzero(episode == i)
        frame[mine] = starts[i] + frames_of(times[mine], of_frames)
    table = _sorted(table, {"frame": pa.array(frame)}, ("style", "role", "camera"))
    return _lists(np.bincount(frame, minlength=starts[-1]), _struct_array(table, EVENTS), EVENTS)


def _sorted(table: pa.Table, first: Mapping[str, pa.Array | pa.ChunkedArray], texts: Sequence[str]) -> pa.Table:
    """Rows by those keys, then by texts, null as the empty one, then by `order`."""
    keys = {**first, **{name: pc.fill_null(table.column(name), _EMPTY_TEXT) for name in texts}}
    keys["order"] = table.column("order")
    return table.take(pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]))


def _lists(lengths: np.ndarray, values: pa.StructArray, column: Column) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(
        COLUMN_TYPES[column], len(lengths), [None, pa.py_buffer(offsets)], null_count=0, children=[values]
    )


def _struct_array(table: pa.Table, column: Column) -> pa.StructArray:
    if table.column("role").null_count:
        raise RowError("want a role on every row", "null", "name who speaks: user or assistant")
    row_type = COLUMN_TYPES[column].value_type
    arrays = {f.name: table.column(f.name).combine_chunks() for f in row_type}
    arrays["tool_calls"] = _calls(arrays["tool_calls"])
    return pa.StructArray.from_arrays(list(arrays.values()), fields=list(row_type))


def _calls(texts: pa.ListArray) -> pa.ListArray:
    """JSON texts as Arrow's JSON type; no direct conversion exists."""
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), CALLS)
    return pa.ListArray.from_arrays(
        texts.offsets, pa.ExtensionArray.from_storage(JSON_TEXT, texts.values), type=CALLS, mask=texts.is_null()
    )


def frames_of(times: Sequence[float] | np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Index of the frame (float32 timestamps, ascending) that has exactly each time; RowError when none has."""
    wanted = np.asarray(times, dtype=np.float32)
    at = np.minimum(np.searchsorted(timestamps, wanted), len(timestamps) - 1)
    missed = np.flatnonzero(timestamps[at] != wanted)
    if len(missed):
        raise RowError(
            "want every event on the exact timestamp of a frame",
            f"{len(missed)} between frames, the first at {float(times[int(missed[0])])!r} s",
            "copy the frame's own timestamp (Episode.snap), do not compute it",
        )
    return at


def rows_of_frame(cell: pa.ListScalar, timestamp: float | None = None) -> list[Row]:
    """Rows of one frame, whatever older type the column has; events are given the frame's timestamp."""
    return [_row(item, timestamp) for item in cell.as_py() or []]


def rows_of_events(column: pa.Array | pa.ChunkedArray, timestamps: np.ndarray) -> list[Row]:
    """All event rows of an episode, each with its frame's timestamp."""
    return rows_of_table(stored_table(column, np.zeros(len(column), dtype=np.int64), timestamps))


def rows_of_table(table: pa.Table) -> list[Row]:
    """The rows of a row table, in its order."""
    columns = {f.name: table.column(f.name).to_pylist() for f in ROW_TABLE}
    columns["tool_calls"] = [c and [_call(text) for text in c] for c in columns["tool_calls"]]
    names = ("role", "content", "style", "timestamp", "camera", "tool_calls")
    return [Row(*fields) for fields in zip(*(columns[n] for n in names), strict=True)]


def stored_table(column: pa.Array | pa.ChunkedArray, episode: np.ndarray, timestamps: np.ndarray | None) -> pa.Table:
    """The rows of a language column, of any older type too. Cell i belongs to `episode[i]`; `timestamps` are given for
    event cells, which have none of their own."""
    kind = PERSISTENT if timestamps is None else EVENTS
    lengths = _lengths(column)
    if not _is_current(column.type, kind):
        cells = np.flatnonzero(lengths).tolist()
        times = [None] * len(lengths) if timestamps is None else timestamps.tolist()
        rows = [(int(episode[i]), row) for i in cells for row in rows_of_frame(column[i], times[i])]
        return row_table((e, n, row) for n, (e, row) in enumerate(rows))
    cell = np.repeat(np.arange(len(lengths)), lengths)
    values = pc.list_flatten(column)
    fields = {f.name: pc.struct_field(values, f.name) for f in column.type.value_type}
    fields["episode"] = pa.array(episode[cell].astype(np.int32))
    fields["order"] = pa.array(np.arange(len(cell)))
    fields |= {name: fields[name].cast(TEXT) for name in TEXT_FIELDS}  # they may have been read as dictionaries
    fields["tool_calls"] = fields["tool_calls"].cast(pa.list_(TEXT))
    fields["timestamp"] = (
        fields["timestamp"].cast(pa.float64()) if timestamps is None else pa.array(timestamps[cell].astype(np.float64))
    )
    return pa.table([fields[f.name] for f in ROW_TABLE], schema=ROW_TABLE)


def _is_current(found: pa.DataType, column: Column) -> bool:
    wanted = COLUMN_TYPES[column].value_type
    if not pa.types.is_list(found) or not pa.types.is_struct(found.value_type):
        return False
    row = found.value_type
    return [f.name for f in row] == [f.name for f in wanted] and row.field("tool_calls").type == CALLS


def _lengths(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.int64)
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)


def _f32(value: float) -> float:
    return float(np.float32(value))


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
