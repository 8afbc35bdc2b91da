"""Phase `vqa`: questions about single frames, each with an answer of a known shape.

Every frame is asked for itself, and per camera: an answer is true for the pixels it was asked about and no others.
Coordinates are stored in one convention, with the frame's size, whatever the model counts in (tasks/coordinates.py).
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import prompts
from tasks.answers.question import Picture, Question
from tasks.cameras import default_camera
from tasks.coordinates import Rejected, Scale, Size, model_convention, side_multiple
from tasks.dataset.episode import Episode
from tasks.dataset.frames import Still, Wants
from tasks.errors import EpisodeError, VideoError
from tasks.language.rows import Row
from tasks.phase import PhaseContext, Staged
from tasks.plan import is_placeholder
from tasks.questions import VQA_ANSWERS, Answer, Bbox, Keypoint, Spatial
from tasks.settings import AnnotateSettings

log = logging.getLogger(__name__)

CODE_VERSION = "2"
LOCATED = ("bbox", "keypoint")  # question types whose answers hold coordinates


@dataclass(frozen=True)
class Ask:
    """One question to come: which frame, which camera, which type."""

    row: int
    camera: str
    kind: str


def prompt_names(settings: AnnotateSettings) -> tuple[str, ...]:
    """Prompt files whose text the rows of this phase depend on."""
    kinds = tuple(dict.fromkeys(settings.vqa.question_types))
    located = any(kind in LOCATED for kind in kinds)
    return (*(f"vqa_{kind}" for kind in kinds), *((f"coordinates_{model_convention(settings)}",) if located else ()))


def wanted(episode: Episode, settings: AnnotateSettings, cameras: Sequence[str]) -> dict[str, Wants]:
    """Rows whose pictures this phase will ask for, per camera."""
    rows = frozenset(anchors(episode, settings.vqa.vqa_emission_hz, settings.vqa.K))
    if not rows:
        return {}
    return {camera: Wants(stills=rows, still=_still(settings)) for camera in _views(settings, cameras)}


def _still(settings: AnnotateSettings) -> Still:
    """As large as is sent: nothing may scale a picture later whose size the question tells and the answer counts in."""
    vqa = settings.vqa
    return Still(vqa.image_width_max, vqa.image_quality, settings.vlm.max_pixels, side_multiple(settings))


def _views(settings: AnnotateSettings, cameras: Sequence[str], default_only: bool = False) -> list[str]:
    first = default_camera(settings, cameras)
    if first is not None and (default_only or settings.vqa.restrict_to_default_camera):
        return [first]
    return list(cameras)


def anchors(episode: Episode, hz: float, frames_per_tick: int) -> list[int]:
    """Rows to ask about: at each tick the nearest frame and those after it, each row once, in order of time."""
    if not episode.frames or hz <= 0 or frames_per_tick <= 0:
        return []
    ticks = math.floor((episode.end_s - episode.start_s) * hz + 1e-9) + 1
    first = (episode.nearest(episode.start_s + i / hz) for i in range(ticks))
    return sorted({row for f in first for row in range(f, min(f + frames_per_tick, episode.frames))})


# ------------------------------------------------------------------------------------------------ the phase


def run(ctx: PhaseContext) -> Staged:
    """The rows of one episode: question and answer per anchored frame and camera, in order of time."""
    asks = choose_asks(ctx)
    if not asks:
        return Staged([])
    try:
        pictures = _pictures(ctx, asks)
    except VideoError as err:
        raise EpisodeError(
            "want the pictures of this episode", str(err), "repair the video file, then run again"
        ) from err
    skips_before = len(ctx.report.skips)
    answers = ctx.ask([_question(ctx, ask, picture) for ask, picture in zip(asks, pictures, strict=True)])
    rows: list[Row] = []
    for ask, picture, answer in zip(asks, pictures, answers, strict=True):
        if answer is None:
            continue
        try:
            rows += _rows(ctx, ask, answer, picture)
        except Rejected as err:
            ctx.reject(f"vqa_{ask.kind}", f"{err} (camera {ask.camera}, {ctx.episode.times[ask.row]:.2f} s)")
    if len(ctx.report.skips) - skips_before == len(asks):
        raise EpisodeError(
            f"want an answer to at least one of {len(asks)} questions", ctx.report.skips[-1].reason, "run again"
        )
    return Staged(rows, {"cameras": sorted({a.camera for a in asks})})


def choose_asks(ctx: PhaseContext) -> list[Ask]:
    """What to ask: a type per frame and camera, drawn by a generator of this episode's own."""
    episode, settings, known = ctx.episode, ctx.settings.vqa, ctx.answerer.vqa_types
    weights = settings.question_weights or [1.0] * len(settings.question_types)
    types = [
        (t, w) for t, w in zip(settings.question_types, weights, strict=True) if w > 0 and (known is None or t in known)
    ]
    rows = anchors(episode, settings.vqa_emission_hz, settings.K)
    cameras = _views(ctx.settings, list(episode.videos), default_only=not ctx.answerer.needs_pictures)
    if rows and types and not cameras:
        log.warning("episode %d has no colour video camera: no visual questions", episode.episode_index)
    if not types:
        return []
    rng = random.Random(f"{ctx.settings.seed}:{episode.episode_index}:vqa")
    names, shares = zip(*types, strict=True)
    return [Ask(row, camera, rng.choices(names, shares)[0]) for row in rows for camera in cameras]


