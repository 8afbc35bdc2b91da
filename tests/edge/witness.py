"""A policy whose actions say where they come from, and the check that what a robot was sent is what was meant for it.

The robot's state is (tick, episode, robot, step): which tick of the control loop saw it, in which episode, of which
robot, and how many rows had been executed by then. Each row of the answer repeats that, with its own place, the control
step that it is meant for, and which server process and session it was made by. So a row that is late, foreign, mixed up
or made by nobody shows, whatever the engine says about it.

Float32 holds whole numbers up to 2^24 exactly, so every field stays below that.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from serving.policies.base import Camera, Chunk, PolicySpec, Request, SessionInfo

STATE = ("tick", "episode", "robot", "step")
ACTIONS = tuple(
    f"{name}.pos" for name in ("tick", "row", "episode", "robot", "step", "process", "session", "sum", "prefix")
)
ROWS = 50
HORIZON = 10  # rows of a prefix that it reads
MODEL, SERVICE = "tests/witness", "witness"
CAMERA = "observation.images.front"
WHOLE_MAX = 1 << 24
SESSION_DIGITS = 5  # of a session id, hexadecimal
_WEIGHTS = np.array([31, 17, 101, 13, 7, 3, 1], np.int64)
_PRIME = 1_000_003


def session_number(session_id: str) -> int:
    """What rows say of their session; 0 for the ids of trial runs."""
    try:
        return int(session_id[:SESSION_DIGITS], 16)
    except ValueError:
        return 0


def checksum(fields: np.ndarray) -> np.ndarray:
    """Of the first seven fields of rows, int64 (rows, 7)."""
    return (fields @ _WEIGHTS) % _PRIME


@dataclass(frozen=True)
class Witness:
    """What one row says of itself."""

    tick: int
    row: int
    episode: int
    robot: int
    step: int  # control step that it is meant for
    process: int
    session: int
    prefix_fault: int  # 1: the prefix that was sent with the observation did not begin at its step


def read(action: np.ndarray) -> Witness:
    """A row as a witness. Raises AssertionError for what no witness said."""
    assert action.dtype == np.float32 and action.shape == (len(ACTIONS),), (action.dtype, action.shape)
    assert np.isfinite(action).all(), action
    whole = action.astype(np.int64)
    assert (whole == action).all(), f"not a row of this policy: {action}"
    assert whole[7] == checksum(whole[None, :7])[0], f"a row that nobody made: {action}"
    return Witness(*(int(v) for v in whole[:7]), prefix_fault=int(whole[8]))


def witnesses_of(actions: Iterable[np.ndarray]) -> Iterator[Witness]:
    """Those of the actions that are rows of this policy."""
    for action in actions:
        with suppress(AssertionError):
            yield read(action)


def chunk_of(state: np.ndarray, process: int, session: int, prefix_fault: int, rows: int) -> np.ndarray:
    """The answer to a state; float32 (rows, 9)."""
    tick, episode, robot, step = (int(v) for v in state)
    out = np.zeros((rows, len(ACTIONS)), np.int64)
    out[:, 0], out[:, 2], out[:, 3], out[:, 5], out[:, 6] = tick, episode, robot, process, session
    out[:, 1] = np.arange(rows)
    out[:, 4] = step + np.arange(rows)
    out[:, 7] = checksum(out[:, :7])
    out[:, 8] = prefix_fault
    assert out.max() < WHOLE_MAX, "fields beyond what float32 holds exactly"
    return out.astype(np.float32)


@dataclass(frozen=True)
class Asked:
    """One prepared request."""

    state: np.ndarray
    session: int
    prefix_fault: int


class WitnessPolicy:
    """Answers after a while, off the CPU, as a GPU would."""

    def __init__(self, spec: PolicySpec, wait_ms: float) -> None:
        self.spec, self._wait_s = spec, wait_ms / 1e3
        self.process = int.from_bytes(os.urandom(2), "little") + 1
        self.predictions = 0
        self.go = threading.Event()  # cleared: predict hangs
        self.go.set()

    def open_session(self, info: SessionInfo) -> WitnessSession:
        """Knows its session's number."""
        return WitnessSession(self, session_number(info.session_id))

    def predict(self, batch: Sequence[Asked]) -> list[np.ndarray]:
        """One answer each."""
        if self._wait_s:
            time.sleep(self._wait_s)
        self.go.wait()
        self.predictions += len(batch)
        rows = self.spec.chunk_size
        return [chunk_of(asked.state, self.process, asked.session, asked.prefix_fault, rows) for asked in batch]

    def let_go(self) -> None:
        """Nobody hangs any more."""
        self.go.set()

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nobody hangs any more."""
        self.go.set()


class WitnessSession:
    """One robot's."""

    def __init__(self, policy: WitnessPolicy, number: int) -> None:
        self._policy, self._number = policy, number

    def prepare(self, request: Request) -> Asked:
        """The state; the prefix, where there is one, must begin at the state's step and go on step by step."""
        state = request.moment.state
        assert state is not None
        prefix = request.prefix_robot if request.prefix_robot is not None else request.prefix_model
        fault = 0
        if prefix is not None:
            steps = np.array_equal(prefix[:, 4], state[3] + np.arange(len(prefix)))
            fault = int(not (steps and len(prefix) > 0 and (prefix[:, 2] == state[1]).all()))
        return Asked(state, self._number, fault)

    def finish(self, raw: np.ndarray) -> Chunk:
        """Both spaces are one."""
        return Chunk(raw, raw)

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to free."""


def witness(
    wait_ms: float = 0.0, rows: int = ROWS, fps: float = 30.0, continues: bool = False, cameras: int = 0,
    actions: Sequence[str] = ACTIONS, state_dim: int = len(STATE), revision: str = "main", batch_max: int = 1,
) -> WitnessPolicy:  # fmt: skip
    """The policy as a manifest names it, `tests.edge.witness:witness`."""
    names = (CAMERA, "observation.images.wrist")[:cameras]
    horizon, form = (HORIZON, "robot") if continues else (0, "")
    spec = PolicySpec(
        policy_type="witness", model_repo=MODEL, model_revision=revision, action_names=tuple(actions),
        action_dim=len(actions), state_dim=state_dim, cameras=tuple(Camera(name) for name in names), chunk_size=rows,
        fps=fps, shared=True, batch_max=batch_max, mixed_delays=True, rtc=continues, execution_horizon=horizon,
        prefix_form=form,
    )  # fmt: skip
    return WitnessPolicy(spec, wait_ms)
