"""Files put together from column chunks: every reader sees what one writer would have made."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dataset.row_groups import ChunkReader, RowGroupFile, bare_chunks, copied_chunks
from tasks.errors import DatasetError


def table(group: int) -> pa.Table:
    """One row group's rows: numbers, text with nulls, nested lists, booleans."""
    return pa.table(
        {
            "number": [group * 1000 + i for i in range(7)],
            "text": [f"{group}-{i}" if i % 3 else None for i in range(7)],
            "nested": [[[float(group)] * i, []] for i in range(7)],
            "flag": [True, False, None, True, True, False, True],
            "nothing": pa.nulls(7, pa.string()),
        }
    )


def encoded(groups: range, **options) -> pa.Buffer:
    """A file with those row groups."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table(0).schema.with_metadata({"own": "value"}), **options) as writer:
        for group in groups:
            writer.write_table(table(group))
    return sink.getvalue()


def put_together(path: Path, chunks: list) -> pq.ParquetFile:
    """A file of those row groups."""
    file = RowGroupFile(path, encoded(range(0)))
    for group in chunks:
        file.add(group, 7)
    file.close()
    return pq.ParquetFile(path)


@pytest.mark.parametrize("count", [0, 1, 14, 15, 16, 130])
def test_copied_chunks_make_the_very_same_file(tmp_path, count):
    (tmp_path / "old").write_bytes(encoded(range(count)))
    reader = ChunkReader(tmp_path / "old", range(5))
    chunks = [c for at in range(0, count, 4) for c in reader.read(at, min(4, count - at))]
    put_together(tmp_path / "new", chunks)
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes()
    assert put_together(tmp_path / "again", copied_chunks(encoded(range(count)))).metadata.num_row_groups == count


@pytest.mark.parametrize(
    "options",
    [{}, {"data_page_version": "2.0"}, {"compression": "none"}, {"use_dictionary": False}, {"data_page_size": 64}],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 40])
def test_bare_chunks_hold_the_same_rows(tmp_path, options, count):
    file = put_together(tmp_path / "new", bare_chunks(encoded(range(count), **options)))
    assert file.schema_arrow.metadata[b"own"] == b"value" and file.metadata.num_rows == 7 * count
    for group in range(count):
        assert file.read_row_group(group).equals(table(group).replace_schema_metadata({"own": "value"}))


@pytest.mark.parametrize("times", [1, 2, 50])
@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}], ids=str)
def test_repeated_chunks_hold_their_rows_over_and_over(tmp_path, times, rest, options):
    sink = pa.BufferOutputStream()
    short = table(3).slice(0, 7)
    with pq.ParquetWriter(sink, short.schema, **options) as writer:
        for _ in range(2):
            writer.write_table(short)
    once, last = bare_chunks(sink.getvalue())
    chunks = [c.repeated(times, r if rest else None) for c, r in zip(once, last, strict=True)]
    file = RowGroupFile(tmp_path / "new", encoded(range(0)))
    rows = 7 * (times + rest)
    file.add(chunks, rows)
    file.close()
    new = pq.ParquetFile(tmp_path / "new")
    assert new.read().equals(pa.concat_tables([short] * (times + rest)).replace_schema_metadata({"own": "value"}))
    column = new.metadata.row_group(0).column(0)
    assert column.num_values == rows
    assert column.total_compressed_size == sum(map(len, chunks[0].pages))
    whole = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables([short] * (times + rest)), whole, **options)
    same = pq.read_metadata(pa.BufferReader(whole.getvalue())).row_group(0).column(4)  # nulls: plain size is exact
    pages = times + rest
    assert 0 <= new.metadata.row_group(0).column(4).total_uncompressed_size - same.total_uncompressed_size < 40 * pages


def test_pieces_with_other_words_are_refused():
    once, other = bare_chunks(encoded(range(2)))
    with pytest.raises(DatasetError, match="one dictionary"):
        once[0].repeated(2, other[0])


@pytest.mark.parametrize("options", [{"write_page_index": True}, {"bloom_filter_options": {"text": True}}], ids=str)
def test_what_lies_outside_the_chunks_is_left_out(tmp_path, options):
    (tmp_path / "old").write_bytes(encoded(range(20), **options))
    file = put_together(tmp_path / "new", ChunkReader(tmp_path / "old", range(5)).read(0, 20))
    assert file.read().equals(pq.read_table(tmp_path / "old"))
    for j in range(5):
        column = file.metadata.row_group(7).column(j)
        assert not column.has_offset_index and not column.has_column_index
        assert column.bloom_filter_offset is None and column.is_stats_set


def test_a_file_that_ends_early_is_noticed(tmp_path):
    path = tmp_path / "old"
    path.write_bytes(encoded(range(3)))
    reader = ChunkReader(path, range(5))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match="ends early"):
        reader.read(2, 1)
