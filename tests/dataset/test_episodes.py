"""Episode records: found by index whatever the order of files, and refused when the files disagree."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dataset.episode import Episode
from tasks.dataset.layout import open_dataset
from tasks.errors import DatasetError, SettingsError
from tests.dataset.media import CAMERA, TinyDataset


@pytest.fixture
def tiny(tmp_path: Path) -> TinyDataset:
    return TinyDataset(tmp_path / "set")


def listed(tiny: TinyDataset, **how: bool) -> list[Episode]:
    return open_dataset(tiny.write(**how)).episodes()


# --- what is found -------------------------------------------------------------------------------------------------


def test_records(tiny: TinyDataset) -> None:
    first, second, third = listed(tiny)
    assert [e.episode_index for e in (first, second, third)] == [0, 1, 2]
    assert [e.task for e in (first, second, third)] == ["open the box", "close the box", "open the box"]
    assert [(e.row_offset, e.row_group, e.frames) for e in (first, second, third)] == [(0, 0, 6), (6, 1, 8), (14, 2, 5)]
    assert second.timestamps.dtype == np.float32 and second.frame_indices.dtype == np.int64
    assert second.times == [float(np.float32(i / 10)) for i in range(8)]
    ref = second.videos[CAMERA]
    assert (ref.path, ref.from_s, ref.to_s, ref.width, ref.height) == (tiny.video, 0.6, 1.4, 96, 64)


def test_a_shard_packed_in_one_row_group(tiny: TinyDataset) -> None:
    assert [(e.row_offset, e.row_group) for e in listed(tiny, group_per_episode=False)] == [
        (0, None),
        (6, None),
        (14, None),
    ]


def test_metadata_rows_in_any_order(tiny: TinyDataset) -> None:
    order = [2, 0, 1]
    tiny.episodes = {k: [list(v)[i] for i in order] for k, v in tiny.episodes.items()}
    assert [(e.episode_index, e.videos[CAMERA].from_s, e.frames) for e in listed(tiny)] == [
        (0, 0.0, 6),
        (1, 0.6, 8),
        (2, 1.4, 5),
    ]


def test_indices_with_gaps_and_shards_out_of_order(tiny: TinyDataset) -> None:
    tiny.columns["episode_index"] = np.repeat([40, 7, 12], tiny.lengths)
    tiny.episodes["episode_index"] = [40, 7, 12]
    assert [(e.episode_index, e.row_offset) for e in listed(tiny)] == [(7, 6), (12, 14), (40, 0)]


def test_several_shards(tiny: TinyDataset) -> None:
    tiny.write()
    table = pq.read_table(tiny.shard)
    pq.write_table(table.slice(0, 6), tiny.shard)
    pq.write_table(table.slice(6), tiny.shard.with_name("file-001.parquet"))
    pq.write_table(pa.table({"note": ["no episodes here"]}), tiny.shard.with_name("file-002.parquet"))
    dataset = open_dataset(tiny.root)
    assert [p.name for p in dataset.data_files] == ["file-000.parquet", "file-001.parquet", "file-002.parquet"]
    places = [(e.data_path.name, e.row_offset, e.row_group) for e in dataset.episodes()]
    assert places == [("file-000.parquet", 0, 0), ("file-001.parquet", 0, None), ("file-001.parquet", 8, None)]


@pytest.mark.parametrize("group_per_episode", [True, False])
def test_only_some(tiny: TinyDataset, group_per_episode: bool) -> None:
    everything = {e.episode_index: e for e in listed(tiny, group_per_episode=group_per_episode)}
    some = open_dataset(tiny.root).episodes([2, 0, 2])
    assert [e.episode_index for e in some] == [0, 2]
    for e in some:
        whole = everything[e.episode_index]
        assert (e.row_offset, e.row_group, e.times, e.digest) == (
            whole.row_offset,
            whole.row_group,
            whole.times,
            whole.digest,
        )


def test_only_some_reads_around_damage_elsewhere(tiny: TinyDataset) -> None:
    tiny.columns["timestamp"][8] = np.nan
    tiny.write()
    assert [e.episode_index for e in open_dataset(tiny.root).episodes([0, 2])] == [0, 2]
    with pytest.raises(DatasetError, match="episode 1"):
        open_dataset(tiny.root).episodes()


def test_tasks_kept_in_an_unnamed_index(tiny: TinyDataset) -> None:
    tiny.tasks = pa.table(
        {"task_index": [0, 1], "__index_level_0__": pa.array(["open it", "close it"], pa.large_string())}
    )
    assert [e.task for e in listed(tiny)] == ["open it", "close it", "open it"]


def test_no_tasks_file_and_unknown_task(tiny: TinyDataset) -> None:
    tiny.tasks = pa.table({"task_index": [1], "task": ["close it"]})
    assert [e.task for e in listed(tiny)] == ["", "close it", ""]
    (tiny.root / "meta/tasks.parquet").unlink()
    assert [e.task for e in open_dataset(tiny.root).episodes()] == ["", "", ""]


def test_the_task_is_that_of_the_first_row(tiny: TinyDataset) -> None:
    tiny.columns["task_index"] = np.arange(19) % 2
    assert [e.task for e in listed(tiny)] == ["open the box", "open the box", "open the box"]
    tiny.columns["task_index"] = 1 - np.arange(19) % 2
    assert {e.task for e in listed(tiny)} == {"close the box"}


def test_columns_that_older_sets_lack(tiny: TinyDataset) -> None:
    del tiny.columns["frame_index"], tiny.columns["task_index"], tiny.episodes["length"]
    episodes = listed(tiny)
    assert [e.frame_indices.tolist() for e in episodes] == [list(range(6)), list(range(8)), list(range(5))]
    assert [e.task for e in episodes] == ["", "", ""]


def test_scalars_wrapped_in_lists_of_one(tiny: TinyDataset) -> None:
    tiny.columns["timestamp"] = pa.array([[float(t)] for t in tiny.columns["timestamp"]], pa.list_(pa.float32()))
    assert listed(tiny)[1].times == [float(np.float32(i / 10)) for i in range(8)]


def test_an_episode_recorded_without_one_camera(tiny: TinyDataset) -> None:
    for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
        values = list(tiny.episodes[f"videos/{CAMERA}/{name}"])
        tiny.episodes[f"videos/{CAMERA}/{name}"] = [values[0], None, values[2]]
    assert [list(e.videos) for e in listed(tiny)] == [[CAMERA], [], [CAMERA]]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.1, -3.0])
def test_timestamps_must_increase(tiny: TinyDataset, bad: float) -> None:
    tiny.columns["timestamp"][9] = bad  # frame 3 of episode 1
    with pytest.raises(DatasetError, match=r"increasing timestamps in episode 1[\s\S]*at frame 3[\s\S]*row 9"):
        listed(tiny)


def test_no_timestamps_at_all(tiny: TinyDataset) -> None:
    del tiny.columns["timestamp"]
    with pytest.raises(DatasetError, match=r"episode 0[\s\S]*0\.0 after 0\.0 at frame 1"):
        listed(tiny)


def test_an_episode_in_two_pieces(tiny: TinyDataset) -> None:
    tiny.columns["episode_index"][-1] = 0
    with pytest.raises(DatasetError, match=r"rows of episode 0 in one piece[\s\S]*rows from 0 [\s\S]*rows from 18 "):
        listed(tiny)


@pytest.mark.parametrize("only", [None, [1]])
def test_an_episode_split_over_two_shards(tiny: TinyDataset, only: list[int] | None) -> None:
    tiny.write()
    table = pq.read_table(tiny.shard)
    pq.write_table(table.slice(0, 10), tiny.shard)
    pq.write_table(table.slice(10), tiny.shard.with_name("file-001.parquet"))
    with pytest.raises(DatasetError, match=r"episode 1 in one piece[\s\S]*file-000[\s\S]*file-001"):
        open_dataset(tiny.root).episodes(only)


def test_lengths_that_disagree(tiny: TinyDataset) -> None:
    tiny.episodes["length"] = [6, 9, 5]
    with pytest.raises(DatasetError, match=r"episode 1[\s\S]*length 9[\s\S]*8 rows"):
        listed(tiny)


def test_rows_without_metadata(tiny: TinyDataset) -> None:
    tiny.episodes = {k: list(v)[:2] for k, v in tiny.episodes.items()}
    with pytest.raises(DatasetError, match="nothing of episode 2"):
        listed(tiny)


def test_metadata_without_rows(tiny: TinyDataset) -> None:
    tiny.write()
    pq.write_table(pq.read_table(tiny.shard).slice(0, 14), tiny.shard)
    with pytest.raises(DatasetError, match="none of episode 2"):
        open_dataset(tiny.root).episodes()


def test_metadata_twice(tiny: TinyDataset) -> None:
    tiny.episodes["episode_index"] = [0, 1, 1]
    with pytest.raises(DatasetError, match="episode 1 twice"):
        listed(tiny)


def test_no_place_of_a_camera(tiny: TinyDataset) -> None:
    del tiny.episodes[f"videos/{CAMERA}/from_timestamp"]
    with pytest.raises(DatasetError, match=f"want column videos/{CAMERA}/from_timestamp"):
        listed(tiny)


def test_an_empty_video_range(tiny: TinyDataset) -> None:
    tiny.episodes[f"videos/{CAMERA}/to_timestamp"][1] = 0.6
    with pytest.raises(DatasetError, match=f"video range for camera {CAMERA} of episode 1"):
        listed(tiny)


def test_a_video_path_that_cannot_be_filled(tiny: TinyDataset) -> None:
    tiny.info["video_path"] = "videos/{video_key}/{episode_chunk}.mp4"
    with pytest.raises(DatasetError, match="want a video_path"):
        listed(tiny)


def test_zero_episodes(tiny: TinyDataset) -> None:
    tiny.write()
    metadata = tiny.root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(metadata).slice(0, 0), metadata)
    with pytest.raises(DatasetError, match="want at least one episode"):
        open_dataset(tiny.root).episodes()
    metadata.unlink()
    with pytest.raises(DatasetError, match="want at least one episode"):
        open_dataset(tiny.root).episodes()


def test_no_data_files(tiny: TinyDataset) -> None:
    tiny.write()
    tiny.shard.unlink()
    with pytest.raises(DatasetError, match="want data shards"):
        open_dataset(tiny.root).episodes()


@pytest.mark.parametrize("name", ["data/chunk-000/file-000", "meta/episodes/chunk-000/file-000", "meta/tasks"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_corrupt_parquet(tiny: TinyDataset, name: str, damage: str) -> None:
    path = tiny.write() / f"{name}.parquet"
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "noise": bytes(len(data)), "empty": b""}[damage])
    with pytest.raises(DatasetError, match=rf"readable parquet file: \S+{path.name}"):
        open_dataset(tiny.root).episodes()


def test_corrupt_pages(tiny: TinyDataset) -> None:
    """The footer is whole, the rows are not."""
    path = tiny.write() / "data/chunk-000/file-000.parquet"
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="readable parquet file"):
        open_dataset(tiny.root).episodes()


@pytest.mark.parametrize(("only", "named"), [([3], "3"), ([0, 99, -1], "-1, 99"), ([], "empty list")])
def test_unknown_episodes(tiny: TinyDataset, only: list[int], named: str) -> None:
    tiny.write()
    with pytest.raises(SettingsError, match=rf"only_episodes[\s\S]*{named}"):
        open_dataset(tiny.root).episodes(only)


# --- digests -------------------------------------------------------------------------------------------------------


def digests(root: Path) -> list[str]:
    return [e.digest for e in open_dataset(root).episodes()]


def test_a_rewrite_with_language_columns_keeps_the_digest(tiny: TinyDataset) -> None:
    before = digests(tiny.write(group_per_episode=False, video=True))
    assert len(set(before)) == 3
    table = pq.read_table(tiny.shard).append_column("language_persistent", pa.array([["row"]] * 19))
    with pq.ParquetWriter(tiny.shard, table.schema, compression="zstd") as writer:
        for start, rows in ((0, 6), (6, 8), (14, 5)):
            writer.write_table(table.slice(start, rows))
    assert digests(tiny.root) == before


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda t: t.columns["timestamp"].__setitem__(13, 0.75), [1]),
        (lambda t: t.columns["observation.state"].__setitem__(2, np.array([9, 9], np.float32)), [0]),
        (lambda t: t.columns["action"].__setitem__(18, np.array([9, 9], np.float32)), [2]),
        (lambda t: t.columns["frame_index"].__setitem__(18, 5), [2]),
        (lambda t: setattr(t, "tasks", pa.table({"task_index": [0, 1], "task": ["open the box", "shut it"]})), [1]),
        (lambda t: t.episodes[f"videos/{CAMERA}/from_timestamp"].__setitem__(1, 0.5), [1]),
        (lambda t: t.columns.pop("action"), [0, 1, 2]),
    ],
)
def test_what_changes_the_digest(tiny: TinyDataset, change, changed: list[int]) -> None:  # type: ignore[no-untyped-def]
    before = digests(tiny.write())
    change(tiny)
    after = digests(tiny.write())
    assert [i for i in range(3) if before[i] != after[i]] == changed


def test_the_video_file_counts(tiny: TinyDataset) -> None:
    before = digests(tiny.write(video=True))
    stat = tiny.video.stat()
    os.utime(tiny.video, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    after = digests(tiny.root)
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_a_dataset_that_was_moved_keeps_its_digests(tiny: TinyDataset) -> None:
    before = digests(tiny.write(video=True))
    assert digests(tiny.root.rename(tiny.root.with_name("moved"))) == before


# --- nearest frame -------------------------------------------------------------------------------------------------


@given(
    # milliseconds: frames are not closer than that, and the distances to a far time still differ in float64
    st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True).map(
        lambda ms: [i / 1000 for i in sorted(ms)]
    ),
    st.floats(-10, 1010),
    st.integers(0, 28),
)
def test_nearest_agrees_with_a_search_of_all_frames(times: list[float], t: float, pair: int) -> None:
    stamps = np.array(times, np.float32)
    episode = Episode(0, "", stamps, np.arange(len(times)), Path("x"), 0, None, 10.0)
    middle = sum(episode.times[pair : pair + 2]) / 2 if pair + 1 < len(times) else t
    for query in (t, middle, *episode.times):
        best = min(range(len(times)), key=lambda i: (abs(episode.times[i] - query), i))
        assert episode.nearest(query) == best
        assert episode.snap(query) == episode.times[best]
