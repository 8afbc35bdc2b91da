"""A checkpoint's own pre- and postprocessors: read once, and then a fresh pair for every robot.

A relative-action step keeps the state that it saw last: shared between robots, one would move by where another stands.
What never changes (statistics, tokenizers) is held once for all.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import (
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyProcessorPipeline,
    ProcessorStep,
    RelativeActionsProcessorStep,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)

from serving.policies.lerobot_checkpoint import POSTPROCESSOR, PREPROCESSOR, Checkpoint, step_names

DEVICE_STEP, RENAME_STEP = "device_processor", "rename_observations_processor"


@dataclass(frozen=True)
class Processors:
    """One robot's pair, and the steps of it that continuing a chunk needs."""

    before: PolicyProcessorPipeline
    after: PolicyProcessorPipeline

    def steps(self) -> Iterator[ProcessorStep]:
        """Every step, in order."""
        yield from self.before.steps
        yield from self.after.steps

    @property
    def relative(self) -> RelativeActionsProcessorStep | None:
        """The step that makes actions relative to the robot's state, where it is on."""
        found = (s for s in self.before.steps if isinstance(s, RelativeActionsProcessorStep) and s.enabled)
        return next(found, None)

    @property
    def normaliser(self) -> NormalizerProcessorStep | None:
        """The step that takes actions to model space."""
        return next((s for s in self.before.steps if isinstance(s, NormalizerProcessorStep)), None)

    def reset(self) -> None:
        """A new episode."""
        self.before.reset()
        self.after.reset()


class Template:
    """The pair as the checkpoint has it, never run itself."""

    def __init__(self, checkpoint: Checkpoint, config: PreTrainedConfig) -> None:
        self._pair = Processors(*make_pre_post_processors(
            config,
            pretrained_path=str(checkpoint.folder),
            preprocessor_overrides=_overrides(step_names(checkpoint.folder, PREPROCESSOR)),
            postprocessor_overrides=_overrides(step_names(checkpoint.folder, POSTPROCESSOR)),
        ))  # fmt: skip
        for step in self._pair.steps():
            _settle(step)
        self._shared = {id(value): value for value in _unchanging(self._pair)}
        self.hash = _hash(self._pair)

    @property
    def relative(self) -> bool:
        """Whether actions are relative to the robot's state."""
        return self._pair.relative is not None

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions, where a step knows them."""
        step = self._pair.relative
        return tuple(step.action_names or ()) if step is not None else ()

    def fresh(self, action_names: tuple[str, ...] = ()) -> Processors:
        """A pair that has seen nothing; `action_names` where the checkpoint does not say which joint is which."""
        memo: dict[int, Any] = dict(self._shared)
        before, after = copy.deepcopy(
            (self._pair.before, self._pair.after), memo
        )  # together: steps refer to each other
        pair = Processors(before, after)
        if pair.relative is not None and pair.relative.action_names is None and action_names:
            pair.relative.action_names = list(action_names)
        return pair


class OneAtATime:
    """A tokenizer that several threads may call: fast tokenizers set their padding before they read, and break."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._lock = tokenizer, threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return self._tokenizer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def _overrides(steps: list[str]) -> dict[str, dict[str, Any]]:
    """On the processor, whatever the training machine was; the device gets whole batches. Renaming is the robot's."""
    known = {DEVICE_STEP: {"device": "cpu"}, RENAME_STEP: {"rename_map": {}}}
    return {name: values for name, values in known.items() if name in steps}


def _settle(step: ProcessorStep) -> None:
    """Overrides go by registered names; a step saved under its class name is caught here."""
    if isinstance(step, DeviceProcessorStep):
        step.device = "cpu"
        step.__post_init__()
    if isinstance(step, RenameObservationsProcessorStep):
        step.rename_map = {}
    if getattr(step, "input_tokenizer", None) is not None:
        step.input_tokenizer = OneAtATime(step.input_tokenizer)


def _unchanging(pair: Processors) -> Iterator[Any]:
    """What all robots may hold in common, because nothing writes to it."""
    for step in pair.steps():
        if isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            yield step.stats
            for numbers in step._tensor_stats.values():
                yield from numbers.values()
        for name in ("input_tokenizer", "tokenizer"):
            if getattr(step, name, None) is not None:
                yield getattr(step, name)


def _hash(pair: Processors) -> str:
    """SHA-256 of how each feature is normalised; "" when nothing is."""
    content, any_at_all = hashlib.sha256(), False
    for step in pair.steps():
        if not isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            continue
        modes = sorted((kind.value, mode.value) for kind, mode in step.norm_map.items())
        content.update(f"{type(step).__name__}\0{modes}\0{step.eps}\0".encode())
        for name, numbers in sorted(step.state_dict().items()):
            any_at_all = True
            content.update(f"{name}\0{tuple(numbers.shape)}\0".encode())
            content.update(numbers.to(torch.float32).contiguous().numpy().astype("<f4").tobytes())
    return content.hexdigest() if any_at_all else ""
