"""The flags of `annotate`: dotted names of its settings, over a YAML file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from configuration import flags
from configuration.flags import describe, leaves, nearest
from configuration.yaml_source import read_yaml
from tasks.errors import SettingsError

__all__ = ["build", "describe", "leaves", "pairs", "parse"]

HELP = "see annotate run --help"
WORDING = flags.Wording(SettingsError, "--plan.max_steps=6", HELP)


def parse(arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """`--a.b=v`, `--a.b v` and bare `--a.b` (true) to a flat map. Raises SettingsError naming the nearest flag."""
    return flags.parse(arguments, known, WORDING)


def pairs(arguments: Sequence[str], switches: Collection[str] = ()) -> Iterator[tuple[str, str | None]]:
    """Name and value of each flag, None for a bare one. `switches`: names that never take the next word as value."""
    return flags.pairs(arguments, WORDING, switches)


def build(model: type[BaseModel], flat: dict[str, str], config: Path | None = None) -> Any:
    """Settings from a YAML file and flags over it. Raises SettingsError with the dotted name of what is wrong."""
    tree = _read(config) if config is not None else {}
    flags.lay_over(tree, flat, model)
    try:
        return model.model_validate(tree)
    except ValidationError as err:
        raise _settings_error(model, err) from None


def _read(path: Path) -> dict[str, Any]:
    tree = read_yaml(path, SettingsError, remedy="check --config").data
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"want a mapping of settings in {path}", type(tree).__name__, "see docs/settings.md")
    return tree


def _settings_error(model: type[BaseModel], err: ValidationError) -> SettingsError:
    wrong, remedies = [], []
    for e in err.errors():
        name = ".".join(str(p) for p in e["loc"])
        if e["type"] == "extra_forbidden":
            wrong.append(f"unknown setting {name}")
            remedies.append(nearest(name, [n for n, _ in leaves(model)]) or f"{HELP} for all of them")
        else:
            shown = "" if e["type"] == "missing" else f" (got {e['input']!r})"
            wrong.append(f"{name or 'settings'}: {e['msg']}{shown}")
    remedy = "; ".join(remedies) or HELP
    return SettingsError("want settings that fit together", "; ".join(wrong), remedy)
