"""What robot and server must agree on before anything moves, and at every later handshake."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.errors import ContractError
from edge.robots.base import RobotFeatures
from serving.wire.messages import Capabilities, SessionAck, SessionOpen, Status

log = logging.getLogger(__name__)

CAMERA_PREFIX = "observation.images."
FPS_TOLERANCE = 0.01  # of the trained rate


def camera_key(name: str, rename_map: Mapping[str, str]) -> str:
    """A robot's camera as policies call it: renamed where the map says so, else `observation.images.NAME`."""
    full = name if name.startswith(CAMERA_PREFIX) else CAMERA_PREFIX + name
    renamed = rename_map.get(name) or rename_map.get(full)
    if renamed is None:
        return full
    return renamed if renamed.startswith("observation.") else CAMERA_PREFIX + renamed


@dataclass
class Contract:
    """What one robot brings, and what the first server said: later ones must say the same."""

    features: RobotFeatures
    action_names: tuple[str, ...]  # as the policy orders them
    fps: float
    rename_map: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cameras = {camera_key(name, self.rename_map): name for name in self.features.cameras}
        self._model: tuple[str, str, str] | None = None
        self._rtc: bool | None = None
        if self.action_names != self.features.action_names:
            raise names_differ(
                "the robot's action names in the policy's order", self.features.action_names, self.action_names
            )

    @property
    def rtc(self) -> bool:
        """Whether chunks continue each other; fixed by the first session."""
        return bool(self._rtc)

    def ask(self, client: str, task: str, *, rtc: bool, tags: Mapping[str, str]) -> SessionOpen:
        """The robot's own card."""
        return SessionOpen(
            client_uuid=client, robot_type=self.features.robot_type, fps=self.fps, action_names=list(self.action_names),
            camera_names=sorted(self.cameras), state_dim=len(self.features.state_names), rtc_enabled=rtc, task=task,
            tags=dict(tags),
        )  # fmt: skip

    def check_status(self, status: Status) -> None:
        """What can be told before a session is asked for. Raises ContractError."""
        self._check(status)

    def check_ack(self, ack: SessionAck, *, rtc: bool) -> None:
        """Names and order, dimensions, cameras; model and RTC as in the first session. Raises ContractError."""
        self._check(ack)
        if ack.trained_fps and abs(ack.trained_fps - self.fps) > FPS_TOLERANCE * ack.trained_fps:
            log.warning("the policy was trained at %g Hz and is driven at %g Hz", ack.trained_fps, self.fps)
        for warning in ack.warnings:
            log.warning("the server says: %s", warning)
        model = (ack.model_repo, ack.model_revision, ack.checkpoint_hash)
        if self._model is not None and model != self._model:
            got = f"{_said(model)} instead of {_said(self._model)}"
            raise ContractError("want the model that this run began with", got, "begin a new run for another model")
        if self._rtc is not None and ack.supports_rtc != self._rtc:
            got = f"{'with' if ack.supports_rtc else 'without'} it"
            was = "with" if self._rtc else "without"
            raise ContractError(f"want a session {was} RTC, as this run began", got, "begin a new run")
        if rtc and not ack.supports_rtc and self._rtc is None and not ack.warnings:
            log.info("RTC downgraded to chunk-append: the server does not continue chunks")
        self._model, self._rtc = model, ack.supports_rtc

    def _check(self, said: Capabilities) -> None:
        theirs = tuple(said.action_names)
        if theirs and theirs != self.action_names:
            raise names_differ("the server's action names in the robot's order", self.action_names, theirs)
        states = len(self.features.state_names)
        if said.state_dim and said.state_dim != states:
            got = f"{states} from the robot: {', '.join(self.features.state_names)}"
            raise ContractError(f"want a state of {said.state_dim} numbers", got, "serve a policy of this robot")
        if missing := sorted(set(said.expected_cameras) - set(self.cameras)):
            got = f"no {', '.join(missing)} among {', '.join(sorted(self.cameras)) or 'no camera'}"
            remedy = "name the cameras so, or map them: --inference.rename_map='{robot camera: policy camera}'"
            raise ContractError(f"want the cameras {', '.join(said.expected_cameras)}", got, remedy)


def names_differ(wanted: str, ours: tuple[str, ...], theirs: tuple[str, ...]) -> ContractError:
    """Both lists side by side, the first difference named: a mismatch would drive the wrong motors."""
    length = max(len(ours), len(theirs))
    at = next((i for i in range(length) if ours[i : i + 1] != theirs[i : i + 1]), 0)
    got = f"at {at}: {_nth(ours, at)} on the robot, {_nth(theirs, at)} in the policy"
    got += f"; robot [{', '.join(ours)}]; policy [{', '.join(theirs)}]"
    return ContractError(
        f"want {wanted}", got, "serve a policy of this robot, or bring the robot's joints in its order"
    )


def _nth(names: tuple[str, ...], at: int) -> str:
    return names[at] if at < len(names) else "nothing"


def _said(model: tuple[str, str, str]) -> str:
    repo, revision, content = model
    return f"{repo}@{revision}" + (f" ({content[:12]})" if content else "")
