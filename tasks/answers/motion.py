"""Answers from recorded motion and the task's own words: no model, no pictures, no server.

The embedded default, and the baseline that every model must beat. What motion cannot prove stays unanswered.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from tasks.answers import motion_words as words
from tasks.answers.motion_segments import TEXT_MAX, cut_window, enforce_max, segment
from tasks.answers.question import Note, Question, Reply, Slots, unnoted
from tasks.dataset.episode import Episode
from tasks.dataset.signals import Gripper, Signals, read_signals
from tasks.errors import DatasetError, EpisodeError
from tasks.questions import (
    Attribute,
    AttributeQA,
    InitialSpeech,
    Interjection,
    Memory,
    RelabeledSegment,
    Rephrasings,
    Segment,
    Segments,
    TaskAugAxes,
)

if TYPE_CHECKING:
    from tasks.dataset.layout import Dataset

VERSION = "1"  # raise when answers change: it is part of every cache key
EPISODES_REMEMBERED = 32
SURELY_CLOSED = 0.85  # closed fraction from which a question may be answered "closed"
SURELY_OPEN = 0.15
STEADY_S = 0.2  # motion must be the same this long before and after the frame
MIN_SUBTASK_S = 1.5  # where the question does not say
MAX_STEPS = 8
AXIS_COUNT = 3
REPHRASINGS = 10


class MotionAnswerer:
    """Answers by signals. Thread-safe and deterministic: the same question has the same answer."""

    model_id = f"motion-{VERSION}"
    vqa_types: frozenset[str] | None = frozenset({"attribute"})
    needs_pictures = False

    def __init__(self, dataset: Dataset, note: Note = unnoted) -> None:
        self._dataset, self._note = dataset, note
        self._signals: OrderedDict[int, Signals] = OrderedDict()
        self._lock = threading.Lock()
        self._by_name: dict[str, Callable[[Question], BaseModel | None]] = {
            "plan_subtasks": self._subtasks,
            "plan_subtask_relabel": _relabel,
            "plan_task_rephrasings": _rephrasings,
            "plan_task_aug_axes": _axes,
            "plan_memory": _memory,
            "interjections_initial_speech": _initial_speech,
            "interjections_interjection": _interjection,
            "vqa_attribute": self._attribute,
        }

    def preflight(self) -> None:
        """Nothing can be missing: no server, no model."""

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order; no answer and no reason where motion cannot know."""
        replies = [self._reply(q) for q in questions]
        for question, reply in zip(questions, replies, strict=True):
            self._note(question, reply)
        return replies

    def slots(self) -> tuple[Slots, ...]:
        """There is no server."""
        return ()

    def close(self) -> None:
        """Forget the signals."""
        with self._lock:
            self._signals.clear()

    def _reply(self, question: Question) -> Reply:
        known = self._by_name.get(question.name)
        if known is None:
            return Reply(None)
        try:
            return Reply(known(question))
        except (DatasetError, EpisodeError) as err:
            return Reply(None, " ".join(str(err).split()))

    def _signals_of(self, episode: Episode) -> Signals:
        key = episode.episode_index
        with self._lock:
            if key in self._signals:
                self._signals.move_to_end(key)
                return self._signals[key]
        signals = read_signals(self._dataset, episode)  # outside the lock: episodes do not wait for each other
        with self._lock:
            self._signals[key] = signals
            while len(self._signals) > EPISODES_REMEMBERED:
                self._signals.popitem(last=False)
        return signals

    def _subtasks(self, question: Question) -> Segments | None:
        episode = question.episode
        if episode is None or not episode.frames:
            return None
        start, end = question.window_s or (episode.start_s, episode.end_s)
        task = str(question.inputs.get("task", episode.task) or "")
        min_s = float(question.inputs.get("min_subtask_s", MIN_SUBTASK_S))
        pieces = segment(self._signals_of(episode), episode, task, min_s)
        inside = enforce_max(cut_window(pieces, start, end), int(question.inputs.get("max_steps", MAX_STEPS)))
        return (
            Segments(subtasks=[Segment(text=p.text[:TEXT_MAX], start=p.start, end=p.end) for p in inside])
            if inside
            else None
        )

    def _attribute(self, question: Question) -> AttributeQA | None:
        episode = question.episode
        if episode is None or not episode.frames or "time" not in question.inputs:
            return None
        time_s = float(question.inputs["time"])
        signals = self._signals_of(episode)
        facts = [_gripper_fact(g, time_s) for g in signals.grippers]
        proven = [f for f in (*facts, _motion_fact(signals, episode, time_s)) if f is not None]
        if not proven:
            return None
        order = words.choose("01", "vqa", episode.episode_index, f"{time_s:.2f}")
        gripper, motion = proven[:-1] or proven, proven[-1:]  # motion is last, when it is there at all
        return _pick(gripper if order == "0" else motion, episode, time_s)


def _pick(facts: Sequence[AttributeQA], episode: Episode, time_s: float) -> AttributeQA:
    place = words.choose([str(i) for i in range(len(facts))], "which", episode.episode_index, f"{time_s:.2f}")
    return facts[int(place)]


def _gripper_fact(gripper: Gripper, time_s: float) -> AttributeQA | None:
    """Whether a gripper is open or closed; None while it moves between the two."""
    closed = gripper.closed_at(time_s)
    if math.isnan(closed) or SURELY_OPEN < closed < SURELY_CLOSED:
        return None
    value = "closed" if closed >= SURELY_CLOSED else "open"
    question = f"Is the {gripper.name} open or closed?"
    return AttributeQA(question=question, answer=Attribute(label=gripper.name, attribute="state", value=value))


def _motion_fact(signals: Signals, episode: Episode, time_s: float) -> AttributeQA | None:
    """Whether the arm moves; None near a change and where no joints are recorded."""
    row = episode.nearest(time_s)
    around = signals.moving[episode.nearest(time_s - STEADY_S) : episode.nearest(time_s + STEADY_S) + 1]
    if signals.speed is None or not (around == signals.moving[row]).all():
        return None
    value = "moving" if signals.moving[row] else "still"
    answer = Attribute(label="robot arm", attribute="state", value=value)
    return AttributeQA(question="Is the robot arm moving or still?", answer=answer)


def _text(question: Question, *names: str) -> str:
    """The first of these inputs that the question has."""
    return next((" ".join(str(question.inputs[n]).split()) for n in names if question.inputs.get(n)), "")


def _relabel(question: Question) -> RelabeledSegment | None:
    label = _text(question, "seed_label")
    return RelabeledSegment(label=label) if label else None


def _rephrasings(question: Question) -> Rephrasings | None:
    found = words.rephrasings(_text(question, "base_task", "task"), int(question.inputs.get("n", REPHRASINGS)))
    return Rephrasings(rephrasings=found) if found else None


def _axes(question: Question) -> TaskAugAxes:
    counts = {name: int(question.inputs.get(name, AXIS_COUNT)) for name in TaskAugAxes.model_fields}
    return TaskAugAxes(**words.axes(_text(question, "base_task", "task"), counts))


def _memory(question: Question) -> Memory | None:
    done = _text(question, "completed")
    return Memory(memory=words.memory(done, _text(question, "prior_memory"))) if done else None


def _initial_speech(question: Question) -> InitialSpeech:
    return InitialSpeech(text=words.initial_speech(_text(question, "task")))


def _interjection(question: Question) -> Interjection | None:
    following = _text(question, "next")
    if not following:
        return None
    episode = question.episode.episode_index if question.episode else ""
    cue, reply = words.interjection(following, episode, _text(question, "time"), following)
    return Interjection(interjection=cue, speech=reply)