def _pictures(ctx: PhaseContext, asks: Sequence[Ask]) -> list[Picture | None]:
    """The still of each question; None throughout when the answerer looks at signals."""
    if not ctx.answerer.needs_pictures:
        return [None] * len(asks)
    episode, still = ctx.episode, _still(ctx.settings)
    stills: dict[tuple[str, int], Picture] = {}
    for camera in dict.fromkeys(a.camera for a in asks):
        times = [episode.times[a.row] for a in asks if a.camera == camera]
        for time_s, picture in ctx.frames.stills(camera, times, still):
            stills[camera, episode.nearest(time_s)] = picture
    return [stills[a.camera, a.row] for a in asks]


def _own_size(ctx: PhaseContext, camera: str, picture: Picture | None) -> Size:
    """Width and height of the camera's own frame; that of the picture where the metadata do not tell."""
    video = ctx.episode.videos[camera]
    if video.width > 0 and video.height > 0:
        return video.width, video.height
    return (picture.width, picture.height) if picture else (0, 0)


def _question(ctx: PhaseContext, ask: Ask, picture: Picture | None) -> Question:
    episode = ctx.episode
    time_s = episode.times[ask.row]
    width, height = (picture.width, picture.height) if picture else _own_size(ctx, ask.camera, None)
    inputs: dict[str, object] = {
        "task": "" if is_placeholder(episode.task) else episode.task,
        "width": width,
        "height": height,
        "time": round(time_s, 2),
    }
    if ask.kind in LOCATED:
        name = f"coordinates_{model_convention(ctx.settings)}"
        inputs["coordinates_rule"] = prompts.render(name, width=width, height=height).strip()
    return Question(
        f"vqa_{ask.kind}",
        VQA_ANSWERS[ask.kind],
        inputs,
        pictures=(picture,) if picture else (),
        phase="vqa",
        episode=episode,
        window_s=(time_s, time_s),
    )


# ------------------------------------------------------------------------------------------------ answers to rows


def _rows(ctx: PhaseContext, ask: Ask, qa: Answer, picture: Picture | None) -> list[Row]:
    """Question and answer as rows. Raises Rejected."""
    own = _own_size(ctx, ask.camera, picture)
    shown = (picture.width, picture.height) if picture else own
    scale = Scale(model_convention(ctx.settings), shown, own, ctx.settings.vqa.stored_coordinates)
    answer = checked_answer(qa.answer, scale)  # type: ignore[attr-defined]
    content = json.dumps({"type": ask.kind, **answer}, sort_keys=True, ensure_ascii=False, allow_nan=False)
    time_s = ctx.episode.times[ask.row]
    question = " ".join(qa.question.split())  # type: ignore[attr-defined]
    return [
        Row("user", question, "vqa", time_s, camera=ask.camera),
        Row("assistant", content, "vqa", time_s, camera=ask.camera),
    ]


def checked_answer(answer: Answer, scale: Scale) -> dict[str, object]:
    """The answer as it is stored. Raises Rejected."""
    data = answer.model_dump(exclude_none=True)
    if isinstance(answer, Bbox):
        for detection in data["detections"]:
            detection["bbox"] = scale.box(detection["bbox"])
    elif isinstance(answer, Keypoint):
        data["point"] = scale.point(answer.point)
    elif isinstance(answer, Spatial) and answer.subject.casefold() == answer.object.casefold():
        raise Rejected(f"want two different things, got {answer.subject!r} twice")
    return {**data, **scale.stamp()} if isinstance(answer, Bbox | Keypoint) else data
