"""A full disk ends the recording with a clear error; the drive may go on, and all frames before are readable."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.errors import RecordingError
from edge.recording.recover import recover
from tests.conftest import REPO
from tests.edge.recording.drives import begin, check_whole, drive, notes_of

MIB = 1024 * 1024


def test_a_file_that_may_not_grow_ends_it_at_a_whole_frame(tmp_path: Path) -> None:
    """The kernel itself refuses the write, in the middle of a frame."""
    root = tmp_path / "d"
    command = [sys.executable, "-m", "tests.edge.recording.full_disk_drive", str(root), "10000"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "File too large" in said["told"] and str(root) in said["told"] and said["ended"] == said["told"]
    assert 6 < said["written"] < 300 and said["driven"] <= said["written"] + 1, "told at the next frame"
    assert check_whole(root) == [list(range(5)), list(range(5, said["written"]))]
    assert [note["ended"] for note in notes_of(root)] == ["saved", "stopped"]


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Writes of large blocks fail from when `on` is set."""
    disk, write = SimpleNamespace(on=False), os.write

    def full(fd: int, data: Any) -> int:
        if disk.on and os.fstat(fd).st_size > 0:
            write(fd, bytes(data)[:7])  # some of it still fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    return disk


def test_the_end_of_the_space_is_told_once_and_what_was_written_is_kept(
    tmp_path: Path, no_space: SimpleNamespace
) -> None:
    root = tmp_path / "d"
    recorder = begin(root)
    drive(recorder, 0, 8)
    assert recorder.flush(30)
    no_space.on = True
    drive(recorder, 8, 1)
    assert recorder.flush(30)
    with pytest.raises(RecordingError, match="No space left on device"):
        drive(recorder, 9, 1)
    recorder.save_episode("pick")
    with pytest.raises(RecordingError, match="No space left on device"):
        recorder.finalize()
    assert check_whole(root) == [list(range(8))]
    assert [note["ended"] for note in notes_of(root)] == ["interrupted"], "its end could not be written"


def test_a_dataset_that_cannot_be_laid_out_waits_in_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    root = tmp_path / "d"
    with begin(root) as recorder:
        drive(recorder, 0, 3)
    recorder = begin(root, resume=True)
    drive(recorder, 3, 4)
    recorder.save_episode("pick")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(RecordingError, match=r"No space left[\s\S]*edge recover"):
            recorder.publish()
        drive(recorder, 7, 2)
        with pytest.raises(RecordingError, match=r"No space left[\s\S]*edge recover"):
            recorder.finalize()
    assert len(list((tmp_path / ".d.recording").glob("part-*"))) == 2, "the parts wait"
    recovered = recover(root)
    assert recovered is not None and (recovered.episodes, recovered.frames) == (2, 6)
    assert check_whole(root) == [[0, 1, 2], [3, 4, 5, 6], [7, 8]]


def test_recording_ends_while_there_is_room_to_finish_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    free = SimpleNamespace(bytes=100 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free.bytes))
    monkeypatch.setattr("edge.recording.writer.DISK_CHECK_S", 0.0)
    root, recorder = tmp_path / "d", begin(tmp_path / "d", disk_reserve_mib=50)
    drive(recorder, 0, 4)
    assert recorder.flush(30)
    free.bytes = 50 * MIB  # less than the reserve and what waits to be laid out
    drive(recorder, 4, 1)
    assert recorder.flush(30)
    with pytest.raises(RecordingError, match="want 50 MiB free"):
        drive(recorder, 5, 1)
    with pytest.raises(RecordingError, match="want 50 MiB free"):
        recorder.finalize()
    assert check_whole(root) == [[0, 1, 2, 3]]
