"""What is wrong with a manifest, in words: what was wanted, what was got, what to do, and where it stands."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from configuration import flags
from configuration.refusal import REFUSED
from configuration.yaml_source import Place, dotted
from serving.errors import ManifestError
from serving.manifest import Manifest, nearest

KNOWN = tuple(name for name, _ in flags.leaves(Manifest))
DEFAULTS = {name: default for name, _, default, _ in flags.describe(Manifest)}
GOT_MAX = 120  # characters shown of what was given
UNKNOWN = "want a known setting"
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
WORDS = {
    "int_": "want a whole number",
    "float_": "want a number",
    "finite_number": "want a finite number",
    "bool_": "want true or false",
    "string_type": "want text",
    "list_type": "want a list",
    "dict_type": "want a mapping",
    "model_type": "want a mapping of settings",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    place: str  # dotted
    where: str  # the place in words: with the line, or the flag
    wanted: str
    got: str
    remedy: str


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


def in_words(error: ErrorDetails, where: Callable[[Place], str]) -> Problem:
    """A finding of the checker; `where` says a place in words."""
    place, context = error["loc"], error.get("ctx", {})
    if error["type"] == REFUSED:
        place = (*place, *(int(part) if part.isdigit() else part for part in context["at"].split(".") if part))
        return Problem(dotted(place), where(place), context["wanted"], context["got"], context["remedy"])
    name = dotted(place)
    if error["type"] == "extra_forbidden":
        return Problem(name, where(place), UNKNOWN, name, _nearest_setting(name))
    got = repr(error["input"])[:GOT_MAX]
    return Problem(name, where(place), _wanted(error), got, _remedy(error, name))


@contextmanager
def problems_of_flags(prefix: Place = ()) -> Iterator[None]:
    """What a model finds wrong with flags, as ManifestProblems whose places are those flags."""
    try:
        yield
    except ValidationError as err:
        found = [{**e, "loc": (*prefix, *e["loc"])} for e in err.errors()]
        raise ManifestProblems([in_words(e, lambda place: f"--{dotted(place)}") for e in found]) from None


def _nearest_setting(name: str) -> str:
    sections = sorted({part.rpartition(".")[0] for part in KNOWN if "." in part})
    close = flags.nearest(name, [*KNOWN, "services"]) or next(
        (f"did you mean {s}?" for s in difflib.get_close_matches(name, sections, n=1, cutoff=0.5)), ""
    )
    return close or "see docs/manifest.md for all of them"


def _wanted(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return f"want {context['expected'].replace(chr(39), '')}"
    for bound, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if bound in context:
            return f"want {words} {context[bound]:g}"
    return next((words for begin, words in WORDS.items() if kind.startswith(begin)), error["msg"])


def _remedy(error: ErrorDetails, name: str) -> str:
    if error["type"] == "literal_error":
        options = tuple(error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
        return nearest(str(error["input"]), options)
    if error["type"] == "string_type":
        return "put it in quotes"
    default = DEFAULTS.get(f"--{name}")
    return f"leave it out for the default, {default}" if default else "see docs/manifest.md"
