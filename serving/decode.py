"""An observation's body as a checked request: nothing that a policy could choke on gets past here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np

from serving.pictures import NO_HELPERS, Helpers
from serving.policies.base import Moment, PolicySpec, Request
from serving.session import Session
from serving.wire import messages
from serving.wire.errors import LimitError, MessageError
from serving.wire.images import Image, check_images, decode_image
from serving.wire.limits import Limits
from serving.wire.messages import Observation
from serving.wire.structure import check_structure
from serving.wire.tensors import Tensor, check_finite, decode_tensor

HELPED_PIXELS_MIN = 40_000  # smaller pictures are decoded sooner than handed to another thread


class _Urgency(msgspec.Struct):
    buffer_left_ms: float | None = None


_urgency = msgspec.msgpack.Decoder(_Urgency)


def buffer_left_s(body: bytes) -> float | None:
    """How long the robot can go on, read without decoding anything else; None when it does not say."""
    try:
        check_structure(body)  # this runs on the network's thread: it may not be kept busy
        left_ms = _urgency.decode(body).buffer_left_ms
    except (msgspec.MsgspecError, LimitError, RecursionError, UnicodeDecodeError):
        return None  # the whole body is refused later, with its reason
    return None if left_ms is None or not np.isfinite(left_ms) else max(left_ms, 0.0) / 1e3


def decode_request(
    body: bytes, session: Session, spec: PolicySpec, limits: Limits, default_task: str, helpers: Helpers = NO_HELPERS
) -> Request:
    """A request that the policy can take. Raises MessageError or LimitError with what is wrong."""
    observation = messages.decode(body, Observation, limits)
    wanted = {camera.name for camera in spec.cameras}
    state = _state(observation.state, spec, limits, "state")  # pictures last: they are what costs
    rtc = session.agreed.rtc
    delay = max(0, observation.inference_delay_steps) if rtc else 0
    if delay > spec.chunk_size:
        got = f"{delay} for a chunk of {spec.chunk_size} rows"
        raise MessageError("want inference_delay_steps within a chunk", got, "the answer would come too late")
    prefix_model = _prefix(observation.prefix_model, spec, limits, "prefix_model") if rtc else None
    prefix_robot = _prefix(observation.prefix_robot, spec, limits, "prefix_robot") if rtc else None
    history = _history(observation, spec, wanted, limits, helpers)
    images = _images(observation.images, wanted, limits, "images", helpers)
    return Request(
        moment=Moment(state, images),
        history=history,
        task=_task(observation.task, session, default_task),
        robot_type=session.agreed.robot_type,
        delay_steps=delay,
        prefix_model=prefix_model,
        prefix_robot=prefix_robot,
        episode_start=observation.episode_start,
    )


def check_task(task: str, pinned: str | None) -> None:
    """Raise MessageError when a service is pinned to another task."""
    if pinned is not None and task and task != pinned:
        raise MessageError(f"want the task {pinned!r}, which this service is pinned to", repr(task), "send no task")


def _images(
    sent: Mapping[str, Image], wanted: set[str], limits: Limits, name: str, helpers: Helpers
) -> dict[str, np.ndarray]:
    """Pictures of the cameras that the policy looks at; others are checked but never decoded."""
    if missing := wanted - set(sent):
        raise MessageError(f"want {name} of {', '.join(sorted(wanted))}", f"no {', '.join(sorted(missing))}")
    pixels = check_images(dict(sent), limits, name)
    cameras = sorted(wanted)
    worth_help = any(pixels[camera] >= HELPED_PIXELS_MIN for camera in cameras)
    pictures = (helpers if worth_help else NO_HELPERS).map(
        lambda camera: decode_image(sent[camera], f"{name}.{camera}"), cameras
    )
    return dict(zip(cameras, pictures, strict=True))


def _state(tensor: Tensor | None, spec: PolicySpec, limits: Limits, name: str) -> np.ndarray | None:
    state = decode_tensor(tensor, name, limits)
    if not spec.state_dim:
        return None if state is None else _floats(state, name).reshape(-1)
    if state is None or state.shape != (spec.state_dim,) or state.dtype.kind not in "fiu":
        got = "none" if state is None else f"{state.dtype} {state.shape}"
        raise MessageError(f"want numbers of shape ({spec.state_dim},) in {name}", got, "send the robot's whole state")
    return _floats(state, name)


def _prefix(tensor: Tensor | None, spec: PolicySpec, limits: Limits, name: str) -> np.ndarray | None:
    """The tail not yet executed; None when the queue is exhausted, which is no prefix and not one of zeros."""
    prefix = decode_tensor(tensor, name, limits)
    if prefix is None or not prefix.size:
        return None
    rows_max = min(max(spec.execution_horizon, spec.chunk_size), limits.prefix_rows_max)
    if prefix.ndim != 2 or prefix.shape[1] != spec.action_dim or prefix.dtype.kind != "f":
        wanted = f"want floats of shape (rows, {spec.action_dim}) in {name}"
        raise MessageError(wanted, f"{prefix.dtype} {prefix.shape}", "send the tail of the last chunk")
    if len(prefix) > rows_max:
        raise LimitError(f"want at most {rows_max} rows in {name}", f"{len(prefix)}", "send what the server reads")
    return _floats(prefix, name)


def _floats(array: np.ndarray, name: str) -> np.ndarray:
    """Finite float32; a double may be too large for one."""
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    check_finite(array, name)
    return array


def _history(
    observation: Observation, spec: PolicySpec, wanted: set[str], limits: Limits, helpers: Helpers
) -> tuple[Moment, ...]:
    if spec.history_frames <= 1:
        return ()
    frames = observation.history or []
    if len(frames) > min(limits.history_frames_max, spec.history_frames - 1):
        raise LimitError(f"want at most {spec.history_frames - 1} frames of history", f"{len(frames)}", "send fewer")
    pictures = {f"history[{i}].{name}": image for i, f in enumerate(frames) for name, image in f.images.items()}
    all_frames = replace(limits, images_max=limits.images_max * (1 + limits.history_frames_max))
    check_images({**observation.images, **pictures}, all_frames)
    return tuple(
        Moment(
            _state(frame.state, spec, limits, f"history[{i}].state"),
            _images(frame.images, wanted, limits, f"history[{i}].images", helpers),
        )
        for i, frame in enumerate(frames)
    )


def _task(sent: str, session: Session, default_task: str) -> str:
    return sent or session.agreed.task or default_task
