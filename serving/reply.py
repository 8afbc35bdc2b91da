"""A policy's chunk as a body to send: checked, in the forms that were agreed on."""

from __future__ import annotations

import numpy as np

from serving.errors import PredictError
from serving.policies.base import Chunk, PolicySpec
from serving.record import RequestRecord
from serving.session import Session
from serving.wire import features
from serving.wire.errors import RETRYABLE_EVENTS, EventCode
from serving.wire.header import Header, MessageType
from serving.wire.messages import ROBOT, ActionChunk, Event, encode
from serving.wire.tensors import encode_tensor

REASON_MAX = 500  # characters of a reason that is sent
F16_MAX = float(np.finfo(np.float16).max)


def check_chunk(chunk: Chunk, spec: PolicySpec) -> Chunk:
    """Float32, of the declared shape, and finite. Raises PredictError: a wrong action never leaves the server."""
    wanted = (spec.chunk_size, spec.action_dim)
    arrays = []
    for name, array in (("model", chunk.model), ("robot", chunk.robot)):
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            array = np.ascontiguousarray(array, dtype=np.float32)
        if array.shape != wanted:
            got = f"{array.shape} in {name} space"
            raise PredictError(f"want chunks of shape {wanted}", got, "check the policy's declared shape")
        if not np.isfinite(array).all():
            raise PredictError("want finite actions", f"NaN or infinity in {name} space", "check the checkpoint")
        arrays.append(array)
    return Chunk(*arrays)


def chunk_body(chunk: Chunk, session: Session, header: Header, record: RequestRecord, load: float) -> bytes:
    """The body of the answer to a request."""
    agreed = session.agreed
    one_form = features.ONE_FORM in agreed and agreed.chunk_form == ROBOT
    return encode(
        ActionChunk(
            seq_id_echo=header.seq_id,
            client_mono_ns_echo=header.client_mono_ns,
            episode_id_echo=header.episode_id,
            chunk_model=None if one_form else encode_tensor(_as_agreed(chunk.model, agreed.f16)),
            chunk_robot=encode_tensor(_as_agreed(chunk.robot, agreed.f16)),
            queue_wait_ms=record.waited_s * 1e3,
            inference_ms=record.inference_s * 1e3,
            superseded_seqs=record.superseded,
            server_load=load,
            stages_ms={k: v * 1e3 for k, v in record.stages_s.items()} if features.EVENTS in agreed else None,
        )
    )


def _as_agreed(actions: np.ndarray, f16: bool) -> np.ndarray:
    """Half floats where the client takes them and the actions fit: 65520 would arrive as infinity."""
    return actions.astype(np.float16) if f16 and np.abs(actions).max(initial=0) <= F16_MAX else actions


def event_body(code: EventCode, reason: str, header: Header | None, retry_after_ms: int = 0) -> bytes:
    """The body of a refusal."""
    seq = 0 if header is None else header.seq_id
    return encode(Event(int(code), reason[:REASON_MAX], seq, code in RETRYABLE_EVENTS, retry_after_ms))


def answer_header(header: Header, kind: MessageType, tag: bytes) -> bytes:
    """The request's header turned into its answer's."""
    return Header(
        header.schema_version, kind, header.seq_id, header.episode_id, header.client_mono_ns, header.session_epoch
    ).pack(tag)
