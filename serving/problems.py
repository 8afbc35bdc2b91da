"""What is wrong with a manifest, in words: what was wanted, what was got, what to do, and where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic import ValidationError

from configuration import flags
from configuration.problems import UNKNOWN, Known, Problem
from configuration.yaml_source import Place, dotted
from serving.errors import ManifestError
from serving.manifest import Manifest

KNOWN = tuple(name for name, _ in flags.leaves(Manifest))
DEFAULTS = {name: default for name, _, default, _ in flags.describe(Manifest)}
SETTINGS = Known((*KNOWN, "services"), DEFAULTS, "docs/manifest.md")
# what is told first when several things are wrong, in this order; everything else follows
FIRST = (
    "model.repo_or_path",
    "serving_mode",
    "max_sessions",
    "zenoh.mode",
    "zenoh.connect_endpoints",
    "zenoh.tls",
    "rtc",
)
in_words = SETTINGS.problem


class ManifestProblems(ManifestError):
    """Everything that is wrong with a manifest; the first problem is the error's own."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(f"{first.wanted}, at {first.where}", first.got, first.remedy)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(ManifestError(f"{p.wanted}, at {p.where}", p.got, p.remedy)) for p in self.problems)


def rank(problem: Problem) -> tuple[bool, int]:
    """A misspelt setting comes before the missing one that it causes."""
    known = problem.wanted != UNKNOWN
    return known, next((i for i, name in enumerate(FIRST) if problem.place.startswith(name)), len(FIRST))


@contextmanager
def problems_of_flags(prefix: Place = ()) -> Iterator[None]:
    """What a model finds wrong with flags, as ManifestProblems whose places are those flags."""
    try:
        yield
    except ValidationError as err:
        found = [{**e, "loc": (*prefix, *e["loc"])} for e in err.errors()]
        raise ManifestProblems([in_words(e, lambda place: f"--{dotted(place)}") for e in found]) from None
