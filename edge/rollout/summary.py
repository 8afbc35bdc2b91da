"""What came of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge.rollout.control import Counts, Ending
from edge.rollout.pace import Lateness


@dataclass(frozen=True)
class Problem:
    """Something that went wrong, and in which step."""

    step: str  # "drive", "return to the initial position", "disconnect the robot"
    error: BaseException

    def __str__(self) -> str:
        return f"{self.step}: {self.error or type(self.error).__name__}"


@dataclass
class RolloutSummary:
    """What came of a run; the first problem is why it ended, where it ended by one."""

    ending: Ending = Ending.ERROR
    duration_s: float = 0.0  # of the driving
    counts: Counts = field(default_factory=Counts)
    lateness: Lateness = field(default_factory=lambda: Lateness(0.0, 0.0, 0.0))
    overruns: int = 0  # ticks that were skipped because another took too long
    home: str = "never left"  # how the way home ended
    dataset: Path | None = None  # what was recorded, if anything was
    problems: list[Problem] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return bool(self.problems)

    def raise_for_problems(self) -> None:
        """Raise the error there was; several as one group, the cause first."""
        errors = [problem.error for problem in self.problems]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup(f"{len(errors)} things went wrong", errors)
