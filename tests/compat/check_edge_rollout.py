"""LeRobot's own rollout, its strategies and its datasets, over a daemon in another process.

    python tests/compat/check_edge_rollout.py FOLDER ENDPOINT PID CHECK...

A CHECK is one of the functions below, FOLDER an empty one; ENDPOINT and PID are those of a server of the witness. Run
by a Python that has lerobot.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
from contextlib import redirect_stderr
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.configs.dataset import DatasetRecordConfig
from lerobot.datasets import LeRobotDataset
from lerobot.policies.factory import make_policy_config
from lerobot.rollout import RolloutConfig, RolloutContext, RTCInferenceConfig, SyncInferenceConfig, create_strategy
from lerobot.rollout.configs import (
    BaseStrategyConfig,
    DAggerStrategyConfig,
    EpisodicStrategyConfig,
    HighlightStrategyConfig,
)
from lerobot.scripts import lerobot_rollout

from edge.errors import ContractError, EdgeError, LinkError, RobotError, SettingsError
from edge.lerobot_config import RemoteInferenceConfig
from edge.lerobot_context import action_order, build_remote_context, check_cameras, create_engine, robot_features
from edge.lerobot_rollout import main
from edge.settings import InferenceSettings, SafetySettings
from tests.compat.arm import STATES, Arm, ArmConfig
from tests.compat.leader import HAND, LeaderConfig
from tests.edge.nodes import FACTORY, SERVICE
from tests.edge.witness import ACTIONS, CAMERA, Witness

FPS = 30.0
TASK, OTHER = "watch", "watch closely"
WAIT_S = 60.0
SOME = 20  # rows in two seconds at 30 Hz, on a machine that others use too


class Place:
    """Where a check works, and the server it asks."""

    def __init__(self, folder: Path, endpoint: str, pid: int) -> None:
        self.folder, self.endpoint, self.pid = folder, endpoint, pid
        self.config = make_policy_config(
            "pi0", device="cpu", push_to_hub=False, action_feature_names=list(ACTIONS),
            input_features={
                "observation.state": PolicyFeature(FeatureType.STATE, (len(STATES),)),
                CAMERA: PolicyFeature(FeatureType.VISUAL, (3, 48, 64)),
            },
            output_features={"action": PolicyFeature(FeatureType.ACTION, (len(ACTIONS),))},
        )  # fmt: skip
        self.policy = folder / "policy"  # a config and no weights
        self.config.save_pretrained(self.policy)
        self.config.pretrained_path = self.policy

    def inference(self, **values: Any) -> RemoteInferenceConfig:
        given = {"connect_endpoint": self.endpoint, "zenoh_mode": "peer", "service_model_id": FACTORY}
        return RemoteInferenceConfig(**{**given, "service_task": SERVICE, **values})

    def rollout(self, **values: Any) -> RolloutConfig:
        given = {"robot": ArmConfig(camera="front"), "policy": self.config, "inference": self.inference(), "fps": FPS}
        plain = {"task": TASK, "return_to_initial_position": False, "play_sounds": False}
        return RolloutConfig(**{**given, **plain, **values})

    def dataset(self, name: str, **values: Any) -> DatasetRecordConfig:
        given = {"repo_id": f"acme/rollout_{name}", "root": self.folder / name, "push_to_hub": False, "no_stamp": True}
        return DatasetRecordConfig(**{**given, "single_task": TASK, "fps": int(FPS), **values})

    def flags(self, *more: str) -> list[str]:
        asked = {"connect_endpoint": self.endpoint, "zenoh_mode": "peer", "service_model_id": FACTORY}
        remote = [f"--inference.{name}={value}" for name, value in {**asked, "service_task": SERVICE}.items()]
        plain = [f"--policy.path={self.policy}", "--robot.type=arm", f"--fps={FPS:g}", f"--task={TASK}"]
        return ["--inference.type=remote", *remote, *plain, "--play_sounds=false", *more]


def driven(context: RolloutContext, strategy: Any) -> Arm:
    """As LeRobot's command does it."""
    try:
        strategy.setup(context)
        strategy.run(context)
    finally:
        strategy.teardown(context)
    arm = context.hardware.robot_wrapper.inner
    assert (arm.connects, arm.disconnects) == (1, 1)
    return arm


