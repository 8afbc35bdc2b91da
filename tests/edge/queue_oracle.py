"""A slow queue that is easy to believe: a list of chunks, each a dictionary from step to row, and no cleverness."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge.action_queue import HISTORY_STEPS, Chunk, Mode, Origin


@dataclass
class Known:
    """A chunk: what it says for which step."""

    first_step: int
    robot: dict[int, np.ndarray]
    model: dict[int, np.ndarray]
    origin: Origin


@dataclass
class Oracle:
    """See edge.action_queue.ActionQueue; all of it again, by looking at every step."""

    mode: Mode
    step: int = 0
    chunks: list[Known] = field(default_factory=list)
    executed: dict[int, tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict)

    def plan(self) -> dict[int, tuple[np.ndarray, np.ndarray | None]]:
        """What would be played from now on: for every step, what the first chunk that knows it says."""
        plan = {}
        for known in reversed(self.chunks):
            for step, row in known.robot.items():
                if step >= self.step:
                    plan[step] = (row, known.model.get(step))
        return plan

    def pop(self, now_s: float, age_max_s: float) -> tuple[tuple[np.ndarray, int, int, Origin] | None, int]:
        dropped = 0
        while self.chunks:
            known = self.chunks[0]
            waiting = [step for step in known.robot if step >= self.step]
            if waiting and not now_s - known.origin.observed_s > age_max_s:
                break
            self.chunks.pop(0)
            plan = self.plan()
            dropped += len([step for step in waiting if step not in plan])
        if not self.chunks:
            return None, dropped
        step, known = self.step, self.chunks[0]
        self.executed[step] = (known.robot[step], known.model.get(step))
        self.step += 1
        return (known.robot[step], step, step - known.first_step, known.origin), dropped

    def merge(self, chunk: Chunk) -> tuple[int, int, int, int]:
        """Taken, late, replaced, overlap."""
        known = Known(
            chunk.first_step,
            {chunk.first_step + j: row for j, row in enumerate(chunk.robot)},
            {} if chunk.model is None else {chunk.first_step + j: row for j, row in enumerate(chunk.model)},
            chunk.origin,
        )
        plan = self.plan()
        late = [step for step in known.robot if step < self.step]
        ahead = [step for step in known.robot if step >= self.step]
        if not ahead:
            return 0, len(late), 0, 0
        if self.mode is Mode.APPEND:
            new = [step for step in ahead if step not in plan]
            if new:
                self.chunks.append(known)
            return len(new), len(late), 0, len(ahead) - len(new)
        if plan and self.chunks[-1].first_step > chunk.first_step:
            return 0, len(late), 0, len(ahead)
        self.chunks = [known]
        return len(ahead), len(late), len(plan), 0

    def prefix(self, from_step: int, rows_max: int) -> tuple[list[np.ndarray] | None, list[np.ndarray] | None]:
        """Robot rows and model rows from a step on."""
        plan = self.executed | self.plan()
        rows = []
        for step in range(from_step, from_step + rows_max):
            if step not in plan:
                break
            rows.append(plan[step])
        if not rows:
            return None, None
        model = [m for _, m in rows if m is not None]
        return [r for r, _ in rows], model if len(model) == len(rows) else None

    def reaches(self, from_step: int) -> bool:
        """Whether the queue must still know this step; further back it may have forgotten."""
        return from_step > self.step - HISTORY_STEPS

    def clear(self) -> int:
        left = len(self.plan())
        self.chunks, self.executed = [], {}
        return left
