"""The rows of a whole dataset: what is read, where it is kept, and when it is read again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dataset.layout import open_dataset
from tasks.errors import DatasetError, SettingsError
from tasks.language import row_cache, row_file, row_store
from tasks.language.arrow import COLUMN_TYPES
from tasks.language.expression import Selector
from tasks.language.recent import Recent
from tasks.language.resolve import EpisodeTable
from tasks.language.row_file import nearest_frames
from tasks.language.row_store import RowStore, open_rows
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT, styles
from tests.language.plain import annotate, dataset, tiny_rows
from tests.tiny import SHARD, times

STATES = [Selector(style=s.name) for s in styles() if s.column == PERSISTENT]


def what(table: EpisodeTable, frames: int) -> tuple:
    """All that a table says."""
    events = [sorted(map(repr, table.events_at(frame))) for frame in range(frames)]
    return [table.track(selector) for selector in STATES], events, table.rephrasings


def everything(store: RowStore) -> list[tuple]:
    """All that a store says."""
    facts = []
    for i, episode in enumerate(store.episode_indices):
        columns = [c.tolist() for c in (store.timestamps(i), store.frame_indices(i), store.indices(i))]
        facts.append((episode, store.task(i), store.frames(i), columns, what(store.table(i), store.frames(i))))
    return facts


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Three episodes of 6, 4 and 5 frames in two shards; the last one has no rows."""
    return annotate(dataset(tmp_path / "data"), {0: tiny_rows(0, 6), 1: tiny_rows(1, 4)})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache folder."""
    return tmp_path / "cache"


def files(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "language").iterdir())


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening must not look into parquet."""

    def read(*_args, **_kwargs):
        raise AssertionError("the shards were read again")

    monkeypatch.setattr(row_file, "read_shard", read)
    monkeypatch.setattr(row_file, "open_parquet", read)
    monkeypatch.setattr("tasks.dataset.layout.read_episodes", read)


# --- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tabletop", "humanoid"])
def test_a_store_says_what_the_episodes_say_one_by_one(name, request, cache):
    annotated = request.getfixturevalue(name)
    store = open_rows(annotated.root, cache_dir=cache)
    assert len(store) == len(annotated.episodes) > 2
    for i, labelled in enumerate(annotated.episodes):
        episode = labelled.episode
        assert store.episode_indices[i] == episode.episode_index and store.task(i) == episode.task != ""
        assert store.frames(i) == episode.frames
        assert np.array_equal(store.timestamps(i), episode.timestamps) and store.timestamps(i).dtype == np.float32
        assert np.array_equal(store.frame_indices(i), episode.frame_indices)
        said = what(store.table(i), episode.frames)
        assert said == what(labelled.table, episode.frames)
        assert any(said[1]) and said[2]  # there are events and rephrasings
    shard = pq.read_table(open_dataset(annotated.root).data_files)
    indices = np.concatenate([store.indices(i) for i in range(len(store))])
    assert indices.tolist() == shard.sort_by([("episode_index", "ascending")])["index"].to_pylist()


def foreign_type(column: str) -> pa.ListType:
    """The columns as other writers make them: no camera, double time, calls as text, other names of list items."""
    text = pa.string()
    fields = [("role", text), ("content", text), ("style", text), ("tool_calls", pa.list_(text))]
    if column == PERSISTENT:
        fields.insert(3, ("timestamp", pa.float64()))
    return pa.list_(pa.struct(fields))


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("name", ["tabletop", "humanoid"])
def test_shards_packed_and_typed_by_other_writers_say_the_same(name, foreign, request, cache, tmp_path):
    annotated = request.getfixturevalue(name)
    root = Path(shutil.copytree(annotated.root, tmp_path / "packed"))
    for path in open_dataset(root).data_files:
        table = pq.read_table(path)
        for column in (PERSISTENT, EVENTS) if foreign else ():
            old = [
                [{**row, "tool_calls": row["tool_calls"] or []} for row in cell] for cell in table[column].to_pylist()
            ]
            if any(row["camera"] for cell in old for row in cell):
                continue  # a type without cameras could not hold these
            table = table.set_column(table.column_names.index(column), column, pa.array(old, foreign_type(column)))
        pq.write_table(table, path)
        assert pq.ParquetFile(path).num_row_groups == 1
    store, aligned = open_rows(root, cache_dir=cache), open_rows(annotated.root, cache_dir=cache)
    assert everything(store) == everything(aligned)
    record, wanted = store.episode(1), open_dataset(root).episodes()[1]
    assert (record.row_offset, record.row_group, record.data_path) == (wanted.row_offset, None, wanted.data_path)


def test_episodes_and_shards_without_rows_are_fine(tmp_path, cache):
    root = annotate(dataset(tmp_path / "data"), {0: tiny_rows(0, 6)}, only_shard=0)
    store = open_rows(root, cache_dir=cache)
    assert store.episode_indices == [0, 1, 2]
    assert what(store.table(0), 6)[1][3] and store.table(0).rephrasings == ("do 0 differently",)
    for i in (1, 2):
        assert what(store.table(i), store.frames(i)) == ([([], [])] * len(STATES), [[]] * store.frames(i), ())