def in_place(witnesses: list[Witness], first: int = 0) -> int:
    """Every row was executed at the step it was meant for, and was continued from the rows before; how many."""
    steps = [w.step for w in witnesses]
    assert steps == list(range(first, first + len(steps))), steps
    assert not any(w.prefix_fault for w in witnesses)
    return len(steps)


def called(command: Any, *flags: str) -> int:
    """A command with flags of its own; its exit status."""
    old, sys.argv = sys.argv, ["lerobot-rollout", *flags]
    try:
        return command() or 0
    finally:
        sys.argv = old


# --- checks --------------------------------------------------------------------------------------------------------


def base(place: Place) -> dict[str, Any]:
    """The whole command: flags, rename map, context, strategy, home, by our entry."""
    more = ["--duration=2", "--robot.camera=top", '--rename_map={"observation.images.top": "observation.images.front"}']
    assert called(main, *place.flags(*more)) == 0
    (arm,) = Arm.made
    rows = in_place(arm.witnesses)
    assert rows > SOME and (arm.connects, arm.disconnects) == (1, 1)
    assert arm.sent[-1] == {"tick.pos": 1.0, "episode.pos": 0.0, "robot.pos": 1.0, "step.pos": 0.0}, "it went home"
    assert len({w.tick for w in arm.witnesses}) > 1, "chunks followed each other"
    return {"rows": rows > SOME}


def plugin(place: Place) -> dict[str, Any]:
    """LeRobot's command itself, told by a flag to import ours; sentry records all that was sent."""
    root = place.folder / "sentry"
    record = [
        f"--dataset.repo_id=acme/{name}" for name in ("rollout_sentry",)
    ] + [f"--dataset.root={root}", "--dataset.push_to_hub=false", "--dataset.no_stamp=true"]  # fmt: skip
    more = ["--duration=2", "--strategy.type=sentry", "--robot.camera=front", "--return_to_initial_position=false"]
    found = "--inference.discover_packages_path=edge.lerobot_plugin"
    assert called(lerobot_rollout.main, found, *place.flags(*more, *record)) == 0
    (arm,) = Arm.made
    rows = in_place(arm.witnesses)
    recorded = LeRobotDataset("acme/rollout_sentry", root=root)
    assert recorded.num_episodes == 1 and recorded.num_frames == rows, (recorded.num_frames, rows)
    same_actions(recorded, arm)
    return {"frames": rows > SOME}


def same_actions(recorded: LeRobotDataset, arm: Arm) -> None:
    """What was recorded is what was sent, column by column."""
    names = recorded.features["action"]["names"]
    written = np.stack([np.asarray(row) for row in recorded.hf_dataset["action"]])
    sent = np.array([[a[n] for n in names] for a in arm.sent if "sum.pos" in a and a["sum.pos"] > 0], np.float32)
    assert np.array_equal(written, sent)


