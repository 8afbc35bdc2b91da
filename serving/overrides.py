"""From files and flags to checked manifests: flags win over YAML, and everything that is wrong is named at once.

A file holds one service, or what several have in common and a list `services:` of what each has of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from configuration import flags
from configuration.problems import Problem
from configuration.yaml_source import Place, Source, dotted, read_yaml
from network.zenoh_settings import ZenohSettings
from serving.errors import ManifestError
from serving.manifest import Manifest, nearest
from serving.problems import KNOWN, ManifestProblems, in_words, problems_of_flags, rank

HELP = "see serving up --help"
WORDING = flags.Wording(ManifestError, "--model.device=cpu", HELP)
SERVICES = "services"
SWITCHES = frozenset(name for name, field in flags.leaves(Manifest) if field.annotation is bool)
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # where one listens, and where one then connects
OWN = ("name", "gpu")  # of an entry of the list, beside the fields of a manifest
# what two services on one machine cannot share
EXCLUSIVE = ("health_port", "debug.capture_dir", "audit.path")


@dataclass(frozen=True)
class ServicePlan:
    """One service of what was asked for, and how a process of its own is told to run just it."""

    name: str
    manifest: Manifest
    gpu: str | None = None  # CUDA_VISIBLE_DEVICES; None: as it is
    path: Path | None = None
    flags: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """Arguments of `serving up` that run this service and no other."""
        file = [] if self.path is None else [str(self.path), f"--service={self.name}"]
        own = {**self.flags, "health_port": str(self.manifest.health_port)}
        return file + [f"--{name}={value}" for name, value in own.items()]


@dataclass(frozen=True)
class _Draft:
    """A service not yet checked."""

    name: str
    tree: dict[str, Any]
    source: Source
    flags: Mapping[str, str]
    path: Path | None
    prefix: Place = ()  # where its own part lies in the file
    gpu: Any = None

    def where(self, place: Place) -> str:
        """A place in words: the flag that set it, or its line in the file."""
        name = dotted(place)
        if any(name == flag or name.startswith(f"{flag}[") for flag in self.flags):
            return f"--{name}"
        own = (*self.prefix, *place)
        return self.source.where(place if self._depth(place) > self._depth(own) - len(self.prefix) else own)

    def _depth(self, place: Place) -> int:
        """How much of a place stands in the file."""
        return next(end for end in range(len(place), -1, -1) if not end or place[:end] in self.source.lines)


def load(paths: Sequence[Path], arguments: Sequence[str] = (), only: str = "") -> list[ServicePlan]:
    """The services of some files (or of flags alone), checked. Raises ManifestError with all that is wrong.

    `only`: the name of the one service that is meant.
    """
    flat = flags.parse(arguments, KNOWN, WORDING, flags.mappings(Manifest))
    drafts = [draft for path in paths for draft in _drafts(path, flat)]
    drafts = drafts or [_Draft("service", _over({}, flat), Source({}), flat, None)]
    _name_apart(drafts)
    if not (only and "health_port" in flat):  # a supervised process is told which port is its own
        _number_ports(drafts)
    if only:
        drafts = [draft for draft in drafts if draft.name == only] or _no_such(only, drafts)
    problems: list[Problem] = []
    services = [service for draft in drafts for service in _checked(draft, problems)]
    problems += _clashes(drafts, services) if len(services) > 1 and not problems else []
    if problems:
        raise ManifestProblems(list(dict.fromkeys(problems)))  # what is common to all is told once
    return _on_gpus(services)


def load_one(paths: Sequence[Path], arguments: Sequence[str] = (), only: str = "") -> ServicePlan:
    """The one service that is meant. Raises ManifestError when there are several."""
    services = load(paths, arguments, only)
    if len(services) > 1:
        got = f"{len(services)}: {', '.join(service.name for service in services)}"
        raise ManifestError("want one service", got, f"choose with --service={services[0].name}")
    return services[0]


def split_words(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files and flags of a command line; a flag's value may be the next word, but for switches."""
    paths: list[Path] = []
    settings: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            paths.append(Path(word))
            continue
        takes_a_value = "=" not in word and word[2:] not in SWITCHES and rest and not rest[0].startswith("--")
        settings.append(f"{word}={rest.pop(0)}" if takes_a_value else word)
    return paths, settings


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """`name=value` words, the values as YAML has them. Raises ManifestError."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ManifestError("want --option=name=value", repr(word), "write it like --option=chunk_size=50")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as err:
            raise ManifestError(f"want YAML behind {name}=", repr(value), "put text in quotes") from err
    return found


def read_sizes(text: str) -> list[int]:
    """`1,2,4` as numbers. Raises ManifestError."""
    try:
        sizes = [int(size) for size in text.split(",") if size.strip()]
    except ValueError:
        sizes = [0]
    if any(size < 1 for size in sizes):
        raise ManifestError("want sizes of at least 1", repr(text), "write them like 1,2,4,8")
    return sizes


def network(arguments: Sequence[str], connect: Sequence[str]) -> ZenohSettings:
    """The network of somebody who only asks and has no manifest: `--zenoh.…` flags and where to connect."""
    flat = flags.parse(arguments, KNOWN, WORDING, flags.mappings(Manifest))
    zenoh = asking(_over({}, flat)["zenoh"], connect)
    if not zenoh["connect_endpoints"]:
        raise ManifestError("want to know where to ask", "no endpoint", "pass --connect=tcp/HOST:7447, or a manifest")
    with problems_of_flags(("zenoh",)):
        return ZenohSettings.model_validate(zenoh)


def asking(zenoh: Mapping[str, Any], connect: Sequence[str]) -> dict[str, Any]:
    """`zenoh:` of a manifest as somebody needs it who only asks: the same router, or straight to who listens."""
    listeners = [_near(endpoint) for endpoint in zenoh.get("listen_endpoints", ())]
    endpoints = list(connect) or zenoh.get("connect_endpoints") or listeners
    return {**zenoh, "mode": "client", "connect_endpoints": endpoints, "listen_endpoints": []}


def _near(endpoint: str) -> str:
    for everywhere, here in EVERYWHERE.items():
        endpoint = endpoint.replace(f"/{everywhere}:", f"/{here}:")
    return endpoint


# --- files to drafts ------------------------------------------------------------------------------


def _drafts(path: Path, flat: Mapping[str, str]) -> Iterator[_Draft]:
    source = read_yaml(path, ManifestError, "manifest", "check the path; serving init writes one")
    tree = source.data
    if not isinstance(tree, dict):
        got = "nothing" if tree is None else type(tree).__name__
        raise ManifestError(f"want a mapping of settings in {path.name}", got, "begin with model: (serving init)")
    if SERVICES not in tree:
        yield _Draft(path.stem, _over(tree, flat), source, flat, path)
        return
    entries, common = tree[SERVICES], {k: v for k, v in tree.items() if k != SERVICES}
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        where = source.where((SERVICES,))
        raise ManifestError(f"want a list of mappings, at {where}", repr(entries)[:80], "write - name: ... for each")
    for i, entry in enumerate(entries):
        own = {k: v for k, v in entry.items() if k not in OWN}
        name = entry.get("name") or entry.get("service_name") or f"{path.stem}-{i}"
        merged = _over(_merged(common, own), flat)
        yield _Draft(str(name), merged, source, flat, path, (SERVICES, i), entry.get("gpu"))


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of all under settings of one, section by section."""
    result = dict(common)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _over(tree: Mapping[str, Any], flat: Mapping[str, str]) -> dict[str, Any]:
    """Flags over a copy of a tree; sections that must be there are there, if only empty."""
    result = _copied(dict(tree))
    for section in ("model", "zenoh"):
        if result.get(section) is None:
            result[section] = {}
    flags.lay_over(result, flat, Manifest)
    return result


