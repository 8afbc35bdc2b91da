"""The folder of a chat export: made beside its final place, one finished episode at a time, and renamed when whole.

<output>.partial/       while it is made; a killed export goes on from here
  settings.json         what it is made of; another recipe or dataset cannot be mixed in
  parts/000003.json     finished episodes: their lines and counts
  images/*.jpg
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.dataset.files import exchange, sync_folder, write_atomic, write_synced
from tasks.dataset.lock import lock_dataset
from tasks.errors import AnnotateError, CommitError, SettingsError
from tasks.language.chat_images import IMAGES_DIR

KIND = "chat export"
SUMMARY_NAME = "export.json"  # in a finished folder: what it is, and that it is ours to replace
SETTINGS_NAME = "settings.json"
PARTS_DIR = "parts"


@dataclass
class Part:
    """One finished episode."""

    lines: list[str] = field(default_factory=list)
    samples: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)


class ChatFolder:
    """An export in the making. Use inside `open_folder`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.partial = output.with_name(f"{output.name}.partial")

    def part(self, episode_index: int) -> Part | None:
        """A finished episode of an earlier, killed export; None when it or one of its pictures is missing."""
        try:
            part = Part(**json.loads(self._part_path(episode_index).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return part if all((self.partial / name).is_file() for name in part.images) else None

    def finish_part(self, episode_index: int, part: Part) -> None:
        """Note an episode as finished."""
        write_atomic(self._part_path(episode_index), _bytes(vars(part)))

    def forget(self, episode_index: int) -> None:
        """Remove the pictures of an episode that failed."""
        for path in (self.partial / IMAGES_DIR).glob(f"ep{episode_index:03d}_*.jpg"):
            path.unlink()

    def discard(self) -> None:
        """Remove all of it: nothing came of it."""
        shutil.rmtree(self.partial)

    def discard_if_unused(self) -> None:
        """Remove it when no episode is finished: there is nothing to go on with."""
        if self.partial.is_dir() and not any((self.partial / PARTS_DIR).glob("*.json")):
            self.discard()

    def finish(self, files: Mapping[str, Sequence[str]], texts: Mapping[str, str], summary: Mapping[str, Any]) -> None:
        """Write the files of lines and of text, then put the whole folder in its place."""
        for name, lines in files.items():
            write_synced(self.partial / name, "".join(line + "\n" for line in lines).encode())
        for name, text in texts.items():
            write_synced(self.partial / name, text.encode())
        write_synced(self.partial / SUMMARY_NAME, _bytes({"kind": KIND, **summary, "settings": self._settings()}))
        shutil.rmtree(self.partial / PARTS_DIR)
        (self.partial / SETTINGS_NAME).unlink()
        sync_folder(self.partial)
        self._put_in_place()

    def _put_in_place(self) -> None:
        if not self.output.exists():
            os.rename(self.partial, self.output)
            return
        try:
            exchange(self.partial, self.output)
            old = self.partial
        except OSError:  # no atomic exchange on this file system
            old = self.output.with_name(f"{self.output.name}.old")
            os.rename(self.output, old)
            os.rename(self.partial, self.output)
        shutil.rmtree(old)

    def _part_path(self, episode_index: int) -> Path:
        return self.partial / PARTS_DIR / f"{episode_index:06d}.json"

    def _settings(self) -> Any:
        return json.loads((self.partial / SETTINGS_NAME).read_text(encoding="utf-8"))


@contextmanager
def open_folder(output: Path, settings: Mapping[str, Any], *, overwrite: bool) -> Iterator[ChatFolder]:
    """Begin an export, or go on with a killed one of equal settings.

    Raises SettingsError when something else is there, DatasetBusyError when another export writes it, CommitError when
    it cannot be written.
    """
    output = output.expanduser().absolute()
    folder = ChatFolder(output)
    try:
        if output.exists():
            _check_replaceable(output, overwrite)
        with lock_dataset(folder.partial):
            _begin(folder.partial, _plain(settings), overwrite)
            try:
                yield folder
            except AnnotateError:
                folder.discard_if_unused()
                raise
    except OSError as err:
        raise CommitError(f"want to write {output}", str(err), "choose a folder you may write, with room") from err


def finished_summary(output: Path) -> dict[str, Any] | None:
    """What a finished export says of itself; None when the folder is none."""
    try:
        summary = json.loads((output / SUMMARY_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and summary.get("kind") == KIND else None


def same_settings(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a finished export was made of these settings."""
    return summary.get("settings") == _plain(settings)


def _check_replaceable(output: Path, overwrite: bool) -> None:
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
        return
    if finished_summary(output) is None:
        raise SettingsError("want a new folder as output", f"{output}, which is no chat export", "name another folder")
    if not overwrite:
        remedy = "pass --overwrite to replace it, or --resume to accept it if it was made with the same flags"
        raise SettingsError("want a new folder as output", f"{output} is there already", remedy)


def _begin(partial: Path, settings: dict[str, Any], overwrite: bool) -> None:
    known = partial / SETTINGS_NAME
    if known.is_file():
        differing = _differing(_read(known), settings)
        if differing and not overwrite:
            got = f"{partial} was begun with another {', '.join(differing)}"
            remedy = "repeat that command to go on, or pass --overwrite to begin anew"
            raise SettingsError("want the settings of the export that was interrupted", got, remedy)
        if not differing:
            return
    elif any(partial.iterdir()) and not overwrite:
        raise SettingsError("want an empty folder to work in", str(partial), "remove it, or pass --overwrite")
    for path in partial.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (partial / PARTS_DIR).mkdir()
    (partial / IMAGES_DIR).mkdir()
    write_atomic(known, _bytes(settings))


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} where the file holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they read back from JSON."""
    return json.loads(_bytes(settings))


def _bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
