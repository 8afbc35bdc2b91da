"""The network of a LeRobot checkpoint: built, filled with its weights, and checked to have got them."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import fields
from functools import reduce
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc import RTCConfig, RTCProcessor
from safetensors import safe_open

from serving.errors import PolicyError
from serving.manifest import AdapterSettings, CompileSettings, RtcSettings
from serving.policies.lerobot_checkpoint import ADAPTER_CONFIG, WEIGHTS, Checkpoint, find, read_json
from serving.policies.lerobot_families import Family
from serving.policies.lerobot_guidance import Form, Guidance

log = logging.getLogger(__name__)

PREFIX = "model."  # that families which load by themselves put before the names of a file
LISTED_MAX = 5


def read_config(checkpoint: Checkpoint, device: str) -> PreTrainedConfig:
    """The checkpoint's config, for a device of this machine."""
    config = PreTrainedConfig.from_pretrained(checkpoint.folder, cli_overrides=[f"--device={device}"])
    config.device = device  # with its number
    known = {"use_amp": False, "compile_model": False, "gradient_checkpointing": False}  # the manifest's to say
    known["pretrained_backbone_weights"] = None  # the checkpoint has them: nothing to download
    for name, value in known.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def load_network(parts: tuple[Checkpoint, ...], config: PreTrainedConfig, *, single: bool) -> PreTrainedPolicy:
    """The policy on its device, for inference only: a checkpoint, and what adapts it.

    Raises PolicyError when weights are missing or were not taken.
    """
    base, *adapters = parts
    with contextlib.redirect_stdout(io.StringIO()) as said:  # lerobot prints; a command's output is its own
        policy = get_policy_class(config.type).from_pretrained(str(base.folder), config=config)
    log.debug("lerobot said: %s", said.getvalue().strip())
    check_weights(policy, base)
    for adapter in adapters:
        policy = _adapted(policy, adapter)
    if single:
        policy = policy.float()
    return policy.to(config.device).eval().requires_grad_(False)


def parts_of(checkpoint: Checkpoint, adapter: AdapterSettings) -> tuple[Checkpoint, ...]:
    """The base, and the adapters over it: the checkpoint itself may be one, and the manifest may name one."""
    base = _base_of(checkpoint)
    parts = (checkpoint,) if base is None else (base, checkpoint)
    return (*parts, find(adapter.repo_or_path, adapter.revision)) if adapter.repo_or_path else parts


