"""The engine as LeRobot's strategies call it: LeRobot's observations in, CPU tensors out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lerobot.rollout.inference import InferenceEngine
from lerobot.rollout.robot_wrapper import ThreadSafeRobot

from edge.engine import Engine
from edge.errors import RobotError
from edge.robots.base import Reading, RobotFeatures
from edge.state import Event, State

log = logging.getLogger(__name__)


class StampedRobot(ThreadSafeRobot):
    """LeRobot's wrapper, which also notes when the observation began to be read: actions age from then on."""

    captured_s: float | None = None  # monotonic

    def get_observation(self) -> dict[str, Any]:
        """The robot's own observation."""
        self.captured_s = time.monotonic()
        return super().get_observation()


class RemoteInferenceEngine(InferenceEngine):
    """An engine of ours behind LeRobot's interface.

    `make` builds it, given what to call at each change of its state. `failed` sets LeRobot's shutdown event, upon which
    its strategies end and bring the robot home.
    """

    control_thread_owns_policy = False  # there is none

    def __init__(
        self, make: Callable[[Callable[[State, State, Event, str], None]], Engine], features: RobotFeatures,
        shutdown: threading.Event, captured_s: Callable[[], float | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._features, self._shutdown, self._captured_s = features, shutdown, captured_s
        self.engine = make(self._changed)
        self._started = False

    def _changed(self, old: State, new: State, event: Event, why: str) -> None:
        if new is State.DEAD:
            log.error("the run ends: %s", why or event)
            self._shutdown.set()

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open a session; paused until `resume`. Once is enough: strategies call it after the context did.

        Raises LinkError, ContractError.
        """
        if not self._started:
            self.engine.start()
            self._started = True

    def stop(self) -> None:
        """Ask for nothing more and leave; takes a second at most."""
        self.engine.stop()

    def pause(self) -> None:
        """Send no observations; the offline budget stands still."""
        self.engine.pause()

    def resume(self) -> None:
        """Send observations."""
        self.engine.resume()

    def reset(self) -> None:
        """A new episode: nothing of the one before is executed."""
        self.engine.reset()

    # --- the control loop ------------------------------------------------------------------------------------------

    def notify_observation(self, obs: Mapping[str, Any]) -> None:
        """The newest observation, as the robot's observation processor returns it. Raises RobotError."""
        try:
            state = np.array([obs[name] for name in self._features.state_names], np.float32)
            images = {name: np.asarray(obs[name]) for name in self._features.cameras}
        except KeyError as err:
            remedy = "keep the robot's own names in its observation processor"
            raise RobotError(f"want {err.args[0]} in the observation", ", ".join(obs), remedy) from None
        captured_s = self._captured_s()
        self.engine.notify_observation(Reading(state, images, time.monotonic() if captured_s is None else captured_s))

    def get_action(self, obs_frame: dict | None = None) -> torch.Tensor | None:
        """The next action, float32 (actions,) on the CPU, in the context's `ordered_action_keys`; or None."""
        action = self.engine.get_action(obs_frame)
        return None if action is None else torch.from_numpy(action)

    # --- what strategies may ask -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is a session with a warm server."""
        return self.engine.ready

    @property
    def failed(self) -> bool:
        """Whether the engine gave up; see `failure_traceback`."""
        return self.engine.failed

    @property
    def failure_traceback(self) -> str | None:
        """Why it gave up; None as long as it did not."""
        failure = self.engine.failure
        return self.engine.failure_traceback or (None if failure is None else str(failure))

    @property
    def task(self) -> str:
        """What is asked for now."""
        return self.engine.task

    def set_task(self, task: str) -> None:
        """Ask for something else from the next request on. Any thread."""
        self.engine.set_task(task)

    @property
    def dispatched_task(self) -> str:
        """What was asked for when the action just returned was made."""
        return self.engine.dispatched_task
