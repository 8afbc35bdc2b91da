"""A rollout context of LeRobot without a policy: no weights, no policy processors, no GPU.

The order differs from LeRobot's own: the server is met before the robot is energised, and a dataset is made last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from copy import copy
from threading import Event
from typing import Any

import torch
from lerobot.configs import FeatureType, PreTrainedConfig, parser
from lerobot.datasets import LeRobotDataset, aggregate_pipeline_dataset_features, create_initial_features
from lerobot.processor import RobotProcessorPipeline, make_default_processors
from lerobot.robots import Robot, make_robot_from_config
from lerobot.rollout import RolloutConfig, RolloutContext
from lerobot.rollout.configs import BaseStrategyConfig, DAggerStrategyConfig
from lerobot.rollout.context import (
    DatasetContext,
    HardwareContext,
    PolicyContext,
    ProcessorContext,
    RuntimeContext,
)
from lerobot.rollout.inference import InferenceEngine, InferenceEngineConfig, create_inference_engine
from lerobot.teleoperators import make_teleoperator_from_config
from lerobot.utils.feature_utils import combine_feature_dicts, hw_to_dataset_features

from edge.contract import CAMERA_PREFIX
from edge.engine import Engine
from edge.errors import EdgeError, SettingsError
from edge.lerobot_config import RemoteInferenceConfig
from edge.lerobot_engine import RemoteInferenceEngine, StampedRobot
from edge.robots.base import POSITION, VELOCITY, RobotFeatures
from network.transport import Transport
from serving.wire.keys import Keys

log = logging.getLogger(__name__)

CPU = "cpu"
DATASET_PREFIX = "rollout_"
CHANNELS = 3
HOLD = "hold"  # the fallback that sends nothing

Pipeline = RobotProcessorPipeline | None


def build_remote_context(
    cfg: RolloutConfig, shutdown_event: Event, teleop_action_processor: Pipeline = None,
    robot_action_processor: Pipeline = None, robot_observation_processor: Pipeline = None, *,
    dial: Callable[[], Transport] | None = None,
) -> RolloutContext:  # fmt: skip
    """What LeRobot's strategies need, with `policy`, `preprocessor` and `postprocessor` None.

    Processors and events are as in LeRobot's `build_rollout_context`. Raises SettingsError, LinkError, ContractError
    before the robot is connected, EdgeError when the event is set by then; whatever fails later lets go of robot and
    server first.
    """
    cfg = _on_cpu(cfg)
    if cfg.policy is None:
        raise SettingsError("want a policy's config", "none", "pass --policy.path=…; its weights are not read")
    teleop_steps, action_steps, observation_steps = make_default_processors()
    processors = ProcessorContext(
        teleop_action_processor=teleop_action_processor or teleop_steps,
        robot_action_processor=robot_action_processor or action_steps,
        robot_observation_processor=robot_observation_processor or observation_steps,
    )
    robot = make_robot_from_config(cfg.robot)  # nothing is energised yet
    data = _features(robot, processors, cfg)
    features = robot_features(robot, data.ordered_action_keys)
    if not cfg.rename_map:
        check_cameras(cfg.policy, features.cameras)
    wrapper = StampedRobot(robot)
    with ExitStack() as undo:
        engine = create_engine(
            cfg.inference, policy_config=cfg.policy, features=features, robot_wrapper=wrapper, task=cfg.task,
            fps=cfg.fps, rename_map=cfg.rename_map, shutdown_event=shutdown_event, dial=dial,
        )  # fmt: skip
        undo.callback(engine.stop)
        engine.start()
        if shutdown_event.is_set():
            raise EdgeError("want a run", "an interrupt before the robot was energised", "start it again")
        hardware = _connect(cfg, wrapper, undo)
        data.dataset = _dataset(cfg, robot, data.dataset_features)
        undo.pop_all()
    return RolloutContext(
        runtime=RuntimeContext(cfg=cfg, shutdown_event=shutdown_event),
        hardware=hardware,
        policy=PolicyContext(policy=None, preprocessor=None, postprocessor=None, inference=engine),
        processors=processors,
        data=data,
    )


def create_engine(
    config: InferenceEngineConfig, *, policy_config: PreTrainedConfig | None = None,
    features: RobotFeatures | None = None, robot_wrapper: Any = None, task: str = "", fps: float = 30.0,
    rename_map: dict[str, str] | None = None, shutdown_event: Event | None = None,
    dial: Callable[[], Transport] | None = None, **local: Any,
) -> InferenceEngine:  # fmt: skip
    """LeRobot's factory with `remote` beside its own: those need policy and processors in `local`.

    Raises SettingsError.
    """
    if not isinstance(config, RemoteInferenceConfig):
        missing = [name for name in ("policy", "preprocessor", "postprocessor") if local.get(name) is None]
        if missing:
            remedy = "use --inference.type=remote where there are no weights"
            raise SettingsError(f"want a {missing[0]} for --inference.type={config.type}", "none", remedy)
        return create_inference_engine(
            config, robot_wrapper=robot_wrapper, task=task, fps=fps, shutdown_event=shutdown_event, **local
        )
    if policy_config is None or features is None:
        raise SettingsError("want a policy's config for --inference.type=remote", "none", "pass --policy.path=…")
    settings, safety = config.settings(rename_map or {})
    model = settings.service_model_id or str(policy_config.pretrained_path)
    keys = Keys.of(model, settings.service_revision, settings.service_task or task)
    return RemoteInferenceEngine(
        lambda changed: Engine(settings, safety, features, keys, fps, task, dial=dial, on_transition=changed),
        features, shutdown_event or Event(), lambda: getattr(robot_wrapper, "captured_s", None),
    )  # fmt: skip


def action_order(policy: Sequence[str] | None, robot: Sequence[str]) -> list[str]:
    """Names of a chunk's columns: as the policy has them where they are the robot's, else as the robot has them."""
    if policy and sorted(policy) == sorted(robot):
        return list(policy)
    if policy:
        log.warning("the policy's actions are %s, the robot's %s: the robot's order is used", policy, robot)
    return list(robot)


def check_cameras(policy: PreTrainedConfig, cameras: Iterable[str]) -> None:
    """Either side may have cameras that the other has not, but not both. Raises SettingsError, a ValueError."""
    wanted = {name for name, feature in policy.input_features.items() if feature.type == FeatureType.VISUAL}
    brought = {CAMERA_PREFIX + name for name in cameras}
    if not (wanted <= brought or brought <= wanted):
        got = ", ".join(sorted(brought))
        remedy = 'map them with --rename_map=\'{"observation.images.mine": "observation.images.theirs"}\''
        raise SettingsError(f"want the policy's cameras {', '.join(sorted(wanted))}", got, remedy)


def robot_features(robot: Robot, action_keys: Sequence[str]) -> RobotFeatures:
    """What the engine is told of a robot: positions, velocities and colour cameras, as LeRobot gives them to policies.

    States are in the policy's order where they have the names of its actions.
    """
    seen = robot.observation_features
    states = [name for name, kind in seen.items() if kind is float and name.endswith((POSITION, VELOCITY))]
    if sorted(states) == sorted(action_keys):
        states = list(action_keys)
    cameras = {n: (s[0], s[1]) for n, s in seen.items() if isinstance(s, tuple) and len(s) == 3 and s[2] == CHANNELS}
    if left_out := [name for name in seen if name not in states and name not in cameras]:
        log.info("not sent, as no policy of LeRobot takes them: %s", ", ".join(left_out))
    return RobotFeatures(robot.robot_type, tuple(states), tuple(action_keys), cameras)


# --- parts ---------------------------------------------------------------------------------------------------------


def _on_cpu(cfg: RolloutConfig) -> RolloutConfig:
    """The same without what only a local policy has. A copy by hand: the config reads its policy again when made."""
    cfg = copy(cfg)
    if cfg.use_torch_compile:
        log.warning("--use_torch_compile is ignored: the policy runs on the server")
    wanted = parser.parse_arg("device") or (cfg.device if cfg.policy and cfg.device != cfg.policy.device else None)
    if wanted and torch.device(wanted).type != CPU:
        log.warning("--device=%s is ignored: the policy runs on the server", wanted)
    cfg.use_torch_compile, cfg.device = False, CPU
    return cfg


def _features(robot: Robot, processors: ProcessorContext, cfg: RolloutConfig) -> DatasetContext:
    """Features of frames, and the order of actions. Other scalars than positions and velocities stay out."""
    seen = {
        name: kind for name, kind in robot.observation_features.items()
        if isinstance(kind, tuple) or (kind is float and name.endswith((POSITION, VELOCITY)))
    }  # fmt: skip
    moved = {name: kind for name, kind in robot.action_features.items() if name.endswith((POSITION, VELOCITY))}
    video = cfg.dataset.video if cfg.dataset else True
    both = [
        aggregate_pipeline_dataset_features(pipeline=pipeline, initial_features=initial, use_videos=video)
        for pipeline, initial in (
            (processors.teleop_action_processor, create_initial_features(action=moved)),
            (processors.robot_observation_processor, create_initial_features(observation=seen)),
        )
    ]
    return DatasetContext(
        dataset=None,
        dataset_features=combine_feature_dicts(*both),
        hw_features=hw_to_dataset_features(seen, "observation"),
        ordered_action_keys=action_order(getattr(cfg.policy, "action_feature_names", None), list(moved)),
    )


def _connect(cfg: RolloutConfig, wrapper: StampedRobot, undo: ExitStack) -> HardwareContext:
    robot = wrapper.inner
    undo.callback(lambda: robot.is_connected and robot.disconnect())
    robot.connect()
    initial = {name: value for name, value in wrapper.get_observation().items() if name.endswith(POSITION)}
    teleop = None
    if cfg.teleop is not None:
        teleop = make_teleoperator_from_config(cfg.teleop)
        undo.callback(lambda: teleop.is_connected and teleop.disconnect())
        teleop.connect()
    return HardwareContext(robot_wrapper=wrapper, teleop=teleop, initial_position=initial)


def _dataset(cfg: RolloutConfig, robot: Robot, features: dict[str, Any]) -> LeRobotDataset | None:
    """A new one, or the one that is resumed; None where nothing is recorded. Raises SettingsError."""
    asked = cfg.dataset
    if asked is None or isinstance(cfg.strategy, BaseStrategyConfig):
        return None
    how = {
        "batch_encoding_size": asked.video_encoding_batch_size,
        "rgb_encoder": asked.rgb_encoder,
        "depth_encoder": asked.depth_encoder,
        "streaming_encoding": asked.streaming_encoding,
        "encoder_queue_maxsize": asked.encoder_queue_maxsize,
        "encoder_threads": asked.encoder_threads,
        "image_writer_processes": asked.num_image_writer_processes,
        "image_writer_threads": asked.num_image_writer_threads_per_camera * len(getattr(robot, "cameras", ())),
    }
    if cfg.resume:
        return LeRobotDataset.resume(asked.repo_id, root=asked.root, **how)
    name = asked.repo_id.rpartition("/")[2]
    if not name.startswith(DATASET_PREFIX):
        got = f"--dataset.repo_id={asked.repo_id}"
        raise SettingsError(
            f"want a dataset whose name begins with {DATASET_PREFIX}", got, f"say {DATASET_PREFIX}{name}"
        )
    if isinstance(cfg.strategy, DAggerStrategyConfig):
        features["intervention"] = {"dtype": "bool", "shape": (1,), "names": None}
    asked.stamp_repo_id()
    size_mb = getattr(cfg.strategy, "target_video_file_size_mb", None)
    return LeRobotDataset.create(
        asked.repo_id, asked.fps, root=asked.root, robot_type=robot.name, features=features, use_videos=asked.video,
        video_files_size_in_mb=size_mb, **how,
    )  # fmt: skip
