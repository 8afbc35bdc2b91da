"""Trial runs before robots can come, through everything that a real request goes through.

Kernels are chosen, graphs compiled and memory taken for each batch size, with and without a prefix, so that no robot
pays for it. And what cannot work at all (pictures above the limits, a wrong shape) shows before anybody connects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from serving.decode import decode_request
from serving.errors import PolicyError
from serving.policies.base import Policy, PolicySpec, Request, SessionInfo
from serving.policies.trial import trial_request
from serving.record import RequestRecord
from serving.reply import check_chunk, chunk_body
from serving.session import Agreement, Session
from serving.wire import features
from serving.wire.errors import WireError
from serving.wire.header import SCHEMA_VERSION, Header, MessageType
from serving.wire.images import encode_image
from serving.wire.limits import DEFAULT_LIMITS, Limits
from serving.wire.messages import Frame, Observation, encode
from serving.wire.tensors import encode_tensor

CLIENT = "warm-up"
STAGES = ("decode", "preprocess", "predict", "postprocess", "encode")
DELAY_STEPS = 1  # of the runs with a prefix


@dataclass(frozen=True)
class WarmupRun:
    """One predict and what lies around it. Seconds; all but predict are per request."""

    batch: int
    prefix_rows: int
    stages_s: dict[str, float]


@dataclass(frozen=True)
class WarmupReport:
    """Every run, in order."""

    policy_type: str
    total_s: float
    runs: list[WarmupRun] = field(default_factory=list)

    def warm_s(self, batch: int, stage: str = "predict") -> float | None:
        """The shortest time of a stage at one batch size: what is left when everything is warm."""
        return min((run.stages_s[stage] for run in self.runs if run.batch == batch), default=None)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def warm_up(
    policy: Policy,
    limits: Limits = DEFAULT_LIMITS,
    task: str = "",
    runs: int = 2,
    rtc: bool = False,
    batch_sizes: Sequence[int] = (1,),
) -> WarmupReport:
    """Run requests of zeros: `runs` times for each batch size, and as often with a prefix where `rtc` is on.

    Nothing is sent, and no session is registered; an exclusive policy is reset afterwards. Raises PolicyError.
    """
    started_s = time.monotonic()
    rtc = rtc and policy.spec.rtc
    sizes = sorted({min(max(1, size), policy.spec.batch_max) for size in batch_sizes})
    prefixes = [0, policy.spec.execution_horizon] if rtc else [0]
    done: list[WarmupRun] = []
    sessions: list[Session] = []
    try:
        if runs:
            sessions += [_session(policy, task, rtc, i) for i in range(sizes[-1])]
        for size in sizes:
            for prefix_rows in prefixes:
                body = _body(policy.spec, task, prefix_rows)
                done += [_run(policy, sessions[:size], body, prefix_rows, limits, task) for _ in range(runs)]
    except PolicyError:
        raise
    except WireError as err:
        remedy = f"raise what it names under limits ({err.remedy})" if err.remedy else "raise it under limits"
        raise PolicyError(f"want limits that the policy's own requests keep to: {err.wanted}", err.got, remedy) from err
    except Exception as err:
        got = f"{type(err).__name__}: {err}"
        raise PolicyError(f"want a warm {policy.spec.policy_type}", got, "see the traceback") from err
    finally:
        for session in sessions:
            session.policy.close()
        if not policy.spec.shared:
            policy.reset()
    return WarmupReport(policy.spec.policy_type, time.monotonic() - started_s, done)


def _session(policy: Policy, task: str, rtc: bool, number: int) -> Session:
    agreed = Agreement(frozenset(features.ALL), rtc=rtc, task=task, action_names=policy.spec.action_names)
    session = Session(CLIENT, agreed, policy=None, publisher=None, opened_s=time.monotonic())  # type: ignore[arg-type]
    info = SessionInfo(session.session_id, f"{CLIENT}-{number}", "", agreed.action_names, task, rtc)
    session.policy = policy.open_session(info)
    return session


def _body(spec: PolicySpec, task: str, prefix_rows: int) -> bytes:
    """The observation of zeros that a robot would send."""
    request = trial_request(spec, task=task, prefix_rows=prefix_rows, delay=DELAY_STEPS if prefix_rows else 0)
    count = len(request.history)
    return encode(
        Observation(
            state=encode_tensor(request.moment.state),
            images={name: encode_image(rgb) for name, rgb in request.moment.images.items()},
            task=task,
            inference_delay_steps=request.delay_steps,
            prefix_model=encode_tensor(request.prefix_model),
            prefix_robot=encode_tensor(request.prefix_robot),
            episode_start=True,
            history=[
                Frame(
                    age_steps=(count - i) * spec.history_step,
                    state=encode_tensor(moment.state),
                    images={name: encode_image(rgb) for name, rgb in moment.images.items()},
                )
                for i, moment in enumerate(request.history)
            ],
        )
    )


def _run(
    policy: Policy, sessions: Sequence[Session], body: bytes, prefix_rows: int, limits: Limits, task: str
) -> WarmupRun:
    """One batch from bytes to bytes."""
    spec, stages_s = policy.spec, dict.fromkeys(STAGES, 0.0)
    requests: list[Request] = []
    with _timed(stages_s, "decode", len(sessions)):
        requests = [decode_request(body, session, spec, limits, task) for session in sessions]
    for session in sessions:
        session.policy.reset()
    with _timed(stages_s, "preprocess", len(sessions)):
        prepared = [s.policy.prepare(r) for s, r in zip(sessions, requests, strict=True)]
    with _timed(stages_s, "predict", 1):
        raws = policy.predict(prepared)
    if len(raws) != len(sessions):
        raise PolicyError(f"want {len(sessions)} answers from the policy", f"{len(raws)}", "mend its predict")
    with _timed(stages_s, "postprocess", len(sessions)):
        chunks = [check_chunk(s.policy.finish(raw), spec) for s, raw in zip(sessions, raws, strict=True)]
    header = Header(SCHEMA_VERSION, MessageType.OBSERVATION, 1, 0, 0, 0)
    with _timed(stages_s, "encode", len(sessions)):
        for session, chunk in zip(sessions, chunks, strict=True):
            chunk_body(chunk, session, header, RequestRecord(session.session_id, CLIENT, 1, 0), 0.0)
    return WarmupRun(len(sessions), prefix_rows, stages_s)


@contextmanager
def _timed(stages_s: dict[str, float], stage: str, requests: int) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    stages_s[stage] = (time.monotonic() - started_s) / requests