def episodic(place: Place) -> dict[str, Any]:
    """Two episodes of a real dataset; nothing of the first is executed in the second.

    Between them LeRobot shows the engine nothing for longer than a server may be silent: nobody is blamed for that.
    """
    asked = place.dataset("episodes", num_episodes=2, episode_time_s=1.5, reset_time_s=2.5)
    strategy = EpisodicStrategyConfig(reset_to_initial_position=False)
    patience = place.inference(max_offline_s=1.0, degraded_after_s=0.5, request_timeout_s=1.0)
    config = place.rollout(strategy=strategy, dataset=asked, inference=patience)
    context = build_remote_context(config, threading.Event())
    assert context.policy.policy is context.policy.preprocessor is context.policy.postprocessor is None
    assert context.data.ordered_action_keys == list(ACTIONS)
    arm = driven(context, create_strategy(strategy))
    rows = in_place(arm.witnesses)
    recorded = LeRobotDataset("acme/rollout_episodes", root=place.folder / "episodes")
    assert recorded.num_episodes == 2 and recorded.num_frames == rows
    same_actions(recorded, arm)
    index = np.array(recorded.hf_dataset["episode_index"])
    second = int(np.argmax(index == 1))
    asked_at = [w.tick for w in arm.witnesses]
    assert min(asked_at[second:]) > max(asked_at[:second]), "no row of the first episode"
    assert arm.witnesses[second].row == 0, "nothing is trimmed of a chunk that comes to an idle robot"
    shown = recorded[second]["observation.images.front"]
    assert shown.shape == (3, 48, 64)
    return {"episodes": 2}


def dagger(place: Place) -> dict[str, Any]:
    """Pause, correct, pause, go on: the policy is asked anew, and its old rows are gone."""
    strategy = create_strategy(config := DAggerStrategyConfig(record_autonomous=True, smooth_handover=False))
    asked = place.dataset("dagger", num_episodes=1)
    context = build_remote_context(
        place.rollout(strategy=config, dataset=asked, teleop=LeaderConfig(), duration=0.0), threading.Event()
    )
    arm, events = context.hardware.robot_wrapper.inner, strategy._events
    requests: dict[int, int] = {}

    def press(count: int) -> None:
        moves = {30: "pause_resume", 40: "correction", 60: "correction", 65: "pause_resume"}
        if count in moves:
            events.request_transition(moves[count])
        if count in (32, 64, 110):
            requests[count] = context.policy.inference.engine.stats().counters["requests"]
        if count == 110:
            context.runtime.shutdown_event.set()

    arm.on_send = press
    driven(context, strategy)
    by_hand = [i for i, action in enumerate(arm.sent) if action["tick.pos"] == HAND]
    assert 40 <= by_hand[0] < 45 and 60 <= by_hand[-1] <= 66 and len(by_hand) >= 18, by_hand
    held = arm.sent[31:40]
    assert all(action == held[0] for action in held), "a paused robot is sent its last action"
    assert requests[64] == requests[32] < requests[110], "nothing is asked while a human drives"
    after = [a for a in arm.sent[by_hand[-1] + 1 :] if a["sum.pos"] > 0]
    assert len(after) > 20 and after[0]["row.pos"] == 0, after[:1]
    assert min(a["tick.pos"] for a in after) > max(a["tick.pos"] for a in arm.sent[:31]), "a row from before the pause"
    recorded = LeRobotDataset("acme/rollout_dagger", root=place.folder / "dagger")
    tagged = np.array(recorded.hf_dataset["intervention"]).reshape(-1)
    names = recorded.features["action"]["names"]
    actions = np.stack([np.asarray(row) for row in recorded.hf_dataset["action"]])
    corrected = actions[:, names.index("tick.pos")] == HAND
    assert np.array_equal(tagged, corrected) and tagged.any() and not tagged.all()
    return {"corrections": True}


def highlight(place: Place) -> dict[str, Any]:
    """The seconds before the key are saved, too; a change of task reaches the rows."""
    strategy = create_strategy(config := HighlightStrategyConfig(ring_buffer_seconds=1.0))
    context = build_remote_context(place.rollout(strategy=config, dataset=place.dataset("best")), threading.Event())
    arm, engine = context.hardware.robot_wrapper.inner, context.policy.inference
    tasks: list[str] = []

    def press(count: int) -> None:
        if count == 20:
            engine.set_task(OTHER)
        if count in (40, 55):
            strategy._save_requested.set()
        if count == 70:
            context.runtime.shutdown_event.set()
        tasks.append(engine.dispatched_task)

    arm.on_send = press
    driven(context, strategy)
    in_place(arm.witnesses)
    changed = tasks.index(OTHER)
    assert set(tasks[:changed]) == {TASK} and set(tasks[changed:]) == {OTHER} and changed > 20
    assert arm.witnesses[changed].tick >= 20, "the rows that answer the new task"
    recorded = LeRobotDataset("acme/rollout_best", root=place.folder / "best")
    assert recorded.num_episodes >= 1 and recorded.num_frames >= 40
    return {"saved": True}


