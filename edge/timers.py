"""When to ask, when to ask again, and how much delay to tell the server: from what answers have taken lately."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge.latency import LatencyWindow

MIDDLE, USUAL, LONGEST = 0.5, 0.95, 0.99  # percentiles that answers are planned for, and taken for lost after

RESEND_FACTOR = 1.5  # of the longest: later than this, an answer is taken for lost
RESEND_MARGIN_S = 0.020  # beside one control step: what threads and networks jitter
RESEND_DOUBLINGS_MAX = 16
ROUNDING = 1e-9  # of a step: 3.0000000001 steps are 3


@dataclass(frozen=True)
class Timing:
    """What the timers are set from."""

    dt_s: float  # of one control step
    buffer_time_s: float
    degraded_after_s: float
    request_timeout_s: float


def request_left_s(timing: Timing, window: LatencyWindow, now_s: float, chunk_rows: int) -> float:
    """Playback left, in seconds, at which the next chunk is asked for.

    As long as answers usually take, a step, and the buffer. The buffer gives way where that is more than half a chunk;
    the time that answers take does not, or a slow server would starve the robot at every chunk.
    """
    half_s = chunk_rows * timing.dt_s / 2
    if not window.count:
        return half_s
    needed_s = window.percentile(USUAL, now_s) + timing.dt_s
    return min(needed_s + timing.buffer_time_s, max(half_s, needed_s))


def resend_after_s(timing: Timing, window: LatencyWindow, now_s: float, attempt: int) -> float:
    """How long try number `attempt` (from 0) waits for its answer before the next one is sent.

    At most `degraded_after_s`, but where half of all answers take that long, it is no sign of a loss.
    """
    usual_s = RESEND_FACTOR * window.percentile(MIDDLE, now_s)
    most_s = min(max(timing.degraded_after_s, usual_s), timing.request_timeout_s)
    if not window.count:
        return most_s
    first_s = max(RESEND_FACTOR * window.percentile(LONGEST, now_s), RESEND_MARGIN_S + timing.dt_s)
    return min(most_s, first_s * 2.0 ** min(attempt, RESEND_DOUBLINGS_MAX))


def delay_steps(timing: Timing, window: LatencyWindow, now_s: float) -> int:
    """Control steps that usually pass before an answer is there; 0 when nothing is known."""
    return max(0, math.ceil(window.percentile(USUAL, now_s) / timing.dt_s - ROUNDING))