def _copied(value: Any) -> Any:
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, dict) else value


def _name_apart(drafts: list[_Draft]) -> None:
    seen: dict[str, _Draft] = {}
    for draft in drafts:
        if draft.name in seen:
            wanted = f"want a name of its own for each service, at {draft.where(())}"
            raise ManifestError(wanted, f"{draft.name} twice", "set name")
        seen[draft.name] = draft


def _number_ports(drafts: list[_Draft]) -> None:
    """Services that share a health port by default get one each: the port, the next one, and so on."""
    for i, draft in enumerate(drafts):
        own = draft.source.data.get(SERVICES, [{}])[draft.prefix[1]] if draft.prefix else draft.source.data
        base = draft.tree.get("health_port", Manifest.model_fields["health_port"].default)
        inherited = "health_port" in draft.flags or "health_port" not in own
        if inherited and isinstance(base, int) and base:
            draft.tree["health_port"] = base + i


def _no_such(only: str, drafts: Sequence[_Draft]) -> list[_Draft]:
    names = tuple(draft.name for draft in drafts)
    raise ManifestError("want the name of a service", repr(only), nearest(only, names))


# --- drafts to services ------------------------------------------------------------------------------


def _checked(draft: _Draft, problems: list[Problem]) -> Iterator[ServicePlan]:
    try:
        manifest = Manifest.model_validate(draft.tree)
    except ValidationError as err:
        problems += sorted((in_words(e, draft.where) for e in err.errors()), key=rank)
        return
    gpu = None if draft.gpu is None else str(draft.gpu)
    yield ServicePlan(draft.name, manifest, gpu, draft.path, draft.flags)


# --- several services on one machine ------------------------------------------------------------------------------


def _clashes(drafts: Sequence[_Draft], services: Sequence[ServicePlan]) -> Iterator[Problem]:
    """What two services cannot both have."""
    seen: dict[tuple[str, Any], str] = {}
    for draft, service in zip(drafts, services, strict=True):
        for name, value in _exclusive(service.manifest):
            if (name, value) in seen:
                place = tuple(name.split("."))
                got, wanted = f"{value}, as {seen[name, value]} has", f"want {name} of its own for {service.name}"
                yield Problem(name, draft.where(place), wanted, got, f"set services[…].{name}, or leave it out")
            seen.setdefault((name, value), service.name)


def _exclusive(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    for name in EXCLUSIVE:
        value: Any = manifest
        for part in name.split("."):
            value = getattr(value, part)
        if value:
            yield name, value
    for endpoint in manifest.zenoh.listen_endpoints:
        if not endpoint.endswith(":0"):
            yield "zenoh.listen_endpoints", endpoint
    if manifest.server_id:
        yield "server_id", f"{manifest.keys().prefix} {manifest.server_id}"


def _on_gpus(services: Sequence[ServicePlan]) -> list[ServicePlan]:
    """Of several services, each one on `cuda` that names no GPU gets the next."""
    if len(services) == 1:
        return list(services)
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    left = iter(allowed.split(",") if allowed else map(str, range(len(services))))
    placed = []
    for service in services:
        gpu = service.gpu
        if gpu is None and service.manifest.model.device == "cuda":
            gpu = next(left, None)
            if gpu is None:
                remedy = f"set gpu of {service.name}, or model.device"
                raise ManifestError("want a GPU for each service", f"CUDA_VISIBLE_DEVICES={allowed}", remedy)
        placed.append(replace(service, gpu=gpu))
    return placed
