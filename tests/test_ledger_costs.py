"""The sums of a ledger: by phase, episode, question, server, model and run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tasks.errors import StagingError
from tasks.ledger import KINDS, costs, find_ledgers

CALLS_MANY = 100_000
LINE = {
    "digest": "00" * 16,
    "run_id": "run-1",
    "time": 1.0,
    "name": "plan_memory",
    "phase": "plan",
    "episode": 0,
    "server": "http://a/v1",
    "model": "m",
    "prompt": "p",
    "pictures": 2,
    "picture_bytes": 1000,
    "tokens_in": 100,
    "tokens_out": 10,
    "latency_s": 1.0,
    "attempts": 1,
    "outcome": "answered",
    "reason": None,
    "preview": "",
    "answer": {"memory": "x"},
    "needs_pictures": True,
    "vqa_types": None,
}


def ledger(path: Path, *changes: dict, tail: bytes = b"") -> Path:
    lines = [json.dumps({**LINE, **c}, sort_keys=True) + "\n" for c in changes]
    path.write_bytes("".join(lines).encode() + tail)
    return path


@pytest.fixture
def mixed(tmp_path) -> Path:
    return ledger(
        tmp_path / "ledger.jsonl",
        {},
        {"outcome": "skipped", "answer": None, "reason": "no", "attempts": 3, "latency_s": 3.0},
        {"phase": "vqa", "name": "vqa_count", "episode": 10, "server": "http://b/v1", "tokens_in": 50},
        {"phase": "vqa", "name": "vqa_bbox", "episode": 2, "outcome": "unknown", "answer": None, "attempts": 0},
        {"run_id": "run-2", "outcome": "lost", "answer": None, "reason": "not finished", "episode": None},
    )


def test_totals(mixed):
    total = costs(mixed).total
    assert (total.calls, total.answered, total.skipped, total.unknown, total.lost) == (5, 2, 1, 1, 1)
    assert (total.attempts, total.tokens_in, total.tokens_out, total.picture_bytes) == (6, 450, 50, 5000)
    assert (total.latency_s, total.latency_median_s, total.latency_p95_s) == (7.0, 1.0, pytest.approx(2.6))
    assert total.money is None


def test_groups_hold_what_belongs_to_them(mixed):
    found = costs(mixed)
    assert {k: c.calls for k, c in found.by_phase.items()} == {"plan": 3, "vqa": 2}
    assert list(found.by_episode) == ["0", "2", "10", ""], "in order of the episodes; those of none at the end"
    assert {k: c.attempts for k, c in found.by_question.items()} == {"plan_memory": 5, "vqa_bbox": 0, "vqa_count": 1}
    assert {k: c.tokens_in for k, c in found.by_server.items()} == {"http://a/v1": 400, "http://b/v1": 50}
    assert {k: c.calls for k, c in found.by_run.items()} == {"run-1": 4, "run-2": 1}
    for kind in KINDS:
        assert sum(c.tokens_in for c in found.by(kind).values()) == found.total.tokens_in


def test_one_run_and_what_the_ledger_holds_beside_it(mixed):
    found = costs(mixed, run_id="run-2")
    assert (found.total.calls, found.ledger.calls, list(found.by_run)) == (1, 5, ["run-2"])
    nothing = costs(mixed, run_id="run-3")
    assert (nothing.total.calls, nothing.total.tokens_in, nothing.by_phase, nothing.ledger.calls) == (0, 0, {}, 5)


def test_prices_turn_tokens_into_money(mixed):
    found = costs(mixed, price_in=2.0, price_out=10.0)
    assert found.total.money == pytest.approx((450 * 2 + 50 * 10) / 1e6)
    assert found.by_phase["vqa"].money == pytest.approx((150 * 2 + 20 * 10) / 1e6)
    assert costs(mixed, price_out=10.0).total.money == pytest.approx(50 * 10 / 1e6)


def test_several_ledgers_are_summed(mixed, tmp_path):
    other = ledger(tmp_path / "other.jsonl", {})
    assert costs([mixed, other]).total.calls == 6


@pytest.mark.parametrize("tail", [b'{"digest": "12', b'{"digest": "12", "outc\xff\n', b"\n\n", b"prose\n[1]\n"])
def test_damaged_lines_cost_nothing_and_no_other(tmp_path, tail):
    path = ledger(tmp_path / "l.jsonl", {}, {}, tail=tail)
    assert costs(path).total.calls == 2
    ledger(tmp_path / "more.jsonl", {})
    path.write_bytes(path.read_bytes() + b"\n" + (tmp_path / "more.jsonl").read_bytes())
    assert costs(path).total.calls == 3


def test_an_empty_ledger_costs_nothing(tmp_path):
    (tmp_path / "l.jsonl").touch()
    assert costs(tmp_path / "l.jsonl").total.calls == 0


def test_older_recordings_tell_no_cost(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_text(json.dumps({k: LINE[k] for k in ("digest", "model", "name", "phase", "episode", "answer")}) + "\n")
    assert costs(path).total.calls == 0


def test_a_folder_name_is_no_pattern(tmp_path):
    folder = tmp_path / "run[1]*?"
    folder.mkdir()
    assert costs(ledger(folder / "ledger.jsonl", {})).total.calls == 1


def test_a_missing_ledger_is_named(tmp_path):
    with pytest.raises(StagingError, match=r"none\.jsonl"):
        costs(tmp_path / "none.jsonl")


def test_the_sums_can_be_read_by_machines(mixed):
    data = json.loads(json.dumps(costs(mixed, price_in=1.0).to_json()))
    assert data["by_phase"]["vqa"]["tokens_in"] == 150 and data["total"]["money"] == pytest.approx(0.00045)
    assert data["ledger"]["calls"] == 5


def test_ledgers_are_found_in_and_beside_a_dataset(tmp_path):
    root = tmp_path / "set"
    inside, beside = root / ".annotate_staging", tmp_path / ".set.annotate_staging"
    for folder in (inside, beside):
        folder.mkdir(parents=True)
        ledger(folder / "ledger.jsonl", {})
    both = [inside / "ledger.jsonl", beside / "ledger.jsonl"]
    assert find_ledgers(root) == both
    assert find_ledgers(inside) == find_ledgers(both[0]) == both[:1]
    with pytest.raises(StagingError, match="no ledger"):
        find_ledgers(tmp_path / "other")


def test_many_calls_are_summed_in_no_time(tmp_path):
    path = tmp_path / "l.jsonl"
    text = json.dumps(LINE, sort_keys=True).replace('"episode": 0', '"episode": %d') + "\n"
    path.write_text("".join(text % (i % 1000) for i in range(CALLS_MANY)))
    began = time.process_time()
    found = costs(path)
    assert time.process_time() - began < 2.0
    assert (found.total.calls, len(found.by_episode)) == (CALLS_MANY, 1000)
