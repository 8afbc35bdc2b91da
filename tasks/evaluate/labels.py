"""Do two labels say the same? Case, articles and punctuation do not count; word order does not count for token F1."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


@lru_cache(maxsize=65536)
def tokens(text: str) -> tuple[str, ...]:
    """The words that count, in order; where none does, the text as it is."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = tuple(w for w in _WORD.findall(plain) if w not in ARTICLES)
    return words or tuple(plain.split())


def normalise(text: str) -> str:
    """Two labels are the same when this is the same."""
    return " ".join(tokens(text))


def same(a: str, b: str) -> bool:
    """Whether two labels are the same, normalised."""
    return tokens(a) == tokens(b)


def token_f1(a: str, b: str) -> float:
    """2 x common words / all words of both, each word as often as it stands there; 1.0 when neither has any."""
    left, right = Counter(tokens(a)), Counter(tokens(b))
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Fewest insertions, deletions and replacements from one sequence to the other (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
