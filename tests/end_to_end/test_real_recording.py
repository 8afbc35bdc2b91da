"""A real humanoid's recordings, annotated without a model, checked on disk, and left as they were beside."""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq

from tests.conftest import real_dataset
from tests.end_to_end.annotate import annotate, contents, run


def test_real_humanoid_is_annotated_and_checked(tmp_path):
    source = real_dataset("g1-bottle-v3")
    before = contents(source)
    code, summary = run(source, f"--output={tmp_path / 'g1'}")
    assert code == 0 and summary["episodes"] == 5, summary
    assert contents(source) == before
    checked = annotate("check", f"--root={tmp_path / 'g1'}", "--json")
    assert checked.returncode == 0, checked.stdout
    shown = annotate("show", f"--root={tmp_path / 'g1'}", "--episode=4")
    assert "pick up the yellow bottle" in shown.stdout


def test_columns_that_were_there_are_untouched(tmp_path):
    source = shutil.copytree(real_dataset("g1-bottle-v3"), tmp_path / "g1")
    (shard,) = source.glob("data/**/*.parquet")
    before = pq.read_table(shard)
    assert run(source)[0] == 0
    after = pq.read_table(shard)
    assert after.select(before.schema.names).equals(before)
    assert after.schema.names == [*before.schema.names, "language_persistent", "language_events"]
    assert pq.ParquetFile(shard).num_row_groups == 5
