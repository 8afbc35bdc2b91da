"""Whatever strangers send is taken or refused: no other error, no long work, no more memory than was declared."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.wire.limits import MIB
from tests.serving.wire import golden, strategies, targets

PEAK_BYTES_MAX = 8 * MIB  # far above what these small inputs declare

FROM_BODIES = (targets.request, targets.urgency)
LENIENT = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def hold(target: Callable[[bytes], None], data: bytes) -> None:
    """Run a target within its bounds of time and memory."""
    tracemalloc.start()
    try:
        spent_s, peak = targets.least_cpu_s(target, data), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert spent_s <= targets.CPU_S_MAX, f"{spent_s:.3f} s for {data[:200]!r}"
    assert peak < PEAK_BYTES_MAX, f"{peak} bytes for {data[:200]!r}"


@pytest.mark.parametrize("target", FROM_BODIES, ids=lambda target: target.__name__)
@given(body=strategies.BODIES)
@LENIENT
def test_no_body_breaks_a_decoder(target, body):
    hold(target, body)


@pytest.mark.parametrize("number", range(len(targets.KINDS)), ids=[kind.__name__ for kind in targets.KINDS])
@given(body=strategies.BODIES)
@settings(LENIENT, max_examples=40)
def test_no_body_breaks_any_message(number, body):
    hold(targets.message, bytes([number]) + body)


@given(data=st.binary(max_size=40) | st.binary(min_size=27, max_size=27) | st.binary(min_size=35, max_size=35))
@LENIENT
def test_no_attachment_breaks_the_header(data):
    hold(targets.header, data)


@given(data=strategies.PICTURES)
@LENIENT
def test_no_picture_breaks_its_decoder(data):
    hold(targets.picture, data)


@given(data=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode(errors="surrogateescape")))
@LENIENT
def test_no_name_breaks_the_keys(data):
    hold(targets.key, data)


def test_the_material_of_the_fuzzers_reaches_the_far_end():
    """Or they would show nothing: an observation that passes every check is among what they damage."""
    body = golden.WHOLE["observation"].body
    spec = targets.SPEC
    session = targets.Session("robot", targets.Agreement(rtc=True), policy=None, publisher=None, opened_s=1.0)
    found = targets.decode_request(body, session, spec, targets.DEFAULT_LIMITS, "task")
    assert found.moment.images[targets.CAMERAS[0]].shape == (8, 8, 3) and len(found.history) == 1
    assert found.prefix_model is not None and found.delay_steps == 4
