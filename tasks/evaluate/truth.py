"""What is known to be true about recorded episodes: a file as the dataset generator writes it, or one made by hand.

Only `episodes[].episode_index` and `.subtasks` are needed; things, boxes and events let visual answers be checked too.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from tasks.errors import DatasetError
from tasks.evaluate.segments import SAME_TIME_S

FILE_BYTES_MAX = 1 << 30
Run = tuple[int, int, float, float, float, float]  # first frame, last frame, x0, y0, x1, y1


class TruthSpan(BaseModel):
    """One subtask."""

    text: str = Field(min_length=1)
    start: float = Field(ge=0, allow_inf_nan=False)
    end: float = Field(ge=0, allow_inf_nan=False)


class Event(BaseModel):
    """A gripper that closes on a thing or lets it go."""

    kind: str
    time_s: float
    thing: str


class TruthEpisode(BaseModel):
    """One episode."""

    episode_index: int = Field(ge=0)
    task: str = ""
    frames: int | None = Field(None, ge=1)
    subtasks: list[TruthSpan]
    target: str | None = None
    things: list[str] = []
    events: list[Event] = []
    boxes: dict[str, dict[str, list[Run]]] = {}  # camera -> thing -> runs

    def box(self, camera: str, thing: str, frame: int) -> tuple[float, float, float, float] | None:
        """The thing's box in pixels on a frame; None when nobody knows or it is out of the picture."""
        runs = self.boxes.get(camera, {}).get(thing, [])
        at = bisect_right(runs, frame, key=lambda run: run[0]) - 1
        if at < 0 or frame > runs[at][1]:
            return None
        x0, y0, x1, y1 = runs[at][2:]
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


class TruthFile(BaseModel):
    """All of it."""

    fps: float | None = Field(None, gt=0, le=1000)
    size: tuple[int, int] | None = None
    cameras: list[str] = []
    episodes: list[TruthEpisode] = Field(min_length=1)


def read_truth(path: Path) -> TruthFile:
    """Read and check the file. Raises DatasetError."""
    remedy = "see docs/evaluation.md for what such a file holds"
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise DatasetError(f"want at most {FILE_BYTES_MAX} bytes of truth", f"{path} is larger", "split it")
        truth = TruthFile.model_validate_json(path.read_bytes())
    except OSError as err:
        raise DatasetError("want a readable file of truth", str(err), "check --reference") from err
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise DatasetError(f"want a file of truth in {path}", f"{where}: {first['msg']}", remedy) from err
    seen: set[int] = set()
    for episode in truth.episodes:
        if episode.episode_index in seen:
            raise DatasetError("want each episode once", f"episode {episode.episode_index} twice in {path}", remedy)
        seen.add(episode.episode_index)
        _check_order(path, episode)
    return truth


def _check_order(path: Path, episode: TruthEpisode) -> None:
    where = f"episode {episode.episode_index} in {path}"
    for span in episode.subtasks:
        if span.end <= span.start:
            raise DatasetError("want spans that end after they start", f"{span.text!r} of {where}", "mend the times")
    for a, b in pairwise(episode.subtasks):
        if b.start < a.end - SAME_TIME_S:
            raise DatasetError(
                "want spans in order, without overlap", f"{a.text!r} and {b.text!r} of {where}", "mend the times"
            )
