"""Phase `interjections`: what the robot says at the start, and what a person says meanwhile with the robot's answer.

A person asks only for what the recorded robot does next: a demonstration cannot change its mind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tasks.answers.question import Picture, Question
from tasks.cameras import default_camera
from tasks.dataset.episode import Episode
from tasks.dataset.frames import Still
from tasks.errors import EpisodeError, VideoError
from tasks.language.rows import Row
from tasks.phase import PhaseContext, Staged
from tasks.questions import InitialSpeech, Interjection
from tasks.segments import Span, even_times, spans_of
from tasks.settings import AnnotateSettings, InterjectionSettings

CODE_VERSION = "1"
STILL_WIDTH_MAX = 640  # four pictures a question: enough to name things, a quarter of the bytes of full ones


@dataclass(frozen=True)
class Cue:
    """A moment at which a person asks for the next subtask."""

    time_s: float
    previous: str
    next: str


def prompt_names(settings: AnnotateSettings) -> tuple[str, ...]:
    """Prompt files whose text the rows of this phase depend on."""
    cues = settings.interjections.max_interjections_per_episode > 0
    return ("interjections_initial_speech", *(("interjections_interjection",) if cues else ()))


def run(ctx: PhaseContext) -> Staged:
    """The rows of one episode: a speech atom at its start, then interjection and speech at each cue."""
    episode = ctx.episode
    if not episode.frames:
        raise EpisodeError("want an episode with frames", "none", "remove the empty episode from the dataset")
    task = _effective_task(ctx)
    cues = choose_cues(_spans(ctx), episode, ctx.settings) if _wants_cues(ctx) else []
    try:
        questions = [_speech_question(ctx, task), *(_cue_question(ctx, task, cue) for cue in cues)]
    except VideoError as err:
        raise EpisodeError(
            "want the pictures of this episode", str(err), "repair the video file, then run again"
        ) from err
    skips_before = len(ctx.report.skips)
    speech, *answers = ctx.ask(questions)
    if len(ctx.report.skips) - skips_before == len(questions):
        raise EpisodeError("want an answer to at least one question", ctx.report.skips[-1].reason, "run again")
    rows = [Row.speech(speech.text, episode.start_s)] if speech else []
    for cue, answer in zip(cues, answers, strict=True):
        if answer:
            rows.append(Row("user", answer.interjection, "interjection", cue.time_s))
            rows.append(Row.speech(answer.speech, cue.time_s))
    return Staged(rows, {"interjection_times": [r.timestamp for r in rows if r.style == "interjection"]})


def _wants_cues(ctx: PhaseContext) -> bool:
    return ctx.settings.interjections.max_interjections_per_episode > 0


def _effective_task(ctx: PhaseContext) -> str:
    """The task that the plan settled on; the dataset's own where no plan is staged."""
    receipt = ctx.staging.receipt(ctx.episode.episode_index, "plan")
    task = receipt.facts.get("effective_task") if receipt else None
    return task if isinstance(task, str) else ctx.episode.task


def _spans(ctx: PhaseContext) -> list[Span]:
    """Subtasks of the dataset where this run makes no plan (they may have been edited since), else as staged."""
    episode = ctx.episode
    for rows in (ctx.dataset_rows or [], ctx.staging.rows(episode.episode_index, "plan")):
        spans = spans_of(rows, episode.end_s)
        if spans:
            return spans
    raise EpisodeError(
        "want subtasks to speak about",
        "neither staged nor in the dataset",
        "run with --phases=plan,interjections",
    )


def choose_cues(spans: Sequence[Span], episode: Episode, settings: AnnotateSettings) -> list[Cue]:
    """At which boundaries a person speaks, in order of time: drawn by a generator of this episode's own."""
    wanted = settings.interjections
    candidates = [
        Cue(time_s, before.text, after.text)
        for before, after in pairwise(spans)
        if after.text.strip() and (time_s := _cue_time(before, after, episode, wanted)) is not None
    ]
    candidates = list({cue.time_s: cue for cue in candidates}.values())  # never two on one frame
    rng = random.Random(f"{settings.seed}:{episode.episode_index}:interjection")
    count = min(wanted.max_interjections_per_episode, len(candidates))
    return sorted(rng.sample(candidates, count), key=lambda cue: cue.time_s)


def _cue_time(before: Span, after: Span, episode: Episode, wanted: InterjectionSettings) -> float | None:
    """The frame of the cue: `interjection_lead_s` before the boundary, but inside the subtask before it."""
    boundary = episode.nearest(after.start)
    row = episode.nearest(after.start - wanted.interjection_lead_s)
    row = max(row, episode.nearest(before.start) + 1)
    while row < boundary and episode.times[row] < wanted.interjection_min_t:
        row += 1
    row = min(row, boundary)
    return episode.times[row] if episode.times[row] >= wanted.interjection_min_t else None


def _speech_question(ctx: PhaseContext, task: str) -> Question:
    return Question(
        "interjections_initial_speech",
        InitialSpeech,
        {"task": task},
        phase="interjections",
        episode=ctx.episode,
        window_s=(ctx.episode.start_s, ctx.episode.end_s),
    )


def _cue_question(ctx: PhaseContext, task: str, cue: Cue) -> Question:
    wanted, episode = ctx.settings.interjections, ctx.episode
    half_s = wanted.interjection_window_seconds / 2
    start, end = max(episode.start_s, cue.time_s - half_s), min(episode.end_s, cue.time_s + half_s)
    inputs = {
        "task": task,
        "previous": cue.previous,
        "next": cue.next,
        "time": round(cue.time_s, 2),
        "window_s": wanted.interjection_window_seconds,
    }
    return Question(
        "interjections_interjection",
        Interjection,
        inputs,
        pictures=_stills(ctx, start, end),
        phase="interjections",
        episode=episode,
        window_s=(start, end),
    )


def _stills(ctx: PhaseContext, start_s: float, end_s: float) -> tuple[Picture, ...]:
    """Pictures around a cue, each after its time; none where there is no camera: the subtasks' texts say enough."""
    if not ctx.answerer.needs_pictures:
        return ()
    camera = default_camera(ctx.settings, list(ctx.episode.videos))
    if camera is None:
        return ()
    times = even_times(start_s, end_s, ctx.settings.interjections.interjection_window_frames)
    still = Still(STILL_WIDTH_MAX, ctx.settings.vqa.image_quality, ctx.settings.vlm.max_pixels)
    stills = ctx.frames.stills(camera, times, still)
    return tuple(replace(picture, caption=f"{time_s:.2f} s:") for time_s, picture in stills)
