"""Keeps the last requests and their answers on disk, so that they can be run again (see serving.replay_capture)."""

from __future__ import annotations

import os
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from serving.capture_log import MAGIC, SUFFIX, Pair, Run, SessionFacts, count_pairs, frame
from serving.errors import ServingError
from serving.log_writer import LogWriter
from serving.policies.base import PolicySpec
from serving.record import Drop, RequestRecord
from serving.work import PipelineSettings

PAIRS_MAX = 256
DISK_BYTES_MAX = 1 << 30
SEGMENTS = 8  # the ring moves on by one of so many parts
WAITING_MAX = 64  # pairs on their way to the disk
WAITING_BYTES_MAX = 32 << 20
CLOSE_S = 5.0


class CaptureWriter:
    """A ring of request and answer pairs: at least the last `pairs_max`, as far as `disk_bytes_max` allows.

    Wants records with bodies: `PipelineSettings.keep_bodies`. Raises ServingError when the folder cannot be made.
    """

    def __init__(
        self,
        folder: str | Path,
        pairs_max: int,
        spec: PolicySpec,
        settings: PipelineSettings,
        server_id: str = "",
        disk_bytes_max: int = DISK_BYTES_MAX,
    ) -> None:
        self._ring = _Ring(Path(folder), pairs_max, disk_bytes_max, _run(spec, settings, server_id))
        self._writer: LogWriter[Pair] = LogWriter(
            "capture", lambda pair: self._ring.add(frame(pair)), WAITING_MAX, WAITING_BYTES_MAX
        )

    @property
    def lost(self) -> int:
        """Pairs that were never written."""
        return self._writer.lost

    def note(self, record: RequestRecord | Drop) -> None:
        """Take a request with its bodies. Called from any thread; never waits."""
        if isinstance(record, RequestRecord) and record.request_header and record.agreed and record.info:
            self._writer.put(_pair(record), len(record.request_body) + len(record.reply_body))

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what waits and close the segment; False when the disk takes longer. Twice is once."""
        done = self._writer.close(timeout_s)
        if done:
            self._ring.close()
        return done


class _Ring:
    """Segments in a folder: the newest grows, the oldest go. Used by the writer's thread alone."""

    def __init__(self, folder: Path, pairs_max: int, disk_bytes_max: int, run: Run) -> None:
        self._folder, self._run = folder, run
        self._pairs_max, self._disk_bytes_max = pairs_max, disk_bytes_max
        self._fd = -1
        self._size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._pairs = {path: count_pairs(path) for path in sorted(folder.glob(f"*{SUFFIX}"))}  # by segment
            self._number = max(map(_number, self._pairs), default=0)
        except OSError as err:
            raise ServingError(f"want to keep requests in {folder}", str(err), "set debug.capture_dir") from err

    def add(self, data: bytes) -> None:
        """Append a frame; a new segment when this one is full. Raises OSError; what follows goes to a new segment."""
        segment_bytes = self._disk_bytes_max // SEGMENTS
        full = self._fd >= 0 and (
            self._pairs[self._path] >= max(1, self._pairs_max // SEGMENTS) or self._size + len(data) > segment_bytes
        )
        try:
            if full or self._fd < 0:
                self.close()
                self._begin()
            self._write(data)
        except OSError:
            self._abandon()
            raise
        self._pairs[self._path] += 1

    def close(self) -> None:
        """Close the segment. Twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _abandon(self) -> None:
        """A torn frame stays the last of its segment; a segment without a pair goes, or a full disk would fill up."""
        if self._fd >= 0:
            self.close()
            if not self._pairs[self._path]:
                del self._pairs[self._path]
                self._path.unlink(missing_ok=True)

    def _begin(self) -> None:
        self._make_room()
        self._number += 1
        self._path = self._folder / f"{self._number:08d}-{self._run.run_id[:8]}{SUFFIX}"
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._pairs[self._path], self._size = 0, 0
        self._write(MAGIC + frame(self._run))

    def _write(self, data: bytes) -> None:
        written = os.write(self._fd, data)
        self._size += written
        if written < len(data):
            raise OSError(f"only {written} of {len(data)} bytes fit into {self._path}")

    def _make_room(self) -> None:
        """Delete the oldest segments, those of earlier runs too, while the others hold enough or too much."""
        sizes = {path: path.stat().st_size for path in self._pairs if path.exists()}
        self._pairs = {path: self._pairs[path] for path in sizes}
        for path in list(sizes):
            enough = sum(self._pairs.values()) - self._pairs[path] >= self._pairs_max
            too_large = sum(sizes.values()) > self._disk_bytes_max - self._disk_bytes_max // SEGMENTS
            if not (enough or too_large):
                return
            path.unlink(missing_ok=True)
            del sizes[path], self._pairs[path]


def _number(path: Path) -> int:
    number = path.stem.split("-")[0]
    return int(number) if number.isdigit() else 0


def _run(spec: PolicySpec, settings: PipelineSettings, server_id: str) -> Run:
    return Run(
        run_id=uuid.uuid4().hex,
        server_id=server_id,
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        policy_type=spec.policy_type,
        model_repo=spec.model_repo,
        model_revision=spec.model_revision,
        checkpoint_hash=spec.checkpoint_hash,
        normalisation_hash=spec.normalisation_hash,
        shared=spec.shared,
        default_task=settings.default_task,
        pinned_task=settings.pinned_task,
        limits=asdict(settings.limits),
    )


def _pair(record: RequestRecord) -> Pair:
    agreed, info = record.agreed, record.info
    assert agreed is not None and info is not None
    return Pair(
        session_id=record.session_id,
        client=record.client,
        session=SessionFacts(
            features=sorted(agreed.features),
            schema_version=agreed.schema_version,
            rtc=agreed.rtc,
            chunk_form=agreed.chunk_form,
            f16=agreed.f16,
            task=agreed.task,
            fps=agreed.fps,
            robot_type=agreed.robot_type,
            action_names=list(agreed.action_names),
            tags=dict(info.tags),
        ),
        seq_id=record.seq_id,
        superseded=record.superseded,
        batch=record.batch,
        batch_number=record.batch_number,
        batch_place=record.batch_place,
        policy_reset=record.policy_reset,
        outcome=record.outcome,
        stages_s=dict(record.stages_s),
        request_header=record.request_header,
        request_body=record.request_body,
        reply_header=record.reply_header,
        reply_body=record.reply_body,
    )
