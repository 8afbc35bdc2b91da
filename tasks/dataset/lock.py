"""One run at a time on a dataset: an advisory lock on the folder itself, which leaves no file behind.

A lock belongs to the folder's inode, and a commit puts another inode in its place: the lock moves along (`adopt`).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import CommitError, DatasetBusyError

log = logging.getLogger(__name__)

LOCK_ATTEMPTS_MAX = 10  # a folder may be swapped between our opening and locking it
NO_LOCKS_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOSYS})

_held: dict[Path, DatasetLock] = {}
_held_guard = threading.Lock()


class DatasetLock:
    """The lock on one dataset path, held until released."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._fds: list[int] = []

    def adopt(self, folder: Path) -> None:
        """Also lock a folder that is about to take the target's place."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._fds.append(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy(self.target, fd) from None
        except OSError as err:
            if err.errno not in NO_LOCKS_HERE:
                raise
            log.warning("no locks on this file system: start no second run on %s", self.target)

    def _holds(self, folder: Path) -> bool:
        try:
            now = folder.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self._fds[-1])
        return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)

    def acquire(self) -> None:
        """Lock the folder that is at the target now; DatasetBusyError when another run has it."""
        for _ in range(LOCK_ATTEMPTS_MAX):
            self.adopt(self.target)
            if self._holds(self.target):
                return
            self.release()
        raise DatasetBusyError(f"want a lock on {self.target}", "the folder keeps changing", "wait for the other runs")

    def release(self) -> None:
        """Let others in."""
        while self._fds:
            os.close(self._fds.pop())


@contextmanager
def lock_dataset(target: Path) -> Iterator[DatasetLock]:
    """Hold the lock of the dataset that a run will write, also while its folder is swapped for another.

    A target that does not exist yet is made, and removed again when it is still empty at the end.
    Raises DatasetBusyError, with the other's process id where the system tells it.
    """
    target = target.resolve()
    made = _make(target)
    lock = DatasetLock(target)
    try:
        lock.acquire()
        with _held_guard:
            _held[target] = lock
        yield lock
    finally:
        with _held_guard:
            if _held.get(target) is lock:
                del _held[target]
        lock.release()
        if made:
            _remove_if_empty(target)


def held_lock(target: Path) -> DatasetLock | None:
    """The lock that this process holds on a dataset."""
    with _held_guard:
        return _held.get(target.resolve())


def busy(target: Path, fd: int) -> DatasetBusyError:
    """The error that names who holds the lock."""
    pid = _holder(os.fstat(fd))
    who = f"process {pid} holds it" if pid else "another process holds it"
    return DatasetBusyError(f"want the lock of {target}", who, "wait for that run, or stop it; then run again")


def _holder(stat: os.stat_result) -> int | None:
    """Process id of a lock's holder, from /proc/locks: `1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> ...`."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    for line in lines:
        words = line.split()
        if "FLOCK" in words and "->" not in words and place in words:
            pid = int(words[words.index(place) - 1])
            return pid if pid > 0 else None  # other containers' processes are shown as 0
    return None


def _make(target: Path) -> bool:
    if target.exists():
        return False
    try:
        target.mkdir(parents=True)
    except OSError as err:
        raise CommitError(f"want to make {target}", err.strerror or str(err), "choose a folder you may write") from err
    return True


def _remove_if_empty(target: Path) -> None:
    try:
        target.rmdir()
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            log.warning("could not remove the empty folder %s: %s", target, err)
