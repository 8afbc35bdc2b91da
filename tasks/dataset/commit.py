"""A dataset replaced as a whole: the new one is built beside it and swapped in, or nothing happens.

The new dataset is the sibling folder `.<name>.cuebook-new`. It shares every unchanged file with the old one by hard
link, and takes its place in one atomic exchange of the two folders. Where that cannot be (a mount point, a parent that
may not be written, a file system without exchange), the changed files go through a journal instead.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tasks.dataset import journal
from tasks.dataset.files import (
    STAGING_NAME,
    copy_file,
    exchange,
    like,
    make_parents,
    sync_file,
    sync_folder,
    write_synced,
)
from tasks.dataset.hub import in_hub_cache
from tasks.dataset.lock import DatasetLock, held_lock, lock_dataset
from tasks.errors import CommitError

log = logging.getLogger(__name__)

OWN_MARK = Path("meta/cuebook.json")  # what tells a folder that we made from any other
NOT_CLONED = frozenset({STAGING_NAME, journal.TXN_NAME})
NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
NO_EXCHANGE = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EBUSY, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES}
)
REMEDIES = {
    errno.ENOSPC: "free some space on that disk; staged rows are kept, so the next run only writes",
    errno.EDQUOT: "free some of your quota; staged rows are kept, so the next run only writes",
    errno.EROFS: "write a new dataset with --output on a disk that can be written",
    errno.EACCES: "ask for write permission, or write a new dataset with --output",
    errno.EPERM: "ask for write permission, or write a new dataset with --output",
}


class Transaction:
    """A new dataset in the making. `path` and `write` lay down new files, `commit` puts all in place."""

    def __init__(self, source: Path, target: Path, lock: DatasetLock, replaced: Collection[Path]) -> None:
        self.source, self.target, self.lock = source, target, lock
        self.replaced = sorted(replaced)
        self.build = sibling(target)
        self.journalled = False
        self.committed = False

    def path(self, file: Path) -> Path:
        """Where to write a replaced file (a path inside the dataset)."""
        path = self.build / file
        make_parents(path)
        return path

    def write(self, file: Path, data: bytes) -> None:
        """Lay down a small file."""
        write_synced(self.path(file), data)

    def sync(self, path: Path) -> None:
        """Wait until a file that was written is on the disk."""
        sync_file(path)

    def prepare(self) -> None:
        """Make the sibling with all unchanged files, or choose the journal where that cannot be."""
        in_place = self.source == self.target
        if in_place and not _may_swap(self.target):
            return self._use_journal()
        try:
            self.build.mkdir(parents=not in_place)
            _clone(self.source, self.build, frozenset(self.replaced), copy=not in_place)
        except OSError as err:
            if not in_place or err.errno not in NO_LINKS:
                raise
            remove_sibling(self.target)
            self._use_journal()

    def commit(self) -> Path:
        """Put the new dataset in place; return its path. Raises OSError or CommitError with the old one untouched."""
        for file in self.replaced:
            like(self.source / file, self.build / file)
        if self.journalled:
            journal.commit_journal(self.target, self.replaced)
            self.committed = True
            return self.target
        _finish_folders(self.source, self.build)
        self.lock.adopt(self.build)
        self._swap()
        return self.target

    def abort(self) -> None:
        """Forget the new dataset."""
        if self.journalled:
            journal.recover_journal(self.target)  # a journal that stands is committed, whatever failed after it
        else:
            remove_sibling(self.target)

    def _use_journal(self) -> None:
        journal.check_one_file_system(self.target, self.replaced)
        self.journalled = True
        self.build = journal.new_files(self.target)
        self.build.mkdir(parents=True)

    def _swap(self) -> None:
        try:
            exchange(self.build, self.target)
        except OSError as err:
            if err.errno not in NO_EXCHANGE:
                raise
            return self._swap_without_exchange(err)
        self.committed = True
        sync_folder(self.target.parent)
        _tidy(lambda: remove_sibling(self.target), self.target)  # now the old dataset

    def _swap_without_exchange(self, err: OSError) -> None:
        if self.source == self.target:
            built = self.build
            self._use_journal()
            for file in self.replaced:
                shutil.move(built / file, self.path(file))
            journal.commit_journal(self.target, self.replaced)
            self.committed = True
            _tidy(lambda: remove_sibling(self.target), self.target)
            return
        names = {p.name for p in self.target.iterdir()}
        if names - {STAGING_NAME}:
            raise CommitError(
                f"want to swap {self.target} for the new dataset, which this file system cannot do",
                err.strerror,
                "delete the earlier result, or choose another --output",
            ) from err
        if names:  # a folder can be renamed over an empty one only
            os.rename(self.target / STAGING_NAME, self.build / STAGING_NAME)
        os.rename(self.build, self.target)
        self.committed = True
        sync_folder(self.target.parent)


@contextmanager
def begin(root: Path, output: Path | None, replaced: Collection[Path]) -> Iterator[Transaction]:
    """A transaction on the dataset at `root`, or on the new one at `output`; undone unless it is committed.

    `replaced` are the files (inside the dataset) that the body will write. Errors of the disk become CommitError.
    """
    source = root.resolve()
    target = source if output is None else output.resolve()
    check_writable(source, output)
    held = held_lock(target)
    with nullcontext(held) if held else lock_dataset(target) as lock:
        transaction = Transaction(source, target, lock, replaced)
        try:
            recover(target)
            transaction.prepare()
            yield transaction
        except OSError as err:
            raise _commit_error(target, err) from err
        finally:
            if not transaction.committed:
                _tidy(transaction.abort, target)


def recover(root: Path) -> None:
    """Remove what a killed run left of its unfinished work, and finish what it had committed. Hold the lock."""
    target = root.resolve()
    if sibling(target).exists():
        log.warning("removing what a killed run left: %s", sibling(target))
        remove_sibling(target)
    journal.recover_journal(target)


def check_writable(root: Path, output: Path | None) -> None:
    """Raise CommitError when the run could not be written in the end, before any work is done."""
    source = root.resolve()
    if output is None or output.resolve() == source:
        if in_hub_cache(source):
            raise CommitError("want a dataset outside the hub cache", str(source), "say --output=FOLDER")
        for folder in (source, source / "meta", source / "data"):
            _check_access(folder)
        return
    target = output.resolve()
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise CommitError(
            "want an output folder beside the dataset", f"{target} and {source}", "choose another --output"
        )
    if target.exists():
        _check_replaceable(target)
    _check_access(next(p for p in (target.parent, *target.parent.parents) if p.exists()))


def sibling(target: Path) -> Path:
    """Where the new dataset is built."""
    return target.with_name(f".{target.name}.cuebook-new")


def remove_sibling(target: Path) -> None:
    """Delete the sibling: an unfinished new dataset, or after the swap the old one. Staged rows are never lost.

    The staging folder is not cloned but moved, and a kill may come in between: it always belongs to the target.
    """
    folder = sibling(target)
    if (folder / STAGING_NAME).is_dir() and not (target / STAGING_NAME).exists():
        os.rename(folder / STAGING_NAME, target / STAGING_NAME)
    if folder.exists():
        shutil.rmtree(folder)


def _check_access(folder: Path) -> None:
    if os.access(folder, os.W_OK | os.X_OK):
        return
    read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    got = "a read-only file system" if read_only else "no permission to write"
    raise CommitError(f"want to write in {folder}", got, REMEDIES[errno.EROFS if read_only else errno.EACCES])


def _check_replaceable(target: Path) -> None:
    if not target.is_dir():
        raise CommitError("want a folder as output", f"the file {target}", "choose another --output")
    names = {p.name for p in target.iterdir()} - NOT_CLONED
    if names and not (target / OWN_MARK).is_file():
        raise CommitError(
            "want a new or empty output folder, or an earlier result of cuebook",
            f"{target}, which holds {sorted(names)[0]} and no {OWN_MARK}",
            "choose another --output",
        )


def _may_swap(target: Path) -> bool:
    parent = target.parent
    writable = os.access(parent, os.W_OK | os.X_OK)
    return writable and not target.is_mount() and parent.stat().st_dev == target.stat().st_dev


def _clone(source: Path, build: Path, replaced: Collection[Path], *, copy: bool) -> None:
    """Everything but the replaced files and the staging: folders anew, files by hard link, links as links.

    With `copy`, what cannot be shared (another disk, the hub cache) is copied.
    """
    on_the_way = {p for file in replaced for p in file.parents}
    in_cache = copy and in_hub_cache(source)

    def visit(folder: Path, outside: bool) -> None:
        for entry in sorted(os.scandir(source / folder), key=lambda e: e.name):
            inner = folder / entry.name
            if inner in replaced or (folder == Path() and entry.name in NOT_CLONED):
                continue
            if entry.is_dir() and (inner in on_the_way or not entry.is_symlink()):
                (build / inner).mkdir()
                visit(inner, outside or entry.is_symlink())
            elif outside:  # the folder was a link to elsewhere, but the new one holds new files: a real one
                os.symlink((source / inner).resolve(), build / inner)
            else:
                _share(source / inner, build / inner, copy, in_cache)

    visit(Path(), False)


def _share(old: Path, new: Path, copy: bool, in_cache: bool) -> None:
    if old.is_symlink():
        link = os.readlink(old)
        if not copy:
            os.symlink(link, new)
        elif old.is_file() and (in_cache or in_hub_cache(old.resolve())):
            copy_file(old, new)  # the cache may be cleaned at any time
        else:
            os.symlink(old.resolve(), new)
    elif in_cache:
        copy_file(old, new)
    else:
        try:
            os.link(old, new)
        except OSError as err:
            if not copy or err.errno not in NO_LINKS:
                raise
            copy_file(old, new)


def _finish_folders(source: Path, build: Path) -> None:
    """Modes and times of the folders as they were, all entries on the disk."""
    for folder, _, _ in os.walk(build, topdown=False):
        old = source / Path(folder).relative_to(build)
        if old.is_dir():
            like(old, Path(folder))
            shutil.copystat(old, folder)
        sync_folder(Path(folder))


def _tidy(action: Callable[[], None], target: Path) -> None:
    """Run a clean-up that does not change the outcome; what it leaves, the next run removes."""
    try:
        action()
    except OSError as err:
        log.warning("could not clean up beside %s (%s); the next run will", target, err)


def _commit_error(target: Path, err: OSError) -> CommitError:
    place = str(err.filename or target)
    remedy = REMEDIES.get(err.errno or 0, "check the disk, then run again")
    return CommitError(f"want to write the new dataset at {target}", f"{err.strerror or err} ({place})", remedy)
