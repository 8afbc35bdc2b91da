"""A recording laid out by LeRobot's own writer, in a process of its own, where its imports and encoders disturb nobody.

The spool stays until it is done, so that what LeRobot's writer would lose in a kill is not lost here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import RecordingError
from edge.recording.part import SpooledEpisode
from edge.recording.plan import EpisodeNote, Plan
from tasks.dataset.info import INFO_PATH

CODECS = ("h264", "hevc", "av1")  # that both know
VERSION_MIN = (0, 6)
SAID_CHARS_MAX = 1500


class Request(msgspec.Struct, frozen=True):
    """What the other process is told."""

    plan: Plan
    parts: list[str]
    out: str
    resume: bool


def installed() -> bool:
    """Whether LeRobot's writer can be used here. Imports nothing."""
    if importlib.util.find_spec("lerobot") is None:
        return False
    version = importlib.metadata.version("lerobot").split(".")
    return tuple(int(n) for n in version[:2] if n.isdecimal()) >= VERSION_MIN


def build(plan: Plan, root: Path | None, episodes: Sequence[SpooledEpisode], out: Path) -> list[EpisodeNote]:
    """Write the new and the changed files of a dataset that grows by these episodes into `out`, as build.build does."""
    whole = out.with_name(out.name + "-lerobot")
    shutil.rmtree(whole, ignore_errors=True)
    request = Request(plan, [str(e.path) for e in episodes], str(whole), root is not None)
    try:
        if root is not None:
            _clone(root, whole)
        _run(request, out)
        for file in (p for p in whole.rglob("*") if p.is_file()):
            name = file.relative_to(whole)
            if root is None or name.parts[0] == "meta" or not (root / name).exists():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, out / name)
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    if not (out / INFO_PATH).is_file():
        raise RecordingError("want a dataset of LeRobot's writer", f"none at {whole}", "say --dataset.writer=own")
    return [episode.note() for episode in episodes]


def _run(request: Request, out: Path) -> None:
    told = out / "request.json"
    told.write_bytes(msgspec.json.encode(request))
    project = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([project, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "edge.recording.lerobot_process", str(told)]
    ours, held = os.pipe()  # it ends when the pipe does: not even a kill leaves it writing behind
    try:
        done = subprocess.run(command, env=env, stdin=ours, capture_output=True, text=True, check=False)
    finally:
        os.close(ours)
        os.close(held)
    told.unlink()
    if done.returncode:
        said = done.stderr[-SAID_CHARS_MAX:].strip() or f"exit code {done.returncode}"
        remedy = "mend the installation of lerobot, then: edge recover ROOT; or edge recover ROOT --writer=own"
        raise RecordingError("want LeRobot's writer to lay out the recording", said, remedy)


def _clone(root: Path, whole: Path) -> None:
    """The dataset again: LeRobot adds data and video files, which may be shared, and writes meta/ in place."""

    def share(source: str, target: str) -> Any:
        if Path(source).relative_to(root).parts[0] == "meta":
            return shutil.copy2(source, target)
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            shutil.copy2(source, target)
        return target

    shutil.copytree(root, whole, copy_function=share)
