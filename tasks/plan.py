"""Phase `plan`: the task in many words, subtasks, the plan that is left, and what has been done.

An episode is described and cut in windows; all windows are asked at once. Only the memory is a chain, since each
step builds on the one before. Plan texts need no model: they list the subtasks still to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from tasks.dataset.episode import Episode
from tasks.dataset.frames import Wants
from tasks.dataset.signals import Signals
from tasks.errors import EpisodeError, VideoError
from tasks.language.rows import Row
from tasks.looks import CLIPS_FOLDER, Looks, bounds, views, wanted_tiles
from tasks.motion_hints import boundary_times, snap
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
    settle,
    spans_of,
)
from tasks.settings import AnnotateSettings
from tasks.sheets import SheetMaker

__all__ = ["CODE_VERSION", "plan_refresh_rows", "prompt_names", "run", "spans_of", "wanted"]

CODE_VERSION = "2"
PLACEHOLDER_TASKS = frozenset(
    {"debug", "test", "tbd", "todo", "n/a", "na", "untitled", "unnamed", "default", "placeholder"}
)


# ------------------------------------------------------------------------------------------------ what it may use


def prompt_names(settings: AnnotateSettings) -> tuple[str, ...]:
    """Prompt files whose text the rows of this phase depend on."""
    plan = settings.plan
    uses = {
        "sheet_preamble": plan.media == "sheets" or plan.subtask_seeded_relabel,
        "clip_preamble": plan.media == "video",
        "boundary_rules": True,
        "motion_facts": plan.motion_hints,
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
    stretches = bounds(episode, settings)
    if must_derive(episode.task, settings):
        stretches.append((episode.start_s, episode.end_s))
    return wanted_tiles(episode, settings, cameras, stretches)


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
    ask, looks = PlanQuestions(episode, ctx.settings), _looks(ctx)
    stretches, steps_max = bounds(episode, ctx.settings), plan.max_steps
    if not ctx.answerer.needs_pictures:  # windows limit the pictures of one prompt: without any, one look is enough
        stretches, steps_max = [(episode.start_s, episode.end_s)], steps_max * len(stretches)
    shown = [looks.at(*s) for s in stretches]

    task, source = _effective_task(ctx, ask, looks)
    aug = ask.task_aug(task)
    answers = ctx.ask(aug + [ask.describe(w, task) for w in shown if plan.subtask_describe_first])
    variants = _variants(answers[: len(aug)], plan.n_task_rephrasings)
    notes = [a.description if a else "" for a in answers[len(aug) :]] or [""] * len(shown)
    segments = ctx.ask([ask.segment(w, task, n, steps_max) for w, n in zip(shown, notes, strict=True)])
    spans = _spans(ctx, shown, segments, looks.signals, steps_max)
    if plan.subtask_seeded_relabel and looks.sheets.cameras:
        spans = _relabel(ctx, ask, looks.sheets, spans, task)
    rows = [
        *_task_aug_rows(task, variants, episode.start_s),
        *(Row("assistant", s.text, "subtask", s.start) for s in spans),
        *(_plan_rows(spans, [s.start for s in spans]) if plan.emit_plan else ()),
        *(_memory_rows(ctx, ask, spans, task) if plan.emit_memory else ()),
    ]
    return Staged(rows, {"effective_task": task, "task_source": source, "windows": len(shown)})


def _looks(ctx: PhaseContext) -> Looks:
    """What there is to be seen, and what the joints recorded where the settings want it used."""
    plan = ctx.settings.plan
    uses_signals = plan.motion_hints or plan.snap_to_motion_s > 0
    cameras: tuple[str, ...] = ()
    if ctx.answerer.needs_pictures:
        cameras = views(ctx.settings, list(ctx.episode.videos))
        if not cameras:
            raise EpisodeError(
                "want a colour video camera to look at",
                "this episode has none",
                "use --vlm.backend=motion, which needs no pictures",
            )
    return Looks(
        ctx.episode,
        ctx.settings,
        SheetMaker(ctx.frames, cameras, ctx.settings),
        ctx.staging.root / CLIPS_FOLDER,
        ctx.signals() if uses_signals and ctx.signals is not None else None,
    )


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


def _effective_task(ctx: PhaseContext, ask: PlanQuestions, looks: Looks) -> tuple[str, str]:
    """The task that all questions speak of, and where it is from: "dataset" or "video"."""
    task = " ".join(ctx.episode.task.split())
    if not must_derive(task, ctx.settings):
        return task, "dataset"
    answer = ctx.ask_one(ask.video_task(looks.at(ctx.episode.start_s, ctx.episode.end_s)))
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
    ctx: PhaseContext,
    looks: Sequence[Window],
    answers: Sequence[Segments | None],
    signals: Signals | None,
    steps_max: int,
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
    episode, plan = ctx.episode, ctx.settings.plan
    touch_s = 1 / plan.frames_per_second  # times are read from frames this far apart
    parts = [_in_episode(w, a, steps_max, touch_s) for w, a in zip(looks, answers, strict=True) if a]
    joined = join_windows(parts, [w.times_s for w in looks], touch_s)
    if signals is not None and plan.snap_to_motion_s > 0:
        times = boundary_times(signals, episode)
        joined = snap(joined, times, plan.snap_to_motion_s, plan.min_subtask_s, episode.start_s, episode.end_s)
    spans = settle(joined, episode, plan.min_subtask_s)
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
