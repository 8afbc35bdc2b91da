"""What a user wrote about a policy, as a checked model: every mistake named with its place and the nearest name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from serving.errors import PolicyError
from serving.manifest import nearest

M = TypeVar("M", bound="Options")
NAMED_MAX = 5  # mistakes listed in one message


class Options(BaseModel):
    """Unknown keys are refused: a misspelt option must not be a silent default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


def checked(kind: type[M], values: Mapping[str, Any] | Any, where: str) -> M:
    """Values as a model. `where` says what the user wrote them in. Raises PolicyError with every mistake."""
    try:
        return kind.model_validate(values)
    except ValidationError as err:
        known = tuple(kind.model_fields)
        said = [_mistake(e, known) for e in err.errors(include_url=False)]
        more = f"; and {len(said) - NAMED_MAX} more" if len(said) > NAMED_MAX else ""
        raise PolicyError(f"want valid {where}", "; ".join(said[:NAMED_MAX]) + more, "correct it") from err


def _mistake(error: Any, known: tuple[str, ...]) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        hint = f" ({nearest(place, known)})" if len(error["loc"]) == 1 else ""
        return f"unknown key {place}{hint}"
    return f"{place}: {error['msg']}" if place else error["msg"]
