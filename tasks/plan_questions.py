"""The questions of phase `plan`: which prompt, which inputs, which pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel

import prompts
from tasks.answers.question import Clip, Picture, Question
from tasks.dataset.episode import Episode
from tasks.questions import (
    Description,
    Memory,
    RelabeledSegment,
    Rephrasings,
    Segments,
    TaskAugAxes,
    VideoTask,
)
from tasks.segments import Span
from tasks.settings import AnnotateSettings

AXES = ("synonym_paraphrase", "omit_arm", "omit_orientation", "omit_grasp_method", "combined_omissions")
DESCRIPTION_TOKENS = 1536  # the description of a full window needs more than a short answer
TOKENS_PER_SEGMENT = 60
TOKENS_PER_REPHRASING = 40
TOKENS_AROUND = 160  # JSON around a list
LIST_MARK = "; "  # between subtasks named in one input: labels may hold commas


@dataclass(frozen=True)
class Window:
    """A stretch of the episode that is asked about at once. Times in questions and answers count from its start."""

    start_s: float
    end_s: float
    pictures: tuple[Picture, ...] = ()
    clips: tuple[Clip, ...] = ()
    facts: Sequence[str] = ()  # what the robot's joints recorded meanwhile

    @property
    def length_s(self) -> float:
        """How long it is."""
        return self.end_s - self.start_s

    @property
    def times_s(self) -> tuple[float, float]:
        """Start and end in the episode."""
        return self.start_s, self.end_s


@dataclass(frozen=True)
class PlanQuestions:
    """Makes the questions about one episode."""

    episode: Episode
    settings: AnnotateSettings

    def video_task(self, window: Window) -> Question:
        """What task does this video show?"""
        return self._look("plan_video_task", VideoTask, {}, window)

    def task_aug(self, task: str) -> list[Question]:
        """The task in other words: one question, or none when the settings want none."""
        plan = self.settings.plan
        if not task:
            return []
        if plan.task_aug_axes.enabled:
            counts = {axis: getattr(plan.task_aug_axes, axis) for axis in AXES}
            tokens = TOKENS_PER_REPHRASING * sum(counts.values()) + TOKENS_AROUND
            inputs = {"base_task": task, **counts}
            return [self._make("plan_task_aug_axes", TaskAugAxes, inputs, self._whole, tokens=tokens)]
        n = plan.n_task_rephrasings
        if n == 0:
            return []
        tokens = TOKENS_PER_REPHRASING * n + TOKENS_AROUND
        return [
            self._make("plan_task_rephrasings", Rephrasings, {"base_task": task, "n": n}, self._whole, tokens=tokens)
        ]

    def describe(self, window: Window, task: str) -> Question:
        """What happens in this window?"""
        inputs = {**self._events(window), "task": task}
        return self._look("plan_subtask_describe", Description, inputs, window, tokens=DESCRIPTION_TOKENS)

    def segment(self, window: Window, task: str, observation: str, steps_max: int) -> Question:
        """Which subtasks does this window hold, and when?"""
        inputs = {
            **self._events(window),
            "task": task,
            "observation": observation,
            "min_subtask_s": self.settings.plan.min_subtask_s,
            "max_steps": steps_max,
        }
        tokens = TOKENS_PER_SEGMENT * steps_max + TOKENS_AROUND
        return self._look("plan_subtasks", Segments, inputs, window, tokens=tokens)

    def relabel(self, spans: Sequence[Span], i: int, task: str, pictures: tuple[Picture, ...]) -> Question:
        """Is the label of span `i` right?"""
        span = spans[i]
        inputs = {
            "preamble": self._sheet_preamble(),
            "task": task,
            "seed_label": span.text,
            "index": i + 1,
            "count": len(spans),
            "start": round(span.start, 2),
            "end": round(span.end, 2),
        }
        question = self._make("plan_subtask_relabel", RelabeledSegment, inputs, (span.start, span.end))
        return replace(question, pictures=pictures)

    def memory(self, task: str, memory: str, completed: Sequence[str], left: Sequence[Span]) -> Question:
        """What does the robot remember when the first span of `left` begins?"""
        inputs = {
            "task": task,
            "prior_memory": memory,
            "completed": LIST_MARK.join(completed),
            "remaining": LIST_MARK.join(s.text for s in left),
        }
        return self._make("plan_memory", Memory, inputs, (self.episode.start_s, left[0].start))

    @property
    def _whole(self) -> tuple[float, float]:
        return self.episode.start_s, self.episode.end_s

    def _sheet_preamble(self) -> str:
        return prompts.render("sheet_preamble", columns=self.settings.plan.contact_sheet_columns).strip()

    def _preamble(self, window: Window) -> str:
        """How to read what is shown: sheets or clips."""
        if self.settings.plan.media == "video":
            return prompts.render("clip_preamble", duration=round(window.length_s, 2)).strip()
        return self._sheet_preamble()

    def _events(self, window: Window) -> dict[str, object]:
        """What the describer and the segmenter are told alike."""
        return {
            "boundary_rules": prompts.render("boundary_rules").strip(),
            "duration": round(window.length_s, 2),
            "facts": _facts(window.facts),
        }

    def _look(
        self, name: str, answer: type[BaseModel], inputs: dict[str, object], window: Window, tokens: int = 0
    ) -> Question:
        """A question about what a window shows."""
        inputs = {"preamble": self._preamble(window), **inputs}
        question = self._make(name, answer, inputs, window.times_s, tokens)
        return replace(question, pictures=window.pictures, clips=window.clips)

    def _make(
        self,
        name: str,
        answer: type[BaseModel],
        inputs: dict[str, object],
        window_s: tuple[float, float],
        tokens: int = 0,
    ) -> Question:
        """`tokens`: what a full answer needs; the reply limit is raised to it, never lowered."""
        tokens_max = max(tokens, self.settings.vlm.max_new_tokens) if tokens else None
        return Question(name, answer, inputs, (), "plan", self.episode, window_s, tokens_max)


def _facts(lines: Sequence[str]) -> str:
    """A paragraph of its own; nothing where nothing was recorded."""
    return prompts.render("motion_facts", lines="\n".join(lines)).strip() + "\n\n" if lines else ""
