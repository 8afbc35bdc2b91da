"""The messages, as schema version 1 has them; fields after the `additive` line are new and may be absent.

Unknown keys are skipped, absent ones take the default, and a wrong type is refused with the path of the field. Decoding
never makes anything larger than the body it was given: sizes that a sender claims are checked against what is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from serving.wire.errors import LimitError, MessageError
from serving.wire.header import MIN_SCHEMA_VERSION, SCHEMA_VERSION
from serving.wire.images import Image
from serving.wire.limits import DEFAULT_LIMITS, FEATURES_MAX, LABEL_MAX, NAMES_MAX, TAGS_MAX, TEXT_MAX, Limits
from serving.wire.structure import check_structure
from serving.wire.tensors import Tensor

IMAGE_SIDE_MAX = 8192  # pixels that a server may ask an edge to resize to
TAG_BYTES_MAX = 64
SAID_MAX = 300  # characters of a decoder's complaint, which may quote what it was sent

Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]  # by characters; `_check_values` counts the bytes
Label = Annotated[str, msgspec.Meta(max_length=LABEL_MAX)]
Names = Annotated[list[Label], msgspec.Meta(max_length=NAMES_MAX)]
Features = Annotated[list[Label], msgspec.Meta(max_length=FEATURES_MAX)]
Tags = Annotated[dict[Label, Text], msgspec.Meta(max_length=TAGS_MAX)]
Images = Annotated[dict[Label, Image], msgspec.Meta(max_length=64)]
Side = Annotated[int, msgspec.Meta(ge=1, le=IMAGE_SIDE_MAX)]
Size = Annotated[list[Side], msgspec.Meta(min_length=2, max_length=2)]  # [height, width]
Warnings = Annotated[list[Text], msgspec.Meta(max_length=64)]

OPEN, CLOSE = "open", "close"
BOTH, ROBOT = "both", "robot"  # forms of a chunk that a client may ask for


class Frame(msgspec.Struct):
    """An earlier moment of the robot, for policies that look back."""

    age_steps: int = 0  # control steps before the observation
    state: Tensor | None = None
    images: Images = msgspec.field(default_factory=dict)


class Observation(msgspec.Struct):
    """What the robot sees and where it stands. Client to server."""

    state: Tensor | None = None  # float32 [state_dim], robot units
    images: Images = msgspec.field(default_factory=dict)  # by canonical camera key, RGB
    task: Text = ""
    inference_delay_steps: int = 0  # control steps that the answer will probably take
    prefix_model: Tensor | None = None  # float32 [k, action_dim], the tail not yet executed, model space
    prefix_robot: Tensor | None = None  # the same rows, robot space
    episode_start: bool = False
    # additive
    buffer_left_ms: float | None = None  # how long the robot can go on without an answer
    history: Annotated[list[Frame], msgspec.Meta(max_length=64)] | None = None  # oldest first
    send_mono_ns: int | None = None  # when it was sent; the header's stamp is when it was seen


class ActionChunk(msgspec.Struct):
    """What to do next. Server to client."""

    seq_id_echo: int = 0
    client_mono_ns_echo: int = 0
    episode_id_echo: int = 0
    chunk_model: Tensor | None = None  # float32 [horizon, action_dim] before the postprocessor
    chunk_robot: Tensor | None = None  # the same after it
    queue_wait_ms: float = 0.0
    inference_ms: float = 0.0
    superseded_seqs: int = 0  # observations of this client that a newer one replaced since the last answer
    server_load: float = 0.0
    # additive
    stages_ms: Annotated[dict[Label, float], msgspec.Meta(max_length=32)] | None = None


class Event(msgspec.Struct):
    """Why there is no chunk, or that the session ended. Server to client, with the request's header echoed."""

    code: int = 0  # EventCode
    reason: Text = ""
    seq_id_echo: int = 0
    retryable: bool = False
    retry_after_ms: int = 0


class SessionOpen(msgspec.Struct):
    """A robot asks for a session."""

    op: Label = OPEN
    client_uuid: Text = ""
    robot_type: Text = ""
    policy_type: Text = ""
    fps: float = 0.0
    action_names: Names = msgspec.field(default_factory=list)  # ordered: column j drives action_names[j]
    camera_names: Names = msgspec.field(default_factory=list)
    state_dim: int = 0
    schema_version: int = SCHEMA_VERSION
    rtc_enabled: bool = False
    task: Text = ""
    tags: Tags = msgspec.field(default_factory=dict)
    # additive
    features: Features = msgspec.field(default_factory=list)
    server_id: Label = ""  # the replica that is meant; others stay silent
    resume_token: Label = ""  # from an earlier ack: shows that a live session may be replaced
    chunk_form: Label = BOTH
    accept_f16: bool = False


