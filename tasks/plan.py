"""Phase `plan`: the task in many words, subtasks, the plan that is left, and what has been done.

An episode is described and cut in windows; all windows are asked at once. Only the memory is a chain, since each
step builds on the one before. Plan texts need no model: they list the subtasks still to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from tasks.cameras import default_camera, known_camera
from tasks.dataset.episode import Episode
from tasks.dataset.frames import Wants
from tasks.errors import EpisodeError, VideoError
from tasks.language.rows import Row
from tasks.phase import PhaseContext, Staged
from tasks.plan_questions import AXES, PlanQuestions, Window
from tasks.questions import Rephrasings, Segments, TaskAugAxes
from tasks.segments import (
    Span,
    clean,
    even_times,
    join_windows,
    limit_count,
    normalise_label,
    sample_times,
    settle,
    spans_of,
    windows,
)
from tasks.settings import AnnotateSettings
from tasks.sheets import SheetMaker

__all__ = ["CODE_VERSION", "plan_refresh_rows", "prompt_names", "run", "spans_of", "wanted"]

CODE_VERSION = "1"
PLACEHOLDER_TASKS = frozenset(
    {"debug", "test", "tbd", "todo", "n/a", "na", "untitled", "unnamed", "default", "placeholder"}
)


# ------------------------------------------------------------------------------------------------ what it may use


def prompt_names(settings: AnnotateSettings) -> tuple[str, ...]:
    """Prompt files whose text the rows of this phase depend on."""
    plan = settings.plan
    uses = {
        "sheet_preamble": True,
        "boundary_rules": True,
        "plan_subtasks": True,
        "plan_subtask_describe": plan.subtask_describe_first,
        "plan_subtask_relabel": plan.subtask_seeded_relabel,
        "plan_video_task": plan.derive_task_from_video != "off",
        "plan_task_aug_axes": plan.task_aug_axes.enabled,
        "plan_task_rephrasings": not plan.task_aug_axes.enabled and plan.n_task_rephrasings > 0,
        "plan_memory": plan.emit_memory,
    }
    return tuple(name for name, used in uses.items() if used)


def wanted(episode: Episode, settings: AnnotateSettings, cameras: Sequence[str]) -> dict[str, Wants]:
    """Rows whose pictures this phase will ask for, per camera."""
    if not episode.frames or not cameras:
        return {}
    times = [t for window in _windows(episode, settings) for t in _window_times(episode, settings, *window)]
    if must_derive(episode.task, settings):
        times += _window_times(episode, settings, episode.start_s, episode.end_s)
    rows = frozenset(episode.nearest(t) for t in times)
    width = settings.plan.contact_sheet_frame_width
    return {camera: Wants(tiles=rows, tile_width=width) for camera in _views(settings, cameras)}


def _views(settings: AnnotateSettings, cameras: Sequence[str]) -> tuple[str, ...]:
    first = default_camera(settings, cameras)
    views = [] if first is None else [first]
    if settings.plan.second_camera is not None:
        views.append(known_camera(settings.plan.second_camera, cameras, "plan.second_camera"))
    return tuple(dict.fromkeys(views))


def _windows(episode: Episode, settings: AnnotateSettings) -> list[tuple[float, float]]:
    plan = settings.plan
    return windows(
        episode.start_s, episode.end_s, plan.frames_per_second, plan.max_frames_per_prompt, plan.window_overlap_s
    )


def _window_times(episode: Episode, settings: AnnotateSettings, start_s: float, end_s: float) -> list[float]:
    plan = settings.plan
    return sample_times(episode.times, start_s, end_s, plan.frames_per_second, plan.max_frames_per_prompt)


# ------------------------------------------------------------------------------------------------ the phase


def run(ctx: PhaseContext) -> Staged:
    """The rows of one episode: task_aug, subtask, plan, memory. EpisodeError when it cannot be annotated."""
    if not ctx.episode.frames:
        raise EpisodeError("want an episode with frames", "none", "remove the empty episode from the dataset")
    try:
        return _run(ctx)
    except VideoError as err:  # never without pictures: a model would invent the subtasks from the task text
        raise EpisodeError(
            "want the pictures of this episode", str(err), "repair the video file, then run again"
        ) from err


def _run(ctx: PhaseContext) -> Staged:
    episode, plan = ctx.episode, ctx.settings.plan
    ask, maker = PlanQuestions(episode, ctx.settings), _sheet_maker(ctx)
    bounds, steps_max = _windows(episode, ctx.settings), plan.max_steps
    if not ctx.answerer.needs_pictures:  # windows limit the pictures of one prompt: without any, one look is enough
        bounds, steps_max = [(episode.start_s, episode.end_s)], steps_max * len(bounds)
    looks = [_window(ctx, maker, *b) for b in bounds]

    task, source = _effective_task(ctx, ask, maker)
    aug = ask.task_aug(task)
    answers = ctx.ask(aug + [ask.describe(w, task) for w in looks if plan.subtask_describe_first])
    variants = _variants(answers[: len(aug)], plan.n_task_rephrasings)
    notes = [a.description if a else "" for a in answers[len(aug) :]] or [""] * len(looks)
    segments = ctx.ask([ask.segment(w, task, n, steps_max) for w, n in zip(looks, notes, strict=True)])
    spans = _spans(ctx, looks, segments, steps_max)
    if plan.subtask_seeded_relabel and maker.cameras:
        spans = _relabel(ctx, ask, maker, spans, task)
    rows = [
        *_task_aug_rows(task, variants, episode.start_s),
        *(Row("assistant", s.text, "subtask", s.start) for s in spans),
        *(_plan_rows(spans, [s.start for s in spans]) if plan.emit_plan else ()),
        *(_memory_rows(ctx, ask, spans, task) if plan.emit_memory else ()),
    ]
    return Staged(rows, {"effective_task": task, "task_source": source, "windows": len(looks)})


def _sheet_maker(ctx: PhaseContext) -> SheetMaker:
    if not ctx.answerer.needs_pictures:
        return SheetMaker(ctx.frames, (), ctx.settings.plan)
    cameras = _views(ctx.settings, list(ctx.episode.videos))
    if not cameras:
        raise EpisodeError(
            "want a colour video camera to look at",
            "this episode has none",
            "use --vlm.backend=motion, which needs no pictures",
        )
    return SheetMaker(ctx.frames, cameras, ctx.settings.plan)


def _window(ctx: PhaseContext, maker: SheetMaker, start_s: float, end_s: float) -> Window:
    times = _window_times(ctx.episode, ctx.settings, start_s, end_s)
    return Window(start_s, end_s, maker.make(times, zero_s=start_s))


# ------------------------------------------------------------------------------------------------ task


def is_placeholder(task: str) -> bool:
    """Whether a task text says nothing."""
    return not task.strip() or task.strip().casefold() in PLACEHOLDER_TASKS


def must_derive(task: str, settings: AnnotateSettings) -> bool:
    """Whether the settings want the task named from the video."""
    mode = settings.plan.derive_task_from_video
    if mode == "if_short":
        return is_placeholder(task) or len(task.split()) < settings.plan.derive_task_min_words
    return mode == "always"


def _effective_task(ctx: PhaseContext, ask: PlanQuestions, maker: SheetMaker) -> tuple[str, str]:
    """The task that all questions speak of, and where it is from: "dataset" or "video"."""
    task = " ".join(ctx.episode.task.split())
    if not must_derive(task, ctx.settings):
        return task, "dataset"
    answer = ctx.ask_one(ask.video_task(_window(ctx, maker, ctx.episode.start_s, ctx.episode.end_s)))
    named = " ".join(answer.task.split()) if answer else ""
    return (task, "dataset") if is_placeholder(named) else (named, "video")


def _variants(answers: Iterable[Rephrasings | TaskAugAxes | None], count_max: int) -> list[str]:
    for answer in answers:
        if isinstance(answer, TaskAugAxes):
            return [text for axis in AXES for text in getattr(answer, axis)]
        if isinstance(answer, Rephrasings):
            return answer.rephrasings[:count_max]
    return []


def _task_aug_rows(task: str, variants: Iterable[str], start_s: float) -> list[Row]:
    """The task itself first, then the variants; each text once."""
    texts = (" ".join(text.split()).strip(" \"'`“”‘’") for text in variants)
    return [Row("user", text, "task_aug", start_s) for text in dict.fromkeys([task, *texts]) if task and text]


# ------------------------------------------------------------------------------------------------ subtasks


def _spans(
    ctx: PhaseContext, looks: Sequence[Window], answers: Sequence[Segments | None], steps_max: int
) -> list[Span]:
    """The answers of all windows as spans, one for every frame."""
    failed = sum(a is None for a in answers)
    if failed:  # a window without subtasks would silently stretch those of its neighbours
        reasons = [s.reason for s in ctx.report.skips if s.question == "plan_subtasks"]
        raise EpisodeError(
            f"want the subtasks of all {len(answers)} windows" if len(answers) > 1 else "want subtasks",
            f"{failed} unanswered: {reasons[-1] if reasons else 'no reason given'}",
            "run again; if it stays, look at the answers of this model",
        )
    touch_s = 1 / ctx.settings.plan.frames_per_second  # times are read from frames this far apart
    parts = [_in_episode(w, a, steps_max, touch_s) for w, a in zip(looks, answers, strict=True) if a]
    joined = join_windows(parts, [w.times_s for w in looks], touch_s)
    spans = settle(joined, ctx.episode, ctx.settings.plan.min_subtask_s)
    if not spans:
        raise EpisodeError(
            "want at least one subtask inside the episode",
            f"{sum(len(a.subtasks) for a in answers if a)} segments, none of them usable",
            "run again; if it stays, look at the answers of this model",
        )
    return spans


def _in_episode(window: Window, answer: Segments, steps_max: int, touch_s: float) -> list[Span]:
    """The clean segments of one window, in episode time."""
    raw = [(s.text, s.start, s.end) for s in answer.subtasks]
    spans = limit_count(clean(raw, 0.0, window.length_s, touch_s), steps_max)
    return [Span(s.text, s.start + window.start_s, s.end + window.start_s) for s in spans]


def _relabel(ctx: PhaseContext, ask: PlanQuestions, maker: SheetMaker, spans: Sequence[Span], task: str) -> list[Span]:
    """A second look at each span between its neighbours. Only texts may change."""
    one_view = replace(maker, cameras=maker.cameras[:1])
    sheets = [one_view.make(even_times(s.start, s.end, ctx.settings.plan.subtask_relabel_frames)) for s in spans]
    roles = ((-1, "previous segment"), (0, "segment to label"), (1, "next segment"))
    questions = [
        ask.relabel(
            spans,
            i,
            task,
            tuple(
                replace(picture, caption=f"{role}:")
                for offset, role in roles
                if 0 <= i + offset < len(spans)
                for picture in sheets[i + offset]
            ),
        )
        for i in range(len(spans))
    ]
    labels = [normalise_label(a.label) if a else "" for a in ctx.ask(questions)]
    return [replace(s, text=label or s.text) for s, label in zip(spans, labels, strict=True)]


# ------------------------------------------------------------------------------------------------ plan and memory


def plan_text(spans: Iterable[Span], from_s: float) -> str:
    """What is still to do at a time: the subtasks that start then or later, numbered; "" when none is left."""
    left = [s.text for s in spans if s.start >= from_s]
    return "\n".join(f"{i}. {text}" for i, text in enumerate(left, 1))


def _plan_rows(spans: Sequence[Span], times: Iterable[float]) -> list[Row]:
    texts = ((t, plan_text(spans, t)) for t in times)
    return [Row("assistant", text, "plan", t) for t, text in texts if text]


def plan_refresh_rows(
    spans: Sequence[Span], times: Iterable[float], existing_plan_times: Collection[float], emit_plan: bool
) -> list[Row]:
    """Plan rows to add at interjection times where there is none yet; nothing when plans are not wanted."""
    if not emit_plan:
        return []
    return _plan_rows(spans, sorted(set(times) - set(existing_plan_times)))


def _memory_rows(ctx: PhaseContext, ask: PlanQuestions, spans: Sequence[Span], task: str) -> list[Row]:
    """A memory at the start of each span but the first. What a failed call left out goes into the next one."""
    rows: list[Row] = []
    memory, unreported = "", []
    for i, span in enumerate(spans[1:], 1):
        unreported.append(spans[i - 1].text)
        answer = ctx.ask_one(ask.memory(task, memory, unreported, spans[i:]))
        if answer is None:
            continue
        unreported = []
        if text := " ".join(answer.memory.split()):
            memory = text
            rows.append(Row("assistant", text, "memory", span.start))
    return rows