def test_a_dataset_that_was_never_annotated_says_so(tmp_path, cache):
    with pytest.raises(DatasetError, match="annotate it first"):
        open_rows(dataset(tmp_path / "data"), cache_dir=cache)
    assert files(cache) == []


def test_no_such_folder_and_no_such_episode_are_clear_errors(tiny, tmp_path, cache):
    with pytest.raises(DatasetError, match="does not exist"):
        open_rows(tmp_path / "nowhere", cache_dir=cache)
    with pytest.raises(SettingsError, match="3 episodes, 0 to 2"):
        open_rows(tiny, cache_dir=cache).position(7)


def test_rows_between_frames_begin_at_the_nearest_frame(tmp_path, cache):
    t = times(6)
    between = [0.0, 0.149, 0.151, 0.25, 0.2501, 99.0]  # frames lie at 0.0, 0.1, … 0.5
    rows = [Row("assistant", f"at {time}", "subtask", time) for time in between]
    store = open_rows(annotate(dataset(tmp_path / "data", [[6]]), {0: rows}), cache_dir=cache)
    frames, groups = store.table(0).track(Selector(style="subtask"))
    assert frames == [0, 1, 2, 2, 3, 5]  # a tie goes to the earlier frame
    assert [group[0].content for group in groups] == [row.content for row in rows]
    exact = annotate(dataset(tmp_path / "exact", [[6]]), {0: [Row("assistant", "x", "subtask", t[3])]})
    assert open_rows(exact, cache_dir=cache).table(0).track(Selector(style="subtask"))[0] == [3]


def test_the_nearest_of_uneven_frames_is_found():
    rng = np.random.default_rng(0)
    for frames in (1, 2, 40):
        stamps = np.cumsum(rng.uniform(0.01, 0.2, frames)).astype(np.float32)
        asked = np.concatenate([rng.uniform(-1, 10, 200), stamps.astype(np.float64)])
        found = nearest_frames(asked, stamps)
        distance = np.abs(asked[:, None] - stamps.astype(np.float64)[None])
        assert found.tolist() == distance.argmin(axis=1).tolist()


def test_progress_is_told_of_every_episode(tiny, cache):
    told: list[tuple[int, int]] = []
    open_rows(tiny, cache_dir=cache, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_few_rows_are_held_and_all_can_be_had(tiny, cache, monkeypatch):
    monkeypatch.setattr(row_store, "ROWS_HELD_MAX", 12)
    store = open_rows(tiny, cache_dir=cache)
    monkeypatch.undo()
    many = open_rows(tiny, cache_dir=cache)
    for i in (0, 1, 2, 1, 0):
        assert what(store.table(i), store.frames(i)) == what(many.table(i), many.frames(i))
    assert many.table(0) is many.table(0)
    assert store._tables.weight <= 12 < many._tables.weight


def test_recent_keeps_what_was_used_last():
    made: list[str] = []

    def make(key: str) -> tuple[str, int]:
        made.append(key)
        return key.upper(), 100 if key == "huge" else 1

    recent: Recent[str, str] = Recent(3)
    assert [recent.get(key, make) for key in "abcab"] == list("ABCAB") and made == ["a", "b", "c"]
    recent.get("d", make)  # c was used longest ago
    recent.get("a", make)
    recent.get("c", make)
    assert made == ["a", "b", "c", "d", "c"] and recent.weight == len(recent) == 3
    assert recent.get("huge", make) == "HUGE" and len(recent) == 1
    recent.get("a", make)
    assert recent.weight == 1
    assert pickle.loads(pickle.dumps(recent)).weight_max == 3


def test_several_threads_may_ask(tiny, cache, monkeypatch):
    monkeypatch.setattr(row_store, "ROWS_HELD_MAX", 12)
    store = open_rows(tiny, cache_dir=cache)
    wanted = [what(store.table(i), store.frames(i)) for i in range(3)]
    wrong: list[int] = []

    def ask() -> None:
        for n in range(200):
            if what(store.table(n % 3), store.frames(n % 3)) != wanted[n % 3]:
                wrong.append(n)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and 0 < store._tables.weight <= 12


# --- where it is kept ----------------------------------------------------------------------------------------------


def test_the_second_opening_reads_no_parquet(tiny, cache, monkeypatch):
    first = everything(open_rows(tiny, cache_dir=cache))
    kept = files(cache)
    assert len(kept) == 1 and kept[0].endswith(".arrow")
    forbid_reading(monkeypatch)
    assert everything(open_rows(open_dataset(tiny), cache_dir=str(cache))) == first
    assert files(cache) == kept


def test_a_changed_dataset_is_read_again_and_its_old_file_goes(tiny, tmp_path, cache):
    other = shutil.copytree(tiny, tmp_path / "other")
    open_rows(other, cache_dir=cache)
    old = open_rows(tiny, cache_dir=cache)
    before, kept = everything(old), files(cache)
    path = tiny / SHARD.format(c=0, f=0)
    table = pq.read_table(path).drop_columns([PERSISTENT, EVENTS])
    pq.write_table(table, path)
    annotate(tiny, {0: [Row("assistant", "quite new", "subtask", 0.0)]}, only_shard=0)
    assert open_rows(tiny, cache_dir=cache).table(0).track(Selector(style="subtask"))[1][0][0].content == "quite new"
    assert len(files(cache)) == 2 and len(set(files(cache)) & set(kept)) == 1  # the other dataset's stays
    assert everything(old) == before  # who had it mapped still has


def test_changed_tasks_count_as_a_change(tiny, cache):
    assert open_rows(tiny, cache_dir=cache).task(0) == ""
    pq.write_table(pa.table({"task_index": [0], "task": ["Lift it."]}), tiny / "meta/tasks.parquet")
    assert open_rows(tiny, cache_dir=cache).task(0) == "Lift it."


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "no arrow"])
def test_a_damaged_file_is_made_again(tiny, cache, damage, caplog):
    wanted = everything(open_rows(tiny, cache_dir=cache))
    (name,) = files(cache)
    path = cache / "language" / name
    data = bytearray(path.read_bytes())
    at = data.index(b"I reached.")
    data[at] ^= 1
    damaged = {"truncated": data[: len(data) // 2], "empty": b"", "one byte": data, "no arrow": b"hello"}
    path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING, "tasks.language"):
        assert everything(open_rows(tiny, cache_dir=cache)) == wanted
    assert files(cache) == [name] and "made again" in caplog.text
    assert path.read_bytes() != damaged[damage]


def test_without_a_writable_folder_rows_are_held_in_memory(tiny, tmp_path, cache, caplog):
    wanted = everything(open_rows(tiny, cache_dir=cache))
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING, "tasks.language"):
        store = open_rows(tiny, cache_dir=blocked)
    assert everything(store) == wanted and "held in memory" in caplog.text
    assert everything(pickle.loads(pickle.dumps(store))) == wanted


