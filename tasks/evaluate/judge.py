"""A model's opinion on labels that are worded differently: do the two name the same action?

Off unless asked for. It adds `label_judged` beside the measures that need no model, and never changes those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.answers.question import Answerer, Question, Reply
from tasks.errors import AnswererError
from tasks.evaluate.labels import same
from tasks.evaluate.report import JUDGED, EpisodeResult, Evaluation
from tasks.evaluate.score import Score
from tasks.questions import LabelVerdict

PROMPT = "judge_labels"
Pair = tuple[str, str, str]  # task, label of root, label of the reference


def judge(evaluation: Evaluation, answerer: Answerer) -> Evaluation:
    """The same evaluation with `label_judged`. Equal labels are not asked about, and no pair is asked about twice.

    Raises AnswererError when nobody answers.
    """
    pairs = [_pair(e, i) for e in evaluation.episodes for i in range(len(e.matched))]
    unclear = list(dict.fromkeys(p for p in pairs if not same(p[1], p[2])))
    if unclear:
        answerer.preflight()
    replies = answerer.answer([_question(p) for p in unclear]) if unclear else []
    verdicts = {p: r.answer.same for p, r in zip(unclear, replies, strict=True) if isinstance(r.answer, LabelVerdict)}
    if unclear and not verdicts:
        raise AnswererError("want a verdict on labels", replies[0].reason or "no answer", "check --judge settings")
    for episode in evaluation.episodes:
        told = [_verdict(_pair(episode, i), verdicts) for i in range(len(episode.matched))]
        known = [t for t in told if t is not None]
        episode.scores[JUDGED.name] = Score(sum(known), len(known))
    return replace(evaluation, judge=_summary(answerer, unclear, replies, len(verdicts)))


def _pair(episode: EpisodeResult, i: int) -> Pair:
    match = episode.matched[i]
    return episode.task, match.left.text, match.right.text


def _verdict(pair: Pair, verdicts: dict[Pair, bool]) -> bool | None:
    """None: the model did not say."""
    return True if same(pair[1], pair[2]) else verdicts.get(pair)


def _question(pair: Pair) -> Question:
    task, first, second = pair
    inputs: dict[str, Any] = {"task": task, "first": first, "second": second}
    return Question(PROMPT, LabelVerdict, inputs, phase="evaluate")


def _summary(answerer: Answerer, asked: Sequence[Pair], replies: Sequence[Reply], answered: int) -> dict[str, Any]:
    usage = [r.usage for r in replies]
    return {
        "model": answerer.model_id,
        "asked": len(asked),
        "answered": answered,
        "requests": sum(u.requests for u in usage),
        "tokens_in": sum(u.tokens_in for u in usage),
        "tokens_out": sum(u.tokens_out for u in usage),
    }
