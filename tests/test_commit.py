"""The commit: all or nothing, whatever happens in between, on every kind of folder."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.check import check_dataset
from tasks.dataset import commit as commit_module
from tasks.dataset import journal
from tasks.dataset.commit import check_writable, recover, remove_sibling, sibling
from tasks.dataset.files import STAGING_NAME, exchange
from tasks.dataset.layout import open_dataset
from tasks.dataset.lock import held_lock, lock_dataset
from tasks.dataset.row_groups import RowGroupFile
from tasks.errors import CommitError, DatasetBusyError, RowError
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, MODULES
from tasks.staging import Staging
from tasks.write import write_dataset
from tests.tiny import CAMERA, SHARD, column, make_dataset, stage, tree

LENGTHS = {0: 6, 1: 4, 2: 5}
VIDEO = f"videos/{CAMERA}/chunk-000/file-000.mp4"
KILLS = 8
CHILD = """
import sys
from pathlib import Path
from tasks.dataset.layout import open_dataset
from tasks.dataset.lock import lock_dataset
from tasks.language.styles import MODULES
from tasks.staging import Staging
from tasks.write import write_dataset

root, staged, output = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] or None
episodes = len(list(staged.iterdir()))
dataset = open_dataset(root)
print("ready", flush=True)
sys.stdin.readline()
with lock_dataset(Path(output) if output else root):
    write_dataset(dataset, Staging(staged), dict.fromkeys(range(episodes), MODULES),
                  output=Path(output) if output else None, provenance={}, drop_subtask_index=True)
