"""What is wrong with settings, in words: what was wanted, what was got, what to do, and where it stands."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import ErrorDetails

from configuration import flags
from configuration.refusal import REFUSED
from configuration.yaml_source import Place, dotted

NAME_LIKE, VALUE_LIKE = 0.5, 0.6  # how alike two are when one may be a slip of the other
GOT_MAX = 120  # characters shown of what was given
UNKNOWN = "want a known setting"
BOUNDS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
WORDS = {
    "missing": "want a value",
    "int_": "want a whole number",
    "float_": "want a number",
    "finite_number": "want a finite number",
    "bool_": "want true or false",
    "string_type": "want text",
    "list_type": "want a list",
    "tuple_type": "want a list",
    "dict_type": "want a mapping",
    "model_type": "want a mapping of settings",
    "path_type": "want a path",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    place: str  # dotted
    where: str  # the place in words: with the line, or the flag
    wanted: str
    got: str
    remedy: str


@dataclass(frozen=True)
class Known:
    """What may be said at all, for remedies."""

    names: Sequence[str]  # dotted
    defaults: Mapping[str, str]  # --name -> default, "" for none
    page: str  # see docs/… for all of them

    def problem(self, error: ErrorDetails, where: Callable[[Place], str]) -> Problem:
        """A finding of the checker; `where` says a place in words."""
        place, context = error["loc"], error.get("ctx", {})
        if error["type"] == REFUSED:
            place = (*place, *(int(part) if part.isdigit() else part for part in context["at"].split(".") if part))
            return Problem(dotted(place), where(place), context["wanted"], context["got"], context["remedy"])
        name = dotted(place)
        if error["type"] == "extra_forbidden":
            return Problem(name, where(place), UNKNOWN, name, self.nearest(name))
        got = "none" if error["type"] == "missing" else repr(error["input"])[:GOT_MAX]
        return Problem(name, where(place), _wanted(error), got, self._remedy(error, name))

    def nearest(self, name: str, dash: str = "") -> str:
        """`did you mean …?` for a name that is not known."""
        sections = sorted({part.rpartition(".")[0] for part in self.names if "." in part})
        close = flags.nearest(name, list(self.names), dash) or next(
            (f"did you mean {dash}{s}.…?" for s in difflib.get_close_matches(name, sections, n=1, cutoff=NAME_LIKE)), ""
        )
        return close or f"see {self.page}"

    def _remedy(self, error: ErrorDetails, name: str) -> str:
        if error["type"] == "literal_error":
            options = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            close = difflib.get_close_matches(str(error["input"]), options, n=1, cutoff=VALUE_LIKE)
            return f"did you mean {close[0]}?" if close else f"use one of {', '.join(options)}"
        if error["type"] == "missing":
            return f"pass --{name}=…"
        if error["type"] == "string_type":
            return "put it in quotes"
        default = self.defaults.get(f"--{name}")
        return f"leave it out for the default, {default}" if default else f"see {self.page}"


def _wanted(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return f"want {context['expected'].replace(chr(39), '')}"
    for bound, words in BOUNDS:
        if bound in context:
            return f"want {words} {context[bound]:g}"
    return next((words for begin, words in WORDS.items() if kind.startswith(begin)), error["msg"])
