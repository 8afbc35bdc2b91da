"""What a kill, a power cut or a full disk left behind becomes part of the dataset."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.errors import RecordingError
from edge.recording.plan import LEROBOT, OWN, Plan, read_plan, spool_of
from edge.recording.publish import Publisher
from edge.recording.spool import parts_in
from tasks.dataset import commit
from tasks.dataset.info import INFO_PATH
from tasks.dataset.lock import lock_dataset
from tasks.errors import AnnotateError, DatasetBusyError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovered:
    """What was found and put into the dataset."""

    root: Path
    episodes: int
    frames: int


def recover(root: Path, writer: str | None = None) -> Recovered | None:
    """Finish a recording that was not; None: nothing is waiting. Any number of times.

    `writer` "own" lays it out without LeRobot, where that was wanted and does not work. RecordingError: it still waits.
    """
    root = Path(root).expanduser().absolute()
    spool = spool_of(root)
    if not spool.is_dir():
        return None
    with locked(spool):
        recovered = recover_locked(root, spool, writer)
        remove_spool(spool)
        return recovered


def recover_locked(root: Path, spool: Path, writer: str | None = None) -> Recovered | None:
    """The same, by who holds the lock of the spool."""
    plan = read_plan(spool)
    if plan is None:
        if parts_in(spool):
            remedy = "restore that file; the parts hold what was driven"
            raise RecordingError(f"want recording.json in {spool}", "parts without it", remedy)
        clear_spool(spool)
        return None
    plan = _at(plan, root, writer)
    publisher = Publisher(plan, spool)
    if root.is_dir():
        with locked(root):
            commit.recover(root)
    publisher.publish(publisher.remove_published(parts_in(spool)))
    clear_spool(spool)
    if not publisher.episodes:
        return None
    log.warning("recovered %d episodes, %d frames into %s", publisher.episodes, publisher.frames, root)
    return Recovered(root, publisher.episodes, publisher.frames)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which goes with the process; made when it is not there. RecordingError."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_dataset(folder))
        except DatasetBusyError as err:
            raise RecordingError(err.wanted, err.got, "wait until it has ended, or record into another folder") from err
        except AnnotateError as err:
            raise RecordingError(err.wanted, err.got, err.remedy) from err
        yield


def clear_spool(spool: Path) -> None:
    """Nothing in it is waited for any more. The folder stays: it carries the lock."""
    for path in spool.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_spool(spool: Path) -> None:
    """The recording is whole."""
    clear_spool(spool)
    spool.rmdir()


def _at(plan: Plan, root: Path, writer: str | None) -> Plan:
    """The plan for where the dataset lies now: folders may have been moved together."""
    if writer not in (None, OWN, LEROBOT):
        raise RecordingError(f"want {OWN} or {LEROBOT} as writer", repr(writer), "leave it away for the one before")
    if writer not in (None, plan.writer) and (root / INFO_PATH).is_file():
        wanted = f"want to go on with the writer that laid out {root}, {plan.writer}"
        raise RecordingError(wanted, f"--writer={writer}", "leave it away")
    return msgspec.structs.replace(plan, root=str(root), writer=writer or plan.writer)