print("done", flush=True)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small dataset with staged rows inside."""
    root = make_dataset(tmp_path / "data")
    stage(Staging(root / STAGING_NAME), LENGTHS)
    return root


def write(root: Path, output: Path | None = None, staging: Path | None = None):
    """Write all episodes."""
    return write_dataset(
        open_dataset(root),
        Staging(staging or root / STAGING_NAME),
        dict.fromkeys(LENGTHS, MODULES),
        output=output,
        provenance={},
        drop_subtask_index=True,
    )


def leftovers(root: Path) -> list[str]:
    """What commits leave beside or inside a dataset when they are not cleaned up."""
    beside = [p.name for p in root.parent.iterdir() if "cuebook" in p.name]
    return beside + [p.name for p in root.iterdir() if "cuebook" in p.name]


@contextmanager
def mounted(path: Path, size: str = "64m", *options: str) -> Iterator[Path]:
    """A file system of its own, or skip where this user cannot mount."""
    path.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", path], capture_output=True
    )
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_the_folder_is_swapped_and_untouched_files_are_shared(root):
    shards = [root / SHARD.format(c=0, f=f) for f in (0, 1)]
    os.chmod(shards[0], 0o640)
    os.chmod(root / "data", 0o750)
    os.utime(root / VIDEO, (1e9, 1e9))
    folder, video = root.stat().st_ino, (root / VIDEO).stat()
    assert write(root).path == root
    assert root.stat().st_ino != folder
    now = (root / VIDEO).stat()
    assert (now.st_ino, now.st_mtime) == (video.st_ino, 1e9)
    assert shards[0].stat().st_mode & 0o777 == 0o640 and (root / "data").stat().st_mode & 0o777 == 0o750
    assert leftovers(root) == [] and check_dataset(root).ok
    assert Staging(root / STAGING_NAME).rows(0, "plan")


def test_links_stay_links_and_what_they_point_to_stays_as_it_is(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move(root / "data", outside / "data")
    shutil.move(root / VIDEO, outside / "video.mp4")
    (root / "data").symlink_to(outside / "data")
    (root / VIDEO).symlink_to("../../../../outside/video.mp4")
    (root / "dangling").symlink_to("nowhere")
    before = tree(outside)
    write(root)
    assert tree(outside) == before
    assert (root / VIDEO).is_symlink() and (root / VIDEO).read_bytes() and os.readlink(root / "dangling") == "nowhere"
    assert not (root / "data").is_symlink() and check_dataset(root).ok


def test_unchanged_shards_behind_a_linked_folder_are_linked(root, tmp_path):
    write(root)
    shutil.move(root / "data", tmp_path / "elsewhere")
    (root / "data").symlink_to(tmp_path / "elsewhere")
    write_dataset(
        open_dataset(root),
        Staging(root / STAGING_NAME),
        {2: MODULES},
        output=None,
        provenance={},
        drop_subtask_index=True,
    )
    assert (root / SHARD.format(c=0, f=0)).is_symlink() and not (root / SHARD.format(c=0, f=1)).is_symlink()
    assert check_dataset(root).ok


def test_a_dataset_reached_through_a_link(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    write(tmp_path / "alias")
    assert (tmp_path / "alias").is_symlink() and check_dataset(root).ok and leftovers(root) == []


def hub_cache(root: Path, tmp_path: Path) -> Path:
    """The dataset as a hub cache holds it: links into a folder of blobs."""
    cache = tmp_path / "datasets--me--mine"
    snapshot = cache / "snapshots" / "abc"
    shutil.copytree(root, snapshot, ignore=shutil.ignore_patterns(STAGING_NAME))
    (cache / "blobs").mkdir()
    for i, path in enumerate(sorted(p for p in snapshot.rglob("*") if p.is_file())):
        blob = cache / "blobs" / f"{i:040x}"
        shutil.move(path, blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    return snapshot


def test_a_hub_cache_is_never_written_nor_shared(root, tmp_path):
    snapshot = hub_cache(root, tmp_path)
    before = tree(tmp_path / "datasets--me--mine")
    with pytest.raises(CommitError, match="outside the hub cache"):
        check_writable(snapshot, None)
    with pytest.raises(CommitError, match="outside the hub cache"):
        write(snapshot, staging=root / STAGING_NAME)
    output = tmp_path / "out"
    write(snapshot, output, root / STAGING_NAME)
    assert tree(tmp_path / "datasets--me--mine") == before
    for path in output.rglob("*"):
        assert not path.is_symlink() and (path.is_dir() or path.stat().st_nlink == 1)
    assert check_dataset(output).ok


def test_an_output_on_another_disk_is_copied(root, tmp_path):
    with mounted(tmp_path / "disk") as disk:
        write(root, disk / "out")
        assert (disk / "out" / VIDEO).read_bytes() == (root / VIDEO).read_bytes()
        assert check_dataset(disk / "out").ok and leftovers(disk / "out") == []


def test_staged_rows_of_an_output_stay_with_it(root, tmp_path):
    output = tmp_path / "out"
    stage(Staging(output / STAGING_NAME), LENGTHS)
    for _ in range(2):
        write(root, output, output / STAGING_NAME)
        assert Staging(output / STAGING_NAME).receipt(0, "plan") and check_dataset(output).ok
        assert leftovers(output) == []


# What kind of commit: a plain folder (exchange), a mount point (journal), a new folder (rename).
@pytest.fixture(params=["exchange", "journal", "output"])
def place(request, tmp_path):
    """(dataset, output or None) where that kind of commit happens; staging lies outside."""
    lengths = [40] * 60
    with mounted(tmp_path / "data") if request.param == "journal" else _plain(tmp_path / "data") as root:
        make_dataset(root, [lengths[:30], lengths[30:]])
        stage(Staging(tmp_path / "staged"), dict(enumerate(lengths)))
        yield root, (tmp_path / "out" if request.param == "output" else None), tmp_path / "staged"


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    yield path


def start(root: Path, staged: Path, output: Path | None) -> subprocess.Popen:
    """A process that waits for a line, then writes the dataset."""
    argv = [sys.executable, "-c", CHILD, str(root), str(staged), str(output or "")]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert child.stdout.readline() == b"ready\n"
    return child


def test_a_kill_at_any_instant_leaves_the_old_or_the_new_dataset(place, tmp_path):
    root, output, staged = place
    target = output or root
    shutil.copytree(root, tmp_path / "original")
    old = tree(root) if output is None else {}
    child = start(root, staged, output)
    began = time.perf_counter()
    child.communicate(b"\n")
    span_s = time.perf_counter() - began
    new = tree(target)
    assert child.returncode == 0 and old != new
    seen = set()
    rng = random.Random(7)
    for i in range(KILLS):
        _restore(target, tmp_path / "original" if output is None else None)
        child = start(root, staged, output)
        child.stdin.write(b"\n")
        child.stdin.flush()
        time.sleep(span_s * (i + rng.random()) / KILLS)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if not journal_stands(target):  # readers of a folder that cannot be swapped wait for the next run
            assert tree_of(target) in (old, new)
        target.mkdir(exist_ok=True)
        recover(target)
        assert tree(target) in (old, new) and leftovers(target) == []
        seen.add(tree(target) == new)
    assert seen  # both outcomes are likely, neither is promised


def journal_stands(target: Path) -> bool:
    """Whether a committed journal waits to be finished."""
    return (target / journal.TXN_NAME / journal.JOURNAL_NAME).exists()


def tree_of(target: Path) -> dict[str, str]:
    """The dataset's files; an unfinished transaction inside is none of them."""
    return {k: v for k, v in tree(target).items() if not k.startswith(journal.TXN_NAME)}


