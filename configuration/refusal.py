"""How settings are refused: what was wanted, what was got and what to do, kept apart until somebody words them."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

REFUSED = "manifest"  # type of these errors, beside pydantic's own


def refusal(at: str, wanted: str, got: str, remedy: str) -> PydanticCustomError:
    """What a check raises; `at` is the dotted place below the model it stands in."""
    said = {"at": at, "wanted": wanted, "got": got, "remedy": remedy}
    return PydanticCustomError(REFUSED, "{wanted}, got {got}: {remedy}", said)
