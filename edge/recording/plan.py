"""What a recording is, written beside it once, so that anybody can finish it; and what the dataset says of it later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edge.errors import RecordingError
from tasks.dataset.files import write_atomic

PLAN_NAME = "recording.json"
NOTES_PATH = Path("meta/cuebook_recording.json")
OWN, LEROBOT = "own", "lerobot"


class Plan(msgspec.Struct, frozen=True):
    """How the parts of a recording become a dataset."""

    id: str
    root: str
    repo_id: str
    started_at: str  # UTC
    robot_type: str
    fps: float
    features: dict[str, dict[str, Any]]
    task: str  # of frames without one
    writer: str  # OWN or LEROBOT
    codec: str  # of the dataset's videos
    spooled: str  # codec of the parts; "png" for pictures inside the data files
    gop: int
    video_mb_max: float

    @property
    def folder(self) -> Path:
        """Where the dataset goes."""
        return Path(self.root)


class EpisodeNote(msgspec.Struct, frozen=True):
    """What meta/ says of one episode beyond LeRobot's columns."""

    frames: int
    ended: str  # saved; stopped: the run ended within it; split: pictures came too fast; interrupted: by a kill
    dropped_before: int = 0  # frames lost between the episode before and this one
    fallback: int = 0  # frames whose action was sent for want of one of the policy
    intervention: int = 0  # frames that a human drove


class RecordingNote(msgspec.Struct, frozen=True):
    """One recording that went into the dataset."""

    id: str
    started_at: str
    robot_type: str
    parts: int  # of its spool that are in the dataset: those below this number


class Notes(msgspec.Struct, frozen=True):
    """meta/cuebook_recording.json: who laid the files out, and what became of each episode."""

    version: int
    writer: str
    recordings: list[RecordingNote]
    episodes: dict[str, EpisodeNote]

    def parts_of(self, recording: str) -> int:
        """How many parts of a recording are in the dataset."""
        return max((note.parts for note in self.recordings if note.id == recording), default=0)

    def with_parts(self, plan: Plan, parts: int, first_episode: int, episodes: list[EpisodeNote]) -> Notes:
        """The same after more parts of a recording."""
        others = [note for note in self.recordings if note.id != plan.id]
        own = RecordingNote(plan.id, plan.started_at, plan.robot_type, parts)
        added = {str(first_episode + i): note for i, note in enumerate(episodes)}
        return Notes(self.version, self.writer, [*others, own], self.episodes | added)


def spool_of(root: Path) -> Path:
    """The hidden folder beside a dataset in which its recording waits."""
    return root.with_name(f".{root.name}.recording")


def write_plan(spool: Path, plan: Plan) -> None:
    """Write it before the first part."""
    write_atomic(spool / PLAN_NAME, msgspec.json.format(msgspec.json.encode(plan), indent=2))


def read_plan(spool: Path) -> Plan | None:
    """The plan of a recording that was left behind; None: there is none. RecordingError: it cannot be read."""
    path = spool / PLAN_NAME
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError) as err:
        remedy = "restore the file; the parts beside it hold what was driven"
        raise RecordingError(f"want to read {path}", str(err), remedy) from err


def read_notes(root: Path) -> Notes | None:
    """What a dataset says of its recordings; None when it was not recorded here."""
    path = root / NOTES_PATH
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Notes)
    except (OSError, msgspec.MsgspecError) as err:
        raise RecordingError(
            f"want to read {path}", str(err), "restore the file, or record into another folder"
        ) from err
