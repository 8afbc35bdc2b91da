"""What an evaluation found: measures per episode, pooled (micro) and averaged (macro), coverage and warnings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tasks.evaluate.score import Score, macro, micro
from tasks.evaluate.segments import OVERLAPS, TOLERANCES_S, Matched

FORMAT = 1  # of the JSON
WORST_SHOWN = 5


@dataclass(frozen=True)
class Measure:
    """A figure in [0, 1] that is better when it is higher."""

    name: str
    meaning: str
    symmetric: bool = True  # the same when the two sides change places


def _measures() -> tuple[Measure, ...]:
    found = []
    for t in TOLERANCES_S:
        within = f"within {t:g} s"
        found += [
            Measure(f"boundary_precision_{t:g}s", f"share of root's boundaries that lie {within} of one", False),
            Measure(f"boundary_recall_{t:g}s", f"share of the reference's boundaries found {within}", False),
            Measure(f"boundary_f1_{t:g}s", f"both together, {within}"),
        ]
    found += [
        Measure("iou", "overlap of matched spans; a span without counterpart counts as 0"),
        Measure("iou_matched", "overlap of matched spans alone"),
    ]
    found += [Measure(f"f1_{100 * k:g}", f"spans of the same label that overlap by {100 * k:g} %") for k in OVERLAPS]
    found += [
        Measure(f"f1_{100 * k:g}_unlabelled", f"spans that overlap by {100 * k:g} %, whatever their label")
        for k in OVERLAPS
    ]
    return (
        *found,
        Measure("edit", "order of labels, whatever their times"),
        Measure("frame_accuracy", "share of frames with the same label"),
        Measure("label_exact", "matched spans with the same label"),
        Measure("label_token_f1", "words that labels of matched spans have in common"),
    )


MEASURES = _measures()
JUDGED = Measure("label_judged", "matched spans whose labels name the same action, says a model", False)


@dataclass
class VisualScores:
    """Visual answers of one type."""

    root: int = 0  # answers of either side
    reference: int = 0  # 0 when the reference is the truth
    compared: int = 0  # about the same thing, on the same frame and camera; or known to the truth
    scores: dict[str, Score] = field(default_factory=dict)  # sums; the mean is the value

    def add(self, scores: dict[str, Score]) -> None:
        """One compared answer: each weighs the same, however many boxes it has."""
        self.compared += 1
        for name, score in scores.items():
            before = self.scores.get(name, Score(0, 0))
            self.scores[name] = Score(before.got + (score.value or 0.0), before.of + 1)

    def __add__(self, other: VisualScores) -> VisualScores:
        names = {**self.scores, **other.scores}
        none = Score(0, 0)
        pairs = {n: (self.scores.get(n, none), other.scores.get(n, none)) for n in names}
        return VisualScores(
            self.root + other.root,
            self.reference + other.reference,
            self.compared + other.compared,
            {n: Score(a.got + b.got, a.of + b.of) for n, (a, b) in pairs.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        values = {name: _rounded(score.value) for name, score in self.scores.items()}
        return {"root": self.root, "reference": self.reference, "compared": self.compared, **values}


@dataclass
class EpisodeResult:
    """One episode."""

    index: int
    task: str
    scores: dict[str, Score]
    matched: list[Matched] = field(default_factory=list)
    offsets_s: list[float] = field(default_factory=list)  # of boundaries found within the widest tolerance
    visual: dict[str, VisualScores] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """One measure."""
        score = self.scores.get(name)
        return None if score is None else score.value

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        values = {name: _rounded(score.value) for name, score in self.scores.items()}
        return {
            "episode": self.index,
            "task": self.task,
            **values,
            "matched": [{"root": m.left.text, "reference": m.right.text, "iou": _rounded(m.iou)} for m in self.matched],
            "vqa": {kind: scores.to_json() for kind, scores in sorted(self.visual.items())},
        }


@dataclass(frozen=True)
class Coverage:
    """How much one side says."""

    path: str
    kind: str  # dataset, truth
    episodes: int
    annotated: int  # episodes with any rows
    frames: int
    frames_with_subtask: int
    rows: dict[str, int]  # per style
    model: str | None = None
    asked: int | None = None
    skipped: int | None = None
    failed: int | None = None

    @property
    def skipped_share(self) -> float | None:
        """Questions that went unanswered in the last run; None when it did not count what it asked."""
        return None if self.skipped is None or not self.asked else self.skipped / self.asked

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            **asdict(self),
            "episodes_share": _rounded(self.annotated / self.episodes if self.episodes else None),
            "frames_share": _rounded(self.frames_with_subtask / self.frames if self.frames else None),
            "skipped_share": _rounded(self.skipped_share),
        }


@dataclass(frozen=True)
class Evaluation:
    """All of it."""

    root: Coverage
    reference: Coverage
    episodes: list[EpisodeResult]
    warnings: list[str]
    judge: dict[str, Any] | None = None

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Those there are figures for."""
        return (*MEASURES, JUDGED) if self.judge is not None else MEASURES

    def micro(self, name: str) -> float | None:
        """Counts of all episodes pooled."""
        return micro(self._scores(name))

    def macro(self, name: str) -> float | None:
        """Mean over episodes."""
        return macro(self._scores(name))

    def _scores(self, name: str) -> Iterable[Score]:
        return [e.scores[name] for e in self.episodes if name in e.scores]

    @property
    def visual(self) -> dict[str, VisualScores]:
        """Visual answers by type, all episodes."""
        total: dict[str, VisualScores] = {}
        for episode in self.episodes:
            for kind, scores in episode.visual.items():
                total[kind] = total.get(kind, VisualScores()) + scores
        return dict(sorted(total.items()))

    def worst(self, name: str = "boundary_f1_1s", count: int = WORST_SHOWN) -> list[EpisodeResult]:
        """Episodes with the lowest values below 1, worst first."""
        flawed = [(v, e) for e in self.episodes if (v := e.value(name)) is not None and v < 1.0]
        return [e for _, e in sorted(flawed, key=lambda pair: (pair[0], pair[1].value("iou") or 0.0))[:count]]

    @property
    def offset_s(self) -> float | None:
        """Mean distance of found boundaries, within the widest tolerance."""
        found = [abs(t) for e in self.episodes for t in e.offsets_s]
        return sum(found) / len(found) if found else None

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        names = [m.name for m in self.measures]
        return {
            "format": FORMAT,
            "root": self.root.to_json(),
            "reference": self.reference.to_json(),
            "episodes_compared": len(self.episodes),
            "micro": {name: _rounded(self.micro(name)) for name in names},
            "macro": {name: _rounded(self.macro(name)) for name in names},
            "boundary_offset_s": _rounded(self.offset_s),
            "vqa": {kind: scores.to_json() for kind, scores in self.visual.items()},
            "worst": [e.index for e in self.worst()],
            "judge": self.judge,
            "warnings": self.warnings,
            "episodes": [e.to_json() for e in self.episodes],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
