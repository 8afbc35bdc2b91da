"""Which variants a sweep runs: settings and prompts from `--vary` flags and a YAML file, checked before any work."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

import prompts
from flows.flags import build, leaves
from tasks.errors import SettingsError
from tasks.evaluate.report import MEASURES
from tasks.settings import AnnotateSettings

PROMPT = "prompt."
SHIPPED = "shipped"  # in place of a file: the prompt as it comes with the package
VARIANTS_MAX = 200
NAME_CHARS_MAX = 48  # of a folder
RANK_BY = "boundary_f1_1s"
SECRET = frozenset({"vlm.api_key"})
# what the sweep decides for each variant
RESERVED = ("root", "repo_id", "revision", "output", "staging_dir", "push_to_hub", "new_repo_id", "job.")
SHARED = "only_episodes"  # variants of different episodes cannot be compared
EXAMPLE = "--vary plan.max_steps=4,8 or --vary prompt.plan_subtasks=mine.txt,shipped"


@dataclass(frozen=True)
class Variant:
    """One way to annotate."""

    flags: Mapping[str, str]  # settings that differ from the base, as flags
    prompts: Mapping[str, Path | None] = field(default_factory=dict)  # None: the shipped one
    given_name: str = ""

    @property
    def name(self) -> str:
        """For people."""
        parts = [f"{name}={value}" for name, value in self.flags.items() if name not in SECRET]
        parts += [f"{PROMPT}{name}={path.name if path else SHIPPED}" for name, path in self.prompts.items()]
        return self.given_name or " ".join(parts) or "base"

    @property
    def folder(self) -> str:
        """A folder of its own: readable, and different for different settings."""
        replaced = {name: str(path) if path else None for name, path in self.prompts.items()}
        identity = json.dumps([dict(sorted(self.flags.items())), dict(sorted(replaced.items()))])
        readable = re.sub(r"[^A-Za-z0-9.=-]+", "_", self.name.replace(PROMPT, "")).strip("_.")[:NAME_CHARS_MAX]
        return f"{readable}-{hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()}"

    def to_json(self) -> dict[str, Any]:
        """For machines; without secrets."""
        return {
            "name": self.name,
            "settings": {k: v for k, v in self.flags.items() if k not in SECRET},
            "prompts": {k: str(v) if v else SHIPPED for k, v in self.prompts.items()},
        }


class SweepFile(BaseModel):
    """A sweep in YAML."""

    model_config = ConfigDict(extra="forbid")

    base: dict[str, Any] = {}  # settings of all variants, as in the file of annotate run --config
    vary: dict[str, list[Any]] = {}  # every combination of these values
    variants: list[dict[str, Any]] = []  # or these, one by one; with vary: each of these with every combination
    only_episodes: list[int] | None = None
    rank_by: str | None = None


@dataclass(frozen=True)
class Plan:
    """A sweep that can begin: every variant has settings that are possible."""

    variants: list[Variant]
    settings: list[AnnotateSettings]  # of each variant
    only_episodes: list[int] | None
    rank_by: str | None
    config: Path | None  # settings file of all variants


def prepare(vary: Sequence[str], file: Path | None, base: dict[str, str], out: Path) -> Plan:
    """Plan a sweep from its flags and its file. Makes the folder `out`. Raises SettingsError."""
    for name in base:
        if name.startswith(RESERVED):
            raise SettingsError("want a flag that holds for all variants", f"--{name}", "the sweep decides that")
    told = read_sweep(file) if file is not None else SweepFile()
    folder = file.absolute().parent if file is not None else Path.cwd()
    from_flags = {name: [_from_here(name, v) for v in values] for name, values in read_vary(vary).items()}
    variants = plan_variants({**told.vary, **from_flags}, told.variants, folder)
    if told.only_episodes is not None:
        base.setdefault("only_episodes", json.dumps(told.only_episodes))
    config = _base_file(told.base, out)
    settings = check_settings(variants, base, config)
    return Plan(variants, settings, settings[0].only_episodes, told.rank_by, config)


def _from_here(name: str, value: Any) -> Any:
    """A file named on the command line lies in the working folder, not beside the sweep's file."""
    return str(Path(value).absolute()) if name.startswith(PROMPT) and value != SHIPPED else value