def interpolated(place: Place) -> dict[str, Any]:
    """Twice the rate: every other action is the policy's own, those between lie between."""
    config = place.rollout(strategy=BaseStrategyConfig(), duration=2.0, interpolation_multiplier=2)
    arm = driven(build_remote_context(config, threading.Event()), create_strategy(config.strategy))
    ticks = np.array([action["step.pos"] for action in arm.sent])
    own = np.concatenate([ticks[:1], ticks[2::2]])  # the first one has none to come from
    assert len(own) > SOME and np.array_equal(ticks[1 : 2 * len(own) - 2 : 2], (own[:-1] + own[1:]) / 2)
    return {"doubled": True}


def refused(place: Place) -> dict[str, Any]:
    """Whatever does not fit is said before the robot is energised."""
    wrong = list(reversed(ACTIONS))

    def built(error: type[Exception], **values: Any) -> str:
        try:
            build_remote_context(place.rollout(**values), threading.Event())
        except error as err:
            return str(err)
        raise AssertionError(f"want {error.__name__} for {values}")

    place.config.action_feature_names = wrong
    said = built(ContractError)
    assert "prefix.pos" in said and "tick.pos" in said, said
    place.config.action_feature_names = list(ACTIONS)
    nobody = place.inference(connect_endpoint="tcp/127.0.0.1:1", connect_timeout_s=0.5, handshake_timeout_s=0.3)
    assert "tcp/127.0.0.1:1" in built(LinkError, inference=nobody)
    assert "observation.images.side" in built(ValueError, robot=ArmConfig(camera="side"))
    few = ArmConfig(camera="front", state_names=STATES[:2])
    assert "state of 4" in built(ContractError, robot=few)
    assert "--inference.buffer_time_s" in built(SettingsError, inference=place.inference(buffer_time_s=5.0))
    assert "rollout_" in built(
        SettingsError, strategy=EpisodicStrategyConfig(), dataset=place.dataset("x", repo_id="acme/mine")
    )
    interrupted = threading.Event()
    interrupted.set()  # while the server was waited for
    try:
        build_remote_context(place.rollout(), interrupted)
    except EdgeError as err:
        assert "interrupt" in str(err)
    else:
        raise AssertionError("energised after an interrupt")
    *before, last = sorted(Arm.made, key=lambda arm: arm.connects)
    assert [arm.connects for arm in before] == [0] * len(before), "energised for a server that does not fit"
    assert (last.connects, last.disconnects) == (1, 1), "a robot is let go when its dataset cannot be made"
    for local in (SyncInferenceConfig(), RTCInferenceConfig()):
        try:
            create_engine(local, policy=None, preprocessor=None, postprocessor=None)
        except SettingsError as err:
            assert f"--inference.type={local.type}" in str(err)
        else:
            raise AssertionError(f"{local.type} without weights")
    try:
        create_engine(place.inference())
    except SettingsError as err:
        assert "--policy.path" in str(err)
    else:
        raise AssertionError("remote without a config")
    told = io.StringIO()
    with redirect_stderr(told):
        assert called(main, *place.flags("--duration=1", "--robot.camera=front", "--inference.fallback=zero")) == 1
    assert "zero" in told.getvalue() and "Traceback" not in told.getvalue()
    return {"refusals": True}


