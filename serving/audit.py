"""The audit log: one JSON line a request, joined with everything else by (session_id, seq_id)."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from serving.errors import ServingError
from serving.log_writer import LogWriter
from serving.record import Drop, RequestRecord

FILE_BYTES_MAX = 64 << 20
FILES_KEPT = 4  # beside the one being written
LINES_WAITING_MAX = 8192
OUTCOME_MAX = 500  # characters
CLOSE_S = 5.0
STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}  # opening them by name fails where they are sockets


class AuditLine(msgspec.Struct):
    """The fields of a line, in their order. Durations in milliseconds."""

    ts: str  # wall clock, UTC; the only use of it in the daemon
    session_id: str
    client_uuid: str
    seq_id: int
    episode_id: int
    queue_wait_ms: float  # in the mailbox and for the policy
    inference_ms: float  # preprocess, predict, postprocess
    stages_ms: dict[str, float]
    batch: int  # requests predicted together; 0: it failed before
    superseded: int  # observations replaced since the session's last request
    outcome: str  # ok, or `error: <code>: …`
    chunk_rows: int


class AuditWriter:
    """Writes lines to a file (turned over by size) or hands them to a logger. Raises ServingError on a bad path."""

    def __init__(self, to: str | Path | logging.Logger, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._file = None if isinstance(to, logging.Logger) else RotatingFile(Path(to), file_bytes_max)
        write = self._file.write if self._file else _line_to(to)  # type: ignore[arg-type]
        self._encode = msgspec.json.Encoder().encode
        self._writer: LogWriter[AuditLine] = LogWriter(
            "audit", lambda line: write(self._encode(line)), LINES_WAITING_MAX
        )

    @property
    def lost(self) -> int:
        """Lines that were never written."""
        return self._writer.lost

    def note(self, record: RequestRecord | Drop) -> None:
        """Take a request's line. Called from any thread; never waits."""
        if isinstance(record, RequestRecord):
            self._writer.put(audit_line(record))

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what waits and close the file; False when the disk takes longer. Twice is once."""
        done = self._writer.close(timeout_s)
        if done and self._file:
            self._file.close()
        return done


def audit_line(record: RequestRecord) -> AuditLine:
    """A request as a line; keeps nothing of its bodies."""
    return AuditLine(
        ts=datetime.now(UTC).isoformat(timespec="milliseconds"),
        session_id=record.session_id,
        client_uuid=record.client,
        seq_id=record.seq_id,
        episode_id=record.episode_id,
        queue_wait_ms=_ms(record.waited_s),
        inference_ms=_ms(record.inference_s),
        stages_ms={stage: _ms(spent_s) for stage, spent_s in record.stages_s.items()},
        batch=record.batch,
        superseded=record.superseded,
        outcome=record.outcome[:OUTCOME_MAX],
        chunk_rows=record.chunk_rows,
    )


class RotatingFile:
    """Whole lines to a file; at its size limit it becomes `.1`, `.1` becomes `.2`, and the last one goes.

    A device or pipe (/dev/stdout) is never turned over. Raises ServingError when it cannot be opened.
    """

    def __init__(self, path: Path, bytes_max: int = FILE_BYTES_MAX, kept: int = FILES_KEPT) -> None:
        self._path, self._bytes_max, self._kept = path, bytes_max, kept
        self._torn = False  # the last line did not fit on the disk as a whole
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as err:
            raise ServingError(f"want to write the audit log {path}", str(err), "set audit.path to a file") from err

    def write(self, line: bytes) -> None:
        """Add a line. Raises OSError; what is written later begins on a new line."""
        if self._regular and self._size and self._size + len(line) >= self._bytes_max:
            self._turn_over()
        if self._fd < 0:  # turned over
            self._open()
        data = (b"\n" if self._torn else b"") + line + b"\n"
        written = os.write(self._fd, data)
        self._size += written
        self._torn = written < len(data)
        if self._torn:
            raise OSError(f"only {written} of {len(data)} bytes fit into {self._path}")

    def close(self) -> None:
        """Close the file. Twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        stream = STREAMS.get(str(self._path))
        if stream is not None:
            self._fd, self._regular, self._size = os.dup(stream), False, 0
            return
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        found = os.fstat(self._fd)
        self._regular, self._size = stat.S_ISREG(found.st_mode), found.st_size

    def _turn_over(self) -> None:
        for age in range(self._kept, 0, -1):
            older = self._path if age == 1 else self._aged(age - 1)
            if older.exists():
                older.replace(self._aged(age))
        self.close()
        self._torn = False

    def _aged(self, age: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{age}")


def _line_to(logger: logging.Logger) -> Callable[[bytes], None]:
    return lambda line: logger.info("%s", line.decode())


def _ms(spent_s: float) -> float:
    return round(spent_s * 1e3, 3)
