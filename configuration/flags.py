"""Dotted flags for any pydantic settings tree: `--plan.max_steps=6`, `--zenoh.connect_endpoints=tcp/a:1,tcp/b:2`."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Error = Callable[[str, str, str], Exception]  # (wanted, got, remedy)
SURE, LIKELY = 0.88, 0.5  # how alike two names are when one is a slip of the other, and when it may be


@dataclass(frozen=True)
class Wording:
    """How one command speaks of its flags."""

    error: Error
    example: str  # --plan.max_steps=6
    help: str  # see annotate run --help


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its dotted name, sections opened."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            yield from leaves(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def mappings(model: type[BaseModel]) -> list[str]:
    """Settings that are open mappings: a flag may name what lies in them."""
    return [name for name, field in leaves(model) if dict in {typing.get_origin(k) for k in _kinds(field.annotation)}]


def parse(
    arguments: Sequence[str], known: Sequence[str], wording: Wording, mappings: Collection[str] = ()
) -> dict[str, str]:
    """`--a.b=v`, `--a.b v` and bare `--a.b` (true) to a flat map. Raises the command's error with the nearest flag."""
    found: dict[str, str] = {}
    for name, value in pairs(arguments, wording):
        if name not in known and name.rpartition(".")[0] not in mappings:
            remedy = nearest(name, known, "--") or f"{wording.help} for all of them"
            raise wording.error("want a known flag", f"--{name}", remedy)
        found[name] = "true" if value is None else value
    return found


def pairs(
    arguments: Sequence[str], wording: Wording, switches: Collection[str] = ()
) -> Iterator[tuple[str, str | None]]:
    """Name and value of each flag, None for a bare one. `switches`: names that never take the next word as value."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise wording.error(f"want flags like {wording.example}", repr(word), wording.help)
        name, equals, value = word[2:].partition("=")
        if equals:
            yield name, value
        elif name not in switches and rest and not rest[0].startswith("--"):
            yield name, rest.pop(0)
        else:
            yield name, None


def nearest(name: str, known: Sequence[str], dash: str = "") -> str:
    """`did you mean …?` for a name that is not known; "" when nothing comes near."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=SURE)
    close = close or difflib.get_close_matches(name, known, n=3, cutoff=LIKELY)
    close += [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1] and k not in close]
    return "did you mean " + " or ".join(dash + k for k in close[:3]) + "?" if close else ""


def lay_over(tree: dict[str, Any], flat: Mapping[str, str], model: type[BaseModel]) -> None:
    """Put flags over a tree of settings, each value read as its setting's type wants it."""
    fields = dict(leaves(model))
    for name, text in flat.items():
        node = tree
        *sections, leaf = name.split(".")
        for section in sections:
            if not isinstance(node.get(section), dict):
                node[section] = {}
            node = node[section]
        node[leaf] = _value(fields[name].annotation, text) if name in fields else _yaml(text)


def _value(annotation: Any, text: str) -> Any:
    """A flag's text as YAML, but strings stay as typed and lists may be written a,b,c."""
    kinds = set(_kinds(annotation))
    if text.lower() in ("null", "none", "~") and type(None) in kinds:
        return None
    origins = {typing.get_origin(k) or k for k in kinds}
    if list in origins:
        if not text.lstrip().startswith("["):
            text = f"[{text}]"
        return _yaml(text)
    if origins & {int, float, bool, dict}:
        return _yaml(text)
    return text


def _kinds(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _kinds(part)
    elif origin is typing.Annotated:
        yield from _kinds(typing.get_args(annotation)[0])
    else:
        yield annotation


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def describe(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """(flag, type, default, meaning) of every setting, for help and docs."""
    for name, field in leaves(model):
        kind = _kind_text(field.annotation)
        default = field.get_default(call_default_factory=True)
        shown = "" if default is PydanticUndefined else _default_text(default)
        yield f"--{name}", kind, shown, field.description or ""


def _kind_text(annotation: Any) -> str:
    parts = [k for k in _kinds(annotation) if k is not type(None)]
    texts = []
    for part in parts:
        if typing.get_origin(part) is typing.Literal:
            texts.append("|".join(str(a) for a in typing.get_args(part)))
        elif typing.get_origin(part) is list:
            texts.append(_kind_text(typing.get_args(part)[0]) + ",…")
        elif typing.get_origin(part) is dict:
            texts.append("{…}")
        else:
            texts.append({"Path": "path", "str": "text", "bool": "true|false"}.get(part.__name__, part.__name__))
    return " or ".join(texts)


def _default_text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return ",".join(str(v) for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
