"""One robot at a LeRobot policy: its processors, and the moments that its policy looks back at."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lerobot.policies.rtc import reanchor_relative_rtc_prefix
from lerobot.utils.constants import ACTION, OBS_STATE

from serving.errors import PredictError
from serving.policies.base import Chunk, Moment, Request
from serving.policies.lerobot_prefix import tail
from serving.policies.lerobot_processors import Processors
from serving.policies.torch_threads import torch_threads

Batch = dict[str, Any]  # tensors (1, …) by name, and the task as a list of one


@dataclass(frozen=True)
class Sample:
    """A request as predict takes it."""

    batch: Batch
    delay: int
    prefix: np.ndarray | None  # float32 (rows, action_dim), model space


class LeRobotSession:
    """Prepares a robot's requests and finishes its answers."""

    def __init__(self, processors: Processors, cameras: Sequence[str], frames: int, rtc: bool, pin: bool) -> None:
        self._processors, self._cameras, self._frames, self._rtc, self._pin = processors, cameras, frames, rtc, pin
        self._seen: deque[Batch] = deque(maxlen=max(frames - 1, 1))  # for robots that send no history

    @torch.no_grad()
    @torch_threads(1)
    def prepare(self, request: Request) -> Sample:
        """Tensors through the robot's own preprocessor, on the processor. Raises PredictError."""
        batch = self._looking_back(request) if self._frames > 1 else self._preprocessed(request.moment, request)
        prefix = self._prefix(request) if self._rtc else None
        if self._pin:
            batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        return Sample(batch, max(0, request.delay_steps), prefix)

    @torch.no_grad()
    @torch_threads(1)
    def finish(self, raw: torch.Tensor) -> Chunk:
        """The whole chunk, float32 (rows, action_dim), before and after the robot's own postprocessor."""
        robot = self._processors.after(raw.unsqueeze(0))
        return Chunk(model=raw.numpy(), robot=robot.squeeze(0).to("cpu", torch.float32).numpy())

    def reset(self) -> None:
        """Nothing of the last episode is looked back at."""
        self._processors.reset()
        self._seen.clear()

    def close(self) -> None:
        """Let go of what was seen."""
        self._seen.clear()

    def _preprocessed(self, moment: Moment, request: Request) -> Batch:
        observation: Batch = {name: _picture(moment.images[name]) for name in self._cameras}
        if moment.state is not None:
            observation[OBS_STATE] = torch.from_numpy(moment.state).unsqueeze(0)
        observation |= {"task": [request.task], "robot_type": request.robot_type}
        batch = self._processors.before(observation)
        return {name: value for name, value in batch.items() if value is not None and name != ACTION}

    def _looking_back(self, request: Request) -> Batch:
        """The last moments beside each other, (1, frames, …), oldest first.

        A robot that sends no history is remembered from request to request. Where an episode begins, the oldest moment
        stands for those before it, as lerobot has it.
        """
        back = self._frames - 1
        earlier = [self._preprocessed(moment, request) for moment in request.history[-back:]] or list(self._seen)
        now = self._preprocessed(request.moment, request)  # last: a relative step keeps the newest state
        self._seen.append(now)
        known = [*earlier, now]
        known = [known[0]] * (self._frames - len(known)) + known
        stacked = {k: torch.stack([m[k] for m in known], dim=1) for k in (OBS_STATE, *self._cameras) if k in now}
        return {**now, **stacked}

    def _prefix(self, request: Request) -> np.ndarray | None:
        """The tail in model space, seen from where the robot stands now."""
        rows, absolute = tail(request, relative=self._processors.relative is not None)
        if rows is None or not absolute:
            return rows
        state = self._processors.relative.get_cached_state()
        if state is None:
            raise PredictError("want the robot's state to continue relative actions", "none", "send it")
        anchored = reanchor_relative_rtc_prefix(
            torch.from_numpy(rows), state, self._processors.relative, self._processors.normaliser, "cpu"
        )
        return anchored.numpy()


def _picture(rgb: np.ndarray) -> torch.Tensor:
    """Uint8 (height, width, 3) as float32 (1, 3, height, width) in 0 to 1."""
    planes = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
    return planes.to(torch.float32).div_(255).unsqueeze(0)
