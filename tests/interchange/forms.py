"""Tiny datasets with labels of older forms: no video is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.layout import open_dataset
from tasks.interchange import ImportReport, import_labels
from tasks.language.stored import episode_rows
from tests.tiny import CAMERA, FPS, make_dataset

EPISODES = Path("meta/episodes/chunk-000/file-000.parquet")
TASKS = ["sort the blocks", "valid", "pick up the block", "put it down"]
DESCRIPTION = "annotation.human.action.task_description"
VALIDITY = "annotation.human.validity"
LENGTHS = (6, 4, 5)


def make(root: Path, shards: Sequence[Sequence[int]] = ((6, 4), (5,)), *, packed: bool = False) -> Path:
    """The tiny dataset with episodes metadata and a tasks table; every frame has task 0."""
    make_dataset(root, shards, packed=packed)
    lengths = [n for lengths in shards for n in lengths]
    video = {"chunk_index": pa.int64(), "file_index": pa.int64()}
    video |= {"from_timestamp": pa.float64(), "to_timestamp": pa.float64()}
    table = pa.table(
        {
            "episode_index": pa.array(range(len(lengths)), pa.int64()),
            "length": pa.array(lengths, pa.int64()),
            **{f"videos/{CAMERA}/{k}": pa.nulls(len(lengths), kind) for k, kind in video.items()},
        }
    )
    (root / EPISODES).parent.mkdir(parents=True)
    pq.write_table(table, root / EPISODES)
    write_texts(root, "task", TASKS)
    return root


def write_texts(root: Path, kind: str, texts: Sequence[Any], *, index: str | None = None) -> None:
    """meta/tasks.parquet or meta/subtasks.parquet, the text in a column of that name or of `index`."""
    table = pa.table(
        {f"{kind}_index": pa.array(range(len(texts)), pa.int64()), index or kind: pa.array(texts, pa.string())}
    )
    pq.write_table(table, root / f"meta/{kind}s.parquet")


def add_column(root: Path, name: str, episodes: Sequence[Sequence[Any]], kind: pa.DataType | None = None) -> None:
    """A column of the data shards, given by episode; row groups stay."""
    kind = kind or pa.int64()
    for path in sorted(root.glob("data/**/*.parquet")):
        file = pq.ParquetFile(path)
        groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
        with pq.ParquetWriter(path, groups[0].schema.append(pa.field(name, kind))) as writer:
            for group in groups:
                indices = list(dict.fromkeys(group["episode_index"].to_pylist()))
                values = [value for i in indices for value in episodes[i]]
                writer.write_table(group.append_column(name, pa.array(values, kind)))
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][name] = {"dtype": str(kind), "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))


def with_subtasks(
    root: Path, indices: Sequence[Sequence[Any]], texts: Sequence[Any] = ("reach", "lift", "drop")
) -> Path:
    """Labels as subtask_index."""
    add_column(root, "subtask_index", indices)
    write_texts(root, "subtask", texts)
    return root


def with_sarm(root: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Columns of the episodes metadata, a value an episode."""
    table = pq.read_table(root / EPISODES)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, root / EPISODES)
    return root


def sarm_columns(
    prefix: str, episodes: Sequence[Sequence[tuple[str, int, int]] | None], fps: int = 10
) -> dict[str, list]:
    """All five columns of (name, start, end) in frames."""
    names = [e and [n for n, _, _ in e] for e in episodes]
    starts = [e and [s for _, s, _ in e] for e in episodes]
    ends = [e and [s for _, _, s in e] for e in episodes]
    return {
        f"{prefix}subtask_names": names,
        f"{prefix}subtask_start_times": [e and [v / FPS for v in e] for e in starts],
        f"{prefix}subtask_end_times": [e and [v / FPS for v in e] for e in ends],
        f"{prefix}subtask_start_frames": starts,
        f"{prefix}subtask_end_frames": ends,
    }


def rows(root: Path, style: str = "subtask") -> list[list[tuple[int, str]]]:
    """(frame, text) of the rows of a style, by episode; the frame is the one with exactly the row's timestamp."""
    dataset = open_dataset(root)
    return [
        [(e.times.index(r.timestamp), r.content or "") for r in episode_rows(dataset, e) if r.style == style]
        for e in dataset.episodes()
    ]


def imported(root: Path, *args: Any, **kwargs: Any) -> ImportReport:
    """Import, and see that the dataset keeps every rule afterwards."""
    from tasks.check import check_dataset

    report = import_labels(root, *args, **kwargs)
    if not kwargs.get("dry_run"):
        assert [f.message for f in check_dataset(report.dataset).findings] == []
    return report
