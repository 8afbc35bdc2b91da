"""Which files of a dataset folder are part of the dataset: never staged rows, ledgers, caches or leftovers."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.dataset.files import STAGING_NAME
from tasks.dataset.info import INFO_PATH
from tasks.dataset.layout import Dataset
from tasks.errors import DatasetError

LEDGER_NAME = "ledger.jsonl"
MANIFEST_NAME = "dataset.json"  # names the dataset that a staging folder belongs to
STAGED_NAMES = frozenset({LEDGER_NAME, MANIFEST_NAME, "validation.json"})
RECEIPT_SUFFIX = ".receipt.json"
MANIFEST_BYTES_MAX = 64 * 1024
LEFTOVER_SUFFIXES = (".tmp", ".lock", ".incomplete", ".part", ".swp", "~")
LEFTOVER_NAMES = frozenset({"Thumbs.db", "desktop.ini"})
LEFTOVER_FOLDERS = frozenset({"__pycache__", "__MACOSX"})
HIDDEN_BUT_OURS = frozenset({".gitattributes"})
OWNED_FOLDERS = ("data/", "meta/", "videos/")  # where a publish may delete what the new dataset does not have


@dataclass(frozen=True)
class LocalFile:
    """A file that goes to the hub."""

    path: str  # in the repository
    source: Path
    size: int  # bytes


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that stays here."""

    path: str
    reason: str


def files_of(root: Path) -> tuple[list[LocalFile], list[LeftOut]]:
    """Everything in a dataset folder, in path order: what goes, and what stays with the reason."""
    files: list[LocalFile] = []
    left_out: list[LeftOut] = []
    for item in _walk(root, "", frozenset({root.resolve()})):
        if isinstance(item, LocalFile):
            files.append(item)
        else:
            left_out.append(item)
    return files, left_out


def _walk(folder: Path, prefix: str, above: frozenset[Path]) -> Iterator[LocalFile | LeftOut]:
    owned = prefix.startswith(OWNED_FOLDERS)
    staging = not owned and is_staging(folder)
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = prefix + entry.name
        place = Path(entry.path)
        if entry.is_dir():
            reason = _folder_reason(place, above, owned or f"{path}/" in OWNED_FOLDERS)
            if reason:
                yield LeftOut(path + "/", reason)
            else:
                yield from _walk(place, path + "/", above | {place.resolve()})
        elif not entry.is_file():
            if entry.is_symlink():
                raise DatasetError(f"want a file behind the link {place}", "nothing is there", "restore the file")
            yield LeftOut(path, "no plain file")
        elif reason := _file_reason(entry.name, staging):
            yield LeftOut(path, reason)
        else:
            yield LocalFile(path, place, entry.stat().st_size)


def _folder_reason(folder: Path, above: frozenset[Path], owned: bool) -> str:
    """Why a folder stays; in data/, meta/ and videos/ a ledger put there does not make everything beside it staged."""
    name = folder.name
    if name.endswith(STAGING_NAME) or (holds_receipts(folder) if owned else is_staging(folder)):
        return "staged rows"
    if name.startswith(".") or name in LEFTOVER_FOLDERS:
        return "hidden or a cache"
    if folder.is_symlink() and folder.resolve() in above:
        return "a link to a folder above it"
    return ""


def _file_reason(name: str, staging: bool) -> str:
    if name == LEDGER_NAME or name.endswith(RECEIPT_SUFFIX) or (staging and name in STAGED_NAMES):
        return "staged rows"
    if name.endswith(LEFTOVER_SUFFIXES) or name in LEFTOVER_NAMES:
        return "left over"
    if name.startswith(".") and name not in HIDDEN_BUT_OURS:
        return "hidden"
    return ""


def is_staging(folder: Path) -> bool:
    """Whether a run has staged in this folder, whatever its name: it holds a manifest, a ledger or receipts."""
    if (folder / LEDGER_NAME).is_file() or holds_receipts(folder):
        return True
    manifest = folder / MANIFEST_NAME
    try:
        with manifest.open("rb") as file:
            found = json.loads(file.read(MANIFEST_BYTES_MAX))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "identity" in found


def holds_receipts(folder: Path) -> bool:
    """Whether staged rows of an episode lie directly in this folder."""
    return next(folder.glob(f"*{RECEIPT_SUFFIX}"), None) is not None


def check_whole(dataset: Dataset, files: Collection[LocalFile]) -> None:
    """Raise DatasetError unless every shard and video that the metadata name is here and goes.

    Publishing deletes what the new dataset lacks: half a download must not delete the other half on the hub.
    """
    going = {f.path for f in files}
    episodes = dataset.episodes()
    needed = {e.data_path for e in episodes} | {ref.path for e in episodes for ref in e.videos.values()}
    wanted = {p.relative_to(dataset.root).as_posix() for p in needed} | {INFO_PATH}
    missing = sorted(wanted - going)
    for camera in dataset.depth_cameras:
        if not any(p.startswith(f"videos/{camera}/") for p in going):
            missing.append(f"videos/{camera}/")
    if missing:
        raise DatasetError(
            "want the whole dataset to publish it",
            f"{len(missing)} missing in {dataset.root}, first: {missing[0]}",
            "download or restore the missing files",
        )
