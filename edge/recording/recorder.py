"""Recorder: the control loop hands over what it saw and sent; a thread of its own writes it down."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import RecordingError
from edge.recording.settings import DatasetSettings
from edge.robots.base import Reading, RobotFeatures

if TYPE_CHECKING:
    from edge.engine import Dispatched
    from edge.recording.publish import Publisher
    from edge.recording.writer import Writer

log = logging.getLogger(__name__)

MIB = 1024 * 1024
FRAME_OVERHEAD_BYTES = 1024  # of a frame beside its pictures
RESUME_SHARE = 0.5  # after frames were lost, recording goes on when the queue is this full


@dataclass(frozen=True, slots=True)
class Item:
    """One frame on its way to the writer. Pictures by reference: nobody writes to them."""

    reading: Reading
    action: np.ndarray
    dispatched: Dispatched | None
    source: str | None
    intervention: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class Save:
    """The episode up to here is to be kept."""

    task: str
    how: str


@dataclass(frozen=True, slots=True)
class Discard:
    """The episode up to here is not wanted."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames are missing here."""

    dropped: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Say when everything before is written."""

    done: threading.Event


@dataclass(frozen=True, slots=True)
class Stop:
    """No more comes."""


Job = Item | Save | Discard | Gap | Flush | Stop


@dataclass(frozen=True)
class RecorderStats:
    """How the recording goes."""

    frames: int  # given to add, dropped ones too
    written: int  # frames on disk
    waiting: int  # frames in the queue
    waiting_max: int
    dropped: int  # frames lost because the queue was full; the episode was ended before each gap
    episodes: int  # saved
    bytes: int  # written so far
    write_ms: float  # mean time to encode and write a frame
    busy: float  # share of its time that the writer works; near 1 it does not keep up


class Recorder:
    """A recording that grows. `add` from one thread; all else from any. Made by open_recorder.

    A frame is lost only when the queue is full, which is told and counted. Then the episode ends where the frames end,
    and the next begins after the gap, so that no episode jumps in time.
    """

    def __init__(
        self,
        settings: DatasetSettings,
        writer: Writer,
        publisher: Publisher,
        held: ExitStack,
        on_problem: Callable[[str], None] | None,
        queue_bytes_max: int,
    ) -> None:
        self.root, self._settings = publisher.root, settings
        self._writer, self._publisher, self._held = writer, publisher, held
        self._on_problem, self._bytes_max = on_problem, queue_bytes_max
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._frames, self._bytes_in, self._waiting_max = 0, 0, 0
        self._bytes_out, self._items_out = 0, 0  # by the writer's thread
        self._items_in, self._dropped, self._gap = 0, 0, 0
        self._told_behind, self._told_gap = False, False
        self._stopping, self._finalized = False, False
        self._finalizing = threading.Lock()
        self._failure: RecordingError | None = None
        self._thread = threading.Thread(target=self._work, name="cuebook-record", daemon=True)
        self._thread.start()

    # --- the control loop -----------------------------------------------------------------------------

    def add(
        self,
        reading: Reading,
        action_sent: np.ndarray,
        dispatched: Dispatched | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand over one frame: what was seen, and what was sent then. Takes microseconds and waits for nothing.

        `extra`: `intervention` (bool) and `source` (str, else that of `dispatched`, else "teleop").
        Raises the RecordingError that ended the recording, such as a full disk; what was written stays.
        """
        if self._failure is not None:
            raise self._failure
        extra = extra or {}
        size = FRAME_OVERHEAD_BYTES + sum(picture.nbytes for picture in reading.images.values())
        self._frames += 1
        if not self._room_for(size):
            return
        action = np.array(action_sent, np.float32)  # a copy: small, and drivers reuse their buffers
        self._bytes_in += size
        self._items_in += 1
        self._waiting_max = max(self._waiting_max, self._items_in - self._items_out)
        intervention = bool(extra.get("intervention", False))
        self._jobs.put(Item(reading, action, dispatched, extra.get("source"), intervention, size))

    def _room_for(self, size: int) -> bool:
        waiting = self._bytes_in - self._bytes_out
        if self._gap and waiting <= self._bytes_max * RESUME_SHARE:
            self._jobs.put(Gap(self._gap))
            self._gap = 0
        elif self._gap or waiting + size > self._bytes_max:
            self._gap += 1
            self._dropped += 1
            return False
        return True

    # --- episodes -------------------------------------------------------------------------------------

    def save_episode(self, task: str = "") -> None:
        """End the episode with the frames added so far, and keep it. Waits for nothing.

        `task` is that of its frames whose action names none. Nothing happens when there are no frames.
        """
        from edge.recording.spool import SAVED

        self._jobs.put(Save(task, SAVED))

    def discard_episode(self) -> None:
        """Forget the frames since the last episode. Waits for nothing."""
        self._jobs.put(Discard())

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until what was added is on disk; False: not yet."""
        if not self._thread.is_alive():
            return True
        done = threading.Event()
        self._jobs.put(Flush(done))
        return done.wait(timeout_s)

    def publish(self) -> Path:
        """Make the dataset hold all saved episodes, while more are recorded; returns its folder. RecordingError."""
        self.flush()
        self._writer.publish_saved()
        return self.root

    def push(self) -> str:
        """Publish, then upload to the hub; returns the address. RecordingError: the dataset on disk is as it was."""
        from edge.recording.push import push

        with self._publisher.lock:  # the folder must not change while it is read
            if not self._finalized:
                self.publish()
            return push(self._settings, self.root)

    def finalize(self) -> Path | None:
        """Keep what was not saved yet, finish the dataset, let go of everything; None when nothing was recorded.

        Twice is once. Raises RecordingError when something could not be recorded or written; the message says where
        the rest is.
        """
        with self._finalizing:
            if not self._finalized:
                self._finish()
            return self._recorded()

    def _finish(self) -> None:
        """Interrupted by Ctrl-C, it may be called again and goes on."""
        from edge.recording.recover import remove_spool
        from edge.recording.spool import STOPPED

        if not self._stopping:
            self._stopping = True
            self._jobs.put(Save("", STOPPED))
            self._jobs.put(Stop())
        self._thread.join()
        try:
            self._writer.publish_saved()
            remove_spool(self._publisher.spool)
        except RecordingError:
            self._close()
            raise
        self._close()
        if self._failure is not None:
            raise self._failure

    def _close(self) -> None:
        self._finalized = True
        self._held.close()

    def _recorded(self) -> Path | None:
        return self.root if self._publisher.episodes else None

    # --- how it goes ----------------------------------------------------------------------------------

    @property
    def failure(self) -> RecordingError | None:
        """What ended the recording, if anything did."""
        return self._failure

    def stats(self) -> RecorderStats:
        """A snapshot. Any thread."""
        writer = self._writer
        return RecorderStats(
            frames=self._frames, written=writer.written, waiting=self._items_in - self._items_out,
            waiting_max=self._waiting_max, dropped=self._dropped, episodes=writer.saved, bytes=writer.bytes,
            write_ms=1e3 * writer.busy_s / max(1, writer.written),
            busy=writer.busy_s / max(1e-9, time.monotonic() - writer.began_s),
        )  # fmt: skip

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finalize()
        except RecordingError as failure:
            if error is None:
                raise
            log.error("%s", failure)  # the first error is the one to see

    # --- the writer's thread --------------------------------------------------------------------------

    def _work(self) -> None:
        while not isinstance(job := self._jobs.get(), Stop):
            if isinstance(job, Flush):
                job.done.set()
                continue
            try:
                if self._failure is None or isinstance(job, Save | Discard):
                    self._writer.do(job)
            except Exception as err:  # noqa: BLE001 - whatever it is, the robot goes on and the control loop is told
                self._fail(err)
            if isinstance(job, Item):
                self._bytes_out += job.bytes
                self._items_out += 1
                self._watch()
        self._writer.close()

    def _fail(self, err: Exception) -> None:
        if self._failure is not None:
            return  # the first one is told
        if isinstance(err, RecordingError):
            self._failure = err
        else:
            got = " ".join(str(err).split()) or type(err).__name__
            remedy = "free disk space or mend the cause; all frames before are kept"
            self._failure = RecordingError(f"want to record into {self.root}", got, remedy)
            self._failure.__cause__ = err
        self._tell(f"the recording ended: {self._failure}")

    def _watch(self) -> None:
        waiting = self._bytes_in - self._bytes_out
        if self._gap and not self._told_gap:
            self._tell("the writer does not keep up: frames are lost, and the episode ends before them")
        self._told_gap = self._gap > 0
        if waiting > self._bytes_max / 2 and not self._told_behind:
            self._tell(f"the writer is behind by {self._items_in - self._items_out} frames; none is lost yet")
            self._told_behind = True
        elif waiting < self._bytes_max / 8:
            self._told_behind = False

    def _tell(self, problem: str) -> None:
        log.warning("%s", problem)
        if self._on_problem is not None:
            try:
                self._on_problem(problem)
            except Exception:
                log.exception("on_problem failed")


def open_recorder(
    settings: DatasetSettings,
    features: RobotFeatures,
    fps: float,
    *,
    on_problem: Callable[[str], None] | None = None,
    burst_mib: int = 0,
) -> Recorder:
    """Begin a recording, or go on with one; what a killed run left is recovered first.

    `on_problem` is called by the writer's thread when frames are lost or the recording ends early. `burst_mib` is added
    to the queue for who adds many frames at once. Raises RecordingError before anything is written when this dataset
    cannot be recorded: it is there already, has other features, is recorded by another process, cannot be written.
    """
    from edge.recording.begin import begin
    from edge.recording.publish import Publisher
    from edge.recording.writer import Writer

    plan, spool, held = begin(settings, features, fps)
    publisher = Publisher(plan, spool)
    writer = Writer(plan, spool, publisher, settings.sync_s, settings.disk_reserve_mib * MIB)
    return Recorder(settings, writer, publisher, held, on_problem, (settings.queue_mib + burst_mib) * MIB)
