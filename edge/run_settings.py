"""Everything that `edge run` and `edge check` are told, from flags and a YAML file, as one checked model.

Which options a robot, a teleoperator and a strategy have depends on their `type`, so the model is put together once
those are known. Flags win over the file, and everything that is wrong is named at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from configuration import flags
from configuration.problems import UNKNOWN, Known, Problem
from configuration.refusal import refusal
from configuration.yaml_source import Place, Source, dotted, read_yaml
from edge.errors import SettingsError
from edge.recording.settings import DatasetSettings
from edge.robots.registry import robot_settings
from edge.rollout.settings import RolloutSettings, strategy_settings
from edge.settings import InferenceSettings, SafetySettings
from serving.wire.errors import KeyNameError
from serving.wire.keys import Keys, client_id

HELP = "edge fields for all of them"
WORDING = flags.Wording(SettingsError, "--robot.type=dataset", f"see {HELP}")
CHOSEN = ("robot", "teleop", "strategy")  # sections whose `type` says which options they have
STRATEGY = "base"
# flags of other tools that mean one of ours
MEANT = {
    "policy.pretrained_path": "--policy.path", "policy.repo_id": "--policy.path", "display_data": "--display=rerun",
    "server_address": "--inference.connect_endpoint", "pretrained_name_or_path": "--policy.path",
    "actions_per_chunk": "the server's manifest", "chunk_size_threshold": "--inference.buffer_time_s",
    "aggregate_fn_name": "nothing: chunks are never mixed", "policy_device": "the server's manifest",
    "policy.device": "the server's manifest", "policy_type": "--policy.path", "config": "--config_path",
}  # fmt: skip


class Section(BaseModel):
    """Unknown keys are refused: a misspelt setting must not be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class PolicySettings(Section):
    """Which policy drives. Its weights stay on the server; here only its config is read, where it can be had."""

    path: str = Field("", description="folder or hub id of the policy, as the server's manifest names it")
    revision: str = Field("main", description="branch, tag or commit its config is read from, for a hub id")


class DisplaySettings(Section):
    """Pictures, states, actions, queue and latency in a viewer."""

    type: Literal["none", "rerun"] = Field("none", description="rerun: log to a Rerun viewer or file")
    save: Path | None = Field(None, description="write an .rrd file in place of showing it")
    connect: str = Field("", description="viewer that runs elsewhere: rerun+http://HOST:9876/proxy; empty: start one")
    image_hz: float = Field(10.0, gt=0, le=240, description="most pictures a second and camera")
    jpeg_quality: int = Field(75, ge=0, le=100, description="of logged pictures; 0: raw")

    @model_validator(mode="after")
    def _one_place(self) -> DisplaySettings:
        if self.save is not None and self.connect:
            raise refusal("save", "want display.save or display.connect", "both", "leave one out")
        if self.type == "none" and (self.save is not None or self.connect):
            raise refusal("type", "want --display=rerun for display.save and display.connect", "none", "add it")
        return self


class RunSettings(RolloutSettings):
    """One run. `robot`, `teleop`, `strategy` and `dataset` are filled in by `model_of`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    policy: PolicySettings = Field(default_factory=PolicySettings, description="which policy drives")
    task: str = Field("", max_length=4096, description="what the robot is to do, in words")
    inference: InferenceSettings = Field(default_factory=InferenceSettings, description="where the server is")
    safety: SafetySettings = Field(default_factory=SafetySettings, description="what may be sent to the robot")
    display: DisplaySettings = Field(default_factory=DisplaySettings, description="a viewer")

    @model_validator(mode="before")
    @classmethod
    def _display_by_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("display"), str):
            return {**data, "display": {"type": data["display"]}}
        return data

    @model_validator(mode="after")
    def _has_a_service(self) -> RunSettings:
        model = self.inference.service_model_id or self.policy.path
        if not model.strip():
            remedy = "pass --policy.path=FOLDER or hub id, as the server's manifest has it"
            raise refusal("policy.path", "want a policy", "none", remedy)
        try:
            self.keys()
            client_id(self.inference.client_uuid or "new")
        except KeyNameError as err:
            remedy = err.remedy or "set inference.service_model_id and inference.service_task to what `serving up` says"
            raise refusal("", f"{err.wanted}: it is part of the service's key", err.got or "-", remedy) from err
        return self

    def keys(self) -> Keys:
        """Where the service is found: by model, revision and task, as the server's manifest derives it."""
        asked = self.inference
        task = asked.service_task or self.task
        return Keys.of(asked.service_model_id or self.policy.path, asked.service_revision, task)

    def options(self, section: str) -> dict[str, Any]:
        """What was said of the robot, the teleoperator or the strategy, without its type."""
        chosen = getattr(self, section, None)
        return {} if chosen is None else chosen.model_dump(exclude={"type"}, exclude_unset=True)

    def type_of(self, section: str) -> str:
        """The kind of robot, teleoperator or strategy; "" where there is none."""
        chosen = getattr(self, section, None)
        return "" if chosen is None else chosen.type

    def rollout(self) -> RolloutSettings:
        """The loop's own part."""
        return RolloutSettings(**{name: getattr(self, name) for name in RolloutSettings.model_fields})