def check_weights(policy: PreTrainedPolicy, checkpoint: Checkpoint) -> None:
    """Raise PolicyError unless every weight came from the file.

    Some loaders say no more than a line when they fail, and leave random numbers: those must never move a robot.
    """
    state = policy.state_dict()
    with safe_open(checkpoint.folder / WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
        found = {name: at for name in state if (at := _place(name, stored))}
        tied = {state[name].data_ptr() for name in found}
        missing = [name for name, values in state.items() if name not in found and values.data_ptr() not in tied]
        other = [name for name, at in found.items() if not _begins_alike(state[name], file, at)]
    renames = type(policy).from_pretrained.__func__ is not PreTrainedPolicy.from_pretrained.__func__
    if other or not found or (missing and not renames):
        names = other or missing
        listed = ", ".join(names[:LISTED_MAX]) + (f" and {len(names) - LISTED_MAX} more" if names[LISTED_MAX:] else "")
        got = f"{'others' if other else 'none'} for {listed}"
        remedy = "load it with the release of lerobot that saved it, or save it again"
        raise PolicyError(f"want the weights of {checkpoint.folder / WEIGHTS} in the network", got, remedy)
    if missing:
        log.warning("%d weights are not in %s under their own names: %s", len(missing), WEIGHTS, missing[:LISTED_MAX])


def set_rtc(config: PreTrainedConfig, rtc: RtcSettings | None) -> None:
    """Switch real-time chunking on, or off with None, whatever the checkpoint was saved with. Raises PolicyError."""
    if rtc is None:
        if hasattr(config, "rtc_config"):
            config.rtc_config = None
        return
    values = {name: value for name, value in rtc.model_dump().items() if name != "mode"}
    if rtc.mode == "trained":
        if "mode" not in {f.name for f in fields(RTCConfig)}:
            got = "the installed lerobot, which has guided chunking only"
            raise PolicyError("want a lerobot that knows rtc.mode: trained", got, "set rtc.mode: guided")
        values["mode"] = rtc.mode
    schedule = values["prefix_attention_schedule"]
    values["prefix_attention_schedule"] = type(RTCConfig().prefix_attention_schedule)[schedule.upper()]
    config.rtc_config = RTCConfig(**values)


class SampleRtc(RTCProcessor):
    """In the place of lerobot's: delay and rows by sample, and weights made once a call."""

    def __init__(self, config: RTCConfig, form: Form) -> None:
        super().__init__(config)
        schedule = config.prefix_attention_schedule.name.lower()
        self._guidance = Guidance(schedule, config.max_guidance_weight, form)

    def denoise_step(
        self,
        x_t: torch.Tensor,
        prev_chunk_left_over: torch.Tensor | None,
        inference_delay: Any,
        time: float,
        original_denoise_step_partial: Any,
        execution_horizon: Any = None,
    ) -> torch.Tensor:
        """One step. `inference_delay` and `execution_horizon` hold a number for each sample."""
        if prev_chunk_left_over is None:
            return original_denoise_step_partial(x_t)
        delays, rows = inference_delay, execution_horizon
        velocity = self._guidance.velocity(x_t, time, prev_chunk_left_over, delays, rows, original_denoise_step_partial)
        if self.is_debug_enabled():
            self.track(time=time, x_t=x_t, v_t=velocity, inference_delay=delays, execution_horizon=rows)
        return velocity


def install_rtc(policy: PreTrainedPolicy, form: Form) -> None:
    """Put the processor for batches where the family's own was."""
    policy.init_rtc_processor()
    policy.rtc_processor = policy.model.rtc_processor = SampleRtc(policy.config.rtc_config, form)


def compile_network(policy: PreTrainedPolicy, family: Family, settings: CompileSettings) -> None:
    """Wrap the part of a policy that its family names in torch.compile."""
    if not settings.enabled:
        return
    *path, name = family.compiled.split(".")
    owner = reduce(getattr, path, policy)
    compiled = torch.compile(getattr(owner, name), mode=settings.mode, dynamic=settings.dynamic or None)
    setattr(owner, name, compiled)


def _base_of(checkpoint: Checkpoint) -> Checkpoint | None:
    """The checkpoint that an adapter was trained on; None for one that stands by itself."""
    if (checkpoint.folder / WEIGHTS).is_file() or not (checkpoint.folder / ADAPTER_CONFIG).is_file():
        return None
    values = read_json(checkpoint.folder / ADAPTER_CONFIG)
    base = values.get("base_model_name_or_path")
    if not base:
        remedy = "write base_model_name_or_path into it"
        raise PolicyError(f"want the base model's name in {ADAPTER_CONFIG}", "none", remedy)
    return find(str(base), str(values.get("revision") or "main"))


def _adapted(policy: PreTrainedPolicy, adapter: Checkpoint) -> PreTrainedPolicy:
    """The policy with an adapter's weights merged into its own: nothing is slower, nothing is called otherwise."""
    try:
        from peft import PeftModel
    except ImportError as err:
        raise PolicyError("want peft to load an adapter", "it is not installed", "pip install 'lerobot[peft]'") from err
    try:
        wrapped = PeftModel.from_pretrained(policy, str(adapter.folder))
        merged: PreTrainedPolicy = wrapped.merge_and_unload()
    except (ValueError, RuntimeError, AttributeError, KeyError) as err:
        got = (str(err).strip().splitlines() or [type(err).__name__])[0]
        remedy = "give an adapter that was trained on this checkpoint, and can be merged (LoRA)"
        raise PolicyError(f"want the adapter {adapter.folder} on this policy", got, remedy) from err
    return merged


def _place(name: str, stored: set[str]) -> str | None:
    """Where a weight lies in the file."""
    return next((n for n in (name, name.removeprefix(PREFIX)) if n in stored), None)


def _begins_alike(values: torch.Tensor, file: Any, name: str) -> bool:
    """Whether a weight begins with what the file has; one row is enough to tell it from random numbers."""
    stored = file.get_slice(name)
    if list(values.shape) != stored.get_shape():
        return False
    head = stored[:1] if values.ndim else file.get_tensor(name)  # a number alone has no slices
    return torch.equal(values[:1].to("cpu") if values.ndim else values.to("cpu"), head.to(values.dtype))
