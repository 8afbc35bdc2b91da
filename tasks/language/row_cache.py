"""Where the file with a dataset's language rows is kept: made once, mapped from then on.

Its name holds what it was made from and a checksum of itself, so that neither an older state of the dataset nor a
damaged file is ever taken for the right one.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import zlib
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.dataset.episodes import TASKS_PATH
from tasks.dataset.layout import Dataset
from tasks.language.row_file import FORMAT_VERSION, Progress, write_rows

CACHE_ENV = "CUEBOOK_CACHE"
FOLDER = "language"
KEY_BYTES = 8
ABANDONED_AFTER_S = 24 * 3600  # a temporary file this old belongs to a process that was killed

log = logging.getLogger(__name__)


def load(dataset: Dataset, cache_dir: Path | None, progress: Progress | None) -> tuple[pa.Buffer, Path | None]:
    """The file's bytes, mapped, and its path; in memory and without a path where no cache can be written.

    Raises DatasetError when the dataset has no language columns or cannot be read.
    """
    try:
        folder = cache_folder(cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = stem(dataset)
        if (found := _find(folder, name)) is not None:
            return found
        made = _make_file(dataset, folder, name, progress)
    except OSError as err:
        log.warning("language rows are held in memory, no cache can be written: %s", err)
        sink = pa.BufferOutputStream()
        write_rows(dataset, sink, progress)
        return sink.getvalue(), None
    _forget(folder, made[1])
    return made


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Where the files lie: below `cache_dir`, else $CUEBOOK_CACHE, else the user's cache folder."""
    chosen = cache_dir or os.environ.get(CACHE_ENV)
    if chosen:
        return Path(chosen).expanduser().absolute() / FOLDER
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "cuebook" / FOLDER
    except RuntimeError as err:
        raise OSError(f"no home folder is known, set {CACHE_ENV}") from err


def stem(dataset: Dataset) -> str:
    """How the file's name begins: what names the dataset, and what names its contents."""
    files = []
    for path in [*dataset.data_files, dataset.root / TASKS_PATH]:
        with suppress(FileNotFoundError):
            stat = path.stat()
            files.append([path.relative_to(dataset.root).as_posix(), stat.st_size, stat.st_mtime_ns])
    return f"{_digest(str(dataset.root))}-{_digest([FORMAT_VERSION, files])}"


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=KEY_BYTES).hexdigest()


def mapped(path: Path) -> pa.Buffer:
    """A file's bytes without reading them. Raises OSError."""
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()  # keeps the mapping alive


def _find(folder: Path, name: str) -> tuple[pa.Buffer, Path] | None:
    for path in sorted(folder.glob(f"{name}-*.arrow")):
        try:
            buffer = mapped(path)
        except FileNotFoundError:  # another process cleans up
            continue
        except (pa.ArrowException, OSError) as err:  # such as an empty file
            log.warning("the cached language rows in %s are made again: %s", path, err)
            continue
        if path.stem.endswith(f"-{zlib.crc32(buffer):08x}"):
            return buffer, path
        log.warning("the cached language rows in %s are damaged and are made again", path)
    return None


def _make_file(dataset: Dataset, folder: Path, name: str, progress: Progress | None) -> tuple[pa.Buffer, Path]:
    """Several processes may do this at once: each writes its own file, and renames it when it is whole."""
    handle, written = tempfile.mkstemp(dir=folder, prefix=f"{name}-", suffix=".tmp")
    temporary = Path(written)
    try:
        with os.fdopen(handle, "wb") as file:
            write_rows(dataset, file, progress)
            file.flush()
            os.fsync(file.fileno())
        buffer = mapped(temporary)
        path = folder / f"{name}-{zlib.crc32(buffer):08x}.arrow"
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return buffer, path


def _forget(folder: Path, kept: Path) -> None:
    """Remove what is left of the dataset's earlier states. Who has such a file mapped keeps it."""
    for path in folder.glob(f"{kept.name.split('-')[0]}-*"):
        with suppress(OSError):
            written_elsewhere = path.suffix == ".tmp" and time.time() - path.stat().st_mtime < ABANDONED_AFTER_S
            if path != kept and not written_elsewhere:
                path.unlink()
