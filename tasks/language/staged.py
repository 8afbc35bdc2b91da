"""Staged rows read for writing: checked, and as tables.

Nearly all staged lines are plain rows without tool calls. Arrow reads and judges them a file batch at a time; every
line that is not certainly fine is read as a `Row`, which alone decides what the columns can hold.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from tasks.errors import RowError, StagingError
from tasks.language.arrow import ROW_TABLE, TEXT, TEXT_FIELDS, row_table
from tasks.language.rows import Row
from tasks.language.styles import MODULE_STYLES, MODULES, PERSISTENT, column_for_style, styles
from tasks.staging import Staging, unreadable

PLAIN_END = b'"tool_calls": null}'  # how a staged line without tool calls ends: keys are sorted
ORDER_BITS = 32  # of the line number, below the module's
_PLAIN_LINE = pa.schema([*((n, TEXT) for n in TEXT_FIELDS), ("timestamp", pa.float64()), ("tool_calls", pa.null())])


@dataclass(frozen=True)
class StagedFile:
    """One module's staged rows of an episode."""

    position: int  # of the episode among those at hand
    module: str
    path: Path

    def order(self, line: int) -> int:
        """Sort key of a line: after rows that are kept, in the order of modules."""
        return MODULES.index(self.module) + 1 << ORDER_BITS | line


@dataclass
class _Lines:
    """Lines of several files: three lists side by side, since there are hundreds of thousands."""

    files: list[StagedFile] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)

    def add(self, file: StagedFile, numbers: Sequence[int], texts: Sequence[bytes]) -> None:
        """Lines of one file."""
        self.files += [file] * len(texts)
        self.numbers += numbers
        self.texts += texts

    def chosen(self, at: Iterable[int]) -> Iterator[tuple[StagedFile, int, bytes]]:
        """Some of them."""
        return ((self.files[i], self.numbers[i], self.texts[i]) for i in at)


def staged_files(staging: Staging, episodes: Sequence[int], modules: Sequence[Sequence[str]]) -> list[StagedFile]:
    """The files of each episode's modules, in the order of modules."""
    return [
        StagedFile(i, module, staging.path(episode, module))
        for i, (episode, wanted) in enumerate(zip(episodes, modules, strict=True))
        for module in MODULES
        if module in wanted
    ]


def read_staged(files: Sequence[StagedFile]) -> tuple[pa.Table, pa.Table]:
    """Persistent rows and event rows. Raises RowError or StagingError, naming the line."""
    plain, other = _Lines(), _Lines()
    for file in files:
        texts = _read(file).split(b"\n")
        is_plain = [text.endswith(PLAIN_END) for text in texts]
        plain.add(
            file, [i for i, p in enumerate(is_plain, 1) if p], [t for t, p in zip(texts, is_plain, strict=True) if p]
        )
        rest = [(i, t) for i, (t, p) in enumerate(zip(texts, is_plain, strict=True), 1) if not p and t.strip()]
        other.add(file, [i for i, _ in rest], [t for _, t in rest])
    table = _parse(plain.texts)
    modules = np.array([MODULES.index(f.module) for f in plain.files], dtype=np.int64)
    fine = np.zeros(len(modules), dtype=bool) if table is None else _certainly_fine(table, modules)
    doubtful = [*other.chosen(range(len(other.files))), *plain.chosen(np.flatnonzero(~fine))]
    rows = [(file, number, _row(file, number, text)) for file, number, text in doubtful]
    tables = []
    for wanted in (True, False):
        mine = [(f.position, f.order(n), r) for f, n, r in rows if _is_state(r.style) == wanted]
        parts = [row_table(mine)]
        if table is not None:
            parts.append(_chosen(table, plain, modules, np.flatnonzero(fine & (_state_of(table) == wanted))))
        tables.append(pa.concat_tables(parts))
    return tables[0], tables[1]


def _read(file: StagedFile) -> bytes:
    try:
        return file.path.read_bytes()
    except FileNotFoundError as err:
        raise StagingError(f"want staged rows of {file.module}", f"no {file.path}", "run that phase again") from err


def _parse(lines: Sequence[bytes]) -> pa.Table | None:
    """The lines as columns; None when one of them is something else than a plain row."""
    if not lines:
        return None
    data = b"\n".join(lines)
    try:
        table = pj.read_json(
            io.BytesIO(data),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pj.ParseOptions(explicit_schema=_PLAIN_LINE, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    return table if len(table) == len(lines) else None


def _certainly_fine(table: pa.Table, modules: np.ndarray) -> np.ndarray:
    """Which lines keep every rule of `Row.check` and are their module's own; a doubt counts as no."""
    known = styles()
    names, roles = [s.name for s in known], sorted({r for s in known for r in s.roles})
    style = _index_in(table.column("style"), names)
    role = _index_in(table.column("role"), roles)
    may_speak = np.array([[r in s.roles for r in roles] + [False] for s in known] + [[False] * (len(roles) + 1)])
    owned = np.array([[n in MODULE_STYLES[m] for n in names] + [False] for m in MODULES])
    needs_camera = np.array([s.needs_camera for s in known] + [False])
    camera = table.column("camera")
    has_camera = _true(pc.greater(pc.binary_length(camera), 0))
    camera_fits = np.where(needs_camera[style], has_camera, camera.is_null().to_numpy())
    says = _true(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(table.column("content"))), 0))
    timed = _true(pc.is_finite(table.column("timestamp")))
    return may_speak[style, role] & owned[modules, style] & camera_fits & says & timed


def _index_in(values: pa.ChunkedArray, known: Sequence[str]) -> np.ndarray:
    """Positions among the known; -1, the last row of the rules' tables, for others."""
    return pc.fill_null(pc.index_in(values, pa.array(known, TEXT)), -1).to_numpy()


def _true(values: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(values, False).to_numpy()


def _is_state(style: str | None) -> bool:
    return column_for_style(style) == PERSISTENT


def _state_of(table: pa.Table) -> np.ndarray:
    return _true(pc.is_in(table.column("style"), pa.array([s.name for s in styles() if s.column == PERSISTENT], TEXT)))


def _chosen(table: pa.Table, lines: _Lines, modules: np.ndarray, at: np.ndarray) -> pa.Table:
    """Those lines as a row table."""
    columns = {name: table.column(name) for name in (*TEXT_FIELDS, "timestamp")}
    columns["episode"] = pa.array([f.position for f in lines.files], pa.int32())
    columns["order"] = pa.array((modules + 1 << ORDER_BITS) | np.array(lines.numbers))
    columns["tool_calls"] = pa.nulls(len(table), pa.list_(TEXT))
    return pa.table([columns[f.name] for f in ROW_TABLE], schema=ROW_TABLE).take(pa.array(at))


def _row(file: StagedFile, number: int, text: bytes) -> Row:
    """A line read and checked for itself."""
    try:
        row = Row.from_json(json.loads(text))
    except (ValueError, AttributeError) as err:
        raise unreadable(file.path, err) from err
    try:
        row.check()
        if row.style not in MODULE_STYLES[file.module]:
            want = f"want rows that {file.module} makes"
            raise RowError(want, f"style {row.style!r}", "stage it under its own module")
    except RowError as err:
        raise RowError(err.wanted, f"{err.got} (line {number} of {file.path})", err.remedy) from err
    return row