def _restore(target: Path, original: Path | None) -> None:
    for path in target.iterdir() if target.exists() else []:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if original:
        shutil.copytree(original, target, dirs_exist_ok=True)
    elif target.exists():
        target.rmdir()


@pytest.mark.parametrize("kind", ["exchange", "journal"])
def test_a_commit_stopped_at_every_step_is_finished_or_undone(root, tmp_path, monkeypatch, kind):
    """Every rename, exchange, link and removal of a commit in turn is the last thing that happens."""
    if kind == "journal":
        monkeypatch.setattr(commit_module, "_may_swap", lambda target: False)
    staged = tmp_path / "staged"
    shutil.move(root / STAGING_NAME, staged)
    shutil.copytree(root, tmp_path / "original")
    old = tree(root)
    write(root, staging=staged)
    new = tree(root)
    outcomes = []
    for step in range(1000):
        _restore(root, tmp_path / "original")
        with monkeypatch.context() as patch:
            died = _die_at(patch, step)
            with suppress(_Died):
                write(root, staging=staged)
            if not died:
                break
        if kind == "exchange":
            assert tree(root) in (old, new)
        recover(root)
        assert tree(root) in (old, new) and leftovers(root) == []
        outcomes.append(tree(root) == new)
    assert True in outcomes and False in outcomes and outcomes == sorted(outcomes)  # once new, it stays new


class _Died(BaseException):
    """Stands for the end of the process: nothing runs after it, no clean-up either."""


def _die_at(patch: pytest.MonkeyPatch, step: int) -> list[int]:
    """After `step` more changes to the disk, every further one raises: as if the process were gone."""
    count = [0]
    died: list[int] = []

    def limited(real):
        def call(*args, **kwargs):
            if count[0] >= step:
                died.append(step)
                raise _Died
            count[0] += 1
            return real(*args, **kwargs)

        return call

    for module, name in [
        (os, "replace"),
        (os, "rename"),
        (os, "link"),
        (os, "mkdir"),
        (os, "unlink"),
        (os, "rmdir"),
        (shutil, "rmtree"),
        (commit_module, "exchange"),
        (commit_module, "write_synced"),
        (journal, "write_synced"),
    ]:
        patch.setattr(module, name, limited(getattr(module, name)))
    return died


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EBUSY])
def test_without_exchange_the_journal_takes_over(root, tmp_path, monkeypatch, code):
    def refuse(a, b):
        raise OSError(code, os.strerror(code))

    expected = tmp_path / "expected"
    shutil.copytree(root, expected)
    write(expected)
    monkeypatch.setattr(commit_module, "exchange", refuse)
    write(root)
    assert tree(root) == tree(expected) and leftovers(root) == [] and Staging(root / STAGING_NAME).rows(0, "vqa")
    write(root, tmp_path / "fresh")
    with pytest.raises(CommitError, match="cannot do"):
        write(root, tmp_path / "fresh")
    assert check_dataset(tmp_path / "fresh").ok and leftovers(tmp_path / "fresh") == []


def test_without_links_the_journal_takes_over(root, monkeypatch):
    def refuse(a, b):
        raise OSError(errno.EPERM, "no links here")

    folder = root.stat().st_ino
    monkeypatch.setattr(os, "link", refuse)
    write(root)
    assert root.stat().st_ino == folder and leftovers(root) == [] and check_dataset(root).ok


@pytest.mark.parametrize("kind", ["folder", "mount point"])
def test_a_full_disk_changes_nothing(tmp_path, kind):
    with mounted(tmp_path / "disk", "1m") as disk:
        root = disk if kind == "mount point" else disk / "data"
        make_dataset(root, [[2000, 2000]])
        stage(Staging(tmp_path / "staged"), {0: 2000, 1: 2000})
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
            while True:
                file.write(b"\0" * 4096)
        os.truncate(filler, filler.stat().st_size - 16384)
        before = tree(root)
        with pytest.raises(CommitError, match="new dataset") as caught:
            write_dataset(
                open_dataset(root),
                Staging(tmp_path / "staged"),
                dict.fromkeys((0, 1), MODULES),
                output=None,
                provenance={},
                drop_subtask_index=True,
            )
        assert "free some space" in str(caught.value)
        assert tree(root) == before and leftovers(root) == []


def test_a_read_only_disk_is_refused_before_any_work(root, tmp_path):
    with mounted(tmp_path / "disk") as disk:
        shutil.copytree(root, disk / "data")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(CommitError, match="want to write") as caught:
            check_writable(disk / "data", None)
        assert "read-only" in str(caught.value) and "--output" in str(caught.value)
        with pytest.raises(CommitError, match="read-only"):
            check_writable(root, disk / "out")
        with lock_dataset(disk / "data"):
            write(disk / "data", tmp_path / "out")
        assert check_dataset(tmp_path / "out").ok


