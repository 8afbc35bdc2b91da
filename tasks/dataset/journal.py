"""Several files replaced as one where folders cannot be swapped: a journal that the next run finishes or undoes.

New files wait under `<root>/.cuebook-txn/new/`. The journal's own rename is the commit: before it nothing has happened,
after it every rename left is done by whoever comes next.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.dataset.files import like, make_parents, sync_file, sync_folder, write_synced
from tasks.errors import CommitError

log = logging.getLogger(__name__)

TXN_NAME = ".cuebook-txn"
JOURNAL_NAME = "journal.json"


def new_files(root: Path) -> Path:
    """Where new files wait."""
    return root / TXN_NAME / "new"


def check_one_file_system(root: Path, files: Iterable[Path]) -> None:
    """Raise CommitError when a file cannot be renamed into place from the journal's folder."""
    device = root.stat().st_dev
    for file in files:
        folder = (root / file).parent
        if folder.exists() and folder.stat().st_dev != device:
            raise CommitError(
                f"want {folder} on the file system of {root}, which cannot be swapped as a whole",
                "another file system",
                "write a new dataset with --output, or unmount that folder",
            )


def commit_journal(root: Path, files: Sequence[Path]) -> None:
    """Put the waiting files in place, all or none; the journal's rename decides."""
    folder = root / TXN_NAME
    for file in files:
        sync_file(new_files(root) / file)
    for parent in {(new_files(root) / f).parent for f in files} | {folder}:
        sync_folder(parent)
    waiting = folder / (JOURNAL_NAME + ".tmp")
    write_synced(waiting, json.dumps([f.as_posix() for f in files]).encode())
    os.replace(waiting, folder / JOURNAL_NAME)
    sync_folder(folder)
    sync_folder(root)
    finish(root)


def recover_journal(root: Path) -> None:
    """Finish a journal that was committed, throw away one that was not."""
    folder = root / TXN_NAME
    if not folder.is_dir():
        return
    if (folder / JOURNAL_NAME).exists():
        log.warning("finishing the commit of a run that was killed: %s", root)
        finish(root)
    else:
        log.warning("removing the files of a run that was killed before its commit: %s", folder)
        shutil.rmtree(folder)


def finish(root: Path) -> None:
    """Do the renames that a committed journal lists and that are not done yet."""
    folder = root / TXN_NAME
    try:
        files = [Path(f) for f in json.loads((folder / JOURNAL_NAME).read_bytes())]
    except ValueError as err:
        raise CommitError(f"want a readable {folder / JOURNAL_NAME}", str(err), "restore the dataset") from err
    for file in files:
        new, old = new_files(root) / file, root / file
        if new.exists():  # else an earlier attempt has moved it
            like(old, new)
            make_parents(old)
            os.replace(new, old)
    for parent in {(root / f).parent for f in files}:
        sync_folder(parent)
    (folder / JOURNAL_NAME).unlink()
    sync_folder(folder)
    shutil.rmtree(folder)
