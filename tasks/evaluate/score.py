"""One measure of one episode, kept as a fraction so that episodes can be pooled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """`got` out of `of`; `empty` is the value where there is nothing to count (None: no value at all)."""

    got: float
    of: float
    empty: float | None = None

    @property
    def value(self) -> float | None:
        """The fraction."""
        return self.got / self.of if self.of > 0 else self.empty


def micro(scores: Iterable[Score]) -> float | None:
    """All counts pooled: long episodes weigh more."""
    pool = list(scores)
    got, of = sum(s.got for s in pool), sum(s.of for s in pool)
    return got / of if of > 0 else macro(pool)


def macro(scores: Iterable[Score]) -> float | None:
    """The mean over episodes that have a value: each weighs the same."""
    values = [s.value for s in scores if s.value is not None]
    return sum(values) / len(values) if values else None
