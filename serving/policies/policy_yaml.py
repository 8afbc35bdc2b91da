"""`policy.yaml`: what an exported program takes and gives. `docs/policies.md` explains every field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from serving.errors import PolicyError
from serving.policies.normalise import NEEDED, Mode, Normaliser
from serving.policies.options import Options, checked

FILE_NAME = "policy.yaml"
STATE, ACTION = "observation.state", "action"
PREFIX, PREFIX_ROWS, DELAY = "prefix", "prefix_rows", "delay_steps"
CHANNELS = 3
FILE_BYTES_MAX = 16 << 20  # of policy.yaml: statistics may stand in it, weights never

BesideName = Annotated[str, StringConstraints(pattern=r"^[^/\\]+$")]  # a file in the same folder


class Vector(Options):
    """The state or the action."""

    dim: int = Field(ge=1, description="how many values")
    names: list[str] = Field(default_factory=list, description="one a value, in order; [] when unknown")

    @model_validator(mode="after")
    def _one_name_a_value(self) -> Vector:
        if self.names and (len(self.names) != self.dim or len(set(self.names)) != self.dim):
            raise ValueError(f"want {self.dim} different names, got {len(self.names)}")
        return self


class CameraEntry(Options):
    """A picture that the program takes."""

    name: str = Field(min_length=1, description="canonical key: observation.images.front")
    height: int = Field(ge=1, description="pixels")
    width: int = Field(ge=1, description="pixels")


class History(Options):
    """Moments that the program takes."""

    frames: int = Field(1, ge=1, description="the current one included")
    step: int = Field(1, ge=1, description="control steps between two of them")


class Prefix(Options):
    """The tail of the last chunk, which the program continues."""

    form: Literal["model", "robot"] = Field("model", description="which of the two forms is read")
    rows: int = Field(ge=1, description="rows of the input; shorter prefixes are filled up with zeros")


class Feature(Options):
    """How one feature is normalised. Numbers stand here, or in the file as NAME.mean and so on."""

    mode: Mode
    mean: list[float] | None = None
    std: list[float] | None = None
    min: list[float] | None = None
    max: list[float] | None = None
    q01: list[float] | None = None
    q99: list[float] | None = None


class Normalisation(Options):
    """Statistics of the training data."""

    file: BesideName | None = Field(None, description="safetensors file beside policy.yaml")
    features: dict[str, Feature] = Field(default_factory=dict, description="by feature; others pass as they are")


class PolicyFile(Options):
    """The whole of policy.yaml."""

    format: Literal[1] = 1
    policy_type: str = "exported"
    program: BesideName | dict[int, BesideName] = Field(
        description="torch.export file, or one a batch size when they were exported with fixed ones"
    )
    batch_max: int = Field(1, ge=1, description="requests of one call")
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list, description="sizes that a program with a dynamic batch is called with; [] for any"
    )
    fps: float = Field(gt=0, description="control rate of the training data, Hz")
    chunk_size: int = Field(ge=1, description="rows of an answer")
    action: Vector
    state: Vector | None = None
    cameras: list[CameraEntry] = Field(default_factory=list)
    inputs: list[str] = Field(default_factory=list, description="order of the program's inputs; [] for the usual one")
    history: History = Field(default_factory=History)
    prefix: Prefix | None = None
    normalisation: Normalisation = Field(default_factory=Normalisation)

    @model_validator(mode="after")
    def _fits_together(self) -> PolicyFile:
        cameras = [c.name for c in self.cameras]
        if len(set(cameras)) != len(cameras):
            raise ValueError(f"want each camera once, got {', '.join(cameras)}")
        if not cameras and self.state is None:
            raise ValueError("want a state or a camera: the program takes nothing")
        if self.prefix and self.prefix.rows > self.chunk_size:
            raise ValueError(f"want prefix.rows of at most chunk_size {self.chunk_size}, got {self.prefix.rows}")
        if unknown := set(self.inputs) - set(self.usual_inputs):
            raise ValueError(f"want inputs of {', '.join(self.usual_inputs)}, got {', '.join(sorted(unknown))}")
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"want each input once, got {', '.join(self.inputs)}")
        if unknown := set(self.normalisation.features) - {*([STATE] if self.state else []), ACTION, *cameras}:
            raise ValueError(f"normalisation of an unknown feature: {', '.join(sorted(unknown))}")
        return self

    @property
    def usual_inputs(self) -> list[str]:
        """State, cameras in order, then what an answer is to continue."""
        state = [STATE] if self.state else []
        return [*state, *(c.name for c in self.cameras), *([PREFIX, PREFIX_ROWS, DELAY] if self.prefix else [])]

    @property
    def order(self) -> list[str]:
        """The program's inputs."""
        return self.inputs or self.usual_inputs

    def shape(self, name: str) -> tuple[int, ...]:
        """One sample's shape of an input."""
        moments = (self.history.frames,) if self.history.frames > 1 else ()
        if name == STATE and self.state:
            return (*moments, self.state.dim)
        if name == PREFIX and self.prefix:
            return (self.prefix.rows, self.action.dim)
        camera = next((c for c in self.cameras if c.name == name), None)
        return () if camera is None else (*moments, CHANNELS, camera.height, camera.width)