def parts(place: Place) -> dict[str, Any]:
    """Settings, orders, what is left out, and what a local policy alone would have used."""
    flat, safety = place.inference().settings({})
    assert flat.model_dump(exclude={"connect_endpoint", "zenoh_mode", "service_model_id", "service_task"}) == (
        InferenceSettings().model_dump(exclude={"connect_endpoint", "zenoh_mode", "service_model_id", "service_task"})
    )
    assert safety == SafetySettings()
    ours = {f.name for f in fields(RemoteInferenceConfig)} - {"safety"}
    assert ours == InferenceSettings.model_fields.keys() - {"type", "rename_map"}
    assert RemoteInferenceConfig().settings({})[0] == InferenceSettings()
    assert action_order(["b", "a"], ["a", "b"]) == ["b", "a"]
    assert action_order(["b", "c"], ["a", "b"]) == action_order(None, ["a", "b"]) == ["a", "b"]
    seen = robot_features(Arm(ArmConfig(camera="front")), ACTIONS)
    assert seen.state_names == STATES and seen.action_names == ACTIONS and dict(seen.cameras) == {"front": (48, 64)}
    both = Arm(ArmConfig(state_names=tuple(sorted(ACTIONS))))
    assert robot_features(both, ACTIONS).state_names == ACTIONS, "states in the policy's order"
    check_cameras(place.config, ["front", "wrist"])
    check_cameras(place.config, [])

    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("edge").addHandler(handler)
    config = place.rollout(use_torch_compile=True, inference=place.inference(client_uuid="arm-7"))
    config.device = "cuda"  # as on a machine that has one
    context = build_remote_context(config, threading.Event())
    assert context.runtime.cfg.use_torch_compile is False and config.use_torch_compile is True
    assert any("--device=cuda" in line for line in logged) and any("torch_compile" in line for line in logged)
    engine, arm = context.policy.inference, context.hardware.robot_wrapper.inner
    assert engine.ready and not engine.failed and engine.failure_traceback is None and engine.task == TASK
    assert engine.engine.client == "arm-7" and engine.get_action(None) is None
    engine.start()  # as strategies do after `reset`
    try:
        engine.notify_observation({"tick.pos": 1.0})
    except RobotError as err:
        assert "episode.pos" in str(err)
    else:
        raise AssertionError("an observation without a state")
    engine.resume()
    arrived = None
    deadline = threading.Event()
    for _ in range(int(WAIT_S * FPS)):
        engine.notify_observation(context.hardware.robot_wrapper.get_observation())
        arrived = engine.get_action({})
        if arrived is not None:
            break
        deadline.wait(1 / FPS)
    assert arrived is not None and arrived.shape == (len(ACTIONS),) and arrived.dtype == torch.float32
    assert arrived.device.type == "cpu"
    engine.stop()
    engine.stop()
    arm.disconnect()
    return {"parts": True}


def dead(place: Place) -> dict[str, Any]:
    """The server is killed and never comes back: the strategy ends, the robot goes home, nobody is asked for ever."""
    inference = place.inference(max_offline_s=1.0, degraded_after_s=0.5)
    config = place.rollout(inference=inference, duration=0.0, return_to_initial_position=True)
    context = build_remote_context(config, threading.Event())
    arm = context.hardware.robot_wrapper.inner
    arm.on_send = lambda count: os.kill(place.pid, signal.SIGKILL) if count == 40 else None
    driven(context, create_strategy(config.strategy))
    engine = context.policy.inference
    assert context.runtime.shutdown_event.is_set() and engine.failed
    assert "max_offline_s" in (engine.failure_traceback or "")
    in_place(arm.witnesses)
    assert arm.sent[-1].keys() == dict.fromkeys(STATES).keys(), "home"
    return {"ended": True}


CHECKS = (base, plugin, episodic, dagger, highlight, interpolated, refused, parts, dead)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    at, where, number, *wanted = sys.argv[1:]
    known = {check.__name__: check for check in CHECKS}
    for name in wanted:
        own = Path(at, name)
        own.mkdir()
        Arm.made.clear()
        print(json.dumps({name: known[name](Place(own, where, int(number)))}), flush=True)
