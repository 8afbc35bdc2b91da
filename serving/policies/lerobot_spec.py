"""What a LeRobot checkpoint says of itself, and what only its user can say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from serving.errors import PolicyError
from serving.policies.base import Camera, PolicySpec
from serving.policies.lerobot_checkpoint import read_json
from serving.policies.lerobot_families import BATCH_MAX, Family, chunk_rows, moments
from serving.policies.options import Options

if TYPE_CHECKING:
    from lerobot.configs import PolicyFeature, PreTrainedConfig

    from serving.manifest import ModelSettings, RtcSettings
    from serving.policies.lerobot_processors import Template

ACTION, STATE, EMPTY_CAMERA = "action", "observation.state", "observation.images.empty_camera_"
CHANNELS = 3


class LeRobotOptions(Options):
    """model.options of a LeRobot checkpoint."""

    action_names: list[str] | None = None  # where the checkpoint does not name its actions
    fps: Annotated[float, Field(gt=0)] | None = None  # control rate of the training data, Hz
    dataset: str | None = None  # folder of the training dataset: names and rate are read from it
    guidance: Literal["error", "vjp"] = "error"  # how real-time chunking corrects: see lerobot_guidance
    noise_seed: int | None = None  # the same noise for every request: equal requests get equal answers


class Described:
    """A checkpoint's features, checked against what a robot sends: a state, pictures, a task."""

    def __init__(self, config: PreTrainedConfig, template: Template, options: LeRobotOptions) -> None:
        self._config, self._template, self._options = config, template, options
        inputs = config.input_features or {}
        if strange := sorted(name for name, feature in inputs.items() if not _is_sent(name, feature)):
            got = f"it wants {', '.join(strange)}"
            raise PolicyError(f"want a {config.type} that looks at {STATE} and RGB pictures", got, "train it without")
        self._info = _dataset_info(options.dataset)

    def action_dim(self) -> int:
        """Columns of a chunk. Raises PolicyError when the checkpoint does not say."""
        feature = self._config.action_feature
        if feature is None:
            raise PolicyError("want an action among the checkpoint's output_features", "none", "save it again")
        return int(feature.shape[0])

    def action_names(self) -> tuple[str, ...]:
        """What column j of a chunk drives: as the user says, as the checkpoint says, as its dataset says; or ()."""
        known = (
            self._options.action_names,
            getattr(self._config, "action_feature_names", None),
            self._template.action_names,
            _flat(self._info.get("features", {}).get(ACTION, {}).get("names")),
        )
        names = tuple(map(str, next(filter(None, known), ())))
        if names and len(names) != self.action_dim():
            got = f"{len(names)}: {', '.join(names[:8])}"
            raise PolicyError(f"want {self.action_dim()} action names", got, "correct model.options.action_names")
        return names

    def state_dim(self) -> int:
        """Numbers of a state; 0 when the policy looks at none."""
        feature = self._config.robot_state_feature
        return 0 if feature is None else int(feature.shape[0])

    def cameras(self) -> tuple[Camera, ...]:
        """Pictures that a robot must send; those that a checkpoint only fills up with are not among them."""
        empty = {f"{EMPTY_CAMERA}{i}" for i in range(getattr(self._config, "empty_cameras", 0) or 0)}
        wanted = {name: f.shape for name, f in self._config.image_features.items() if name not in empty}
        return tuple(Camera(name, int(height), int(width)) for name, (_, height, width) in wanted.items())

    def fps(self) -> float:
        """Control rate of the training data, Hz; 0 when nobody says."""
        return float(self._options.fps or self._info.get("fps") or 0.0)


def spec_of(
    model: ModelSettings,
    revision: str,
    weights_hash: str,
    rtc: RtcSettings | None,
    family: Family,
    config: PreTrainedConfig,
    template: Template,
    options: LeRobotOptions,
) -> PolicySpec:
    """What the daemon and its robots are told; `rtc` is None where chunks are not continued. Raises PolicyError."""
    known = Described(config, template, options)
    fields = vars(config) | {"type": config.type}
    rows = chunk_rows(family, fields)
    if rtc is not None and rtc.execution_horizon > rows:
        wanted = f"want rtc.execution_horizon of at most {rows}, the rows of a chunk"
        raise PolicyError(wanted, str(rtc.execution_horizon), "lower it")
    return PolicySpec(
        policy_type=config.type,
        model_repo=model.repo_or_path,
        model_revision=revision,
        action_names=known.action_names(),
        action_dim=known.action_dim(),
        state_dim=known.state_dim(),
        cameras=known.cameras(),
        chunk_size=rows,
        fps=known.fps(),
        shared=family.shared,
        batch_max=BATCH_MAX if family.shared else 1,
        mixed_delays=True,  # each sample has its own delay and prefix
        rtc=rtc is not None,
        execution_horizon=rtc.execution_horizon if rtc else 0,
        prefix_form=("robot" if template.relative else "model") if rtc else "",
        history_frames=moments(fields) if family.history else 1,
        checkpoint_hash=weights_hash,
        normalisation_hash=template.hash,
    )


def _is_sent(name: str, feature: PolicyFeature) -> bool:
    """Whether a robot sends this."""
    kind = feature.type.value
    return (kind == "VISUAL" and len(feature.shape) == 3 and feature.shape[0] == CHANNELS) or (
        kind == "STATE" and name == STATE
    )


def _dataset_info(folder: str | None) -> Mapping[str, Any]:
    return {} if folder is None else read_json(Path(folder).expanduser() / "meta" / "info.json")


def _flat(names: Any) -> list[str]:
    """A dataset has its action names as a list, or as lists by group."""
    if isinstance(names, Mapping):
        return [name for group in names.values() for name in _flat(group)]
    return list(names) if isinstance(names, list | tuple) else []