def read_policy_file(folder: Path) -> PolicyFile:
    """The checked policy.yaml of a folder. Raises PolicyError."""
    import yaml

    path = folder / FILE_NAME
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise PolicyError(f"want {path} of at most {FILE_BYTES_MAX >> 20} MiB", "more", "keep weights elsewhere")
        values = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as err:
        raise PolicyError(f"want to read {path}", err.strerror or str(err), "check the folder") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise PolicyError(f"want YAML in {path}", str(err), "correct it") from err
    return checked(PolicyFile, values, str(path))


def read_normalisers(policy: PolicyFile, folder: Path) -> dict[str, Normaliser]:
    """Every feature's statistics, of one number a value. Raises PolicyError where some are missing or make no sense."""
    stored = _stored(policy.normalisation.file, folder)
    return {name: _normaliser(name, f, stored, policy) for name, f in policy.normalisation.features.items()}


def _stored(name: str | None, folder: Path) -> Mapping[str, np.ndarray]:
    if name is None:
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(folder / name)
    except (OSError, SafetensorError) as err:
        raise PolicyError(f"want statistics in {folder / name}", str(err), "export the policy again") from err


def _normaliser(name: str, feature: Feature, stored: Mapping[str, np.ndarray], policy: PolicyFile) -> Normaliser:
    if feature.mode == "identity":
        return Normaliser()
    low, high = (_numbers(name, s, getattr(feature, s), stored, policy) for s in NEEDED[feature.mode])
    if (high < 0).any() if feature.mode == "mean_std" else (high < low).any():
        wanted = "std of 0 or more" if feature.mode == "mean_std" else "ends of a range in order"
        raise PolicyError(f"want {wanted} for {name}", "others", "check the statistics")
    return Normaliser.of(feature.mode, low, high)


def _numbers(
    name: str, statistic: str, inline: list[float] | None, stored: Mapping[str, np.ndarray], policy: PolicyFile
) -> np.ndarray:
    values: Any = inline if inline is not None else stored.get(f"{name}.{statistic}")
    if values is None:
        place = policy.normalisation.file or f"normalisation.features.{name}"
        raise PolicyError(f"want {statistic} of {name}", f"none in {place}", "add it, or use mode: identity")
    array = np.asarray(values, dtype=np.float32).reshape(-1)
    picture = name not in (STATE, ACTION)
    wanted = CHANNELS if picture else (policy.action if name == ACTION else policy.state).dim  # type: ignore[union-attr]
    if len(array) != wanted or not np.isfinite(array).all():
        raise PolicyError(f"want {wanted} finite numbers for {statistic} of {name}", f"{len(array)}", "correct them")
    return array.reshape(-1, 1, 1) if picture else array
