"""The tail that a robot has not yet executed: which form of it a policy reads, and how many of its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.errors import PredictError
from serving.policies.base import Request


def tail(request: Request, relative: bool) -> tuple[np.ndarray | None, bool]:
    """The rows to continue, and whether they are in robot space; None when the robot's queue is exhausted.

    Where actions are relative to the robot's state, a tail in model space is relative to where the robot stood: what
    it meant is only in the robot space form.
    """
    if relative and _filled(request.prefix_robot):
        return request.prefix_robot, True
    if _filled(request.prefix_model):
        return request.prefix_model, False
    return None, False


def fitted(prefixes: Sequence[np.ndarray | None], horizon: int, action_dim: int) -> tuple[np.ndarray, list[int]]:
    """Prefixes side by side, float32 (batch, horizon, action_dim), and how many rows of each are real.

    Always of the same shape, so that compiled graphs are met again. Rows of zeros are no actions: whoever reads them
    must look at the count. Raises PredictError on a prefix that is not (rows, action_dim).
    """
    filled = np.zeros((len(prefixes), horizon, action_dim), np.float32)
    rows = []
    for place, prefix in enumerate(prefixes):
        if prefix is not None and (prefix.ndim != 2 or prefix.shape[1] != action_dim):
            raise PredictError(f"want a prefix of shape (rows, {action_dim})", f"{prefix.shape}", "send a chunk's tail")
        count = 0 if prefix is None else min(len(prefix), horizon)
        if prefix is not None:
            filled[place, :count] = prefix[:count]
        rows.append(count)
    return filled, rows


def _filled(prefix: np.ndarray | None) -> bool:
    return prefix is not None and prefix.size > 0
