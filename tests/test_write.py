"""Writing staged rows: what comes out, what is kept, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.check import check_dataset
from tasks.dataset.layout import open_dataset
from tasks.errors import CommitError, DatasetError, RowError, StagingError
from tasks.language.arrow import COLUMN_TYPES
from tasks.language.rows import Row, say
from tasks.language.styles import EVENTS, MODULES, PERSISTENT
from tasks.staging import Staging
from tasks.write import write_dataset
from tests.tiny import CAMERA, SHARD, column, make_dataset, sample_rows, stage, times, tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three episodes of 6, 4 and 5 frames in two shards."""
    return make_dataset(tmp_path / "data")


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    """Rows are staged outside the dataset."""
    return Staging(tmp_path / "staged")


def write(root: Path, staging: Staging, modules, output: Path | None = None, drop_subtask_index: bool = True):
    """write_dataset with the settings most tests share."""
    return write_dataset(
        open_dataset(root),
        staging,
        modules,
        output=output,
        provenance={"run": 1},
        drop_subtask_index=drop_subtask_index,
    )


def contents(cell: list[dict]) -> list[str]:
    """What the rows of a cell say."""
    return [
        r["content"] if r["content"] is not None else json.loads(r["tool_calls"][0])["function"]["name"] for r in cell
    ]


def refuses(error, match: str, root: Path, *args, **kwargs):
    """The write raises that error and changes nothing; its text."""
    before = tree(root)
    with pytest.raises(error, match=match) as caught:
        write(root, *args, **kwargs)
    assert tree(root) == before
    assert [p.name for p in root.parent.iterdir() if "cuebook" in p.name] == []
    assert "do:" in str(caught.value) or "got:" in str(caught.value)
    return str(caught.value)


def test_rows_land_on_their_frames_in_order(root, staging):
    summary = write(root, staging, stage(staging, {0: 6, 1: 4, 2: 5}))
    assert (summary.persistent_rows, summary.event_rows, summary.episodes) == (18, 15, 3)
    persistent = column(root, PERSISTENT)
    assert [contents(c) for c in persistent[:6]] == [
        ["1. reach\n2. lift", "reach for 0", "do 0 differently", "I reached.", "1. lift", "lift – slowly"]
    ] * 6
    assert {repr(c) for c in persistent[6:]} == {repr(persistent[6])} != {repr(persistent[0])}
    assert [r["timestamp"] for r in persistent[0]] == [times(6)[0]] * 3 + [times(6)[3]] * 3
    events = column(root, EVENTS)
    assert [contents(c) for c in events[:6]] == [
        ["say"],
        ["how many?"][:0] or ['{"label": "cube", "count": 0}', "how many?"],
        [],
        ["say", "now lift"],
        [],
        [],
    ]
    assert events[1][0]["camera"] == CAMERA and events[3][1]["role"] == "user"
    assert check_dataset(root).findings == []


def test_columns_have_the_same_types_in_all_shards_and_episodes_without_rows_are_empty(root, staging):
    write(root, staging, stage(staging, {0: 6}))
    for f in (0, 1):
        file = pq.ParquetFile(root / SHARD.format(c=0, f=f))
        assert file.schema_arrow.names[-2:] == [PERSISTENT, EVENTS]
        for name in (PERSISTENT, EVENTS):
            assert file.schema_arrow.field(name).type == COLUMN_TYPES[name]
    assert column(root, PERSISTENT)[6:] == [[]] * 4 and column(root, EVENTS, 1) == [[]] * 5
    assert check_dataset(root).ok


