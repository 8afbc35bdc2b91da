"""Parts of a spool into the dataset: all of them or none, whenever the process is killed and however full the disk is.

New files are built inside the spool. A first dataset appears by one rename, a longer one by the commit that annotations
use too. The dataset itself says how many parts it holds: a part that it holds and that is still there is removed, never
added twice.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av.error
import msgspec
import pyarrow as pa

from edge.errors import RecordingError
from edge.recording import lerobot
from edge.recording.build import build
from edge.recording.part import SpooledEpisode, read_part
from edge.recording.plan import LEROBOT, NOTES_PATH, EpisodeNote, Notes, Plan, read_notes
from edge.recording.spool import Part
from tasks.dataset import commit
from tasks.dataset.files import sync_file, sync_folder, write_synced
from tasks.dataset.info import INFO_PATH, read_info
from tasks.errors import AnnotateError

log = logging.getLogger(__name__)

NEXT_NAME = "next"
NOTES_VERSION = 1
MIB = 1024 * 1024


class Publisher:
    """Makes the dataset of one recording grow. Any thread; one at a time is let in."""

    def __init__(self, plan: Plan, spool: Path) -> None:
        self.plan, self.spool, self.root = plan, spool, plan.folder
        self.lock = threading.RLock()  # also held while the dataset is uploaded
        self.episodes = 0  # put into the dataset
        self.frames = 0

    def publish(self, parts: Sequence[Part]) -> None:
        """Put these parts, oldest first, into the dataset, and remove them. RecordingError: they are still there."""
        with self.lock, _errors(self.root, self.spool):
            for batch in _batches(parts, self.plan):
                self._publish(batch)

    def remove_published(self, parts: Sequence[Part]) -> list[Part]:
        """Remove the parts that the dataset holds already, after a kill; returns the others."""
        notes = read_notes(self.root)
        number = notes.parts_of(self.plan.id) if notes else 0
        for part in parts:
            if part.number < number:
                part.path.unlink(missing_ok=True)
        return [part for part in parts if part.number >= number]

    def _publish(self, parts: Sequence[Part]) -> None:
        episodes = [e for part in parts if (e := read_part(part.path, self.plan)) is not None]
        if episodes:
            out = self.spool / NEXT_NAME
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            try:
                self._put(episodes, parts[-1].number + 1, out)
            finally:
                shutil.rmtree(out, ignore_errors=True)
            self.episodes += len(episodes)
            self.frames += sum(map(len, episodes))
        for part in parts:
            part.path.unlink(missing_ok=True)

    def _put(self, episodes: Sequence[SpooledEpisode], parts: int, out: Path) -> None:
        root = self.root if (self.root / INFO_PATH).is_file() else None
        first = 0 if root is None else read_info(root).total_episodes
        notes = (read_notes(root) if root else None) or Notes(NOTES_VERSION, self.plan.writer, [], {})
        made = self._build(root, episodes, out)
        new_notes = notes.with_parts(self.plan, parts, first, made)
        write_synced(out / NOTES_PATH, msgspec.json.format(msgspec.json.encode(new_notes), indent=2))
        files = [p.relative_to(out) for p in out.rglob("*") if p.is_file()]
        if root is None:
            _appear(out, files, self.root)
            return
        with commit.begin(root, None, files) as transaction:
            for file in files:
                os.replace(out / file, transaction.path(file))
                transaction.sync(transaction.path(file))
            transaction.commit()

    def _build(self, root: Path | None, episodes: Sequence[SpooledEpisode], out: Path) -> list[EpisodeNote]:
        if self.plan.writer == LEROBOT:
            return lerobot.build(self.plan, root, episodes, out)
        return build(self.plan, root, episodes, out)


def _batches(parts: Sequence[Part], plan: Plan) -> Iterator[list[Part]]:
    """Parts that go into one file of each kind."""
    batch: list[Part] = []
    for part in parts:
        if batch and sum(p.bytes for p in batch) + part.bytes > plan.video_mb_max * MIB and plan.writer != LEROBOT:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def _appear(out: Path, files: Sequence[Path], root: Path) -> None:
    """A first dataset: on the disk, then there."""
    for file in files:
        sync_file(out / file)
    for folder in {out, *(p for p in out.rglob("*") if p.is_dir())}:
        sync_folder(folder)
    os.rename(out, root)  # over nothing, or over an empty folder
    sync_folder(root.parent)


@contextmanager
def _errors(root: Path, spool: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, AnnotateError, pa.ArrowException, av.error.FFmpegError, MemoryError) as err:
        got = " ".join(str(err).split()) or type(err).__name__
        remedy = f"free disk space or mend the cause, then: edge recover {root}; what was driven waits in {spool}"
        raise RecordingError(f"want to write the recording into {root}", got, remedy) from err
