"""Where annotations come from: an annotated dataset folder, or a file of truth. Both become the same thing."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset, open_dataset
from tasks.episode_view import VisualQA, view_of
from tasks.errors import DatasetError, SettingsError
from tasks.evaluate.truth import TruthEpisode, TruthFile, read_truth
from tasks.language.stored import episode_rows
from tasks.segments import Span
from tasks.write import PROVENANCE


@dataclass(frozen=True)
class Annotated:
    """One episode as one side sees it. Seconds from its start; the last frame lasts until `end_s`."""

    index: int
    task: str
    times: list[float]  # of frames
    end_s: float
    spans: list[Span]
    vqa: list[VisualQA] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)  # per style
    truth: TruthEpisode | None = None  # what visual answers can be checked against

    @property
    def annotated(self) -> bool:
        """Whether anybody has said anything about it."""
        return bool(self.rows)

    @property
    def middles(self) -> list[float]:
        """The middle of each frame's time: what holds there holds for the frame, as boundaries snap to the nearest."""
        half_s = (self.end_s - self.times[-1]) / 2
        return [t + half_s for t in self.times]

    def frame(self, time_s: float) -> int:
        """The frame nearest to a time."""
        after = bisect_left(self.times, time_s)
        near = range(max(after - 1, 0), min(after + 1, len(self.times)))
        return min(near, key=lambda i: abs(self.times[i] - time_s))


@dataclass(frozen=True)
class LastRun:
    """What the last run says of itself in meta/cuebook.json."""

    model: str
    asked: int | None
    skipped: int
    failed: int  # episode phases


@dataclass(frozen=True)
class Source:
    """One side of a comparison."""

    name: str
    path: Path
    kind: str  # dataset, truth
    episodes: dict[int, Annotated]
    camera_sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    last_run: LastRun | None = None

    @property
    def known(self) -> bool:
        """Whether this is the truth rather than somebody's answer."""
        return self.kind == "truth"


def load(path: Path, only: Sequence[int] | None = None) -> Source:
    """Read one side, all episodes or those named (an index it does not have is left out).

    Raises DatasetError, SettingsError when no such episode is there.
    """
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        source = _from_dataset(path, only)
    elif path.suffix == ".json" or path.is_file():
        source = _from_truth(path, only)
    else:
        raise DatasetError("want an annotated dataset folder or a truth.json", str(path), "check the path")
    if not source.episodes:
        raise SettingsError(f"want episodes of {path}", f"--episodes={','.join(map(str, only or []))}", "name others")
    return source


# ------------------------------------------------------------------------------------------------ a dataset


def _from_dataset(root: Path, only: Sequence[int] | None) -> Source:
    dataset = open_dataset(root)
    wanted = None if only is None else set(only)
    episodes = [e for e in dataset.episodes() if wanted is None or e.episode_index in wanted]
    found = {e.episode_index: _annotated(dataset, e) for e in episodes if e.frames}
    return Source(root.name, root, "dataset", found, dataset.camera_sizes, _last_run(root))


def _annotated(dataset: Dataset, episode: Episode) -> Annotated:
    rows = episode_rows(dataset, episode)
    view = view_of(episode, rows, dataset.camera_sizes)
    end_s = episode.end_s + 1 / episode.fps
    spans = [*view.subtasks[:-1], *(Span(s.text, s.start, end_s) for s in view.subtasks[-1:])]
    styles = Counter(row.style or "speech" for row in rows)
    return Annotated(episode.episode_index, episode.task, episode.times, end_s, spans, view.vqa, dict(styles))


def _last_run(root: Path) -> LastRun | None:
    """The newest entry; None where there is none that can be read."""
    try:
        run: dict[str, Any] = json.loads((root / PROVENANCE).read_bytes())["runs"][0]
        asked = run.get("asked")
        return LastRun(
            model=str(run.get("model", "")),
            asked=None if asked is None else int(asked),
            skipped=sum(map(int, run.get("skips", {}).values())),
            failed=len(run.get("failures", [])),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


# ------------------------------------------------------------------------------------------------ the truth


def _from_truth(path: Path, only: Sequence[int] | None) -> Source:
    truth = read_truth(path)
    wanted = None if only is None else set(only)
    found = {
        e.episode_index: _true(e, truth)
        for e in sorted(truth.episodes, key=lambda e: e.episode_index)
        if wanted is None or e.episode_index in wanted
    }
    sizes = dict.fromkeys(truth.cameras, truth.size) if truth.size else {}
    return Source(path.name, path, "truth", found, sizes)


def _true(episode: TruthEpisode, truth: TruthFile) -> Annotated:
    """Without fps or frames the last span tells how long the episode is."""
    last_s = max((s.end for s in episode.subtasks), default=0.0)
    fps = truth.fps or (episode.frames / last_s if episode.frames and last_s else 1.0)
    frames = episode.frames or max(1, round(last_s * fps))
    spans = [Span(s.text, s.start, s.end) for s in episode.subtasks]
    rows = {"subtask": len(spans)} if spans else {}
    return Annotated(
        episode.episode_index,
        episode.task,
        [i / fps for i in range(frames)],
        frames / fps,
        spans,
        rows=rows,
        truth=episode if episode.boxes or episode.things else None,
    )
