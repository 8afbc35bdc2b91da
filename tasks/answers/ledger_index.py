"""Find a recorded call by its question: an index of 33 bytes a line is held in memory, the lines are read on demand."""

from __future__ import annotations

import json
import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from tasks.errors import AnswererError

log = logging.getLogger(__name__)

NO_EPISODE = -1
ROW = struct.Struct("<Qqii?q")
ROW_TYPE = np.dtype(
    [
        *zip(
            ("key", "episode", "twin", "run", "answered", "offset"),
            ("<u8", "<i8", "<i4", "<i4", "?", "<i8"),
            strict=True,
        )
    ]
)
KEY_HEX_CHARS = 16  # of a digest: 64 bits find the line, the line itself tells whether it is the right one


@dataclass(frozen=True)
class Recorder:
    """Who answered, and what it could be asked."""

    model: str
    needs_pictures: bool
    vqa_types: frozenset[str] | None


class LedgerIndex:
    """Where the calls of each question lie in a ledger. Thread-safe."""

    def __init__(self, path: Path, rows: np.ndarray, recorders: list[Recorder]) -> None:
        self.recorders = recorders
        self._path = path
        self._rows = rows  # of ROW_TYPE, in order of the key
        self._keys = np.ascontiguousarray(rows["key"])

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, digest: str, episode: int | None, twin: int) -> dict[str, Any] | None:
        """What came of a question: asked of this episode, else of any other.

        Of several runs the latest that has an answer counts; within a run its last word, since a phase that is tried
        again asks anew.
        """
        key = np.uint64(_key(digest))
        same = self._rows[np.searchsorted(self._keys, key) : np.searchsorted(self._keys, key, "right")]
        mine = same["episode"] == (NO_EPISODE if episode is None else episode)
        in_order = same["twin"] == twin
        for fitting in (same[mine & in_order], same[mine], same[in_order], same):
            if len(fitting):
                best = fitting[np.lexsort((fitting["offset"], fitting["answered"]))[-1]]
                return self._read(int(best["offset"]), digest)
        return None

    def _read(self, offset: int, digest: str) -> dict[str, Any] | None:
        with self._path.open("rb") as file:
            file.seek(offset)
            record = json.loads(file.readline())
        return record if record["digest"] == digest else None


def read_index(path: Path) -> LedgerIndex:
    """Index the lines of a ledger or of an older recording. Lines that cannot be read are left out with a warning."""
    remedy = "pass the ledger of an earlier run, or its staging folder: --vlm.replay_path=FILE.jsonl"
    scan = _Scan()
    try:
        with path.open("rb") as file:
            for line in file:
                scan.add(line)
    except OSError as error:
        raise AnswererError(f"a ledger of answers at {path}", str(error), remedy) from error
    if not scan.rows:
        raise AnswererError(f"recorded answers in {path}", scan.problem or "an empty file", remedy)
    if scan.unreadable:
        log.warning("%s: left out %d lines that cannot be read; the first: %s", path, scan.unreadable, scan.problem)
    return LedgerIndex(path, _sorted(scan.rows), list(scan.recorders.values()))


class _Scan:
    """What one pass over the lines finds."""

    def __init__(self) -> None:
        self.rows = bytearray()
        self.recorders: dict[str, Recorder] = {}
        self.problem = ""
        self.unreadable = 0
        self._runs: dict[str, int] = {}
        self._offset = self._number = 0

    def add(self, line: bytes) -> None:
        offset, self._offset, self._number = self._offset, self._offset + len(line), self._number + 1
        if not line.endswith(b"\n") or line.isspace():
            return  # cut by a kill, or empty
        try:
            self._take(from_json(line), offset)  # a third of the time of json.loads
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            self.unreadable += 1
            self.problem = self.problem or f"line {self._number}: {error!r}"

    def _take(self, record: dict[str, Any], offset: int) -> None:
        if record.get("outcome") == "lost":
            return  # nobody knows what would have been answered
        model, episode = record["model"], record.get("episode")
        episode = NO_EPISODE if episode is None else episode
        run = self._runs.setdefault(record.get("run_id", ""), len(self._runs))
        answered = record["answer"] is not None
        row = ROW.pack(_key(record["digest"]), episode, record.get("twin", 0), run, answered, offset)
        if model not in self.recorders:
            types = record.get("vqa_types")
            known = None if types is None else frozenset(types)
            self.recorders[model] = Recorder(str(model), bool(record.get("needs_pictures", True)), known)
        self.rows += row


def _sorted(found: bytearray) -> np.ndarray:
    """The last line of each question, episode and run, in order of the key."""
    rows = np.frombuffer(found, ROW_TYPE)
    rows = rows[np.lexsort([rows[name] for name in ("offset", "run", "twin", "episode", "key")])]
    last = np.ones(len(rows), bool)
    last[:-1] = np.any([rows[name][1:] != rows[name][:-1] for name in ("key", "episode", "twin", "run")], axis=0)
    return rows[last]


def _key(digest: str) -> int:
    return int(digest[:KEY_HEX_CHARS], 16)
