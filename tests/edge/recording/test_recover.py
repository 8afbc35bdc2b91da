"""Killed at any point, a recording keeps all before the frame that was being written, once, in order, and readable."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import RecordingError
from edge.recording.recover import recover
from edge.recording.spool import HEAD
from tests.conftest import REPO
from tests.edge.recording.drives import begin, check_whole, drive, notes_of, numbers_of, policy, tasks_of

START_S = 60


def start(root: Path, *arguments: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.edge.recording.killed_drive", str(root), *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def drive_and_kill(root: Path, first: int, lines: int) -> int:
    """Kill a run after it said so many times how far it is; returns what it said last."""
    run = start(root, first)
    assert run.stdout is not None
    try:
        said = [run.stdout.readline() for _ in range(lines)]
    finally:
        run.kill()
        _, errors = run.communicate(timeout=START_S)
    assert said[-1], errors
    return int(said[-1])


def spool(root: Path) -> Path:
    return root.with_name(f".{root.name}.recording")


@pytest.mark.slow
def test_killed_at_random_points_and_resumed_again_and_again(tmp_path: Path) -> None:
    """Each run begins where the last one was killed; all of them end up in one dataset."""
    root, chance, first, runs = tmp_path / "d", random.Random(6), 0, []
    for _ in range(6):
        written = drive_and_kill(root, first, chance.randrange(1, 160))
        runs.append((first, written))
        first += 1000
    recover(root)
    frames = [n for numbers in check_whole(root) for n in numbers]
    assert frames == sorted(set(frames)), "a frame twice, or out of order"
    for first, written in runs:
        kept = [n for n in frames if first <= n < first + 1000]
        assert kept == list(range(first, first + len(kept))), "a hole"
        assert first + len(kept) >= written, "a frame that was on disk is gone"
    assert recover(root) is None


def test_a_killed_run_is_whole_again_without_being_resumed(tmp_path: Path) -> None:
    root = tmp_path / "d"
    written = drive_and_kill(root, 0, 20)
    recovered = recover(root)
    assert recovered is not None and recovered.root == root and recovered.frames >= written
    numbers = check_whole(root)
    assert recovered.frames == sum(map(len, numbers)) and recovered.episodes == len(numbers)
    assert notes_of(root)[-1]["ended"] in ("interrupted", "saved")


def test_the_next_run_recovers_before_it_begins(tmp_path: Path) -> None:
    root = tmp_path / "d"
    drive_and_kill(root, 0, 12)
    with pytest.raises(RecordingError, match=r"recovered from a run that was killed[\s\S]*resume=true"):
        begin(root)
    before = numbers_of(root)
    with begin(root, resume=True) as recorder:
        drive(recorder, 5000, 3)
    assert check_whole(root) == [*before, [5000, 5001, 5002]]


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_change_of_the_file_system(tmp_path: Path, stride: int) -> None:
    """A run that appends to a dataset dies before its first change, before its second, and so on to the last."""
    base = tmp_path / "base"
    with begin(base) as recorder:
        drive(recorder, 0, 2)
    run = start(base, 100, stride)
    said, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    deaths = {int(step): int(status) for step, status in (line.split() for line in said.splitlines())}
    assert list(deaths.values()) == [-signal.SIGKILL] * (len(deaths) - 1) + [0] and len(deaths) > 30 / stride
    for step in deaths:
        root = tmp_path / str(step) / "d"
        recover(root)
        frames = [n for numbers in check_whole(root) for n in numbers]
        assert frames == [0, 1, *range(100, 100 + len(frames) - 2)], f"killed at change {step}"
    assert len(frames) == 7, "the last one was not killed"


def test_torn_anywhere_a_part_keeps_its_whole_frames(tmp_path: Path) -> None:
    """The last bytes of the file are missing, or nonsense: what a power cut leaves."""
    recorder = begin(tmp_path / "d")
    drive(recorder, 0, 6, policy(task="pick"))
    assert recorder.flush(30)
    part = next(spool(tmp_path / "d").glob("part-*"))
    data = part.read_bytes()
    plan = (spool(tmp_path / "d") / "recording.json").read_bytes()
    recorder.discard_episode()
    assert recorder.finalize() is None
    ends = [0]  # of the records: the beginning, then a frame each
    while ends[-1] < len(data):
        ends.append(ends[-1] + HEAD.size + HEAD.unpack_from(data, ends[-1])[0])
    assert len(ends) == 8 and ends[-1] == len(data)
    for cut in sorted({end + more for end in ends for more in (-1, 0, 5, 40)} & set(range(len(data) + 1))):
        for tail in (b"", bytes(100), random.Random(cut).randbytes(5000)):
            root = tmp_path / f"cut-{cut}-{len(tail)}" / "d"
            spool(root).mkdir(parents=True)
            (spool(root) / "recording.json").write_bytes(plan)
            torn = data[:cut] + tail
            kept = max(0, sum(torn.startswith(data[:end]) for end in ends) - 2)
            (spool(root) / part.name).write_bytes(torn)
            recovered = recover(root)
            assert (0 if recovered is None else recovered.frames) == kept
            if kept:
                assert check_whole(root) == [list(range(kept))] and tasks_of(root) == ["pick"] * kept
            else:
                assert not root.exists() and not spool(root).exists()


def test_a_running_recording_is_not_recovered(tmp_path: Path) -> None:
    with begin(tmp_path / "d") as recorder:
        drive(recorder, 0, 2)
        with pytest.raises(RecordingError, match=f"process {os.getpid()}"):
            recover(tmp_path / "d")
    assert check_whole(tmp_path / "d") == [[0, 1]]


def test_nothing_to_recover(tmp_path: Path) -> None:
    assert recover(tmp_path / "d") is None
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_was_moved_is_recovered_where_it_lies(tmp_path: Path) -> None:
    root = tmp_path / "a/d"
    drive_and_kill(root, 0, 12)
    os.rename(tmp_path / "a", tmp_path / "b")
    recovered = recover(tmp_path / "b/d")
    assert recovered is not None and recovered.root == tmp_path / "b/d"
    check_whole(tmp_path / "b/d")
