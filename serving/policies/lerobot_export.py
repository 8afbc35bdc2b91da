"""A LeRobot checkpoint as what an exported policy is made of: network, statistics, and what it takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.errors import PolicyError
from serving.policies.normalise import NEEDED
from serving.policies.policy_yaml import ACTION, STATE, CameraEntry, Feature, Normalisation, PolicyFile, Vector

if TYPE_CHECKING:
    import torch

MODES = {"IDENTITY": "identity", "MEAN_STD": "mean_std", "MIN_MAX": "min_max", "QUANTILES": "quantiles"}
PLAIN_STEPS = (  # of a processor: what an exported policy does by itself, and what changes nothing
    "RenameObservationsProcessorStep",
    "AddBatchDimensionProcessorStep",
    "DeviceProcessorStep",
    "NormalizerProcessorStep",
    "UnnormalizerProcessorStep",
)
Statistics = dict[str, dict[str, np.ndarray]]


def read_checkpoint(
    checkpoint: str, revision: str, fps: float, action_names: list[str]
) -> tuple[PolicyFile, torch.nn.Module, Statistics]:
    """The parts of an exported policy, on the CPU. Raises PolicyError on families that cannot be exported."""
    try:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    except ImportError as err:
        remedy = "pip install 'cuebook[serving,lerobot]' with Python 3.12 or newer"
        raise PolicyError("want lerobot to export its checkpoints", f"no module {err.name}", remedy) from err
    try:
        config = PreTrainedConfig.from_pretrained(checkpoint, revision=revision)
        if config.type not in NETWORKS:
            known = ", ".join(sorted(NETWORKS))
            remedy = "serve the checkpoint itself: family lerobot"
            raise PolicyError(f"want a policy of a family that can be exported ({known})", config.type, remedy)
        config.device, config.pretrained_path = "cpu", checkpoint
        policy = get_policy_class(config.type).from_pretrained(checkpoint, config=config, revision=revision).eval()
        processors = make_pre_post_processors(
            config, checkpoint, pretrained_revision=revision,
            preprocessor_overrides={"device_processor": {"device": "cpu"}},
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError) as err:
        got = f"{type(err).__name__}: {err}"
        raise PolicyError(
            f"want a LeRobot checkpoint with its processors: {checkpoint}", got, "check the folder"
        ) from err
    steps = [step for processor in processors for step in processor.steps]
    _check_steps(steps)
    file = _file(config, fps, action_names)
    statistics, modes = _statistics(steps, file)
    file.normalisation = Normalisation(features=modes)
    return file, NETWORKS[config.type](policy, file), statistics


def _check_steps(steps: list[Any]) -> None:
    for step in steps:
        name = type(step).__name__
        renames = name == "RenameObservationsProcessorStep" and step.rename_map
        if name not in PLAIN_STEPS or renames:
            got = f"{name}{' with a rename_map' if renames else ''}"
            remedy = "serve the checkpoint itself: family lerobot"
            raise PolicyError("want processors that only normalise", got, remedy)


def _file(config: Any, fps: float, action_names: list[str]) -> PolicyFile:
    """What the checkpoint's configuration says of shapes."""
    unknown = set(config.input_features) - set(config.image_features) - {STATE}
    if unknown:
        remedy = "serve the checkpoint itself: family lerobot"
        raise PolicyError(f"want inputs of {STATE} and cameras only", ", ".join(sorted(unknown)), remedy)
    dim = config.output_features[ACTION].shape[0]
    names = action_names or list(getattr(config, "action_feature_names", None) or [])
    if names and len(names) != dim:
        raise PolicyError(f"want {dim} action_names", f"{len(names)}", "name each action once, in order")
    state = config.input_features.get(STATE)
    return PolicyFile(
        policy_type=config.type,
        program="policy.pt2",
        fps=fps,
        chunk_size=config.chunk_size,
        action=Vector(dim=dim, names=names),
        state=Vector(dim=state.shape[0]) if state else None,
        cameras=[
            CameraEntry(name=name, height=feature.shape[1], width=feature.shape[2])
            for name, feature in config.image_features.items()
        ],
    )


def _statistics(steps: list[Any], file: PolicyFile) -> tuple[Statistics, dict[str, Feature]]:
    """Numbers and modes by feature, from the normaliser for what goes in and the unnormaliser for what comes out."""
    features = {STATE: "STATE", ACTION: "ACTION", **{camera.name: "VISUAL" for camera in file.cameras}}
    if file.state is None:
        del features[STATE]
    statistics: Statistics = {}
    modes: dict[str, Feature] = {}
    for name, kind in features.items():
        wanted = "UnnormalizerProcessorStep" if name == ACTION else "NormalizerProcessorStep"
        step = next((s for s in steps if type(s).__name__ == wanted), None)
        stored = {} if step is None else step.state_dict()
        mapped = {} if step is None else {key.value: mode.name for key, mode in step.norm_map.items()}
        mode = MODES.get(mapped.get(kind, "IDENTITY"))
        if mode is None:
            remedy = "serve the checkpoint itself: family lerobot"
            raise PolicyError(f"want a known normalisation of {name}", mapped[kind], remedy)
        numbers = {s: _numbers(stored, f"{name}.{s}") for s in NEEDED[mode]}
        if mode != "identity" and all(values is not None for values in numbers.values()):
            statistics[name] = numbers  # type: ignore[assignment]
            modes[name] = Feature(mode=mode)  # type: ignore[arg-type]
    return statistics, modes


def _numbers(stored: Mapping[str, torch.Tensor], key: str) -> np.ndarray | None:
    values = stored.get(key)
    return None if values is None else values.float().cpu().numpy().reshape(-1)


def _act(policy: Any, file: PolicyFile) -> torch.nn.Module:
    """ACT's network with its inputs one by one; the latent of inference is zero, so nothing is drawn."""
    import torch

    with_state = file.state is not None

    class Act(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = policy.model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            rest = list(inputs)
            batch: dict[str, Any] = {STATE: rest.pop(0)} if with_state else {}
            batch["observation.images"] = rest
            return self.network(batch)[0]

    return Act().eval()


NETWORKS: Mapping[str, Callable[[Any, PolicyFile], torch.nn.Module]] = {"act": _act}
