"""The columns of a recording: what the robot saw, what it was sent, and where that action came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.robots.base import RobotFeatures

STATE, ACTION, CAMERA = "observation.state", "action", "observation.images."
SESSION, SOURCE, INTERVENTION = "provenance.session_id", "provenance.source", "intervention"
# column -> dtype, in the order of `spool.Frame.numbers`
INTEGERS = {"provenance.seq_id": "int64", "provenance.episode_id": "int64", "provenance.row": "int64"}
# column -> dtype, in the order of `spool.Frame.times`; the last is when the reading was captured, from the first one on
TIMES = {
    "provenance.age_ms": "float32", "provenance.queue_wait_ms": "float32", "provenance.inference_ms": "float32",
    "provenance.captured_s": "float64",
}  # fmt: skip
UNKNOWN = -1  # of numbers and times that an action without a chunk does not have
POLICY, TELEOP = "policy", "teleop"
DRIVEN = (POLICY, TELEOP)  # sources worth learning from; the others were sent for want of an action


def dataset_features(robot: RobotFeatures, *, video: bool) -> dict[str, dict[str, Any]]:
    """The features of info.json for a robot, without LeRobot's bookkeeping columns."""
    features: dict[str, dict[str, Any]] = {}
    if robot.state_names:
        features[STATE] = _vector(robot.state_names)
    for camera, (height, width) in robot.cameras.items():
        stored = {"dtype": "video" if video else "image", "shape": [height, width, 3]}
        features[CAMERA + camera] = stored | {"names": ["height", "width", "channels"]}
    features[ACTION] = _vector(robot.action_names)
    scalars = {SESSION: "string", **INTEGERS, **TIMES, SOURCE: "string", INTERVENTION: "bool"}
    return features | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in scalars.items()}


def cameras_of(features: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The camera columns, in the order in which pictures are spooled."""
    return [name for name, feature in features.items() if feature["dtype"] in ("video", "image")]


def _vector(names: tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [len(names)], "names": list(names)}