class SettingsProblems(SettingsError):
    """Everything that is wrong with the settings; the first problem is the error's own."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(f"{first.wanted}, at {first.where}", first.got, first.remedy)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(SettingsError(f"{p.wanted}, at {p.where}", p.got, p.remedy)) for p in self.problems)


def load(arguments: Sequence[str], config: Path | None = None) -> RunSettings:
    """Flags over a YAML file, checked. Raises SettingsError naming the nearest key."""
    flat = dict(_spelt_out(flags.pairs(arguments, WORDING)))
    source = read_yaml(config, SettingsError, remedy="check --config_path") if config else Source({})
    if not isinstance(source.data, dict):
        got = "nothing" if source.data is None else type(source.data).__name__
        raise SettingsError(f"want a mapping of settings in {source.name}", got, "begin with robot: {type: …}")
    tree = {name: _copied(value) for name, value in source.data.items() if value is not None}
    model = _model_for(tree, flat)
    flags.lay_over(tree, flat, model)
    try:
        return model.model_validate(tree)
    except ValidationError as err:
        where = _Where(source, flat)
        found = [_as_flag(_known(model).problem(e, where), _known(model)) for e in err.errors()]
        raise SettingsProblems(list(dict.fromkeys(_causes_first(found)))) from None


def model_of(robot: str, strategy: str = STRATEGY, teleop: str = "", dataset: bool = False) -> type[RunSettings]:
    """The settings of a run with such a robot, strategy and teleoperator. Raises SettingsError for unknown ones."""
    sections: dict[str, Any] = {
        "robot": _chosen("Robot", robot_settings(robot), robot, "what is driven"),
        "strategy": _chosen("Strategy", strategy_settings(strategy), strategy, "how a run goes"),
    }
    if teleop:
        from edge.teleoperators.registry import teleop_settings

        sections["teleop"] = _chosen("Teleop", teleop_settings(teleop), teleop, "whom a human corrects with")
    if dataset:
        sections["dataset"] = (DatasetSettings, Field(description="what is recorded"))
    return create_model("Run", __base__=RunSettings, **sections)


def _chosen(name: str, options: type[BaseModel], kind: str, meaning: str) -> tuple[Any, Any]:
    """A section whose `type` is known: its options, and the type itself."""
    own = {} if "type" in options.model_fields else {"type": (str, Field(kind, description=f"{meaning}, by name"))}
    model = create_model(name, __base__=options, **own)
    return model, Field(default_factory=model, description=meaning)


def _spelt_out(pairs: Any) -> Any:
    """Flags in one spelling: `--display=rerun` is `--display.type=rerun`."""
    for name, value in pairs:
        yield "display.type" if name == "display" else name, "true" if value is None else value


def _model_for(tree: Mapping[str, Any], flat: Mapping[str, str]) -> type[RunSettings]:
    """The model that the chosen types ask for."""
    kinds = {section: _type_of(section, tree, flat) for section in CHOSEN}
    if not kinds["robot"]:
        raise SettingsError("want a robot", "none", "pass --robot.type=dataset, gym, lerobot, or module:function")
    if not kinds["teleop"] and (said := _said_of("teleop", tree, flat)):
        raise SettingsError("want a teleoperator's type", f"only {said}", "pass --teleop.type=…")
    dataset = bool(_said_of("dataset", tree, flat))
    return model_of(kinds["robot"], kinds["strategy"] or STRATEGY, kinds["teleop"], dataset)


def _type_of(section: str, tree: Mapping[str, Any], flat: Mapping[str, str]) -> str:
    given = tree.get(section)
    own = given.get("type") if isinstance(given, dict) else given if isinstance(given, str) else None
    return str(flat.get(f"{section}.type") or own or "")


def _said_of(section: str, tree: Mapping[str, Any], flat: Mapping[str, str]) -> str:
    """The first thing that was said of a section; "" when nothing was."""
    flag = next((f"--{name}" for name in flat if name.startswith(f"{section}.")), "")
    return flag or (section if tree.get(section) is not None else "")


@lru_cache(maxsize=4)
def _known(model: type[RunSettings]) -> Known:
    """All names, those of sections that were not asked for too, so that a slip in them is recognised."""
    rows = {flag: default for flag, _, default, _ in flags.describe(model)}
    rows |= {f"--dataset.{name}": "" for name, _ in flags.leaves(DatasetSettings)} | {"--teleop.type": ""}
    return Known(tuple(name[2:] for name in rows), rows, HELP)


@dataclass(frozen=True)
class _Where:
    """A place in words: the flag that set it, or its line in the file."""

    source: Source
    flags: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, place: Place) -> str:
        name = dotted(place)
        if self.source.line(place) and not any(name.startswith(flag) for flag in self.flags):
            return self.source.where(place)
        return f"--{name}" if name else "the flags"


def _as_flag(problem: Problem, known: Known) -> Problem:
    """An unknown flag, with the nearest one or with what another tool calls by that name."""
    if problem.wanted != UNKNOWN:
        return problem
    meant = f"use {MEANT[problem.place]}" if problem.place in MEANT else ""
    flag = "--" if problem.where.startswith("--") else ""
    return replace(problem, remedy=meant or known.nearest(problem.place, flag))


def _causes_first(problems: Sequence[Problem]) -> list[Problem]:
    """Misspelt settings first: a missing one may be what they were meant to be."""
    return sorted(problems, key=lambda p: p.wanted != UNKNOWN)


def _copied(value: Any) -> Any:
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, dict) else value


def described(arguments: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """(flag, type, default, meaning) of every setting; `arguments` may name types whose options are wanted too."""
    flat = dict(_spelt_out(flags.pairs(arguments, WORDING)))
    types = {f"{section}.type": section for section in CHOSEN}
    if strange := [name for name in flat if name not in types]:
        raise SettingsError("want types only", f"--{strange[0]}", "edge fields --robot.type=… --strategy.type=…")
    kinds = {types[name]: kind for name, kind in flat.items()}
    model = model_of(kinds.get("robot", "dataset"), kinds.get("strategy", STRATEGY), kinds.get("teleop", ""), True)
    hidden = "" if "robot" in kinds else "--robot."
    for row in flags.describe(model):
        if row[0] == "--robot.type" or not (hidden and row[0].startswith(hidden)):
            yield row