@pytest.mark.parametrize("packed", [False, True])
def test_other_columns_and_their_order_stay_and_each_episode_is_a_row_group(tmp_path, staging, packed):
    root = make_dataset(tmp_path / "data", [(300, 1, 40)], packed=packed)
    path = root / SHARD.format(c=0, f=0)
    before = pq.read_table(path)
    write(root, staging, stage(staging, {0: 300, 2: 40}))
    after = pq.ParquetFile(path)
    assert after.read().select(before.column_names).equals(before)
    assert after.schema_arrow.names == [*before.column_names, PERSISTENT, EVENTS]
    assert [after.metadata.row_group(i).num_rows for i in range(3)] == [300, 1, 40]
    chunk = after.metadata.row_group(0).column(len(before.column_names) + 3)
    assert chunk.compression == "SNAPPY" and "RLE_DICTIONARY" in chunk.encodings
    state = after.metadata.row_group(2).column(1)
    assert state.path_in_schema == "timestamp" and state.is_stats_set  # loaders skip row groups by statistics
    assert check_dataset(root).ok


def test_a_packed_shard_is_cut_where_batches_end_inside_episodes(tmp_path, staging, monkeypatch):
    monkeypatch.setattr("tasks.language.shard.BATCH_ROWS_MAX", 7)
    lengths = [5, 9, 1, 14, 30, 2]
    root = make_dataset(tmp_path / "data", [lengths], packed=True)
    before = pq.read_table(root / SHARD.format(c=0, f=0))
    write(root, staging, stage(staging, {1: 9, 4: 30}))
    after = pq.ParquetFile(root / SHARD.format(c=0, f=0))
    assert [after.metadata.row_group(i).num_rows for i in range(6)] == lengths
    assert after.read().select(before.column_names).equals(before)
    assert check_dataset(root).ok


def test_a_second_write_gives_the_same_bytes(root, staging):
    modules = stage(staging, {0: 6, 1: 4, 2: 5})
    write(root, staging, modules)
    first = tree(root)
    assert write(root, staging, modules).shards_written == 2
    assert tree(root) == first


def test_how_the_work_is_cut_does_not_show(tmp_path, staging, monkeypatch):
    lengths = [3, 700, 5, 6, 701, 8, 9]
    modules = stage(staging, dict(enumerate(lengths)))
    whole = make_dataset(tmp_path / "whole", [lengths])
    write(whole, staging, modules)
    monkeypatch.setattr("tasks.language.shard.BATCH_ROWS_MAX", 6)
    monkeypatch.setattr("tasks.write.WORKERS_MAX", 1)
    for packed in (False, True):  # columns copied as bytes, and encoded again
        other = make_dataset(tmp_path / f"other{packed}", [lengths], packed=packed)
        write(other, staging, modules)
        assert tree(other) == tree(whole)


@pytest.mark.parametrize(
    "options", [{"compression": "zstd"}, {"write_page_index": True}, {"use_compliant_nested_type": False}]
)
def test_columns_of_other_layouts_are_encoded_again(tmp_path, staging, options):
    root = make_dataset(tmp_path / "data", [(30, 20)])
    path = root / SHARD.format(c=0, f=0)
    before = pq.read_table(path)
    with pq.ParquetWriter(path, before.schema, **options) as writer:
        writer.write_table(before.slice(0, 30))
        writer.write_table(before.slice(30))
    write(root, staging, stage(staging, {0: 30}))
    after = pq.ParquetFile(path)
    assert after.read().select(before.column_names).cast(before.schema).equals(before)
    assert {after.metadata.row_group(1).column(j).compression for j in range(after.metadata.num_columns)} == {"SNAPPY"}
    assert check_dataset(root).ok


