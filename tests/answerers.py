"""A scripted answerer: tests say what is answered to each question, and look at what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.answers.question import Picture, Question, Reply
from tasks.dataset.episode import Episode, VideoRef
from tasks.dataset.frames import Shot, Still, encode_jpeg
from tasks.dataset.video import fit_size
from tasks.errors import VideoError
from tasks.phase import PhaseContext, PhaseReport
from tasks.settings import AnnotateSettings
from tasks.staging import Staging

Script = Callable[[Question], object]
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


class ScriptedAnswerer:
    """Answers by a function of the question: a dict or a model is an answer, a str the reason of a failure."""

    model_id = "scripted"

    def __init__(
        self,
        script: Script | Mapping[str, object],
        *,
        needs_pictures: bool = True,
        vqa_types: Iterable[str] | None = None,
    ) -> None:
        self._script = script
        self.needs_pictures = needs_pictures
        self.vqa_types = None if vqa_types is None else frozenset(vqa_types)
        self.batches: list[list[Question]] = []

    @property
    def asked(self) -> list[Question]:
        """All questions so far, in order."""
        return [q for batch in self.batches for q in batch]

    def named(self, name: str) -> list[Question]:
        """The questions of one prompt."""
        return [q for q in self.asked if q.name == name]

    def preflight(self) -> None:
        """Always ready."""

    def slots(self) -> tuple[()]:
        """No server."""
        return ()

    def close(self) -> None:
        """Nothing to free."""

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question."""
        self.batches.append(list(questions))
        return [self._reply(q) for q in questions]

    def _reply(self, question: Question) -> Reply:
        if callable(self._script):
            said = self._script(question)
        else:
            said = self._script.get(question.name)
            said = said(question) if callable(said) else said
        if said is None or isinstance(said, str):
            return Reply(None, said)
        return Reply(question.answer.model_validate(said))


class DrawnFrames:
    """Stands in for decoded video where a test is about logic: grey pictures whose level tells the row."""

    def __init__(self, episode: Episode, size: tuple[int, int] = (64, 48), broken: bool = False) -> None:
        self.episode, self.size, self.broken = episode, size, broken
        self.calls: list[tuple[str, str, list[float]]] = []

    def _rows(self, kind: str, camera: str, times: Sequence[float]) -> list[int]:
        if self.broken:
            raise VideoError("want the frames of clip.mp4", "truncated file", "copy it again")
        self.calls.append((kind, camera, list(times)))
        return sorted({self.episode.nearest(t) for t in times})

    def _rgb(self, row: int, width: int) -> np.ndarray:
        own_w, own_h = self.size
        return np.full((max(1, round(own_h * width / own_w)), width, 3), row % 256, np.uint8)

    def tiles(self, camera: str, times: Sequence[float], width: int) -> list[Shot]:
        """As EpisodeFrames.tiles."""
        return [Shot(self.episode.times[r], self._rgb(r, width)) for r in self._rows("tiles", camera, times)]

    def stills(self, camera: str, times: Sequence[float], still: Still) -> list[tuple[float, Picture]]:
        """As EpisodeFrames.stills."""
        width, height = fit_size(self.size, still.width_max, still.pixels_max, still.multiple)
        return [
            (self.episode.times[r], encode_jpeg(np.full((height, width, 3), r % 256, np.uint8), still.quality))
            for r in self._rows("stills", camera, times)
        ]


def make_episode(
    seconds: float = 8.0,
    fps: float = 10.0,
    *,
    task: str = "put the cup on the shelf",
    index: int = 3,
    cameras: Sequence[str] = (FRONT, WRIST),
    size: tuple[int, int] = (64, 48),
) -> Episode:
    """An episode of `seconds` seconds: the last frame is at that time."""
    stamps = (np.arange(round(seconds * fps) + 1) / fps).astype(np.float32)
    videos = {c: VideoRef(Path("clip.mp4"), 0.0, seconds + 1 / fps, height=size[1], width=size[0]) for c in cameras}
    return Episode(index, task, stamps, np.arange(len(stamps)), Path("data.parquet"), 0, 0, fps, videos)


def make_context(
    root: Path,
    answerer: ScriptedAnswerer,
    episode: Episode | None = None,
    *,
    phase: str = "plan",
    frames: object = None,
    **sections: dict[str, object],
) -> PhaseContext:
    """A phase at work; `sections`: settings by section, as plan={"max_steps": 3}."""
    episode = episode or make_episode()
    size = next(((v.width, v.height) for v in episode.videos.values()), (64, 48))
    return PhaseContext(
        episode,
        AnnotateSettings.model_validate({"vlm": {"model_id": "scripted"}, **sections}),
        answerer,
        frames or DrawnFrames(episode, size),  # type: ignore[arg-type]
        Staging(root),
        PhaseReport(episode.episode_index, phase),
    )
