"""What whole runs leave in their ledger, and runs repeated from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flows.session import Session
from tasks.ledger import costs
from tasks.run_phase import run_group
from tasks.settings import AnnotateSettings, VlmSettings
from tests.end_to_end.annotate import annotate, contents, interrupt, run
from tests.end_to_end.conftest import flags
from tests.end_to_end.counting_server import CountingServer

STAGED_LEDGER = ".annotate_staging/ledger.jsonl"


@pytest.fixture
def counting_server() -> Iterator[Callable[..., CountingServer]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(CountingServer(**{"delay_s": 0.0, **options}))


def bill(cost: dict[str, Any]) -> tuple[int, int, int]:
    return cost["attempts"], cost["tokens_in"], cost["tokens_out"]


def staged_rows(staging: Path) -> dict[Path, bytes]:
    return {p.relative_to(staging): p.read_bytes() for p in sorted(staging.glob("episode_*/*.jsonl"))}


def shards(root: Path) -> dict[str, str]:
    return {name: digest for name, digest in contents(root).items() if name.endswith(".parquet")}


def test_totals_are_what_the_server_counted(dataset_copy, counting_server):
    """A server that fails, babbles, cuts and refuses by turns: every request and token is in the ledger."""
    server = counting_server()
    _, summary = run(dataset_copy, *flags(server), "--vlm.price_in=1", "--vlm.price_out=4", "--vlm.max_retries=5")
    assert summary["written"], summary
    total = summary["costs"]["total"]
    assert bill(total) == server.bill
    assert total["attempts"] > total["calls"] > 0
    assert total["money"] == pytest.approx((server.tokens_in + 4 * server.tokens_out) / 1e6, abs=1e-5)
    for kind in ("phase", "episode", "question", "server"):
        groups = summary["costs"][f"by_{kind}"].values()
        assert tuple(map(sum, zip(*map(bill, groups), strict=True))) == server.bill
    assert set(summary["costs"]["by_server"]) == {server.api_base}

    assert Path(summary["ledger"]) == dataset_copy / STAGED_LEDGER
    assert bill(costs(dataset_copy / STAGED_LEDGER).to_json()["total"]) == server.bill
    [recorded] = json.loads((dataset_copy / "meta/cuebook.json").read_text())["runs"]
    assert bill(recorded["costs"]["total"]) == server.bill
    assert set(recorded["costs"]["by_phase"]) == {"plan", "interjections", "vqa"}
    assert recorded["costs"]["ledger"] == "ledger.jsonl" and recorded["settings"]["vlm"]["price_out"] == 4


def test_costs_of_a_dataset_are_told_by_the_command(dataset_copy, counting_server):
    server = counting_server()
    run(dataset_copy, *flags(server), "--vlm.max_retries=5")
    done = annotate("costs", f"--root={dataset_copy}", "--json", "--price_in=2")
    found = json.loads(done.stdout)
    assert bill(found["total"]) == server.bill and found["ledgers"] == [str(dataset_copy / STAGED_LEDGER)]
    assert found["total"]["money"] == pytest.approx(2 * server.tokens_in / 1e6, abs=1e-5)
    table = annotate("costs", f"--root={dataset_copy / STAGED_LEDGER}", "--by=question").stdout
    assert "plan_subtasks" in table and "vqa_" in table and f"{server.tokens_in:,}" in table
    [one] = json.loads((dataset_copy / "meta/cuebook.json").read_text())["runs"]
    by_run = annotate("costs", f"--root={dataset_copy}", "--by=run", f"--run={one['run_id']}")
    assert one["run_id"] in by_run.stdout
    nothing = annotate("costs", f"--root={dataset_copy / 'meta'}")
    assert nothing.returncode == 1 and "ledger.jsonl" in nothing.stderr


def test_a_phase_that_failed_has_cost_something(dataset_copy, counting_server):
    server = counting_server(turns={}, refused='"CountQA"')
    code, summary = run(dataset_copy, *flags(server), "--vqa.question_types=[count]")
    assert code == 3 and {f["phase"] for f in summary["failures"]} == {"vqa"}, summary["skips"][:2]
    assert summary["costs"]["by_phase"]["vqa"]["skipped"] > 0
    assert bill(summary["costs"]["total"]) == server.bill
    assert summary["usage"]["requests"] < server.bill[0]


def test_a_cached_run_costs_nothing_and_the_ledger_keeps_the_first(dataset_copy, counting_server):
    server = counting_server(turns={})
    assert run(dataset_copy, *flags(server))[0] == 0
    code, summary = run(dataset_copy, *flags(server))
    assert (code, bill(summary["costs"]["total"])) == (0, (0, 0, 0))
    assert bill(summary["costs"]["ledger"]) == server.bill


def test_an_interrupted_run_keeps_what_it_spent(dataset_copy, counting_server):
    server = counting_server(turns={}, delay_s=0.05)
    interrupt(dataset_copy, *flags(server), when=lambda: server.wait_for(lambda: len(server.bodies) >= 20, 60))
    requests = server.bill[0]
    first = costs(dataset_copy / STAGED_LEDGER).total
    assert requests - 4 <= first.attempts <= requests, "all but what was in flight"
    assert first.answered == first.attempts - first.lost

    code, summary = run(dataset_copy, *flags(server))
    assert code == 0 and len(summary["costs"]["by_run"]) == 1
    assert summary["costs"]["total"]["attempts"] == server.bill[0] - requests
    assert summary["costs"]["ledger"]["attempts"] == server.bill[0] - requests + first.attempts


@pytest.mark.parametrize("model", ["test-vlm", "Qwen/Qwen3-VL-4B-Instruct"])
def test_a_run_is_repeated_offline_from_its_own_ledger(dataset_copy, counting_server, tmp_path, model):
    """Same rows, byte by byte, without server and model name, although each family of models counts in its own way."""
    copy = Path(shutil.copytree(dataset_copy, tmp_path / "copy"))
    with CountingServer(model=model, delay_s=0.0) as server:
        code, first = run(dataset_copy, *flags(server), "--vlm.max_retries=5")
    ledger = dataset_copy / STAGED_LEDGER
    before = ledger.read_bytes()
    again, second = run(copy, "--vlm.backend=replay", f"--vlm.replay_path={ledger}")
    assert again == code and second["written"]
    assert staged_rows(copy / ".annotate_staging") == staged_rows(ledger.parent)
    assert shards(copy) == shards(dataset_copy)
    assert [s["reason"] for s in second["skips"]] == [s["reason"] for s in first["skips"]]
    assert second["ledger"] is None and ledger.read_bytes() == before
    assert json.loads((copy / "meta/cuebook.json").read_text())["runs"][0]["model"] == f"replay:{model}"


def test_the_ledger_of_a_run_in_place_stays_in_staging_and_can_be_replayed_there(dataset_copy, counting_server):
    server = counting_server(turns={})
    assert run(dataset_copy, *flags(server))[0] == 0
    assert [p.relative_to(dataset_copy) for p in dataset_copy.rglob("*ledger*")] == [Path(STAGED_LEDGER)]
    lines = (dataset_copy / STAGED_LEDGER).read_bytes()
    rows = staged_rows(dataset_copy / ".annotate_staging")
    server.stop()
    code, summary = run(dataset_copy, "--vlm.backend=replay", f"--vlm.replay_path={dataset_copy / '.annotate_staging'}")
    assert (code, summary["phases"]["vqa"]) == (0, {"done": 3})
    assert not summary["written"], "the dataset holds these very rows"
    assert staged_rows(dataset_copy / ".annotate_staging") == rows
    assert (dataset_copy / STAGED_LEDGER).read_bytes() == lines


def test_an_output_has_its_ledger_beside_it(dataset_copy, counting_server, tmp_path):
    server = counting_server(turns={})
    code, summary = run(dataset_copy, *flags(server), f"--output={tmp_path / 'new'}")
    assert code == 0 and Path(summary["ledger"]) == tmp_path / ".new.annotate_staging/ledger.jsonl"
    assert not list((tmp_path / "new").rglob("*ledger*"))


def test_motion_keeps_a_ledger_only_when_asked(dataset_copy, tmp_path):
    code, summary = run(dataset_copy)
    assert (code, summary["ledger"], summary["costs"]["total"]["calls"]) == (0, None, 0)
    assert not (dataset_copy / STAGED_LEDGER).exists()
    record = tmp_path / "motion.jsonl"
    code, summary = run(dataset_copy, f"--vlm.record_path={record}", "--refresh=vqa")
    assert summary["costs"]["by_phase"]["vqa"]["calls"] > 0 and bill(summary["costs"]["total"]) == (0, 0, 0)
    assert record.exists()


def test_a_ledger_that_cannot_be_written_ends_the_run_before_any_question(dataset_copy, counting_server, tmp_path):
    server = counting_server(turns={})
    before = contents(dataset_copy)
    code, answer = run(dataset_copy, *flags(server), f"--vlm.record_path={tmp_path}")
    assert code == 1 and "--vlm.record_path" in answer["message"]
    assert server.bodies == [] and contents(dataset_copy) == before


def test_a_disk_that_fills_up_stops_the_run(dataset_copy, counting_server):
    server = counting_server(turns={})
    code, answer = run(dataset_copy, *flags(server), "--vlm.record_path=/dev/full")
    assert code == 1 and "No space left" in answer["message"]


def test_rows_are_written_although_their_ledger_is_gone(dataset_copy, tmp_path, caplog):
    record = tmp_path / "l.jsonl"
    settings = AnnotateSettings(root=dataset_copy, phases=["vqa"], vlm=VlmSettings(record_path=record))
    with Session(settings) as session:
        run_group(session.context, list(session.context.episodes), "vqa")
        record.unlink()
        summary = session.finish()
    assert summary.written and summary.costs.total.calls == 0
    assert "costs of this run are unknown" in caplog.text
