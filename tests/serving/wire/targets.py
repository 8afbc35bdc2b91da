"""What strangers can reach, as functions of any bytes: each may raise WireError and nothing else. For fuzzers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from serving.decode import buffer_left_s, decode_request
from serving.policies.base import Camera, PolicySpec
from serving.session import Agreement, Session
from serving.wire import keys
from serving.wire.errors import WireError
from serving.wire.header import unpack
from serving.wire.images import RAW, Image, check_images, decode_image
from serving.wire.limits import DEFAULT_LIMITS
from serving.wire.messages import KINDS, decode, encode

CAMERAS = ("observation.images.front",)
SPEC = PolicySpec(
    policy_type="fuzzed", model_repo="acme/fuzzed", model_revision="main", action_names=("x", "y"), action_dim=2,
    state_dim=3, cameras=tuple(map(Camera, CAMERAS)), chunk_size=50, fps=30.0, shared=True, rtc=True,
    execution_horizon=10, prefix_form="model", history_frames=3,
)  # fmt: skip
SERVICE = keys.Keys.of("acme/fuzzed")


def header(data: bytes) -> None:
    """What unpacks packs to the same bytes."""
    with suppress(WireError):
        found, tag = unpack(data)
        assert found.pack(tag) == data


def message(data: bytes) -> None:
    """What decodes as a kind, which the first byte chooses, encodes to something that decodes to the same."""
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    with suppress(WireError):
        found = decode(data[1:], kind)
        assert decode(encode(found), kind) == found


def request(data: bytes) -> None:
    """What passes is what a policy with cameras, state, prefixes and history can take."""
    agreed = Agreement(rtc=True)
    session = Session("robot", agreed, policy=None, publisher=None, opened_s=1.0)  # type: ignore[arg-type]
    with suppress(WireError):
        found = decode_request(data, session, SPEC, DEFAULT_LIMITS, "task")
        assert found.moment.state is not None and found.moment.state.shape == (3,)
        assert set(found.moment.images) == set(CAMERAS) and 0 <= found.delay_steps <= SPEC.chunk_size
        for prefix in (found.prefix_model, found.prefix_robot):
            assert prefix is None or (prefix.shape[1] == 2 and 1 <= len(prefix) <= SPEC.chunk_size)
        assert len(found.history) <= SPEC.history_frames - 1


def urgency(data: bytes) -> None:
    """Read on the network's thread: a number or None, never an error."""
    left_s = buffer_left_s(data)
    assert left_s is None or left_s >= 0


def picture(data: bytes) -> None:
    """A picture of any codec is refused, or comes out in the size that was counted."""
    for image in (Image(memoryview(data)), Image(memoryview(data), RAW, [len(data) // 3, 1, 3])):
        with suppress(WireError):
            check_images({"a": image}, DEFAULT_LIMITS)
            rgb = decode_image(image, "a")
            assert rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size <= 3 * DEFAULT_LIMITS.pixels_max


def key(data: bytes) -> None:
    """A name becomes one segment or is refused; a key names a robot only where `sanitize` could have made it."""
    text = data.decode(errors="surrogateescape")
    with suppress(WireError):
        segment = keys.client_id(text)
        assert SERVICE.client_of(SERVICE.observation(segment)) == segment
        assert keys.sanitize(segment) == segment
    client = SERVICE.client_of(f"{SERVICE.prefix}/{text}")
    assert client is None or keys.sanitize(client) == client


TARGETS: tuple[Callable[[bytes], None], ...] = (request, message, picture, header, urgency, key)


CPU_S_MAX = 0.1  # for one input
TRIES = 3


def least_cpu_s(target: Callable[[bytes], None], data: bytes) -> float:
    """CPU of a target for an input. A slow one is tried again: a collection of garbage may have fallen into it."""
    least_s = float("inf")
    for _ in range(TRIES):
        begun_s = time.thread_time()
        target(data)
        least_s = min(least_s, time.thread_time() - begun_s)
        if least_s <= CPU_S_MAX:
            break
    return least_s