@pytest.mark.parametrize("frames", [1, 2, 97, 500, 683, 1000])
def test_the_persistent_list_is_whole_on_every_frame_of_long_episodes(tmp_path, staging, frames):
    root = make_dataset(tmp_path / "data", [(frames, 3)])
    t = times(frames)
    rows = [Row("user", f"way {i} " * (i % 5 + 1), "task_aug", t[0]) for i in range(45)]
    rows += [Row("assistant", "go", "subtask", t[0]), Row("assistant", "1. go", "plan", t[0])]
    staging.write(0, "plan", rows, key="k", facts={})
    write(root, staging, {0: ("plan",)})
    cells = column(root, PERSISTENT)
    assert len(cells[0]) == 47 and all(c == cells[0] for c in cells[:frames]) and cells[frames:] == [[]] * 3
    assert check_dataset(root).findings == []
    file = pq.ParquetFile(root / SHARD.format(c=0, f=0))
    half = next(file.iter_batches(max(1, frames // 2), row_groups=[0], columns=[PERSISTENT]))
    assert half.column(0).to_pylist() == cells[: max(1, frames // 2)]
    for j in range(file.metadata.num_columns):
        chunk = file.metadata.row_group(0).column(j)
        if chunk.path_in_schema.startswith(PERSISTENT):
            assert chunk.num_values == frames * 47


def test_very_long_texts_are_written_whole_and_within_memory(tmp_path, staging):
    root = make_dataset(tmp_path / "data", [(600, 3)])
    rows = [Row("user", f"{i} " * 60_000, "task_aug", 0.0) for i in range(12)]  # 1 GB when repeated on every frame
    rows.append(Row("assistant", "go", "subtask", 0.0, None, say("x" * 300_000)))
    staging.write(0, "plan", rows, key="k", facts={})
    usual = pa.default_memory_pool()
    own = pa.proxy_memory_pool(usual)  # counts from here: the usual one remembers what other tests took
    pa.set_memory_pool(own)
    try:
        write(root, staging, {0: ("plan",)})
    finally:
        pa.set_memory_pool(usual)
    assert 0 < own.max_memory() < 1 << 28
    file = pq.ParquetFile(root / SHARD.format(c=0, f=0))
    assert file.metadata.row_group(0).num_rows == 600
    (first,) = file.read_row_group(1, columns=[PERSISTENT]).column(0)[:1].to_pylist()
    assert first == []
    cell = next(file.iter_batches(1, row_groups=[0], columns=[PERSISTENT])).column(0)[0].as_py()
    assert sorted(r["content"] for r in cell) == sorted(r.content for r in rows)
    assert (
        json.loads(cell[-1]["tool_calls"][0] if cell[-1]["tool_calls"] else cell[0]["tool_calls"][0])
        == say("x" * 300_000)[0]
    )
    report = check_dataset(root)
    assert report.findings == [] and report.rows_checked == 13


def test_other_readers_read_what_is_written(root, staging):
    import duckdb

    write(root, staging, stage(staging, {0: 6, 1: 4}))
    path = root / SHARD.format(c=0, f=0)
    got = duckdb.sql(
        "SELECT episode_index, len(language_persistent), language_persistent[1].content, "
        f"language_events[1].tool_calls[1]->>'$.function.arguments.text' FROM '{path}' "
        "ORDER BY episode_index, frame_index"
    ).fetchall()
    assert got[0] == (0, 6, "1. reach\n2. lift", 'I "begin".') and got[-1][:2] == (1, 6) and len(got) == 10


@pytest.mark.parametrize("packed", [None, 10, 7, 3])
def test_rows_of_other_episodes_and_modules_are_kept(tmp_path, staging, packed):
    root = make_dataset(tmp_path / "data")
    write(root, staging, stage(staging, {0: 6, 1: 4, 2: 5}))
    if packed:  # as older writers left it: row groups that are no episodes
        path = root / SHARD.format(c=0, f=0)
        pq.write_table(pq.read_table(path), path, row_group_size=packed)
        assert check_dataset(root).by_check() == {"row_groups": 1}
    before = {name: column(root, name) for name in (PERSISTENT, EVENTS)}
    untouched = tree(root)
    staging.write(0, "vqa", [Row("user", "new?", "vqa", times(6)[5], CAMERA)], key="k", facts={})
    staging.discard(1, "plan")
    write(root, staging, {0: ("vqa",)})
    assert column(root, PERSISTENT) == before[PERSISTENT]
    events = column(root, EVENTS)
    assert events[6:] == before[EVENTS][6:]
    assert [contents(c) for c in events[:6]] == [["say"], [], [], ["say", "now lift"], [], ["new?"]]
    assert tree(root)[SHARD.format(c=0, f=1)] == untouched[SHARD.format(c=0, f=1)]


def test_the_interjection_module_owns_speech_too(root, staging):
    write(root, staging, stage(staging, {0: 6}))
    staging.write(0, "interjections", [Row.speech("only this", times(6)[0])], key="k", facts={})
    write(root, staging, {0: ("interjections",)})
    events = column(root, EVENTS)
    assert [len(c) for c in events[:6]] == [1, 2, 0, 0, 0, 0]
    assert json.loads(events[0][0]["tool_calls"][0]) == say("only this")[0]
    assert len(column(root, PERSISTENT)[0]) == 6


def test_rows_of_styles_that_no_module_makes_are_kept(root, staging):
    write(root, staging, stage(staging, {0: 6}))
    path = root / SHARD.format(c=0, f=0)
    table = pq.read_table(path)
    cells = table.column(PERSISTENT).to_pylist()
    extra = {
        "role": "user",
        "content": "own",
        "style": "my_style",
        "timestamp": 0.0,
        "camera": None,
        "tool_calls": None,
    }
    for cell in cells[:6]:
        cell.append(extra)
    at = table.column_names.index(PERSISTENT)
    fields = [f for f in COLUMN_TYPES[PERSISTENT].value_type if f.name != "tool_calls"]
    loose = pa.list_(pa.struct([*fields, pa.field("tool_calls", pa.list_(pa.string()))]))
    pq.write_table(table.set_column(at, PERSISTENT, pa.array(cells, loose)), path)
    write(root, staging, stage(staging, {0: 6}))
    assert [c["content"] for c in column(root, PERSISTENT)[0]].count("own") == 1
    assert pq.read_schema(path).field(PERSISTENT).type == COLUMN_TYPES[PERSISTENT]


def test_untouched_shards_that_are_current_are_shared(root, staging):
    write(root, staging, stage(staging, {0: 6, 1: 4, 2: 5}))
    inode = (root / SHARD.format(c=0, f=1)).stat().st_ino
    summary = write(root, staging, {1: MODULES})
    assert (summary.shards_written, summary.shards_kept) == (1, 1)
    assert (root / SHARD.format(c=0, f=1)).stat().st_ino == inode


def test_legacy_columns_are_dropped(tmp_path, staging):
    extra = {"subtask_index": lambda n: pa.array(range(n)), "tools": lambda n: pa.array(["[]"] * n)}
    root = make_dataset(tmp_path / "data", **extra)
    write(root, staging, stage(staging, {0: 6}))
    assert not {"subtask_index", "tools"} & set(pq.read_schema(root / SHARD.format(c=0, f=1)).names)
    assert not {"subtask_index", "tools"} & set(json.loads((root / "meta/info.json").read_text())["features"])
    kept = make_dataset(tmp_path / "kept", **extra)
    write(kept, staging, stage(staging, {0: 6}), drop_subtask_index=False)
    assert pq.read_schema(kept / SHARD.format(c=0, f=0)).names[-3:] == ["subtask_index", PERSISTENT, EVENTS]
    assert check_dataset(root).ok and check_dataset(kept).ok


def test_image_bytes_and_odd_types_pass_through(tmp_path, staging):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    extra = {
        "observation.images.wrist": lambda n: pa.array([{"bytes": os.urandom(5000), "path": "x.png"}] * n, image),
        "note": lambda n: pa.array([None, *["ü"] * (n - 1)], pa.large_string()),
        "grid": lambda n: pa.array([[[1, 2], [3]]] * n, pa.list_(pa.list_(pa.int16()))),
        "at": lambda n: pa.array(range(n), pa.timestamp("ns", tz="UTC")),
    }
    root = make_dataset(tmp_path / "data", **extra)
    before = pq.read_table(root / SHARD.format(c=0, f=0))
    write(root, staging, stage(staging, {0: 6}))
    after = pq.read_table(root / SHARD.format(c=0, f=0))
    assert after.select(before.column_names).equals(before)
    assert (
        after.schema.field("note").type == pa.large_string()
        and after.schema.field("at").type == before.schema.field("at").type
    )


def test_metadata_of_the_shard_is_kept_and_brought_in_line(tmp_path, staging):
    root = make_dataset(tmp_path / "data")
    path = root / SHARD.format(c=0, f=0)
    table = pq.read_table(path)
    hub = {"info": {"features": {n: {"dtype": "int64", "_type": "Value"} for n in table.column_names}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(hub), "own": "x"}), path)
    write(root, staging, stage(staging, {0: 6}))
    meta = pq.read_schema(path).metadata
    assert meta[b"own"] == b"x"
    assert list(json.loads(meta[b"huggingface"])["info"]["features"]) == [*table.column_names, PERSISTENT, EVENTS]


def test_info_and_provenance_are_written(root, staging):
    before = json.loads((root / "meta/info.json").read_text())
    write(root, staging, stage(staging, {0: 6}))
    info = json.loads((root / "meta/info.json").read_text())
    assert info["features"] == {**before["features"], **{n: info["features"][n] for n in (PERSISTENT, EVENTS)}}
    assert info["tools"][0]["function"]["name"] == "say"
    assert {k: v for k, v in info.items() if k not in ("features", "tools")} == {
        k: v for k, v in before.items() if k != "features"
    }
    assert json.loads((root / "meta/cuebook.json").read_text()) == {"run": 1}


def test_a_new_dataset_leaves_the_old_one_as_it_is(root, staging, tmp_path):
    before = tree(root)
    output = tmp_path / "deep/er/out"
    assert write(root, staging, stage(staging, {0: 6}), output=output).path == output
    assert tree(root) == before and check_dataset(output).ok
    video = f"videos/{CAMERA}/chunk-000/file-000.mp4"
    assert (output / video).stat().st_ino == (root / video).stat().st_ino
    assert tree(output).keys() == before.keys() | {"meta/cuebook.json"}
    staging.write(0, "vqa", [], key="k", facts={})
    write(root, staging, {0: MODULES}, output=output)
    assert len(column(output, EVENTS)[1]) == 0 and check_dataset(output).ok
    assert sorted(p.name for p in output.parent.iterdir()) == ["out"]


BAD_ROWS = {
    "between frames": (Row("user", "x", "interjection", 0.05), "exact timestamp"),
    "after the end": (Row.speech("x", 0.6), "exact timestamp"),
    "no content": (Row("user", None, "interjection", 0.0), "want content"),
    "blank content": (Row("user", "  ", "interjection", 0.0), "want content"),
    "no role": (Row(None, "x", "interjection", 0.0), "want role"),
    "other role": (Row("assistant", "x", "interjection", 0.0), "want role"),
    "no timestamp": (Row("user", "x", "interjection", None), "timestamp"),
    "NaN": (Row("user", "x", "interjection", float("nan")), "timestamp"),
    "camera": (Row("user", "x", "interjection", 0.0, CAMERA), "no camera"),
    "speech without call": (Row("assistant", None, None, 0.0), "speech atom"),
    "speech with content": (Row("assistant", "x", None, 0.0, None, say("x")), "speech atom"),
    "speech by the user": (Row("user", None, None, 0.0, None, say("x")), "speech atom"),
    "call is no list": (Row("assistant", None, None, 0.0, None, say("x")[0]), "speech atom"),
    "text is no text": (Row("assistant", None, None, 0.0, None, say(3)), "speech atom"),
    "unknown style": (Row("user", "x", "shout", 0.0), "registered style"),
    "style of another module": (Row("assistant", "x", "subtask", 0.0), "interjections makes"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_the_columns_cannot_hold_are_refused(root, staging, name):
    row, match = BAD_ROWS[name]
    modules = stage(staging, {0: 6, 2: 5})
    path = staging.path(2, "interjections")
    path.write_text(path.read_text() + json.dumps(row.__dict__) + "\n")
    text = refuses(RowError, match, root, staging, modules)
    if match != "exact timestamp":
        assert "line 4" in text and str(path) in text


def test_vqa_without_camera_is_refused(root, staging):
    staging.write(0, "vqa", [Row("user", "x", "vqa", 0.0)], key="k", facts={})
    refuses(RowError, "camera", root, staging, {0: ("vqa",)})


def test_missing_and_broken_staged_files_are_refused(root, staging):
    modules = stage(staging, {0: 6})
    staging.discard(0, "vqa")
    refuses(StagingError, "staged rows of vqa", root, staging, modules)
    staging.path(0, "vqa").write_text('{"role": \n')
    refuses(StagingError, "JSON lines", root, staging, modules)


def test_unknown_episodes_are_refused(root, staging):
    refuses(DatasetError, "annotated episodes", root, staging, stage(staging, {7: 6}))


def test_shards_that_are_no_shards_are_refused(root, staging):
    modules = stage(staging, {0: 6})
    path = root / SHARD.format(c=0, f=1)
    good = path.read_bytes()
    table = pq.read_table(path)
    for name in ("episode_index", "timestamp"):
        pq.write_table(table.drop_columns([name]), path)
        refuses(DatasetError, name, root, staging, modules)
    pq.write_table(table.set_column(3, "episode_index", pa.array(np.zeros(5, dtype=np.int64))), path)
    refuses(DatasetError, "episode 0 in one shard", root, staging, modules)
    pq.write_table(table.set_column(3, "episode_index", pa.array([2, 3, 2, 2, 2])), path)
    refuses(DatasetError, "side by side", root, staging, modules)
    path.write_bytes(good[: len(good) // 2])
    refuses(DatasetError, "readable parquet", root, staging, modules)
    path.write_bytes(good[:200] + b"\xff" * 200 + good[400:])
    refuses(DatasetError, "readable parquet", root, staging, modules)


def test_outputs_that_hold_something_else_are_refused(root, staging, tmp_path):
    modules = stage(staging, {0: 6})
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    refuses(CommitError, "new or empty output", root, staging, modules, output=other)
    assert (other / "thesis.tex").read_text() == "x"
    refuses(CommitError, "beside the dataset", root, staging, modules, output=root / "inside")
    refuses(CommitError, "beside the dataset", root, staging, modules, output=root.parent)


def test_the_rows_of_a_real_recording(tmp_path, staging):
    import shutil

    from tests.conftest import real_dataset

    root = Path(shutil.copytree(real_dataset("g1-bottle-v3"), tmp_path / "g1"))
    before = pq.read_table(root / SHARD.format(c=0, f=0))
    dataset = open_dataset(root)
    episodes = dataset.episodes()
    for episode in episodes[1:3]:
        for module, rows in sample_rows(episode.episode_index, 20).items():
            moved = [Row(**{**r.__dict__, "timestamp": episode.snap(r.timestamp)}) for r in rows]
            moved = [Row(**{**r.__dict__, "camera": r.camera and dataset.cameras[0]}) for r in moved]
            staging.write(episode.episode_index, module, moved, key="k", facts={})
    write(root, staging, {e.episode_index: MODULES for e in episodes[1:3]})
    after = pq.ParquetFile(root / SHARD.format(c=0, f=0))
    assert after.metadata.num_row_groups == len(episodes)
    assert after.read().select(before.column_names).equals(before)
    assert check_dataset(root).findings == []
