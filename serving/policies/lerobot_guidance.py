"""Real-time chunking: a flow policy is steered, while it denoises, towards what the robot has yet to execute.

After Black, Galliker and Levine, "Real-Time Execution of Action Chunking Flow Policies" (2025). Every sample of a batch
has its own delay and its own number of prefix rows, so robots in different straits share one call; rows behind a
prefix's end have no weight, so zeros that only fill up never pass for actions.

Two forms: `error` takes the error itself as correction, as lerobot's engine does: no gradients, no extra memory.
`vjp` sends it back through the denoiser, as the paper has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch

Form = Literal["error", "vjp"]
Schedule = Literal["zeros", "ones", "linear", "exp"]


def prefix_weights(delay: int, rows: int, total: int, schedule: Schedule) -> torch.Tensor:
    """How much each of `total` rows is held to the prefix, float32 (total,).

    1 for the `delay` rows that will be executed before the answer comes, 0 from row `rows` on; between, by schedule.
    """
    fixed = min(max(delay, 0), rows)
    weights = torch.zeros(total)
    weights[:fixed] = 1.0
    between = min(rows, total) - fixed
    if between <= 0 or schedule == "zeros":
        return weights
    falling = torch.linspace(1, 0, between + 2)[1:-1]
    weights[fixed : fixed + between] = {
        "ones": lambda: torch.ones(between),
        "linear": lambda: falling,
        "exp": lambda: falling * torch.expm1(falling).div(math.e - 1),
    }[schedule]()
    return weights


def gain(time: float, largest: float) -> torch.Tensor:
    """Strength of the correction at a time that runs from 1 (noise) to 0 (actions); a float32 scalar."""
    done = torch.tensor(1 - time)  # float32 from here on: to the last bit what lerobot computes
    left2 = (1 - done) ** 2
    spread = (left2 + done**2) / left2
    raw = torch.nan_to_num((1 - done) / done, posinf=largest) * spread
    return torch.nan_to_num(raw, nan=largest, posinf=largest).clamp(max=largest)


class Guidance:
    """Steers one call. Made once; `weights` are kept for the delays and rows met last."""

    def __init__(self, schedule: Schedule, largest: float, form: Form = "error") -> None:
        self._schedule, self._largest, self._form = schedule, largest, form
        self._met: tuple[tuple[int, ...], tuple[int, ...], int, torch.device] | None = None
        self._weights = torch.empty(0)

    def velocity(
        self,
        x: torch.Tensor,
        time: float,
        prefix: torch.Tensor,
        delays: Sequence[int],
        rows: Sequence[int],
        denoise: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """The steered velocity. Shapes: x (batch, total, width), prefix (batch, at most total, at most width)."""
        wanted = torch.zeros_like(x)
        wanted[:, : prefix.shape[1], : prefix.shape[2]] = prefix
        weights = self.weights(delays, rows, x.shape[1], x.device)
        if self._form == "error":
            velocity = denoise(x)
            correction = (wanted - (x - time * velocity)) * weights
        else:
            with torch.enable_grad():
                start = x.detach().clone().requires_grad_(True)
                velocity = denoise(start)
                end = start - time * velocity
                error = ((wanted - end) * weights).detach()
                correction = torch.autograd.grad(end, start, error)[0]
            velocity = velocity.detach()
        return velocity - gain(time, self._largest) * correction

    def weights(self, delays: Sequence[int], rows: Sequence[int], total: int, device: torch.device) -> torch.Tensor:
        """(batch, total, 1); the denoising steps of one call ask for the same."""
        met = (tuple(delays), tuple(rows), total, device)
        if met != self._met:
            each = [prefix_weights(d, r, total, self._schedule) for d, r in zip(delays, rows, strict=True)]
            self._weights, self._met = torch.stack(each).unsqueeze(-1).to(device), met
        return self._weights
