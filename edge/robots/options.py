"""What a user wrote about a robot or a teleoperator, as a checked model: every mistake named with the nearest name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from configuration.flags import nearest
from configuration.refusal import REFUSED
from edge.errors import SettingsError

M = TypeVar("M", bound="Options")
NAMED_MAX = 5  # mistakes told in one message


class Options(BaseModel):
    """Options of our own kinds. Unknown ones are refused: a misspelt option must not be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OpenOptions(BaseModel):
    """Options of kinds that somebody else has written: checked by them."""

    model_config = ConfigDict(extra="allow", frozen=True)


def checked(model: type[M], options: Mapping[str, Any], flag: str) -> M:
    """Options as a model. `flag` is what their flags begin with, such as `--robot.`. Raises SettingsError."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as err:
        mistakes = [_mistake(e, tuple(model.model_fields), flag) for e in err.errors(include_url=False)]
    shown = mistakes[:NAMED_MAX]
    got = "; ".join(got for got, _ in shown)
    if len(mistakes) > NAMED_MAX:
        got += f"; and {len(mistakes) - NAMED_MAX} more"
    remedy = "; ".join(dict.fromkeys(remedy for _, remedy in shown))
    raise SettingsError(f"want options {flag}… that fit", got, remedy)


def _mistake(error: Any, known: Sequence[str], flag: str) -> tuple[str, str]:
    """(what was got, what to do)"""
    place = ".".join(map(str, error["loc"]))
    name = f"{flag}{place}" if place else "all of them together"
    if error["type"] == "extra_forbidden":
        return f"unknown {name}", nearest(place, known, flag) or f"it knows {', '.join(flag + k for k in known)}"
    if error["type"] == "missing":
        return f"no {name}", f"give {name}"
    if error["type"] == REFUSED:
        said = error["ctx"]
        return f"{flag}{said['at']}: {said['wanted']}, got {said['got']}", said["remedy"]
    return f"{name}: {error['msg']} (got {error['input']!r})", f"correct {name}"
