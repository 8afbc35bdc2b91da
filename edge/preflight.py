"""Whether a robot and a policy fit, told before anything is dialled or energised; nothing here touches either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import numpy as np

from configuration.findings import Finding
from edge.contract import FPS_TOLERANCE, camera_key
from edge.errors import ContractError, SettingsError
from edge.policy_config import PolicyConfig
from edge.robots.base import RobotFeatures, is_velocity
from edge.run_settings import RunSettings
from edge.safety import Limits
from serving.wire.messages import Status

SHAPE_TOLERANCE = 0.02  # of width by height: more is another picture, not another size
RENAME = "name the cameras so, or map them: --inference.rename_map='{robot camera: policy camera}'"
OTHER_ROBOT = "serve a policy of this robot, or bring its joints in the policy's order"


def control_fps(settings: RunSettings, features: RobotFeatures, policy: PolicyConfig | None) -> float:
    """Control steps a second: as asked for; else the robot's only rate, the policy's, or the default."""
    if "fps" in settings.model_fields_set:
        return settings.fps
    return features.fps or (policy.fps if policy else 0.0) or settings.fps


def config_of(status: Status) -> PolicyConfig:
    """What a server says of its policy, as a config says it."""
    sizes = {name: tuple(status.image_sizes.get(name, (0, 0))) for name in status.expected_cameras}
    return PolicyConfig(
        f"server {status.server_id}" if status.server_id else "the server",
        status.policy_type,
        sizes,  # type: ignore[arg-type]
        state_dim=status.state_dim,
        action_dim=len(status.action_names),
        action_names=tuple(status.action_names),
        chunk_size=status.chunk_size,
        fps=status.trained_fps,
    )


def compare(
    settings: RunSettings, features: RobotFeatures, policy: PolicyConfig, *, served: bool = False
) -> list[Finding]:
    """Cameras, actions, state and rate of a robot beside a policy's. `served`: it is what a server insists on."""
    return [
        *_cameras(features, policy, settings.inference.rename_map, served),
        _actions(features.action_names, policy),
        _state(features, policy),
        _rate(control_fps(settings, features, policy), features, policy),
    ]


def refuse(findings: Sequence[Finding]) -> None:
    """Raises ContractError for the first error."""
    for finding in findings:
        if finding.outcome == "error":
            raise ContractError(f"want {finding.what} to fit", finding.said, finding.remedy)


def check_fallback(settings: RunSettings, features: RobotFeatures) -> Finding:
    """What this robot's joints do without actions, and whether that is safe."""
    asked, what = settings.inference, "without actions"
    velocities = [name for name in features.action_names if is_velocity(name)]
    others = [name for name in features.action_names if name not in velocities]
    if asked.fallback == "zero" and others:
        said = f"zero would drive {', '.join(others[:3])} to 0"
        return Finding(what, "error", said, "use --inference.fallback=stop: velocities to zero, positions held")
    said = "positions are held: nothing is sent" if not velocities else "velocities go to zero"
    said += ", positions are sent again" if velocities and others else ""
    if asked.fallback == "repeat_last":
        said = f"the last action again for {asked.repeat_last_max_s:g} s, then {said}"
    return Finding(what, "ok", said)


def check_limits(settings: RunSettings, features: RobotFeatures) -> Finding:
    """Whether all limits are of joints that the robot has, and leave them room."""
    try:
        limits = Limits(settings.safety, features, features.action_names)
    except SettingsError as err:
        return Finding("safety", "error", f"{err.wanted}: {err.got}", err.remedy)
    said = [f"range of {n} joints" for n in [int((limits.low > -np.inf).sum())] if n]
    said += [f"step of {n} joints" for n in [int((limits.step < np.inf).sum())] if n]
    return Finding("safety", "ok", f"limited: {', '.join(said)}" if said else "no limits beside the robot's own")


