"""Joined parquet parts are the very bytes that one writer would have made."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dataset.join import Footer, join_parquet


def table(group: int) -> pa.Table:
    """One row group's rows: numbers, text with nulls, nested lists, booleans."""
    return pa.table(
        {
            "number": [group * 1000 + i for i in range(7)],
            "text": [f"{group}-{i}" if i % 3 else None for i in range(7)],
            "nested": [[[float(group)] * i, []] for i in range(7)],
            "flag": [True, False, None, True, True, False, True],
        }
    )


def write(path: Path, groups: range, **options) -> Path:
    """A file with those row groups."""
    with pq.ParquetWriter(path, table(0).schema.with_metadata({"own": "value"}), **options) as writer:
        for group in groups:
            writer.write_table(table(group))
    return path


@pytest.mark.parametrize("sizes", [(1, 1), (3, 4, 5), (14, 1), (15, 1), (40, 0, 100), (0, 2), (200, 200)])
def test_joined_parts_equal_one_file(tmp_path, sizes):
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    parts = [write(tmp_path / f"part{i}", range(*starts[i : i + 2])) for i in range(len(sizes))]
    join_parquet(parts[0], parts[1:], [Footer.of(p) for p in parts])
    assert parts[0].read_bytes() == write(tmp_path / "whole", range(starts[-1])).read_bytes()
    assert not any(p.exists() for p in parts[1:])


@pytest.mark.parametrize(
    "options",
    [{"write_page_index": True}, {"data_page_version": "2.0"}, {"compression": "none"}, {"use_dictionary": False}],
    ids=str,
)
def test_joined_parts_of_other_layouts_hold_the_same_rows(tmp_path, options):
    a, b = write(tmp_path / "a", range(20), **options), write(tmp_path / "b", range(20, 50), **options)
    join_parquet(a, [b], [Footer.of(a), Footer.of(b)])
    whole = pq.ParquetFile(a)
    assert whole.metadata.num_rows == 350 and whole.schema_arrow.metadata[b"own"] == b"value"
    for group in range(50):
        assert whole.read_row_group(group).equals(table(group))
