"""Small moves on files and folders that a commit is made of."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100
STAGING_NAME = ".annotate_staging"  # a folder that may lie inside a dataset and is no part of it


def exchange(a: Path, b: Path) -> None:
    """Swap two folders in one atomic step. OSError where the system or the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, "renameat2 is missing", str(a))
    if libc.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(a), None, str(b))


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk; file systems without that notion are let be."""
    try:
        sync_file(path)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise


def write_synced(path: Path, data: bytes) -> None:
    """A new file, on the disk when this returns."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file in one step: readers see the old bytes or the new ones."""
    tmp = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")  # others may write the same file
    try:
        tmp.write_bytes(data)
        os.replace(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def make_parents(path: Path) -> None:
    """The folders above a path."""
    path.parent.mkdir(parents=True, exist_ok=True)


def like(old: Path, new: Path) -> None:
    """Give a new file or folder the mode, and as far as allowed the owner, of the one it replaces."""
    try:
        stat = old.stat()
    except FileNotFoundError:
        return
    mine = new.stat()
    if (stat.st_uid, stat.st_gid) != (mine.st_uid, mine.st_gid):
        with suppress(PermissionError):  # only a privileged user may give files away; the mode serves readers
            os.chown(new, stat.st_uid, stat.st_gid)
    os.chmod(new, stat.st_mode & 0o7777)


def copy_file(source: Path, target: Path) -> None:
    """A copy with mode and times, on the disk when this returns."""
    shutil.copy2(source, target)
    sync_file(target)