def _cameras(
    features: RobotFeatures, policy: PolicyConfig, rename_map: Mapping[str, str], served: bool
) -> Iterator[Finding]:
    what = f"cameras ({policy.kind})"
    known = {camera_key(name, rename_map): size for name, size in features.cameras.items()}
    if strange := sorted(
        name for name in rename_map if camera_key(name, {}) not in {camera_key(n, {}) for n in features.cameras}
    ):
        got = f"{', '.join(strange)}; the robot has {', '.join(features.cameras) or 'no camera'}"
        yield Finding("inference.rename_map", "error", f"unknown cameras {got}", "name the robot's own cameras")
        return
    missing, more = sorted(set(policy.cameras) - set(known)), sorted(set(known) - set(policy.cameras))
    have = ", ".join(sorted(known)) or "none"
    if missing and (served or more):
        yield Finding(what, "error", f"the policy wants {', '.join(missing)}; the robot has {have}", RENAME)
        return
    if missing:
        said = f"the policy may also look at {', '.join(missing)}"
        yield Finding(what, "warning", said, "the server says whether it must; see there")
    else:
        unused = f"; not looked at: {', '.join(more)}" if more else ""
        yield Finding(what, "ok", (", ".join(sorted(policy.cameras)) or "none") + unused)
    for name, (height, width) in policy.cameras.items():
        if name in known and height and width and _other_shape(known[name], (height, width)):
            ours = "x".join(map(str, known[name]))
            said = f"{name}: {ours} from the robot, {height}x{width} at the policy (height x width): it is distorted"
            yield Finding(what, "warning", said, "use the camera's mode that the policy was trained with")


def _other_shape(ours: tuple[int, int], theirs: tuple[int, int]) -> bool:
    ratio = (ours[1] / ours[0]) / (theirs[1] / theirs[0])
    return abs(ratio - 1) > SHAPE_TOLERANCE


def _actions(ours: Sequence[str], policy: PolicyConfig) -> Finding:
    what, theirs = f"actions ({policy.kind})", policy.action_names
    if not theirs:
        if policy.action_dim and policy.action_dim != len(ours):
            said = f"{len(ours)} on the robot, {policy.action_dim} in the policy"
            return Finding(what, "error", said, "serve a policy of this robot")
        return Finding(what, "unchecked", "the policy does not name its actions: the robot's order is taken")
    if tuple(ours) == tuple(theirs):
        return Finding(what, "ok", f"{len(ours)}, in the same order")
    return Finding(what, "error", side_by_side(ours, theirs), OTHER_ROBOT)


def side_by_side(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Both lists as lines, differences marked: a mismatch would drive the wrong motors."""
    same = sorted(ours) == sorted(theirs)
    wide = max(len("robot"), *(len(name) for name in ours)) if ours else len("robot")
    lines = [f"{'the same names in another order' if same else 'other names'}:", f"     {'robot':{wide}}  policy"]
    for i, (a, b) in enumerate(zip_longest(ours, theirs, fillvalue="-")):
        lines.append(f"{i:4} {a:{wide}}  {b}{'' if a == b else '   <- differs'}")
    return "\n".join(lines)


def _state(features: RobotFeatures, policy: PolicyConfig) -> Finding:
    what, ours = f"state ({policy.kind})", len(features.state_names)
    if not policy.state_dim:
        return Finding(what, "ok" if policy.cameras else "unchecked", "the policy looks at none, or does not say")
    if ours != policy.state_dim:
        said = f"{ours} numbers from the robot ({', '.join(features.state_names[:8])} …), the policy wants "
        return Finding(what, "error", f"{said}{policy.state_dim}", "serve a policy of this robot")
    return Finding(what, "ok", f"{ours} numbers")


def _rate(fps: float, features: RobotFeatures, policy: PolicyConfig) -> Finding:
    if features.fps and abs(features.fps - fps) > FPS_TOLERANCE * features.fps:
        said = f"{fps:g} Hz asked for, this robot makes sense at {features.fps:g} Hz only"
        return Finding(f"fps ({policy.kind})", "error", said, f"leave --fps out, or pass --fps={features.fps:g}")
    if policy.fps and abs(policy.fps - fps) > FPS_TOLERANCE * policy.fps:
        said = f"{fps:g} Hz, but {policy.kind} was trained at {policy.fps:g} Hz: it will move at another speed"
        return Finding(f"fps ({policy.kind})", "warning", said, f"pass --fps={policy.fps:g}")
    return Finding(f"fps ({policy.kind})", "ok", f"{fps:g} Hz")
