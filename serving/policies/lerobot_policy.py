"""A LeRobot network at work: requests of several robots stacked into one call of its own `predict_action_chunk`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch.nn.functional import pad

from serving.errors import PredictError
from serving.policies.base import PolicySpec, SessionInfo
from serving.policies.lerobot_families import IMAGES, Family
from serving.policies.lerobot_prefix import fitted
from serving.policies.lerobot_processors import Template
from serving.policies.lerobot_session import Batch, LeRobotSession, Sample
from serving.policies.one_thread import OneThread
from serving.policies.torch_threads import torch_threads

LANGUAGE = (OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK)


class LeRobotPolicy:
    """One checkpoint on its device."""

    def __init__(
        self,
        network: PreTrainedPolicy,
        spec: PolicySpec,
        family: Family,
        template: Template,
        *,
        autocast: str = "",
        differentiates: bool = False,
        noise: torch.Tensor | None = None,
        thread: OneThread | None = None,
    ) -> None:
        """`differentiates`: predict takes gradients by itself; `noise`: of one request, the same for all."""
        self.spec = spec
        self._network: PreTrainedPolicy | None = network
        self._family, self._template = family, template
        self._autocast = getattr(torch, autocast) if autocast else None
        self._quiet = torch.no_grad if differentiates else torch.inference_mode
        self._device = torch.device(network.config.device)
        self._cameras = [camera.name for camera in spec.cameras]
        self._noise = None if noise is None else noise.to(self._device)
        self._thread, self._threads = thread, torch.get_num_threads()

    def open_session(self, info: SessionInfo) -> LeRobotSession:
        """A robot's own processors, cloned from those read at start: nothing is loaded."""
        processors = self._template.fresh(self.spec.action_names or info.action_names)
        frames, pin = self.spec.history_frames, self._device.type == "cuda"
        return LeRobotSession(processors, self._cameras, frames, self.spec.rtc, pin)

    def predict(self, batch: Sequence[Sample]) -> list[torch.Tensor]:
        """Chunks in model space, float32 (rows, action_dim) on the processor, one a sample."""
        return self._predict(batch) if self._thread is None else self._thread(self._predict, batch)

    def _predict(self, batch: Sequence[Sample]) -> list[torch.Tensor]:
        groups: dict[Hashable, list[int]] = {}
        for place, sample in enumerate(batch):
            groups.setdefault(self._kind(sample), []).append(place)
        answers: dict[int, torch.Tensor] = {}
        with ExitStack() as stack:
            stack.enter_context(torch_threads(self._threads))
            stack.enter_context(self._quiet())
            if self._autocast is not None:
                stack.enter_context(torch.autocast(self._device.type, self._autocast))
            for places in groups.values():
                answers |= zip(places, self._called([batch[place] for place in places]), strict=True)
        return [answers[place] for place in range(len(batch))]

    def reset(self) -> None:
        """Forget what earlier requests left behind."""
        if self._network is not None:
            self._network.reset()

    def close(self) -> None:
        """Free the device. Twice is once."""
        if self._thread is not None:
            self._thread.close()
        self._network = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _kind(self, sample: Sample) -> Hashable:
        """Samples of one kind can be stacked."""
        ragged = LANGUAGE if self._family.ragged_language else ()
        shapes = {n: tuple(v.shape) for n, v in sample.batch.items() if isinstance(v, torch.Tensor) and n not in ragged}
        return tuple(sorted(shapes.items()))

    def _called(self, samples: Sequence[Sample]) -> torch.Tensor:
        """One call: (batch, rows, action_dim)."""
        if self._network is None:
            raise PredictError("want an open policy", "a closed one", "load it again")
        inputs = {name: self._stacked(name, samples) for name in samples[0].batch}
        if self._family.queues:
            self._fill_queues(inputs)
        chunk = self._network.predict_action_chunk(inputs, **self._guided(samples), **self._noisy(len(samples)))
        if self._family.time_first:
            chunk = chunk.transpose(0, 1)
        if chunk.shape[0] != len(samples):
            raise PredictError(f"want {len(samples)} chunks", f"{tuple(chunk.shape)}", "mend the policy")
        return chunk.to("cpu", torch.float32)  # waits for the device

    def _guided(self, samples: Sequence[Sample]) -> Mapping[str, Any]:
        """What the denoiser is told of the robots' tails. No robot has one: nothing, as at a robot's first request."""
        if not self.spec.rtc or all(sample.prefix is None for sample in samples):
            return {}
        prefix, rows = fitted([s.prefix for s in samples], self.spec.execution_horizon, self.spec.action_dim)
        return {
            "inference_delay": [sample.delay for sample in samples],
            "prev_chunk_left_over": torch.from_numpy(prefix).to(self._device),
            "execution_horizon": rows,
        }

    def _noisy(self, count: int) -> Mapping[str, Any]:
        if self._noise is None:
            return {}
        return {"noise": self._noise.expand(count, *self._noise.shape).clone()}

    def _stacked(self, name: str, samples: Sequence[Sample]) -> Any:
        """Values of one name, side by side and on the device; what has no batch dimension is the first one's."""
        values = [sample.batch[name] for sample in samples]
        if isinstance(values[0], list):
            return [item for value in values for item in value]
        if not isinstance(values[0], torch.Tensor):
            return values[0]
        if name in LANGUAGE and self._family.ragged_language:
            longest = max(value.shape[1] for value in values)
            values = [pad(value, (0, longest - value.shape[1])) for value in values]  # zeros: masked
        if self._device.type == "cpu":
            return torch.cat(values)
        stacked = torch.empty((len(values), *values[0].shape[1:]), dtype=values[0].dtype, device=self._device)
        for row, value in zip(stacked, values, strict=True):
            row.copy_(value[0], non_blocking=True)
        return stacked

    # --- families that read queues which only select_action fills ----------------------------------------------------

    def _fill_queues(self, inputs: Batch) -> None:
        """Let the network find this batch's moments, and no others, where it looks for them."""
        series = {OBS_STATE: inputs[OBS_STATE]}
        if self._cameras and self._family.images_as == IMAGES:
            series[IMAGES] = torch.stack([inputs[camera] for camera in self._cameras], dim=-4)
        elif self._cameras:
            series[self._family.images_as] = inputs[self._cameras[0]]
        queues = self._network._queues
        for name, values in series.items():
            moments = values.unbind(1) if self.spec.history_frames > 1 else [values]
            queues[name].clear()
            queues[name].extend(moments)
        inputs |= series
