"""A run that is killed: python -m tests.edge.recording.killed_drive ROOT FIRST [STRIDE].

Without STRIDE it drives without end, saves and publishes now and then, and says after each frame how many are on disk.
With STRIDE it records two short episodes and finishes, again and again, each time into a copy of ROOT (../STEP/d) and
in a process that is killed before its STEP-th change of the file system, until one lives; it says how each ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.edge.recording.drives import begin, drive

CHANGES = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link", "fsync", "fdatasync", "write")
EPISODE, PUBLISH = 9, 30  # frames


def die_at(step: int) -> None:
    """Kill this process before the STEP-th change that it makes."""
    from tasks.dataset import commit

    left = [step]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return wrapped

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    commit.exchange = counted(commit.exchange)


def endless(root: Path, first: int) -> None:
    recorder, number = begin(root, resume=True, video_files_size_in_mb=0.02), first
    while True:
        drive(recorder, number, 1)
        number += 1
        print(first + recorder.stats().written, flush=True)
        if number % EPISODE == 0:
            recorder.save_episode("pick")
        if number % PUBLISH == 0:
            recorder.publish()
        time.sleep(0.002)


def each_death(root: Path, first: int, stride: int) -> None:
    import_all()
    step, status = 1, -1
    while status != 0:
        copy = Path(shutil.copytree(root, root.parent / str(step) / "d"))
        child = os.fork()
        if child == 0:
            short(copy, first, step)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(step, status, flush=True)
        step += stride


def import_all() -> None:
    """Once, before the processes part."""
    import edge.recording.begin
    import edge.recording.writer  # noqa: F401


def short(root: Path, first: int, step: int) -> None:
    recorder = begin(root, resume=True)
    die_at(step)
    drive(recorder, first, 3)
    recorder.save_episode("pick")
    drive(recorder, first + 3, 2)
    recorder.finalize()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        each_death(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        endless(Path(sys.argv[1]), int(sys.argv[2]))