def test_a_full_disk_leaves_nothing_behind(tiny, cache, monkeypatch, caplog):
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_cache.os, "fsync", full)
    with caplog.at_level(logging.WARNING, "tasks.language"):
        store = open_rows(tiny, cache_dir=cache)
    assert store.table(0).rephrasings and "No space left" in caplog.text and files(cache) == []


def test_what_a_killed_process_left_is_removed_after_a_day(tiny, cache):
    folder = cache / "language"
    folder.mkdir(parents=True)
    stem = row_cache.stem(open_dataset(tiny))
    for name, age_s in (("old", 2 * row_cache.ABANDONED_AFTER_S), ("young", 0)):
        (folder / f"{stem}-{name}.tmp").write_bytes(b"half")
        stamp = os.stat(folder / f"{stem}-{name}.tmp").st_mtime - age_s
        os.utime(folder / f"{stem}-{name}.tmp", (stamp, stamp))
    open_rows(tiny, cache_dir=cache)
    assert [n for n in files(cache) if n.endswith(".tmp")] == [f"{stem}-young.tmp"]


def test_the_cache_lies_where_the_environment_says(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CUEBOOK_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert row_cache.cache_folder() == tmp_path / "home/.cache/cuebook/language"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert row_cache.cache_folder() == tmp_path / "xdg/cuebook/language"
    monkeypatch.setenv("CUEBOOK_CACHE", str(tmp_path / "mine"))
    open_rows(tiny)
    assert len(list((tmp_path / "mine/language").glob("*.arrow"))) == 1


def _open_at_once(root: Path, cache: Path, start, results) -> None:  # type: ignore[no-untyped-def]
    start.wait()
    store = open_rows(root, cache_dir=cache)
    results.put(repr(everything(store)))


def test_processes_that_race_all_get_the_rows(tiny, cache):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(3), context.Queue()
    racers = [context.Process(target=_open_at_once, args=(tiny, cache, start, results)) for _ in range(3)]
    for racer in racers:
        racer.start()
    found = {results.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join()
    assert found == {repr(everything(open_rows(tiny, cache_dir=cache)))}
    assert len(files(cache)) == 1


# --- other processes -----------------------------------------------------------------------------------------------


def test_a_pickle_is_small_and_maps_the_same_file(tiny, cache, monkeypatch):
    store = open_rows(tiny, cache_dir=cache)
    wanted = everything(store)
    pickled = pickle.dumps(store)
    assert b"I reached." not in pickled
    forbid_reading(monkeypatch)
    assert everything(pickle.loads(pickled)) == wanted


def test_a_pickle_outlives_its_file_but_not_a_change_of_the_dataset(tiny, cache):
    store = open_rows(tiny, cache_dir=cache)
    wanted, pickled = everything(store), pickle.dumps(store)
    (cache / "language" / files(cache)[0]).unlink()
    assert everything(pickle.loads(pickled)) == wanted
    path = tiny / SHARD.format(c=0, f=1)
    os.utime(path, ns=(1, 1))
    open_rows(tiny, cache_dir=cache)  # removes the older file
    with pytest.raises(DatasetError, match="has changed since"):
        pickle.loads(pickled)


def test_types_are_those_that_are_written():
    assert COLUMN_TYPES[PERSISTENT] != foreign_type(PERSISTENT)  # else the foreign test above would test nothing
