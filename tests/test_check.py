"""The check of a written dataset finds what is broken, by name, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.check import check_dataset, first_difference
from tasks.dataset.layout import open_dataset
from tasks.errors import DatasetError
from tasks.language.arrow import COLUMN_TYPES, persistent_array
from tasks.language.rows import Row, say
from tasks.language.styles import EVENTS, PERSISTENT
from tasks.staging import Staging
from tasks.write import write_dataset
from tests.tiny import CAMERA, SHARD, make_dataset, stage, times

FIRST, SECOND = (SHARD.format(c=0, f=f) for f in (0, 1))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An annotated dataset of episodes with 6, 4 and 5 frames in two shards."""
    root = make_dataset(tmp_path / "data")
    staging = Staging(tmp_path / "staged")
    modules = stage(staging, {0: 6, 1: 4, 2: 5})
    write_dataset(open_dataset(root), staging, modules, output=None, provenance={}, drop_subtask_index=True)
    return root


def save(path: Path, table: pa.Table) -> None:
    """One row group per episode, as found."""
    index = table.column("episode_index").to_numpy()
    with pq.ParquetWriter(path, table.schema) as writer:
        for episode in dict.fromkeys(index.tolist()):
            writer.write_table(table.filter(pa.array(index == episode)))


def json_safe(cells: list, column: str) -> pa.Array:
    """Cells as a column of the exact type."""
    row = COLUMN_TYPES[column].value_type
    plain = pa.struct([f if f.name != "tool_calls" else pa.field(f.name, pa.list_(pa.string())) for f in row])
    values = pa.array([r for c in cells for r in c], plain)
    calls = values.field("tool_calls")
    texts = pa.ExtensionArray.from_storage(pa.json_(), calls.values)
    typed = pa.ListArray.from_arrays(calls.offsets, texts, type=row.field("tool_calls").type, mask=calls.is_null())
    children = [typed if f.name == "tool_calls" else values.field(f.name) for f in row]
    struct = pa.StructArray.from_arrays(children, fields=list(row))
    offsets = np.cumsum([0, *map(len, cells)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), struct, type=COLUMN_TYPES[column])


def edit(root: Path, column: str, change: Callable[[list], None], shard: str = FIRST) -> None:
    """Rewrite one language column of a shard; `change` alters its cells."""
    table = pq.read_table(root / shard)
    cells = table.column(column).to_pylist()
    change(cells)
    save(root / shard, table.set_column(table.column_names.index(column), column, json_safe(cells, column)))


