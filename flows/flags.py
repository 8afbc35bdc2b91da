"""LeRobot-style dotted flags for any pydantic settings tree: `--plan.max_steps=6`, `--phases=plan,vqa`."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tasks.errors import SettingsError


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


def parse(arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """`--a.b=v`, `--a.b v` and bare `--a.b` (true) to a flat map. Raises SettingsError naming the nearest flag."""
    found: dict[str, str] = {}
    for name, value in pairs(arguments):
        if name not in known:
            raise SettingsError("want a known flag", f"--{name}", _nearest(name, known, "--"))
        found[name] = "true" if value is None else value
    return found


def pairs(arguments: Sequence[str], switches: Collection[str] = ()) -> Iterator[tuple[str, str | None]]:
    """Name and value of each flag, None for a bare one. `switches`: names that never take the next word as value."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise SettingsError("want flags like --plan.max_steps=6", repr(word), "see annotate run --help")
        name, equals, value = word[2:].partition("=")
        if equals:
            yield name, value
        elif name not in switches and rest and not rest[0].startswith("--"):
            yield name, rest.pop(0)
        else:
            yield name, None


def _nearest(name: str, known: Sequence[str], dash: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    close += [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1] and k not in close]
    if not close:
        return "see annotate run --help for all of them"
    return "did you mean " + " or ".join(dash + k for k in close[:3]) + "?"


def build(model: type[BaseModel], flat: dict[str, str], config: Path | None = None) -> Any:
    """Settings from a YAML file and flags over it. Raises SettingsError with the dotted name of what is wrong."""
    tree = _read_yaml(config) if config is not None else {}
    fields = dict(leaves(model))
    for name, text in flat.items():
        node = tree
        *sections, leaf = name.split(".")
        for section in sections:
            if not isinstance(node.get(section), dict):
                node[section] = {}
            node = node[section]
        node[leaf] = _value(fields[name].annotation, text)
    try:
        return model.model_validate(tree)
    except ValidationError as err:
        raise _settings_error(model, err) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise SettingsError("want a readable settings file", str(err), "check --config") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise SettingsError(f"want YAML in {path}", str(err), "mend the file") from err
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"want a mapping of settings in {path}", type(tree).__name__, "see docs/settings.md")
    return tree


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
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _settings_error(model: type[BaseModel], err: ValidationError) -> SettingsError:
    wrong, remedies = [], []
    for e in err.errors():
        name = ".".join(str(p) for p in e["loc"])
        if e["type"] == "extra_forbidden":
            wrong.append(f"unknown setting {name}")
            remedies.append(_nearest(name, [n for n, _ in leaves(model)]))
        else:
            shown = "" if e["type"] == "missing" else f" (got {e['input']!r})"
            wrong.append(f"{name or 'settings'}: {e['msg']}{shown}")
    remedy = "; ".join(remedies) or "see annotate run --help"
    return SettingsError("want settings that fit together", "; ".join(wrong), remedy)


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