def _base_file(base: dict[str, Any], out: Path) -> Path | None:
    for name in base:
        if f"{name}.".startswith(tuple(f"{r.rstrip('.')}." for r in RESERVED)):
            raise SettingsError("want settings that hold for all variants", f"base: {name}", "the sweep decides that")
    path = out.absolute() / "base.yaml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if base:
            path.write_text(yaml.safe_dump(base), encoding="utf-8")
    except OSError as err:
        raise SettingsError("want a folder for the sweep", str(err), "name another --out") from err
    return path if base else None


def read_sweep(path: Path) -> SweepFile:
    """The sweep of a YAML file. Raises SettingsError."""
    remedy = "want the keys base, vary, variants, only_episodes, rank_by; see docs/evaluation.md"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return SweepFile.model_validate(tree if tree is not None else {})
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError("want a readable sweep file", str(err), "check --config") from err
    except (yaml.YAMLError, ValidationError) as err:
        raise SettingsError(f"want a sweep in {path}", " ".join(str(err).split()), remedy) from err


def read_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`NAME=VALUE,VALUE` to a map; values that are lists stand in brackets. Raises SettingsError."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        try:
            listed = yaml.safe_load(f"[{values}]") if equals else None
        except yaml.YAMLError:
            listed = None
        if not listed:
            raise SettingsError("want a name and values to vary", repr(text), f"write {EXAMPLE}")
        found.setdefault(name, []).extend(listed)
    return found


def plan_variants(
    vary: Mapping[str, Sequence[Any]], listed: Sequence[Mapping[str, Any]], folder: Path
) -> list[Variant]:
    """All variants, each once. Relative prompt files lie in `folder`. Raises SettingsError for what cannot be."""
    if not vary and not listed:
        raise SettingsError("want something to vary", "neither --vary nor a file with vary or variants", EXAMPLE)
    count = len(listed or [0])
    for name, values in vary.items():
        if not values:
            raise SettingsError("want values to vary", f"none for {name}", f"write {EXAMPLE}")
        count *= len(values)
    if count > VARIANTS_MAX:
        raise SettingsError(f"want at most {VARIANTS_MAX} variants", str(count), "vary less at a time")
    found: dict[str, Variant] = {}
    for chosen in listed or [{}]:
        for values in product(*vary.values()):
            variant = _variant({**chosen, **dict(zip(vary, values, strict=True))}, folder)
            found.setdefault(variant.folder.rsplit("-", 1)[-1], variant)
    return list(found.values())


def _variant(chosen: Mapping[str, Any], folder: Path) -> Variant:
    known = [name for name, _ in leaves(AnnotateSettings)]
    flags: dict[str, str] = {}
    files: dict[str, Path | None] = {}
    for name, value in chosen.items():
        if name == "name":
            continue
        if name.startswith(PROMPT):
            prompt = _known_prompt(name)
            files[prompt] = _prompt_file(str(value), folder)
        elif name.startswith(RESERVED) or name == SHARED:
            raise SettingsError("want a setting that a sweep can vary", name, "leave it out of the variants")
        elif name in known:
            flags[name] = value if isinstance(value, str) else json.dumps(value)
        else:
            raise SettingsError("want a known setting", name, _nearest(name, [*known, *_prompt_names()]))
    return Variant(flags, files, str(chosen.get("name", "")))


def _prompt_names() -> list[str]:
    return [PROMPT + name for name in prompts.names()]


def _known_prompt(name: str) -> str:
    if name not in _prompt_names():
        raise SettingsError("want a known prompt", name, _nearest(name, _prompt_names()))
    return name.removeprefix(PROMPT)


def _prompt_file(value: str, folder: Path) -> Path | None:
    if value == SHIPPED:
        return None
    path = (folder / Path(value).expanduser()).absolute()
    if not path.is_file():
        raise SettingsError("want a prompt file", str(path), f"name a file, or {SHIPPED} for the one that is shipped")
    return path


def check_rank(name: str) -> str:
    """The measure to rank by. Raises SettingsError."""
    known = [m.name for m in MEASURES]
    if name not in known:
        raise SettingsError("want a measure for --rank_by", name, _nearest(name, known))
    return name


def check_settings(variants: Sequence[Variant], base: Mapping[str, str], config: Path | None) -> list[AnnotateSettings]:
    """The settings of each variant, so that a wrong value is found before the first one runs. Raises SettingsError."""
    found = []
    for variant in variants:
        try:
            found.append(build(AnnotateSettings, {**base, **variant.flags}, config))
        except SettingsError as err:
            raise SettingsError(err.wanted, f"{err.got} (variant {variant.name})", err.remedy) from err
    return found


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(known[:12])}, …"
