"""Does a policy do what it declares? Asked of the policy itself, before robots share it.

A family's name proves nothing: a policy that keeps a queue of observations answers one robot with what another saw.
So the same request is asked again after others', and alone and in a batch.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from serving.errors import PolicyError
from serving.policies.base import Policy, PolicySession, PolicySpec, Request, SessionInfo
from serving.policies.trial import trial_request
from serving.reply import check_chunk

SEED = 7
BATCH_MAX = 4  # enough to see a batch leak, small enough for any device
FOREIGN = 3  # requests of other robots between two equal ones
SAME_TOLERANCE = 1e-3  # same shapes: only what an unordered sum on a GPU changes; another robot's picture changes more
BATCH_TOLERANCE = 2e-2  # other batch sizes take other kernels, in half precision with visible rounding

Mode = Literal["auto", "shared", "exclusive"]


@dataclass(frozen=True)
class ProbeReport:
    """What was found. Differences are shares of the largest action of a chunk."""

    policy_type: str
    pure: bool  # equal requests get equal answers, whatever others asked in between
    purity_difference: float
    stochastic: bool  # draws random numbers: compared under one seed, and never alone with in a batch
    batch_invariant: bool | None  # None: takes one request at a time, or was not compared
    batch_difference: float | None
    mixed_delays: bool | None  # requests with and without prefix share a batch; None: does not claim to
    batch_probed: int
    same_tolerance: float = SAME_TOLERANCE
    batch_tolerance: float = BATCH_TOLERANCE
    findings: list[str] = field(default_factory=list)  # in words, what is wrong

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def probe(policy: Policy, task: str = "") -> ProbeReport:
    """Ask a policy made-up questions. Raises PolicyError when it cannot answer at all, or answers nonsense.

    Random numbers of torch, NumPy and Python are seeded before each call and put back afterwards. An exclusive policy
    is reset at the end.
    """
    asker = _Asker(policy, task)
    with _random_numbers_put_back():
        try:
            report = _report(asker)
        finally:
            asker.close()
            if not policy.spec.shared:
                policy.reset()
    return report


def settle(spec: PolicySpec, report: ProbeReport, wanted: Mode = "auto") -> tuple[PolicySpec, list[str]]:
    """The spec to serve by, and warnings. Raises PolicyError when shared serving was asked for and is not safe."""
    shared = spec.shared and report.pure
    if wanted == "shared" and not shared:
        got = "; ".join(report.findings) or f"{spec.policy_type} declares that it keeps something between requests"
        raise PolicyError("want a policy that robots can share", got, "set serving_mode: auto, or exclusive")
    if wanted == "exclusive":
        shared = False
    warnings = [f"{finding}: served to one robot at a time" for finding in report.findings if not report.pure]
    batch_max, mixed = spec.batch_max, spec.mixed_delays
    if report.pure and report.batch_invariant is False:
        warnings += [f"{finding}: served one request at a time" for finding in report.findings]
        batch_max = 1
    elif report.pure and report.mixed_delays is False:
        warnings += [f"{finding}: batched by delay" for finding in report.findings]
        mixed = False
    return replace(spec, shared=shared, batch_max=batch_max if shared else 1, mixed_delays=mixed), warnings


class _Asker:
    """Opens sessions, asks, and closes them all at the end."""

    def __init__(self, policy: Policy, task: str) -> None:
        self.policy, self.task = policy, task
        self._rng = np.random.default_rng(SEED)
        self._sessions: list[PolicySession] = []

    def session(self) -> PolicySession:
        """One more robot."""
        info = SessionInfo(f"probe-{len(self._sessions)}", f"probe-{len(self._sessions)}", task=self.task)
        session = self.policy.open_session(info)
        self._sessions.append(session)
        return session

    def request(self, prefix_rows: int = 0, delay: int = 0) -> Request:
        """Something that was not asked before."""
        return trial_request(self.policy.spec, self._rng, task=self.task, prefix_rows=prefix_rows, delay=delay)

    def ask(self, requests: Sequence[Request], sessions: Sequence[PolicySession], seed: int = SEED) -> list[np.ndarray]:
        """One predict; the robot-space chunks. Raises PolicyError."""
        _seed(seed)
        try:
            prepared = [s.prepare(r) for s, r in zip(sessions, requests, strict=True)]
            raws = self.policy.predict(prepared)
            if len(raws) != len(requests):
                raise PolicyError(f"want {len(requests)} answers", f"{len(raws)}", "mend the policy's predict")
            chunks = [s.finish(raw) for s, raw in zip(sessions, raws, strict=True)]
            return [check_chunk(chunk, self.policy.spec).robot for chunk in chunks]
        except PolicyError:
            raise
        except Exception as err:
            got = f"{type(err).__name__}: {err}"
            remedy = "this checkpoint cannot be served: see the traceback"
            raise PolicyError(
                f"want an answer of {self.policy.spec.policy_type} to a trial request", got, remedy
            ) from err

    def close(self) -> None:
        """Close every session."""
        for session in self._sessions:
            session.close()


def _report(asker: _Asker) -> ProbeReport:
    spec = asker.policy.spec
    purity, stochastic = _purity(asker)
    pure = purity <= SAME_TOLERANCE
    findings = [] if pure else [f"equal requests got answers that differ by {purity:.1%} after other robots' requests"]
    size = min(BATCH_MAX, spec.batch_max) if spec.shared else 1
    difference = mixed = invariant = None
    if size > 1 and pure:
        difference, invariant = _batches(asker, size, stochastic)
        if not invariant:
            findings.append(f"answers change by {difference:.1%} with what else is in the batch")
        elif spec.mixed_delays and spec.rtc:
            mixed = _mixed(asker, size)
            if not mixed:
                findings.append("requests with and without a prefix change each other within a batch")
    return ProbeReport(
        spec.policy_type, pure, purity, stochastic, invariant, difference, mixed, size, findings=findings
    )


def _purity(asker: _Asker) -> tuple[float, bool]:
    """Largest difference between answers to one request before and after foreign ones, and whether chance plays in."""
    request, own = asker.request(), asker.session()
    asker.ask([asker.request()], [asker.session()])  # the first call of all may choose its kernels yet
    first = asker.ask([request], [own])[0]
    for _ in range(FOREIGN):
        asker.ask([asker.request()], [asker.session()])
    own.reset()
    worst = max(difference(first, asker.ask([request], [session])[0]) for session in (own, asker.session()))
    other_seed = asker.ask([request], [asker.session()], seed=SEED + 1)[0]
    return worst, worst <= SAME_TOLERANCE < difference(first, other_seed)


def _batches(asker: _Asker, size: int, stochastic: bool) -> tuple[float, bool]:
    """How much companions change an answer: others in the same places, and none at all."""
    request = asker.request()

    def answer(count: int) -> np.ndarray:
        requests = [request, *(asker.request() for _ in range(count - 1))]
        return asker.ask(requests, [asker.session() for _ in requests])[0]

    leak = difference(answer(size), answer(size))
    if stochastic or leak > SAME_TOLERANCE:
        return leak, leak <= SAME_TOLERANCE
    alone = difference(answer(1), answer(size))
    return max(leak, alone), alone <= BATCH_TOLERANCE


def _mixed(asker: _Asker, size: int) -> bool:
    """Whether an answer stays the same when its companions come with a prefix and when they come without."""
    request = asker.request()
    rows = max(1, asker.policy.spec.execution_horizon)
    answers = []
    for companions in (asker.request(), asker.request(prefix_rows=rows, delay=1)):
        requests = [request, *[companions] * (size - 1)]
        answers.append(asker.ask(requests, [asker.session() for _ in requests])[0])
    return difference(*answers) <= SAME_TOLERANCE


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two chunks as a share of the largest action."""
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()), 1e-12)
    return float(np.abs(a - b).max()) / scale


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


@contextmanager
def _random_numbers_put_back() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    try:
        if torch is None:
            yield
        else:
            with torch.random.fork_rng():
                yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