def edit_info(root: Path, change: Callable[[dict], None]) -> None:
    """Rewrite info.json."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def everywhere(change: Callable[[list], None], frames: slice = slice(0, 6)) -> Callable[[list], None]:
    """The same change to the list of every frame of an episode."""

    def apply(cells: list) -> None:
        for cell in cells[frames]:
            change(cell)

    return apply


def row(content: str | None, style: str | None, role: str = "assistant", camera=None, calls=None, **time) -> dict:
    """A row as stored."""
    calls = calls and [json.dumps(c) for c in calls]
    return {"role": role, "content": content, "style": style, **time, "camera": camera, "tool_calls": calls}


def vqa(answer: object, frame: int = 2, camera: str = CAMERA) -> Callable[[list], None]:
    """Add a question and its answer to a frame."""

    def add(cells: list) -> None:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        cells[frame] = [row(text, "vqa", camera=camera), row("where?", "vqa", "user", camera)]

    return add


def drop(style: str | None, role: str = "assistant") -> Callable[[list], None]:
    """Remove such rows from every cell."""
    return lambda cells: [
        cell.__setitem__(slice(None), [r for r in cell if (r["style"], r["role"]) != (style, role)]) for cell in cells
    ]


BOX = {"detections": [{"label": "cup", "bbox_format": "xyxy", "bbox": [10, 20, 30, 40]}]}
POINT = {"label": "cup", "point_format": "xy", "point": [319, 239]}


def box(*corners: float) -> dict:
    """A visual answer with one box."""
    return {"detections": [{"label": "cup", "bbox_format": "xyxy", "bbox": list(corners)}]}


def test_a_dataset_as_written_has_no_findings(root):
    report = check_dataset(root)
    assert report.findings == [] and report.episodes_checked == 3 and report.rows_checked == 33


THOUSANDTHS = {"coordinates": "norm1000", "image_size": [320, 240]}


@pytest.mark.parametrize(
    "answer",
    [BOX, POINT, box(0, 0, 320, 240), {**box(0, 0, 1000, 1000), **THOUSANDTHS}],
    ids=["0", "1", "2", "norm1000"],
)
def test_numbers_inside_the_frame_are_fine(root, answer):
    edit(root, EVENTS, vqa(answer))
    assert check_dataset(root).findings == []


BROKEN_ROWS = {
    "persistent_differs": [
        (PERSISTENT, lambda cells: cells[4][0].update(content="else")),
        (PERSISTENT, lambda cells: cells[4][0].update(timestamp=0.2)),
        (PERSISTENT, lambda cells: cells[5].pop()),
        (PERSISTENT, lambda cells: cells[2].__setitem__(slice(None), [])),
        (PERSISTENT, lambda cells: cells[2][0].update(tool_calls=[json.dumps(say("x")[0])])),
    ],
    "persistent_order": [(PERSISTENT, everywhere(list.reverse))],
    "persistent_duplicate": [(PERSISTENT, everywhere(lambda c: c.insert(1, dict(c[0]))))],
    "timestamp_off_frame": [(PERSISTENT, everywhere(lambda c: c[3].update(timestamp=0.31)))],
    "subtask_start": [
        (PERSISTENT, lambda cells: drop("subtask")(cells[:6])),
        (PERSISTENT, everywhere(lambda c: c.pop(1))),
    ],
    "event_order": [(EVENTS, lambda cells: cells[1].reverse())],
    "interjection_without_speech": [(EVENTS, lambda cells: cells[3].pop(0))],
    "interjection_duplicate": [(EVENTS, lambda cells: cells[3].append(dict(cells[3][1])))],
    "speech_orphan": [(EVENTS, lambda cells: cells[3].pop(1))],
    "speech_duplicate": [(EVENTS, lambda cells: cells[0].append(dict(cells[0][0])))],
    "vqa_pair": [
        (EVENTS, lambda cells: cells[1].pop()),
        (EVENTS, lambda cells: cells[1].pop(0)),
        (EVENTS, lambda cells: cells[1].append(dict(cells[1][1]))),
    ],
    "camera_unknown": [(EVENTS, vqa(BOX, camera="observation.images.none"))],
    "vqa_answer": [
        (EVENTS, vqa("a cup")),
        (EVENTS, vqa("[1]")),
        (EVENTS, vqa(box(0, 0, 321, 10))),
        (EVENTS, vqa(box(0, 0, 32, 241))),
        (EVENTS, vqa(box(-1, 0, 32, 20))),
        (EVENTS, vqa(box(30, 0, 30, 20))),
        (EVENTS, vqa(box("a", 0, 30, 20))),
        (EVENTS, vqa({**POINT, "point": [10, 300]})),
        (EVENTS, vqa({**POINT, "point": [10, 1001], **THOUSANDTHS})),
        (EVENTS, vqa({**POINT, "coordinates": "norm1"})),
        (EVENTS, vqa({**POINT, "coordinates": [1]})),
    ],
    "row": [
        (EVENTS, lambda cells: cells[4].append(row("x", "shout"))),
        (EVENTS, lambda cells: cells[4].append(row("x", "subtask"))),
        (EVENTS, lambda cells: cells[4].append(row("x", None))),
        (EVENTS, lambda cells: cells[3][1].update(content=" ")),
        (EVENTS, lambda cells: cells[3][1].update(camera=CAMERA)),
        (EVENTS, lambda cells: cells[1][0].update(camera=None)),
        (PERSISTENT, everywhere(lambda c: c[0].update(role="robot"))),
    ],
}


@pytest.mark.parametrize(
    ("check", "column", "change"),
    [(check, column, change) for check, cases in BROKEN_ROWS.items() for column, change in cases],
    ids=[f"{check}-{i}" for check, cases in BROKEN_ROWS.items() for i in range(len(cases))],
)
def test_broken_rows_are_found_in_their_episode(root, check, column, change):
    edit(root, column, change)
    found = [f for f in check_dataset(root).findings if f.check == check]
    assert found and {f.episode for f in found} == {0} and all(f.remedy and f.severity == "error" for f in found)


def test_only_the_broken_episode_is_named(root):
    edit(root, PERSISTENT, lambda cells: cells[2][0].update(content="else"), SECOND)
    (finding,) = check_dataset(root).findings
    assert (finding.check, finding.episode, finding.row) == ("persistent_differs", 2, 2)


@pytest.mark.parametrize("column", [PERSISTENT, EVENTS])
def test_a_shard_without_the_columns_is_found(root, column):
    table = pq.read_table(root / SECOND).drop_columns([column])
    save(root / SECOND, table)
    assert set(check_dataset(root).by_check()) == {"column_missing"}


def test_inferred_types_are_found(root):
    table = pq.read_table(root / SECOND)
    fields = [("role", pa.string()), ("content", pa.string()), ("style", pa.string()), ("timestamp", pa.float64())]
    loose = pa.list_(pa.struct([*fields, ("camera", pa.null()), ("tool_calls", pa.null())]))
    cells = [[{k: r[k] for k in r} for r in c] for c in table.column(PERSISTENT).to_pylist()]
    save(root / SECOND, table.set_column(table.column_names.index(PERSISTENT), PERSISTENT, pa.array(cells, loose)))
    empty = pa.array([[]] * len(table), pa.list_(pa.null()))
    table = pq.read_table(root / SECOND)
    save(root / SECOND, table.set_column(table.column_names.index(EVENTS), EVENTS, empty))
    assert check_dataset(root).by_check() == {"column_type": 2}


def test_packed_row_groups_and_the_tools_column_are_found(root):
    table = pq.read_table(root / FIRST)
    pq.write_table(table.append_column("tools", pa.array(["[]"] * len(table))), root / FIRST)
    assert check_dataset(root).by_check() == {"row_groups": 1, "tools_column": 1}


INFO_CHANGES = {
    "feature_missing": lambda info: info["features"].pop(EVENTS),
    "tool_missing": lambda info: info.pop("tools"),
    "feature_column": lambda info: info["features"].update(gone={"dtype": "int64", "shape": [1], "names": None}),
    "total_frames": lambda info: info.update(total_frames=99),
}


@pytest.mark.parametrize("check", INFO_CHANGES)
def test_info_that_does_not_fit_is_found(root, check):
    edit_info(root, INFO_CHANGES[check])
    assert list(check_dataset(root).by_check()) == [check]


def test_a_feature_of_another_kind_is_found(root):
    edit_info(root, lambda info: info["features"][PERSISTENT].update(dtype="string"))
    assert check_dataset(root).by_check() == {"feature_missing": 1}


def test_a_dataset_without_annotations_and_a_folder_without_dataset(tmp_path):
    plain = make_dataset(tmp_path / "plain")
    assert check_dataset(plain).by_check() == {"column_missing": 4, "feature_missing": 2, "tool_missing": 1}
    with pytest.raises(DatasetError):
        check_dataset(tmp_path)


def test_the_first_frame_that_differs_is_named():
    rows = [Row("assistant", "a", "subtask", times(3)[0]), Row("assistant", "b", "subtask", times(3)[2])]
    same = persistent_array(rows, 5)
    assert first_difference(same) is None and first_difference(persistent_array([], 5)) is None
    other = persistent_array([rows[0], Row("assistant", None, "subtask", times(3)[2], None, say("x"))], 2)
    assert first_difference(pa.concat_arrays([same.slice(1), other])) == 4
