"""evaluate(): two annotations of the same recordings compared, episode by episode.

With two runs of one model as the two sides this is their agreement: every symmetric measure reads the same either way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tasks.episode_view import VisualQA
from tasks.errors import DatasetError
from tasks.evaluate.report import Coverage, EpisodeResult, Evaluation, VisualScores
from tasks.evaluate.scene import Moment
from tasks.evaluate.segments import (
    OVERLAPS,
    TOLERANCES_S,
    active,
    boundaries,
    boundary_scores,
    edit_score,
    frame_scores,
    label_scores,
    match_spans,
    offsets,
    overlap_scores,
    segmental_f1,
)
from tasks.evaluate.source import Annotated, Source
from tasks.evaluate.visual import Size, compare_answers, frame_size

NAMED_MAX = 8  # episodes named in one warning


def evaluate(
    root: Source,
    reference: Source,
    *,
    missing_as_zero: bool = False,
    each: Callable[[EpisodeResult], None] | None = None,
) -> Evaluation:
    """Compare every episode that both sides have annotated; `each` hears of every one that is done.

    `missing_as_zero`: an episode that the reference has and root has not annotated counts as one without any subtask,
    instead of being left out. Raises DatasetError when no episode can be compared.
    """
    warnings: list[str] = []
    pairs = _pairs(root, reference, missing_as_zero, warnings)
    if not pairs:
        raise DatasetError(
            "want at least one episode that both sides have annotated",
            "; ".join(warnings) or "none",
            f"check that {root.path} and {reference.path} belong together",
        )
    results = []
    for a, b in pairs:
        results.append(compare_episode(a, b, root, reference))
        if each is not None:
            each(results[-1])
    return Evaluation(coverage(root), coverage(reference), results, warnings)


def coverage(source: Source) -> Coverage:
    """How much a side says."""
    episodes = source.episodes.values()
    rows: Counter[str] = Counter()
    for episode in episodes:
        rows.update(episode.rows)
    run = source.last_run
    return Coverage(
        path=str(source.path),
        kind=source.kind,
        episodes=len(episodes),
        annotated=sum(e.annotated for e in episodes),
        frames=sum(len(e.times) for e in episodes),
        frames_with_subtask=sum(label is not None for e in episodes for label in active(e.spans, e.middles)),
        rows=dict(sorted(rows.items())),
        model=run.model if run else None,
        asked=run.asked if run else None,
        skipped=run.skipped if run else None,
        failed=run.failed if run else None,
    )


# ------------------------------------------------------------------------------------------------ which episodes


def _pairs(
    root: Source, reference: Source, missing_as_zero: bool, warnings: list[str]
) -> list[tuple[Annotated, Annotated]]:
    both = sorted(root.episodes.keys() & reference.episodes.keys())
    _warn(warnings, "only in root", root.episodes.keys() - reference.episodes.keys())
    _warn(warnings, "only in the reference", reference.episodes.keys() - root.episodes.keys())
    lengths = {i for i in both if not _same_length(root.episodes[i], reference.episodes[i])}
    _warn(warnings, "of another length in the reference", lengths, lambda i: _lengths(root, reference, i))
    same = [i for i in both if i not in lengths]
    silent = {i for i in same if not root.episodes[i].annotated and not missing_as_zero}
    _warn(warnings, "not annotated in root", silent)
    unknown = {i for i in same if not reference.episodes[i].annotated}
    _warn(warnings, "not annotated in the reference", unknown)
    return [(root.episodes[i], reference.episodes[i]) for i in same if i not in silent | unknown]


def _same_length(a: Annotated, b: Annotated) -> bool:
    """To a frame and a half: another rate may round the last frame away."""
    frame_s = max(e.end_s / len(e.times) for e in (a, b))
    return abs(a.end_s - b.end_s) <= 1.5 * frame_s


def _lengths(root: Source, reference: Source, index: int) -> str:
    return f"{index} ({root.episodes[index].end_s:.2f} s, {reference.episodes[index].end_s:.2f} s)"


def _warn(warnings: list[str], what: str, indices: Iterable[int], show: Callable[[int], str] = str) -> None:
    left_out = sorted(indices)
    if left_out:
        named = ", ".join(map(show, left_out[:NAMED_MAX])) + (", …" if len(left_out) > NAMED_MAX else "")
        noun = "episode" if len(left_out) == 1 else "episodes"
        warnings.append(f"{len(left_out)} {noun} left out, {what}: {named}")


# ------------------------------------------------------------------------------------------------ one episode


def compare_episode(a: Annotated, b: Annotated, root: Source, reference: Source) -> EpisodeResult:
    """All measures of one episode."""
    start_s, end_s = min(a.times[0], b.times[0]), min(a.end_s, b.end_s)
    cuts = boundaries(a.spans, start_s, end_s), boundaries(b.spans, start_s, end_s)
    matched = match_spans(a.spans, b.spans)
    scores = {}
    for t in TOLERANCES_S:
        names = (f"boundary_precision_{t:g}s", f"boundary_recall_{t:g}s", f"boundary_f1_{t:g}s")
        scores.update(zip(names, boundary_scores(*cuts, t), strict=True))
    scores.update(overlap_scores(a.spans, b.spans, matched))
    for labelled, suffix in ((True, ""), (False, "_unlabelled")):
        for k in OVERLAPS:
            scores[f"f1_{100 * k:g}{suffix}"] = segmental_f1(a.spans, b.spans, k, labelled)
    times = max(a.middles, b.middles, key=len)
    scores["edit"] = edit_score(a.spans, b.spans)
    scores["frame_accuracy"] = frame_scores(a.spans, b.spans, times)
    scores.update(label_scores(matched))
    return EpisodeResult(
        a.index,
        a.task or b.task,
        scores,
        matched,
        offsets(*cuts, TOLERANCES_S[-1]),
        visual_scores(a, b, reference.camera_sizes or root.camera_sizes),
    )


def visual_scores(a: Annotated, b: Annotated, sizes: dict[str, Size]) -> dict[str, VisualScores]:
    """Visual answers by type: checked against the truth where there is one, else against the other side's."""
    out: dict[str, VisualScores] = {}
    others = {_place(b, qa): qa for qa in b.vqa}
    for qa in a.vqa:
        scores = out.setdefault(qa.type or "unknown", VisualScores())
        scores.root += 1
        found = _scored(a, b, qa, others, sizes)
        if found:
            scores.add(found)
    for qa in b.vqa:
        out.setdefault(qa.type or "unknown", VisualScores()).reference += 1
    return out


def _place(episode: Annotated, qa: VisualQA) -> tuple[int, str, str]:
    return episode.frame(qa.time_s), qa.camera, qa.type


def _scored(
    a: Annotated, b: Annotated, qa: VisualQA, others: dict[tuple[int, str, str], VisualQA], sizes: dict[str, Size]
) -> dict | None:
    if not isinstance(qa.answer, dict):
        return None
    answers: Sequence[dict] = [qa.answer]
    if b.truth is not None:
        size = frame_size(answers, sizes.get(qa.camera)) or (0, 0)
        return Moment(b.truth, qa.camera, b.frame(qa.time_s), qa.time_s, size).score(qa.answer)
    other = others.get((b.frame(qa.time_s), qa.camera, qa.type))
    if other is None or not isinstance(other.answer, dict):
        return None
    answers = [qa.answer, other.answer]
    return compare_answers(qa.answer, other.answer, frame_size(answers, sizes.get(qa.camera)))