def test_folders_without_permission_are_refused(root, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "meta")
    with pytest.raises(CommitError, match="no permission"):
        check_writable(root, None)


def test_errors_of_the_body_undo_everything(root, monkeypatch):
    before = tree(root)
    Staging(root / STAGING_NAME).write(1, "vqa", [Row("user", "x", "vqa", 0.01, CAMERA)], key="k", facts={})
    with pytest.raises(RowError):
        write(root)
    assert tree(root) == before and leftovers(root) == [] and Staging(root / STAGING_NAME).rows(0, "plan")


@pytest.mark.parametrize("damage", ["short", "frames missing", "pages damaged"])
def test_a_new_shard_that_is_not_whole_is_never_put_in_place(root, monkeypatch, damage):
    before = tree(root)
    close, add = RowGroupFile.close, RowGroupFile.add

    def short(file):
        close(file)
        os.truncate(file.path, file.path.stat().st_size - 20)

    def damaged(file, chunks, rows):
        add(file, [*chunks[:-1], replace(chunks[-1], pages=[bytes(chunks[-1].packed_bytes)])], rows)

    if damage == "short":
        monkeypatch.setattr(RowGroupFile, "close", short)
    elif damage == "pages damaged":
        monkeypatch.setattr(RowGroupFile, "add", damaged)
    else:
        monkeypatch.setattr(
            RowGroupFile, "add", lambda file, chunks, rows: add(file, chunks, rows) if rows != 4 else None
        )
    with pytest.raises(CommitError, match="new shard"):
        write(root)
    assert tree(root) == before and leftovers(root) == []


def test_recovery_keeps_staged_rows_wherever_the_kill_left_them(root):
    staged = Staging(root / STAGING_NAME).rows(0, "plan")
    sibling(root).mkdir()
    shutil.move(root / STAGING_NAME, sibling(root) / STAGING_NAME)  # killed after the exchange, before the move
    recover(root)
    assert Staging(root / STAGING_NAME).rows(0, "plan") == staged and leftovers(root) == []
    shutil.copytree(root, sibling(root))
    remove_sibling(root)
    assert Staging(root / STAGING_NAME).rows(0, "plan") == staged


def test_exchange_swaps_two_folders(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "a", tmp_path / "b")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    with pytest.raises(OSError, match="No such file"):
        exchange(tmp_path / "a", tmp_path / "c")


HOLDER = "import sys; from tasks.dataset.lock import lock_dataset; from pathlib import Path\n"
HOLDER += "with lock_dataset(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.readline()"


def test_a_second_run_is_refused_with_the_pid_of_the_first(root):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert child.stdout.readline() == b"held\n"
    before = tree(root)
    with pytest.raises(DatasetBusyError, match="lock") as caught, lock_dataset(root):
        pytest.fail("two locks at once")
    assert f"process {child.pid}" in str(caught.value)
    with pytest.raises(DatasetBusyError):
        write(root)
    assert tree(root) == before
    child.communicate(b"\n")
    with lock_dataset(root):
        write(root)


def test_two_runs_in_one_process_exclude_each_other(root):
    with lock_dataset(root), pytest.raises(DatasetBusyError), lock_dataset(root):
        pytest.fail("two locks at once")
    assert held_lock(root) is None


def test_the_lock_moves_to_the_new_folder(root):
    with lock_dataset(root):
        write(root)
        probe = [sys.executable, "-c", HOLDER, str(root)]
        done = subprocess.run(probe, input=b"\n", capture_output=True, cwd=Path(__file__).parents[1], check=False)
        assert done.returncode != 0 and f"process {os.getpid()}".encode() in done.stderr
    with lock_dataset(root):
        assert len(column(root, EVENTS)) == 10


def test_a_lock_on_a_new_output_leaves_nothing_when_nothing_was_written(tmp_path):
    with lock_dataset(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()
    assert not (tmp_path / "out").exists()
    with pytest.raises(CommitError, match="want to make"), lock_dataset(Path("/proc/none/out")):
        pytest.fail("made a folder in /proc")


def test_two_writers_at_once_give_one_result(place):
    root, output, staged = place
    children = [start(root, staged, output) for _ in range(2)]
    for child in children:
        child.stdin.write(b"\n")
        child.stdin.flush()
    codes = sorted(child.wait() for child in children)
    for child in children:
        child.communicate()
    assert codes in ([0, 0], [0, 1])  # the second waits for nobody: it is refused, or comes after the first
    assert check_dataset(output or root).findings == [] and leftovers(output or root) == []
