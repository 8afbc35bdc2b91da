"""All that is checked before a recording begins: nothing is in the way, and it can be written."""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from edge.errors import RecordingError
from edge.recording import lerobot
from edge.recording.columns import dataset_features
from edge.recording.pictures import LOSSLESS, PNG, encoding_of, frame_rate, open_encoder
from edge.recording.plan import LEROBOT, OWN, Plan, read_notes, spool_of, write_plan
from edge.recording.push import check_push
from edge.recording.recover import locked, recover_locked
from edge.recording.settings import DatasetSettings
from edge.robots.base import RobotFeatures
from tasks.dataset.info import INFO_PATH, camera_size, read_info
from tasks.dataset.record import BOOKKEEPING
from tasks.errors import AnnotateError

NAMED_MAX = 3


def begin(settings: DatasetSettings, robot: RobotFeatures, fps: float) -> tuple[Plan, Path, ExitStack]:
    """The plan of a new recording, its locked spool, and what to close at the end. RecordingError."""
    root = settings.folder()
    check_push(settings)
    features = dataset_features(robot, video=settings.video)
    spool = spool_of(root)
    with ExitStack() as stack:
        stack.enter_context(locked(spool))
        _check_place(root, spool)
        left = recover_locked(root, spool)
        _check_root(settings, root, bool(left))
        plan = _plan(settings, root, robot, fps, features)
        _check_same(plan, root)
        _check_encoders(plan)
        write_plan(spool, plan)
        return plan, spool, stack.pop_all()
    raise AssertionError  # the block returns or raises


def _plan(settings: DatasetSettings, root: Path, robot: RobotFeatures, fps: float, features: dict) -> Plan:
    writer = _writer(settings, root)
    spooled = settings.codec if settings.video and robot.cameras else PNG
    return Plan(
        id=uuid.uuid4().hex, root=str(root), repo_id=settings.repo_id or "",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"), robot_type=robot.robot_type, fps=fps,
        features=features, task=settings.single_task, writer=writer, codec=settings.codec,
        spooled=LOSSLESS if writer == LEROBOT and spooled != PNG else spooled, gop=settings.gop,
        video_mb_max=settings.video_files_size_in_mb,
    )  # fmt: skip


def _writer(settings: DatasetSettings, root: Path) -> str:
    """Who lays out the files. A dataset that grows stays with who began it: the two write different metadata."""
    began = _began(root)
    writer = began or (LEROBOT if settings.writer == LEROBOT else OWN)
    if settings.writer not in ("auto", writer):
        wanted = f"want to go on with the writer that laid out {root}, {writer}"
        raise RecordingError(wanted, f"--dataset.writer={settings.writer}", "leave it away")
    if writer == LEROBOT and not lerobot.installed():
        wanted = "want lerobot 0.6 or newer for its own writer"
        remedy = "pip install 'cuebook[lerobot]' (Python 3.12 and newer), or say --dataset.writer=own and a new root"
        raise RecordingError(wanted, "not installed", remedy)
    if writer == LEROBOT and settings.codec not in lerobot.CODECS:
        wanted = f"want a codec that LeRobot's writer has: {', '.join(lerobot.CODECS)}"
        raise RecordingError(wanted, settings.codec, "say another --dataset.codec, or --dataset.writer=own")
    return writer


def _began(root: Path) -> str | None:
    if not (root / INFO_PATH).is_file():
        return None
    notes = read_notes(root)
    return notes.writer if notes else LEROBOT


def _check_place(root: Path, spool: Path) -> None:
    """The dataset must appear by a rename: on one file system with the spool beside it."""
    if root.exists() and root.is_dir() and root.stat().st_dev != spool.stat().st_dev:
        remedy = f"say --dataset.root={root / 'NAME'}"
        raise RecordingError(f"want {root} on the file system of {root.parent}", "a mount point", remedy)
    if not os.access(spool, os.W_OK | os.X_OK):
        raise RecordingError(f"want to write in {root.parent}", "no permission", "choose another --dataset.root")


def _check_root(settings: DatasetSettings, root: Path, recovered: bool) -> None:
    if root.exists() and not root.is_dir():
        raise RecordingError("want a folder to record into", f"the file {root}", "choose another --dataset.root")
    if (root / INFO_PATH).is_file():
        if not settings.resume:
            got = f"{root}, which is a dataset" + (", recovered from a run that was killed" if recovered else "")
            remedy = "say --dataset.resume=true to append to it, or choose another --dataset.root"
            raise RecordingError("want a new or empty folder to record into", got, remedy)
    elif root.is_dir() and any(root.iterdir()):
        got = f"{root}, which holds {next(root.iterdir()).name} and is no dataset"
        raise RecordingError("want a new or empty folder to record into", got, "choose another --dataset.root")


def _check_same(plan: Plan, root: Path) -> None:
    """What is appended must have the columns, the rate and the robot of what is there."""
    if not (root / INFO_PATH).is_file():
        return
    try:
        info = read_info(root)
    except AnnotateError as err:
        raise RecordingError(err.wanted, err.got, err.remedy) from err
    there = {name: _form(f) for name, f in info.features.items() if name not in BOOKKEEPING}
    here = {name: _form(f) for name, f in plan.features.items()}
    remedy = "record into another --dataset.root"
    if different := sorted(n for n in there.keys() | here.keys() if there.get(n) != here.get(n)):
        names = ", ".join(different[:NAMED_MAX])
        raise RecordingError(f"want the features of {root} to append to it", f"another {names}", remedy)
    if info.fps != plan.fps:
        raise RecordingError(f"want {info.fps:g} fps to append to {root}", f"{plan.fps:g}", f"{remedy}, or --fps")
    codecs = {(info.features[n].get("info") or {}).get("video.codec") for n in there if there[n][0] == "video"}
    if plan.writer == OWN and codecs - {None, plan.codec}:
        got = f"--dataset.codec={plan.codec}"
        raise RecordingError(f"want codec {codecs.pop()} to append to {root}", got, "say that codec, or another root")


def _form(feature: dict) -> tuple:
    names = feature.get("names")
    return feature.get("dtype"), tuple(feature.get("shape") or ()), tuple(names) if names else None


def _check_encoders(plan: Plan) -> None:
    """An encoder that cannot be opened is found out now, not at the first frame."""
    for feature in plan.features.values():
        if feature["dtype"] == "video":
            for codec in {plan.spooled, plan.codec}:
                open_encoder(encoding_of(codec, plan.gop), camera_size(feature), frame_rate(plan.fps))
