"""The probe finds policies that do not do what they declare, and leaves those alone that do."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from serving.errors import PolicyError
from serving.manifest import ModelSettings
from serving.policies.registry import load_policy
from serving.probe import probe, settle
from tests.conftest import real_dataset
from tests.serving.policies.examples import (
    Chance,
    Good,
    Leaking,
    OneDelay,
    Remembering,
    TorchChance,
    Wrong,
)


def test_a_policy_that_keeps_its_word_is_shared_and_batched() -> None:
    policy = Good()
    report = probe(policy)
    assert report.pure and report.batch_invariant and report.mixed_delays and not report.stochastic
    assert report.findings == [] and report.purity_difference == 0 and report.batch_probed == 4
    assert settle(policy.spec, report) == (policy.spec, [])
    assert json.loads(json.dumps(report.to_json()))["pure"] is True


def test_every_session_of_the_probe_is_closed_and_a_shared_policy_never_reset() -> None:
    policy = Good()
    probe(policy)
    assert policy.log.count("open") == policy.log.count("session close") > 5
    assert "policy reset" not in policy.log


def test_a_policy_that_remembers_others_is_served_exclusively() -> None:
    policy = Remembering()
    report = probe(policy)
    assert not report.pure and report.purity_difference > 0.01
    spec, warnings = settle(policy.spec, report)
    assert not spec.shared and spec.batch_max == 1 and "one robot at a time" in warnings[0]
    with pytest.raises(PolicyError, match="share"):
        settle(policy.spec, report, "shared")


def test_an_exclusive_policy_is_asked_one_by_one_and_reset_afterwards() -> None:
    policy = Remembering(shared=False, batch_max=1)
    report = probe(policy)
    assert {entry[1] for entry in policy.log if isinstance(entry, tuple)} == {1}
    assert report.batch_probed == 1 and report.batch_invariant is None
    assert policy.log[-1] == "policy reset" and not policy.queue
    with pytest.raises(PolicyError, match="exclusive"):
        settle(policy.spec, report, "shared")


def test_exclusive_may_be_forced() -> None:
    policy = Good()
    spec, warnings = settle(policy.spec, probe(policy), "exclusive")
    assert not spec.shared and spec.batch_max == 1 and warnings == []


def test_a_batch_that_leaks_is_not_batched() -> None:
    policy = Leaking()
    report = probe(policy)
    assert report.pure and report.batch_invariant is False and report.batch_difference > 0.01
    spec, warnings = settle(policy.spec, report)
    assert spec.shared and spec.batch_max == 1 and "one request at a time" in warnings[0]


def test_prefixes_that_mix_within_a_batch_are_grouped() -> None:
    policy = OneDelay()
    report = probe(policy)
    assert report.pure and report.batch_invariant and report.mixed_delays is False
    spec, warnings = settle(policy.spec, report)
    assert spec.shared and spec.batch_max == 4 and not spec.mixed_delays and "by delay" in warnings[0]


@pytest.mark.parametrize("kind", [Chance, TorchChance])
def test_chance_is_no_impurity(kind: type[Good]) -> None:
    pytest.importorskip("torch")
    report = probe(kind())
    assert report.pure and report.stochastic and report.batch_invariant


def test_random_numbers_go_on_as_if_nothing_had_been_asked() -> None:
    torch = pytest.importorskip("torch")
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), float(torch.rand(1))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    probe(TorchChance())
    assert (random.random(), np.random.random(), float(torch.rand(1))) == expected


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (np.zeros((4, 3), np.float32), r"\(4, 2\)(.|\n)*\(4, 3\)"),
        (np.zeros((5, 2), np.float32), r"\(5, 2\)"),
        (np.full((4, 2), np.nan, np.float32), "NaN"),
        (np.full((4, 2), np.inf, np.float32), "infinity"),
        (None, "TypeError"),
        (NotImplementedError("only select_action"), "only select_action"),
        (RuntimeError("stack expects a non-empty TensorList"), "non-empty"),
    ],
)
def test_a_policy_that_cannot_answer_is_refused(gives: object, said: str) -> None:
    policy = Wrong(gives)
    with pytest.raises(PolicyError, match=said):
        probe(policy)
    assert policy.log.count("open") == policy.log.count("session close")


def test_too_few_answers_are_refused() -> None:
    policy = Good()
    policy.predict = lambda batch: []  # type: ignore[method-assign]
    with pytest.raises(PolicyError, match="want 1 answers"):
        probe(policy)


def test_replay_and_exported_pass(tiny_rtc_folder: Path) -> None:
    for place in (real_dataset("g1-bottle-v3"), tiny_rtc_folder):
        report = probe(load_policy(ModelSettings(repo_or_path=str(place), device="cpu")))
        assert report.pure and report.batch_invariant and not report.findings, place
        assert report.mixed_delays is (True if place == tiny_rtc_folder else None)
