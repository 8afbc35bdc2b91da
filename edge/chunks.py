"""A server's answer as a chunk that may be executed: everything is checked before a row of it is queued."""

from __future__ import annotations

import numpy as np

from edge.action_queue import Chunk, Origin
from edge.requests import Sent
from edge.safety import check_chunk
from serving.wire.limits import DEFAULT_LIMITS
from serving.wire.messages import ActionChunk, SessionAck, decode
from serving.wire.tensors import decode_tensor


def read_chunk(body: bytes, sent: Sent, received_s: float, ack: SessionAck, actions: int) -> Chunk:
    """The answer to `sent`, for a robot of so many actions. Raises MessageError, LimitError, ChunkError."""
    message = decode(body, ActionChunk)
    robot = decode_tensor(message.chunk_robot, "chunk_robot", DEFAULT_LIMITS, half=True)
    model = decode_tensor(message.chunk_model, "chunk_model", DEFAULT_LIMITS, half=True)
    check_chunk(robot, model, actions, ack.chunk_size or DEFAULT_LIMITS.prefix_rows_max)
    assert robot is not None
    origin = Origin(
        ack.session_id, sent.seq_id, sent.episode, sent.task, sent.observed_s, received_s, message.queue_wait_ms,
        message.inference_ms,
    )  # fmt: skip
    model = None if model is None else model.astype(np.float32, copy=False)
    return Chunk(robot.astype(np.float32, copy=False), model, sent.step, origin)
