"""Warm-up goes the whole way of a request, for each batch size and both branches, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from serving import warmup
from serving.errors import PolicyError
from serving.manifest import ModelSettings
from serving.policies.base import Camera, Request
from serving.policies.registry import load_policy
from serving.warmup import STAGES, warm_up
from serving.wire.limits import Limits
from tests.conftest import real_dataset
from tests.serving.policies.examples import Good, Remembering, Wrong


class Seeing(Good):
    """Keeps what it was asked."""

    def __init__(self, **changes: object) -> None:
        super().__init__(**changes)
        self.batches: list[list[Request]] = []

    def predict(self, batch):
        self.batches.append(list(batch))
        return super().predict(batch)


def test_every_batch_size_runs_with_and_without_a_prefix() -> None:
    policy = Seeing()
    report = warm_up(policy, task="pick", runs=2, rtc=True, batch_sizes=[1, 3])
    shapes = [(len(b), 0 if b[0].prefix_robot is None else len(b[0].prefix_robot)) for b in policy.batches]
    assert shapes == [(1, 0), (1, 0), (1, 2), (1, 2), (3, 0), (3, 0), (3, 2), (3, 2)]
    assert [(r.batch, r.prefix_rows) for r in report.runs] == shapes
    assert {b[0].delay_steps for b in policy.batches if b[0].prefix_robot is not None} == {1}
    assert policy.batches[0][0].task == "pick"


def test_without_rtc_no_prefix_is_run_and_one_run_warms_both_branches_with_it() -> None:
    without, with_rtc = Seeing(), Seeing()
    warm_up(without, runs=3, rtc=False)
    warm_up(with_rtc, runs=1, rtc=True)
    assert [b[0].prefix_robot for b in without.batches] == [None] * 3
    assert [b[0].prefix_robot is None for b in with_rtc.batches] == [True, False]
    cannot = Seeing(rtc=False)
    warm_up(cannot, runs=1, rtc=True)
    assert len(cannot.batches) == 1


def test_requests_come_through_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []
    real = warmup.decode_request
    monkeypatch.setattr(warmup, "decode_request", lambda body, *rest: bodies.append(body) or real(body, *rest))
    encoded: list[bytes] = []
    chunk_body = warmup.chunk_body
    monkeypatch.setattr(warmup, "chunk_body", lambda *a: encoded.append(chunk_body(*a)) or encoded[-1])
    policy = Seeing(history_frames=3, history_step=2)
    warm_up(policy, runs=1)
    assert len(bodies) == len(encoded) == 1 and b"\xff\xd8\xff" in bodies[0]  # a JPEG
    request = policy.batches[0][0]
    assert request.moment.images["observation.images.front"].shape == (8, 8, 3)
    assert len(request.history) == 2 and not request.moment.state.any()


def test_pictures_of_no_declared_size_are_those_of_a_camera() -> None:
    policy = Seeing(cameras=(Camera("observation.images.front"),))
    warm_up(policy, runs=1)
    assert policy.batches[0][0].moment.images["observation.images.front"].shape == (480, 640, 3)


def test_stages_are_timed_and_the_report_is_json() -> None:
    report = warm_up(Good(), runs=2, batch_sizes=[1, 2])
    assert all(set(run.stages_s) == set(STAGES) and min(run.stages_s.values()) >= 0 for run in report.runs)
    assert 0 < report.warm_s(2) <= report.total_s and report.warm_s(7) is None
    assert json.loads(json.dumps(report.to_json()))["runs"][0]["batch"] == 1


def test_sessions_are_closed_and_only_an_exclusive_policy_is_reset() -> None:
    shared, exclusive = Good(), Remembering(shared=False, batch_max=1)
    warm_up(shared, runs=1, batch_sizes=[1, 4])
    warm_up(exclusive, runs=2, batch_sizes=[1, 4])
    assert shared.log.count("open") == shared.log.count("session close") == 4
    assert "policy reset" not in shared.log
    assert exclusive.log[-1] == "policy reset" and not exclusive.queue
    assert {entry[1] for entry in exclusive.log if isinstance(entry, tuple)} == {1}


def test_no_runs_open_no_session() -> None:
    policy = Good()
    assert warm_up(policy, runs=0).runs == [] and policy.log == []


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (np.full((4, 2), np.nan, np.float32), "NaN"),
        (np.zeros((3, 2), np.float32), r"\(3, 2\)"),
        (RuntimeError("CUDA out of memory"), "CUDA out of memory"),
    ],
)
def test_a_policy_that_fails_is_refused_and_its_sessions_closed(gives: object, said: str) -> None:
    policy = Wrong(gives)
    with pytest.raises(PolicyError, match=said):
        warm_up(policy)
    assert policy.log.count("open") == policy.log.count("session close") == 1


def test_limits_below_the_policys_own_requests_are_refused_before_robots_meet_them() -> None:
    policy = Good(cameras=(Camera("observation.images.front", 480, 640),))
    with pytest.raises(PolicyError, match="307200"):
        warm_up(policy, Limits(pixels_max=1000))


def test_replay_and_exported_warm_up(tiny_rtc_folder: Path) -> None:
    exported = load_policy(ModelSettings(repo_or_path=str(tiny_rtc_folder), device="cpu"))
    report = warm_up(exported, runs=2, rtc=True, batch_sizes=range(1, 5))
    assert len(report.runs) == 4 * 2 * 2 and report.policy_type == "tiny"
    replay = load_policy(ModelSettings(repo_or_path=str(real_dataset("g1-bottle-v3"))))
    assert len(warm_up(replay, runs=1, rtc=True, batch_sizes=[1, 16]).runs) == 2