class Capabilities(msgspec.Struct, kw_only=True):
    """What both Status and SessionAck say of the server and its policy."""

    model_repo: Text = ""
    model_revision: Text = ""
    policy_type: Text = ""
    action_names: Names = msgspec.field(default_factory=list)
    expected_cameras: Names = msgspec.field(default_factory=list)
    state_dim: int = 0
    chunk_size: int = 0
    trained_fps: float = 0.0
    supports_rtc: bool = False  # in an ack: the server can, and this session does
    rtc_execution_horizon: int = 0  # 0 when RTC is off
    serving_mode: Label = ""  # shared, exclusive
    warmed_up: bool = False
    # additive
    features: Features = msgspec.field(default_factory=list)
    server_id: Label = ""
    image_sizes: Annotated[dict[Label, Size], msgspec.Meta(max_length=64)] = msgspec.field(default_factory=dict)
    history_frames: int = 0  # moments that the policy looks at, the current one included; 0 or 1: no history
    history_step: int = 1  # control steps between two of them
    checkpoint_hash: Label = ""
    normalisation_hash: Label = ""
    prefix_form: Label = ""  # model, robot, or "" for none: which prefix the server reads


class SessionAck(Capabilities, kw_only=True):
    """The answer to SessionOpen."""

    accepted: bool = False
    error: Text = ""
    warnings: Warnings = msgspec.field(default_factory=list)
    session_id: Label = ""
    schema_version: int = SCHEMA_VERSION
    server_load: float = 0.0
    # additive
    code: int = 0  # RejectCode
    retryable: bool = False
    retry_after_ms: int = 0
    session_tag: Annotated[bytes, msgspec.Meta(max_length=TAG_BYTES_MAX)] = (
        b""  # stands behind the header of every later message of this session
    )
    resume_token: Label = ""  # shown at the next open, it may replace this session while it lives
    chunk_form: Label = BOTH
    f16: bool = False


class Status(Capabilities, kw_only=True):
    """The answer to an empty query: who serves here."""

    min_schema_version: int = MIN_SCHEMA_VERSION
    max_schema_version: int = SCHEMA_VERSION
    active_sessions: int = 0
    max_sessions: int = 0
    # additive
    server_load: float = 0.0
    busy_share: float = 0.0  # of the policy's time, lately
    wait_p95_ms: float = 0.0  # of requests for the policy, lately
    draining: bool = False


class SessionClose(msgspec.Struct):
    """A robot ends its session."""

    op: Label = CLOSE
    client_uuid: Text = ""
    session_id: Label = ""  # "" closes whichever is open


class Reset(msgspec.Struct):
    """A new episode begins."""

    client_uuid: Text = ""
    episode_id: int = 0


class ResetAck(msgspec.Struct):
    """The answer to Reset and SessionClose."""

    ok: bool = True
    error: Text = ""
    # additive
    outcome: Label = ""  # what a close found: closed, unknown, other_session


class SessionRequest(msgspec.Struct):
    """Which of the two a body on the session key is."""

    op: Literal["open", "close"] = OPEN


M = TypeVar("M", bound=msgspec.Struct)
_encode = msgspec.msgpack.Encoder().encode
KINDS: tuple[type[msgspec.Struct], ...] = (
    Observation, ActionChunk, Event, SessionOpen, SessionAck, SessionRequest, Status, SessionClose, Reset, ResetAck,
)  # fmt: skip
_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {kind: msgspec.msgpack.Decoder(kind) for kind in KINDS}
_MAY_BE_EMPTY = (SessionRequest, SessionOpen)


def _holds_values(annotation: Any) -> bool:
    """Whether a field's type has a string or a float in it."""
    return annotation in (str, float) or any(map(_holds_values, get_args(annotation)))


_checked = {kind: [f.name for f in msgspec.structs.fields(kind) if _holds_values(f.type)] for kind in KINDS}


def encode(message: msgspec.Struct) -> bytes:
    """A body to send."""
    return _encode(message)


def decode(body: bytes, kind: type[M], limits: Limits = DEFAULT_LIMITS) -> M:
    """A body as a message; blobs in it are views into the body. An empty body asks for a session, with defaults.

    Raises LimitError when it is too long or holds too much, MessageError when it is no such message; the error names
    the field.
    """
    if len(body) > limits.body_bytes_max:
        raise LimitError(f"want at most {limits.body_bytes_max} bytes", f"{len(body)}", "send smaller pictures")
    if not body and kind in _MAY_BE_EMPTY:
        return kind()
    check_structure(body)
    try:
        message = _decoders[kind].decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as err:
        wanted = f"want a message {kind.__name__} in MessagePack"
        raise MessageError(wanted, _ends(str(err)), "see the wire's schema") from err
    for name in _checked[kind]:
        _check_values(getattr(message, name), name)
    return message


def _check_values(value: object, name: str) -> None:
    """What types cannot say: strings are bounded in bytes, numbers are finite. Arrays are checked when decoded."""
    kind = type(value)
    if kind is str:
        if not value.isascii() and len(value.encode()) > TEXT_MAX:  # type: ignore[attr-defined]
            raise LimitError(f"want at most {TEXT_MAX} bytes of UTF-8 in `$.{name}`", "more", "shorten it")
    elif kind is float:
        if not isfinite(value):  # type: ignore[arg-type]
            raise MessageError(f"want a finite number in `$.{name}`", str(value), "check where it comes from")
    elif kind is dict or kind is list:
        inner: Iterable[object] = value.values() if kind is dict else value  # type: ignore[attr-defined,assignment]
        for one in inner:
            _check_values(one, f"{name}[...]")


def _ends(text: str) -> str:
    """A long text without its middle: it begins with what was wanted, and ends with the field."""
    return text if len(text) <= SAID_MAX else f"{text[: SAID_MAX // 2]} ... {text[-SAID_MAX // 2 :]}"
