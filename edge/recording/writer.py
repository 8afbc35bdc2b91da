"""What the recorder's thread does with each frame: encode the cameras, append one record, end parts where told."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import RecordingError
from edge.recording.columns import ACTION, CAMERA, INTEGERS, STATE, TELEOP, TIMES, UNKNOWN, cameras_of
from edge.recording.pictures import Camera
from edge.recording.plan import OWN, Plan
from edge.recording.publish import MIB, Publisher
from edge.recording.recorder import Discard, Gap, Item, Job, Save
from edge.recording.spool import SPLIT, Begin, End, Frame, Part, PartFile, parts_in
from tasks.dataset.info import camera_size

if TYPE_CHECKING:
    from edge.engine import Dispatched

log = logging.getLogger(__name__)

DISK_CHECK_S = 1.0


class Writer:
    """The spool of one recording. One thread writes; `publish_saved` and the figures are for any."""

    def __init__(self, plan: Plan, spool: Path, publisher: Publisher, sync_s: float, reserve_bytes: int) -> None:
        self._plan, self._spool, self._publisher, self._sync_s, self._reserve = (
            plan, spool, publisher, sync_s, reserve_bytes,
        )  # fmt: skip
        self._names = cameras_of(plan.features)
        self._part: PartFile | None = None
        self._cameras: list[Camera] = []
        self._ended: list[PartFile] = []  # parts of the running episode that a gap has ended
        self._saved: list[Part] = []  # not in the dataset yet
        self._saved_guard = threading.Lock()
        self._numbers = max((part.number + 1 for part in parts_in(spool)), default=0)
        self._dropped = 0
        self._disk_checked_s = float("-inf")
        self._publishing: threading.Thread | None = None
        threads = min(len(self._names), (os.cpu_count() or 1) - 1)  # one is the control loop's
        self._pool = ThreadPoolExecutor(threads, "cuebook-encode") if threads > 1 else None
        self.written, self.saved, self.bytes, self.busy_s, self.began_s = 0, 0, 0, 0.0, time.monotonic()

    def do(self, job: Job) -> None:
        """One job of the queue. Raises OSError, RecordingError."""
        began_s = time.monotonic()
        if isinstance(job, Item):
            self._frame(job)
            self.busy_s += time.monotonic() - began_s
        elif isinstance(job, Gap):
            self._end_part()
            self._dropped = job.dropped
        elif isinstance(job, Save):
            self._save(job)
        elif isinstance(job, Discard):
            self._discard()

    def publish_saved(self) -> None:
        """Put the saved parts into the dataset. RecordingError: they wait for the next time."""
        with self._publisher.lock:  # taken and published in one, or a later part could come first
            with self._saved_guard:
                parts, self._saved = self._saved, []
            try:
                self._publisher.publish(parts)
            except BaseException:
                with self._saved_guard:
                    self._saved = [part for part in parts if part.path.exists()] + self._saved
                raise

    def close(self) -> None:
        """Let go of the threads and of the file."""
        if self._part is not None:
            self._part.close()
        if self._pool is not None:
            self._pool.shutdown()
        if self._publishing is not None:
            self._publishing.join()

    # --- frames ---------------------------------------------------------------------------------------

    def _frame(self, item: Item) -> None:
        self._check_disk()
        part = self._part or self._begin_part()
        before = part.bytes
        part.append(self._record(item))
        self.bytes += part.bytes - before
        self.written += 1

    def _record(self, item: Item) -> Frame:
        reading, dispatched = item.reading, item.dispatched
        try:
            pictures = [reading.images[name.removeprefix(CAMERA)] for name in self._names]
        except KeyError as err:
            remedy = "check the robot's cameras; all frames before are kept"
            raise RecordingError(f"want a picture of camera {err.args[0]}", "none", remedy) from None
        encode = self._pool.map if self._pool else map
        encoded = list(encode(Camera.encode, self._cameras, pictures))
        numbers, times = _provenance(dispatched)
        return Frame(
            state=self._vector(STATE, reading.state), action=self._vector(ACTION, item.action),
            task=_task(dispatched), session=_session(dispatched),
            source=item.source or (dispatched.source if dispatched else TELEOP), intervention=item.intervention,
            numbers=numbers, times=(*times, reading.captured_s),
            packets=[packets for packets, _ in encoded], counts=[counts for _, counts in encoded],
        )  # fmt: skip

    def _vector(self, column: str, values: np.ndarray) -> bytes:
        feature = self._plan.features.get(column)
        if feature is None:
            return b""
        vector = np.ascontiguousarray(values, np.float32)
        if vector.shape != tuple(feature["shape"]):
            wanted = f"want {feature['shape'][0]} values of {column}"
            raise RecordingError(wanted, f"shape {vector.shape}", "check the robot's features")
        return vector.tobytes()

    def _begin_part(self) -> PartFile:
        plan = self._plan
        self._cameras = [
            Camera(name, camera_size(plan.features[name]), plan.spooled, plan.gop, plan.fps) for name in self._names
        ]
        part = PartFile(self._spool, self._numbers, self._sync_s)
        self._part, self._numbers = part, self._numbers + 1
        part.append(Begin(part.number, self._dropped, plan.spooled, [camera.extradata for camera in self._cameras]))
        self._dropped = 0
        return part

    def _check_disk(self) -> None:
        """End while there is still room to lay out what was recorded."""
        now_s = time.monotonic()
        if now_s - self._disk_checked_s < DISK_CHECK_S:
            return
        self._disk_checked_s = now_s
        waiting = sum(part.bytes for part in (self._part, *self._ended) if part is not None)
        with self._saved_guard:
            waiting += sum(part.bytes for part in self._saved)
        free = shutil.disk_usage(self._spool).free
        if free < waiting + self._reserve:
            wanted = f"want {(waiting + self._reserve) // MIB} MiB free on the disk of {self._spool.parent}"
            remedy = "free some, or record elsewhere; all frames before are kept"
            raise RecordingError(wanted, f"{free // MIB} MiB", remedy)

    # --- episodes -------------------------------------------------------------------------------------

    def _end_part(self) -> None:
        """No more frames come into this part; what becomes of it is said later."""
        if self._part is not None:
            self._ended.append(self._part)
            packets = [camera.flush() for camera in self._cameras]
            self._part, self._cameras = None, []
            if any(packets):
                self._ended[-1].append(End("", SPLIT, packets))

    def _save(self, job: Save) -> None:
        self._end_part()
        parts, self._ended = self._ended, []
        for i, part in enumerate(parts):
            how = job.how if i == len(parts) - 1 else SPLIT
            try:
                part.append(End(job.task, how, [[] for _ in self._names]))
                part.sync()
            except OSError as err:  # a full disk: the frames are there, the part is an interrupted one
                log.warning("%s: the end of the episode could not be written: %s", part.path, err)
            part.close()
        with self._saved_guard:
            self._saved += [Part(part.path, part.number, part.bytes) for part in parts]
        self.saved += len(parts)
        self._publish_when_large()

    def _discard(self) -> None:
        self._end_part()
        for part in self._ended:
            part.remove()
        self._ended = []

    def _publish_when_large(self) -> None:
        """Files are laid out as they fill, so that the end of a long run comes soon and the disk is not used twice."""
        running = self._publishing is not None and self._publishing.is_alive()
        large = sum(part.bytes for part in self._saved) >= self._plan.video_mb_max * MIB
        if large and not running and self._plan.writer == OWN:
            self._publishing = threading.Thread(target=self._publish, name="cuebook-publish", daemon=True)
            self._publishing.start()

    def _publish(self) -> None:
        try:
            self.publish_saved()
        except RecordingError as err:
            log.warning("the dataset is laid out later: %s", err)


def _provenance(dispatched: Dispatched | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """INTEGERS and TIMES of an action, without the last of TIMES."""
    origin = dispatched.origin if dispatched else None
    if dispatched is None or origin is None:
        return (UNKNOWN,) * len(INTEGERS), (float(UNKNOWN),) * (len(TIMES) - 1)
    age_ms = dispatched.age_ms if dispatched.age_ms is not None else UNKNOWN
    row = dispatched.row if dispatched.row is not None else UNKNOWN
    numbers = (int(origin.seq_id), int(origin.episode_id), int(row))
    return numbers, (float(age_ms), float(origin.queue_wait_ms), float(origin.inference_ms))


def _session(dispatched: Dispatched | None) -> str:
    return dispatched.origin.session_id if dispatched and dispatched.origin else ""


def _task(dispatched: Dispatched | None) -> str:
    return (dispatched.task if dispatched else "") or ""
