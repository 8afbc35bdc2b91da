"""Runs captured requests again, through the same steps as the daemon, and compares the answers byte by byte.

What depends on the clock (waits, durations, load) is taken over from the captured answer; every other byte must be the
same. Requests that were predicted together are predicted together again, because kernels may round otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from serving.capture_log import Pair, Run, read_segment, segments
from serving.decode import check_task, decode_request
from serving.errors import PredictError
from serving.policies.base import Policy, SessionInfo
from serving.record import RequestRecord, error_code
from serving.reply import check_chunk, chunk_body
from serving.session import Agreement, Session
from serving.wire.errors import EventCode, WireError
from serving.wire.header import Header, unpack
from serving.wire.limits import DEFAULT_LIMITS
from serving.wire.messages import ActionChunk, decode, encode
from serving.wire.tensors import decode_tensor

if TYPE_CHECKING:
    from serving.manifest import Manifest

CLOCK_FIELDS = ("queue_wait_ms", "inference_ms", "server_load", "stages_ms")
IDENTITY = ("policy_type", "model_repo", "model_revision", "checkpoint_hash", "normalisation_hash")


@dataclass(frozen=True)
class Difference:
    """One answer that came out otherwise."""

    session_id: str
    client: str
    seq_id: int
    what: str
    deviation: float | None = None  # the largest, robot or model units; None when there are no two chunks to compare


@dataclass
class ReplayReport:
    """What came of running a capture again."""

    path: Path
    pairs: int = 0
    equal: int = 0  # byte for byte
    refused_alike: int = 0  # failed then, and failed now with the same code
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # damaged files, another model, requests that could not be compared

    @property
    def ok(self) -> bool:
        """Whether there was something to run, and all of it came out the same."""
        return self.pairs > 0 and not self.differences

    @property
    def largest_deviation(self) -> float:
        """Of all chunks."""
        return max((d.deviation for d in self.differences if d.deviation is not None), default=0.0)


def replay(path: str | Path, served: Policy | Manifest) -> ReplayReport:
    """Run a capture (a folder or one segment) again with a policy, or with the one that a manifest names.

    Holds one run's pairs in memory. Raises ServingError when there is nothing to read, PolicyError from loading.
    """
    report = ReplayReport(Path(path))
    runs = _read(report)
    policy, ours = _policy(served)
    try:
        for run, pairs in runs.values():
            report.notes += _other_model(run, policy)
            _RunAgain(run, policy, report).all(pairs)
    finally:
        if ours:
            policy.close()
    return report


def _read(report: ReplayReport) -> dict[str, tuple[Run, list[Pair]]]:
    runs: dict[str, tuple[Run, list[Pair]]] = {}
    for file in segments(report.path):
        segment, damage = read_segment(file)
        if damage:
            report.notes.append(damage)
        if segment is not None:
            runs.setdefault(segment.run.run_id, (segment.run, []))[1].extend(segment.pairs)
    return runs


def _policy(served: Policy | Manifest) -> tuple[Policy, bool]:
    """The policy, and whether we opened it."""
    from serving.manifest import Manifest

    if not isinstance(served, Manifest):
        return served, False
    from serving.policies.registry import load_policy

    return load_policy(served.model, served.rtc), True


def _other_model(run: Run, policy: Policy) -> Iterator[str]:
    for name in IDENTITY:
        then, now = getattr(run, name), getattr(policy.spec, name)
        if then != now:
            yield f"captured with {name} {then or 'unknown'}, run with {now or 'unknown'}"


@dataclass
class _Work:
    """A request on its way through the steps."""

    pair: Pair
    session: Session
    header: Header
    prepared: Any = None
    body: bytes = b""
    failed: Exception | None = None


class _RunAgain:
    """One run of a server, again."""

    def __init__(self, run: Run, policy: Policy, report: ReplayReport) -> None:
        self._run, self._policy, self._report = run, policy, report
        self._limits = run.as_limits()
        self._sessions: dict[str, Session] = {}

    def all(self, pairs: list[Pair]) -> None:
        """Run and compare every pair."""
        if not self._run.shared:
            self._policy.reset()
            if pairs and not pairs[0].policy_reset:
                self._report.notes.append("earlier requests of this exclusive policy are no longer kept: it may differ")
        for batch in batches(pairs):
            works = [self._prepare(pair) for pair in batch]
            self._predict([work for work in works if work.failed is None])
            for work in works:
                self._compare(work)
        for session in self._sessions.values():
            session.policy.close()

    def _prepare(self, pair: Pair) -> _Work:
        header, tag = unpack(pair.request_header)
        session = self._sessions.get(pair.session_id)
        if session is None:
            session = self._sessions[pair.session_id] = _open(pair, tag, self._policy)
        work = _Work(pair, session, header)
        try:
            request = decode_request(
                pair.request_body, session, self._policy.spec, self._limits, self._run.default_task
            )
            check_task(request.task, self._run.pinned_task)
            if request.episode_start or header.episode_id != session.episode:
                session.begin_episode(header.episode_id)
            work.prepared = session.policy.prepare(request)
        except Exception as err:  # noqa: BLE001 - compared with what happened then
            work.failed = err
        return work

    def _predict(self, works: list[_Work]) -> None:
        """Predict a captured batch, cut where this policy takes less at once."""
        size = max(1, self._policy.spec.batch_max)
        for start in range(0, len(works), size):
            part = works[start : start + size]
            try:
                if part[0].pair.policy_reset:
                    self._policy.reset()
                raws = self._policy.predict([work.prepared for work in part])
                if len(raws) != len(part):
                    raise PredictError(f"want {len(part)} answers from the policy", f"{len(raws)}", "mend the policy")
            except Exception as err:  # noqa: BLE001 - compared with what happened then
                for work in part:
                    work.failed = err
                continue
            for work, raw in zip(part, raws, strict=True):
                self._finish(work, raw)

    def _finish(self, work: _Work, raw: Any) -> None:
        pair, session = work.pair, work.session
        try:
            chunk = check_chunk(session.policy.finish(raw), self._policy.spec)
            record = RequestRecord(pair.session_id, pair.client, pair.seq_id, work.header.episode_id, pair.superseded)
            work.body = chunk_body(chunk, session, work.header, record, 0.0)
        except Exception as err:  # noqa: BLE001 - compared with what happened then
            work.failed = err

    def _compare(self, work: _Work) -> None:
        report, pair = self._report, work.pair
        report.pairs += 1
        then = error_code(pair.outcome)
        now = "" if work.failed is None else _code(work.failed)
        if then == EventCode.SESSION_CLOSED.name.lower():
            report.notes.append(f"{pair.client} seq {pair.seq_id}: its session had closed, nothing was sent to compare")
        elif then and then == now:
            report.refused_alike += 1
        elif then or now:
            got = f"{type(work.failed).__name__}: {work.failed}" if now else "a chunk"
            report.differences.append(_difference(pair, f"was {pair.outcome}, is {got}"))
        elif (found := differ(pair, work.body)) is None:
            report.equal += 1
        else:
            report.differences.append(found)


def batches(pairs: list[Pair]) -> Iterator[list[Pair]]:
    """Pairs in the order in which they ran, those that were predicted together as one.

    The log has them as they ended. A session's pairs are in order there, and so are batches by their first to end.
    """
    together: dict[int, list[Pair]] = {}
    for pair in pairs:
        together.setdefault(pair.batch_number, []).append(pair)
    for pair in pairs:
        if not pair.batch_number:
            yield [pair]
        elif batch := together.pop(pair.batch_number, None):
            yield sorted(batch, key=lambda one: one.batch_place)


def differ(pair: Pair, body: bytes) -> Difference | None:
    """How an answer differs from the captured one, beside the clock; None when every byte is the same."""
    old, new = decode(pair.reply_body, ActionChunk), decode(body, ActionChunk)
    new = msgspec.structs.replace(new, **{name: getattr(old, name) for name in CLOCK_FIELDS})
    if encode(new) == pair.reply_body:
        return None
    found, largest = [], None
    for name in ActionChunk.__struct_fields__:
        if name in ("chunk_model", "chunk_robot"):
            then, now = (decode_tensor(getattr(chunk, name), name, DEFAULT_LIMITS, half=True) for chunk in (old, new))
            what, deviation = _chunks_differ(then, now)
            if what:
                found.append(f"{name}: {what}")
            if deviation is not None:
                largest = max(largest or 0.0, deviation)
        elif getattr(old, name) != getattr(new, name):
            found.append(f"{name}: was {getattr(old, name)}, is {getattr(new, name)}")
    return _difference(pair, "; ".join(found) or "the message's layout has changed", largest)


def _chunks_differ(then: np.ndarray | None, now: np.ndarray | None) -> tuple[str, float | None]:
    """In words ("" when they are the same bits), and the largest deviation where they can be compared."""
    if then is None or now is None:
        return ("" if then is now else f"was {_shape(then)}, is {_shape(now)}"), None
    if then.shape != now.shape or then.dtype != now.dtype:
        return f"was {_shape(then)}, is {_shape(now)}", None
    if then.tobytes() == now.tobytes():
        return "", None
    deviation = float(np.max(np.abs(then.astype(np.float64) - now.astype(np.float64))))
    values = int(np.count_nonzero(then.view(f"u{then.itemsize}") != now.view(f"u{now.itemsize}")))
    return f"{values} of {then.size} values differ, by {deviation:.3g} at most", deviation


def _shape(array: np.ndarray | None) -> str:
    return "not there" if array is None else f"{array.dtype} {array.shape}"


def _difference(pair: Pair, what: str, deviation: float | None = None) -> Difference:
    return Difference(pair.session_id, pair.client, pair.seq_id, what, deviation)


def _code(failed: Exception) -> str:
    return (EventCode.BAD_REQUEST if isinstance(failed, WireError) else EventCode.INTERNAL).name.lower()


def _open(pair: Pair, tag: bytes, policy: Policy) -> Session:
    """A session as the captured one was, without a network."""
    facts = pair.session
    agreed = Agreement(
        features=frozenset(facts.features),
        schema_version=facts.schema_version,
        rtc=facts.rtc,
        chunk_form=facts.chunk_form,
        f16=facts.f16,
        task=facts.task,
        fps=facts.fps,
        robot_type=facts.robot_type,
        action_names=tuple(facts.action_names),
    )
    info = SessionInfo(
        pair.session_id, pair.client, agreed.robot_type, agreed.action_names, agreed.task, agreed.rtc, dict(facts.tags)
    )
    return Session(
        pair.client, agreed, policy.open_session(info), publisher=None, opened_s=0.0,  # type: ignore[arg-type]
        session_id=pair.session_id, tag=tag, info=info,
    )  # fmt: skip
