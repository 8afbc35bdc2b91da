"""What one annotated episode says, sorted by what a reader looks for. Read from the dataset on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.coordinates import in_pixels
from tasks.dataset.episode import Episode
from tasks.dataset.layout import open_dataset
from tasks.errors import SettingsError
from tasks.language.rows import Row
from tasks.language.stored import episode_rows
from tasks.segments import Span, spans_of

SORTED_STYLES = ("subtask", "plan", "memory", "task_aug", "interjection", "vqa", None)  # what is left is `others`


@dataclass(frozen=True)
class Note:
    """A text that holds from a time on."""

    time_s: float
    text: str


@dataclass(frozen=True)
class Exchange:
    """What is said on one frame."""

    time_s: float
    person: str | None  # the interjection
    robot: str | None  # the speech


@dataclass(frozen=True)
class VisualQA:
    """A question about one picture. The answer is None when there is none, text when it is no JSON.

    Numbers of boxes and points are pixels of the camera's own frame, however the row counts them.
    """

    time_s: float
    camera: str
    question: str | None
    answer: Any

    @property
    def type(self) -> str:
        """The answer's type, "" when it names none."""
        return str(self.answer.get("type", "")) if isinstance(self.answer, dict) else ""


@dataclass(frozen=True)
class EpisodeView:
    """One episode and its rows."""

    episode: Episode
    camera_sizes: dict[str, tuple[int, int]]
    subtasks: list[Span]
    plans: list[Note]
    memories: list[Note]
    rephrasings: list[str]
    exchanges: list[Exchange]
    vqa: list[VisualQA]
    others: list[Row]  # of styles that no phase makes

    @property
    def empty(self) -> bool:
        """No rows at all."""
        parts = (self.subtasks, self.plans, self.memories, self.rephrasings, self.exchanges, self.vqa, self.others)
        return not any(parts)

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, for machines."""
        e = self.episode
        return {
            "episode_index": e.episode_index,
            "task": e.task,
            "frames": e.frames,
            "fps": e.fps,
            "start_s": e.start_s,
            "end_s": e.end_s,
            "cameras": {name: {"width": w, "height": h} for name, (w, h) in self.camera_sizes.items()},
            "subtasks": [{"text": s.text, "start_s": s.start, "end_s": s.end} for s in self.subtasks],
            "plans": [asdict(p) for p in self.plans],
            "memories": [asdict(m) for m in self.memories],
            "task_rephrasings": self.rephrasings,
            "exchanges": [asdict(x) for x in self.exchanges],
            "vqa": [{**asdict(q), "type": q.type} for q in self.vqa],
            "others": [asdict(r) for r in self.others],
        }


def read_view(root: Path, episode_index: int) -> EpisodeView:
    """Read one episode; only its own row group is decoded. Raises DatasetError, SettingsError for an unknown index."""
    dataset = open_dataset(root)
    try:
        (episode,) = dataset.episodes([episode_index])
    except SettingsError as err:
        raise SettingsError(f"want an episode of {dataset.root}", err.got, "pass another --episode") from err
    return view_of(episode, episode_rows(dataset, episode), dataset.camera_sizes)


def view_of(episode: Episode, rows: Sequence[Row], camera_sizes: dict[str, tuple[int, int]]) -> EpisodeView:
    """Sort an episode's rows."""
    by_style: dict[str | None, list[Row]] = {}
    for row in sorted(rows, key=lambda r: r.timestamp):
        by_style.setdefault(row.style, []).append(row)
    return EpisodeView(
        episode,
        camera_sizes,
        subtasks=spans_of(by_style.get("subtask", []), episode.end_s),
        plans=_notes(by_style.get("plan", [])),
        memories=_notes(by_style.get("memory", [])),
        rephrasings=[r.content or "" for r in by_style.get("task_aug", [])],
        exchanges=_exchanges(by_style.get("interjection", []), by_style.get(None, [])),
        vqa=_visual(by_style.get("vqa", [])),
        others=[r for style, of_style in by_style.items() if style not in SORTED_STYLES for r in of_style],
    )


def _notes(rows: Sequence[Row]) -> list[Note]:
    return [Note(r.timestamp, r.content or "") for r in rows]


def _exchanges(cues: Sequence[Row], speech: Sequence[Row]) -> list[Exchange]:
    """One per frame on which anything is said."""
    person = {r.timestamp: r.content for r in cues}
    robot = {r.timestamp: spoken(r) for r in speech}
    return [Exchange(t, person.get(t), robot.get(t)) for t in sorted(person.keys() | robot.keys())]


def spoken(row: Row) -> str:
    """The text of a speech atom, or what it calls instead."""
    calls = row.tool_calls or []
    try:
        return " ".join(str(c["function"]["arguments"]["text"]) for c in calls)
    except (KeyError, TypeError):
        return json.dumps(calls, ensure_ascii=False)


def _visual(rows: Sequence[Row]) -> list[VisualQA]:
    """Questions with their answers, by time and camera."""
    pairs: dict[tuple[float, str], dict[str, str | None]] = {}
    for row in rows:
        pairs.setdefault((row.timestamp, row.camera or ""), {})[row.role] = row.content
    return [
        VisualQA(t, camera, pair.get("user"), _decoded(pair.get("assistant")))
        for (t, camera), pair in sorted(pairs.items())
    ]


def _decoded(content: str | None) -> Any:
    try:
        return None if content is None else in_pixels(json.loads(content))
    except ValueError:
        return content
