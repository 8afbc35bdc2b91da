"""A data shard with one more column of integers: everything else is copied as bytes where the file's layout allows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dataset.row_groups import Chunk, ChunkReader, RowGroupFile, copied_chunks
from tasks.dataset.shards import open_parquet, unreadable
from tasks.errors import CommitError

FEATURE = {"dtype": "int64", "shape": [1], "names": None}  # of info.json
HUB_INTEGERS = {"dtype": "int64", "_type": "Value"}
COMPRESSION = "SNAPPY"


def write_with_column(source: Path, target: Path, name: str, values: np.ndarray) -> None:
    """Write the shard `source` to the new file `target` with the int64 column `name`: (rows,), in place of any other.

    Row groups stay as they are. Raises DatasetError, CommitError.
    """
    file = open_parquet(source)
    kept = [f for f in file.schema_arrow if f.name != name]
    metadata = with_features(file.schema_arrow.metadata, {name: HUB_INTEGERS}, kept)
    schema = pa.schema([*kept, pa.field(name, pa.int64())], metadata=metadata)
    empty = _encode(schema)
    reader = _reader(source, file, empty, name)
    with _new_file(target, empty) as out:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            new = pa.table({name: values[first : first + rows]})
            others = reader.read(group, 1)[0] if reader else _encoded_group(source, file, group, kept)
            out.add([*others, *copied_chunks(_encode(new.schema, new))[0]], rows)
            first += rows
    _verify(target, name, values)


def with_features(
    metadata: Mapping[bytes, bytes] | None, new: Mapping[str, Any], kept: Sequence[pa.Field]
) -> dict[bytes, bytes]:
    """Key-value metadata of a parquet file whose columns are now `kept` and those of `new` (name -> hub feature).

    A list of columns that pandas or the datasets library keeps there is brought in line, or dropped when unreadable.
    """
    names = {f.name for f in kept}
    out = {k: v for k, v in (metadata or {}).items() if k not in (b"ARROW:schema", b"huggingface", b"pandas")}
    try:
        info = json.loads((metadata or {})[b"huggingface"])["info"]
        features = {k: v for k, v in info["features"].items() if k in names} | dict(new)
        out[b"huggingface"] = json.dumps({"info": {**info, "features": features}}).encode()
    except (KeyError, ValueError, TypeError, AttributeError):
        pass  # readers then go by the Arrow types
    return out


def _reader(source: Path, file: pq.ParquetFile, empty: pa.Buffer, name: str) -> ChunkReader | None:
    """The old shard's chunks, if they are laid out as the new one's; else they are encoded again."""
    old, new = file.schema, pq.ParquetFile(pa.BufferReader(empty)).schema
    leaves = [i for i in range(len(old)) if old.column(i).path != name]
    fits = len(leaves) + 1 == len(new) and file.num_row_groups > 0
    same = fits and all(old.column(i).equals(new.column(j)) for j, i in enumerate(leaves))
    return ChunkReader(source, leaves) if same else None


def _encoded_group(source: Path, file: pq.ParquetFile, group: int, kept: Sequence[pa.Field]) -> Sequence[Chunk]:
    try:
        table = file.read_row_group(group, columns=[f.name for f in kept], use_threads=False)
    except (pa.ArrowException, OSError) as err:
        raise unreadable(source, err) from err
    table = table.select([f.name for f in kept])
    return copied_chunks(_encode(table.schema, table))[0]


def _encode(schema: pa.Schema, group: pa.Table | None = None) -> pa.Buffer:
    """A file of one row group, or of none."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression=COMPRESSION) as writer:
        if group is not None:
            writer.write_table(group, row_group_size=max(1, len(group)))
    return sink.getvalue()


@contextmanager
def _new_file(path: Path, empty: pa.Buffer) -> Iterator[RowGroupFile]:
    file = RowGroupFile(path, empty)
    try:
        yield file
    except BaseException:
        file.abandon()
        raise
    file.close()


def _verify(path: Path, name: str, values: np.ndarray) -> None:
    """Read the column back as any reader would."""
    try:
        found = pq.read_table(path, columns=[name]).column(name).to_numpy()
    except (pa.ArrowException, OSError) as err:
        raise CommitError("want a readable new shard", f"{path}: {err}", "check the disk and run again") from err
    if not np.array_equal(found, values):
        raise CommitError(f"want column {name} in the new shard", f"other values in {path}", "report this as a bug")
