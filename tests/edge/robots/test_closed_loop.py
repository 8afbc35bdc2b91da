"""Whole loops through the daemon: a recording drives itself, and an exported controller drives a simulation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.engine import Engine
from edge.robots.dataset import DatasetRobot
from edge.robots.registry import make_robot
from edge.rollout.control import Ending, Tick
from edge.rollout.loop import Rollout
from edge.rollout.settings import RolloutSettings
from edge.rollout.summary import RolloutSummary
from edge.settings import InferenceSettings, SafetySettings
from network.memory_transport import Hub, MemoryTransport
from serving.assemble import Service, assemble
from serving.manifest import Manifest
from tests.conftest import real_dataset

WAIT_S = 60.0


@contextmanager
def served(folder: Path, **values: Any) -> Iterator[tuple[Service, Hub]]:
    """The whole service, as a manifest makes it, on a network inside the process."""
    hub = Hub()
    manifest = Manifest.model_validate({
        "zenoh": {"mode": "peer", "listen_endpoints": ["tcp/127.0.0.1:0"]},
        "health_port": 0,
        **values,
        "model": {"repo_or_path": str(folder), "device": "cpu", **values.get("model", {})},
    })  # fmt: skip
    service = assemble(manifest, transport=MemoryTransport(hub))
    service.start()
    try:
        yield service, hub
    finally:
        service.stop()


def drive(
    robot: Any, service: Service, hub: Hub, fps: float, *, duration_s: float = WAIT_S, multiplier: int = 1, **asks: Any
) -> tuple[RolloutSummary, list[Tick]]:
    """A run until the robot says that it is over."""
    engine = Engine(
        InferenceSettings(**asks), SafetySettings(), robot.features, service.daemon.settings.keys, fps,
        service.manifest.default_task, dial=lambda: MemoryTransport(hub),
    )  # fmt: skip
    ticks: list[Tick] = []
    settings = RolloutSettings(fps=fps, duration=duration_s, interpolation_multiplier=multiplier)
    summary = Rollout(robot, engine, None, settings, on_tick=ticks.append, stop=threading.Event()).run()
    return summary, ticks


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_real_recording_drives_itself_action_by_action(multiplier: int) -> None:
    root = real_dataset("g1-bottle-v3")
    robot = make_robot("dataset", {"root": str(root), "episode": 1, "tolerance": 0.0})
    assert isinstance(robot, DatasetRobot)
    with served(root, default_task=robot.task) as (service, hub):
        tags = {"replay_episode": "1"}
        summary, ticks = drive(robot, service, hub, 90.0, multiplier=multiplier, tags=tags)
    summary.raise_for_problems()
    result = robot.comparison()
    assert summary.ending is Ending.ROBOT_DONE
    assert result.steps == result.equal == result.recorded == 343
    emitted = [t.dispatched.step for t in ticks if t.sent and t.emitted_policy_action]
    assert emitted == list(range(343))
    if multiplier == 1:
        assert summary.counts.policy_actions == 343


def test_differences_show_when_another_episode_is_served() -> None:
    root = real_dataset("g1-bottle-v3")
    robot = make_robot("dataset", {"root": str(root), "episode": 1, "cameras": "none"})
    with served(root, default_task="x", model={"options": {"episodes": [2], "cameras": "none"}}) as (service, hub):
        summary, _ = drive(robot, service, hub, 90.0, duration_s=1.0)
    summary.raise_for_problems()
    result = robot.comparison()
    assert result.steps > 30 and result.equal < result.steps
    assert result.max > 0.01
    assert result.worst.split(" at frame ")[0] in robot.features.action_names


def test_an_intolerable_difference_ends_the_run_with_its_joint() -> None:
    root = real_dataset("g1-bottle-v3")
    robot = make_robot("dataset", {"root": str(root), "episode": 1, "cameras": "none", "tolerance": 1e-3})
    with served(root, default_task="x", model={"options": {"episodes": [2], "cameras": "none"}}) as (service, hub):
        summary, _ = drive(robot, service, hub, 90.0)
    assert summary.ending is Ending.ERROR
    assert "within 0.001 of the recorded ones" in str(summary.problems[0].error)


# --- gym-pusht ------------------------------------------------------------------------------------------------------

TARGET = (380.0, 120.0)
CHUNK = 8
NAMES = ("motor_0", "motor_1")
FRONT = "observation.images.front"


def export_controller(folder: Path) -> Path:
    """A controller as a torch.export program: from where the agent stands, in equal steps to the target.

    It looks at the picture, too, as a policy does: a black one, or none, would send the agent to the corner.
    """
    import torch

    from serving.policies.policy_yaml import PolicyFile
    from serving.policies.write_exported import write_exported

    class Controller(torch.nn.Module):
        def forward(self, state: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
            part = torch.linspace(1 / CHUNK, 1.0, CHUNK)[None, :, None]
            seen = (picture.mean(dim=(1, 2, 3)) > 0.1).to(state.dtype)[:, None, None]
            target = torch.tensor(TARGET)[None, None, :] * seen
            return state[:, None, :] + part * (target - state[:, None, :])

    file = PolicyFile.model_validate({
        "policy_type": "controller", "program": "policy.pt2", "fps": 10.0, "chunk_size": CHUNK, "batch_max": 2,
        "action": {"dim": 2, "names": list(NAMES)}, "state": {"dim": 2, "names": list(NAMES)},
        "cameras": [{"name": FRONT, "height": 96, "width": 96}],
    })  # fmt: skip
    return write_exported(folder, file, Controller().eval(), {})


@pytest.mark.slow
def test_an_exported_controller_drives_gym_pusht_through_the_daemon(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("gym_pusht")
    robot = make_robot("gym", {
        "env": "gym_pusht/PushT-v0", "env_kwargs": {"obs_type": "pixels_agent_pos", "max_episode_steps": 60},
        "seed": 11, "cameras": {"front": "pixels"}, "state_names": list(NAMES), "action_names": list(NAMES),
    })  # fmt: skip
    with served(export_controller(tmp_path / "controller"), default_task="go") as (service, hub):
        summary, ticks = drive(robot, service, hub, 30.0)
    summary.raise_for_problems()
    ends = [t.reading.state for t in ticks if t.reading is not None]
    assert summary.ending is Ending.ROBOT_DONE  # the environment's own limit of 60 steps
    assert np.abs(ends[0] - TARGET).max() > 50
    assert np.abs(ends[-1] - TARGET).max() < 5
    steps = [t.dispatched.step for t in ticks if t.sent]
    assert steps == list(range(60))
    (report,) = robot.report()["episodes"]
    assert (report["steps"], report["ended"]) == (60, "truncated")
