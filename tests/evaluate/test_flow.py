"""The Prefect flow gives the same report as the command, and leaves its tables as artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.dataset.generate import truth_path


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_flow_reports_and_publishes_tables(generated_dataset: Path, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    from flows.evaluate import evaluate

    truth = truth_path(generated_dataset)
    with prefect_test_harness(server_startup_timeout=120):
        report = evaluate(truth, truth, episodes=[0, 2], plots=tmp_path / "plots")
        with get_client(sync_client=True) as client:
            kept = {a.key: a for a in client.read_artifacts()}
    assert report["episodes_compared"] == 2 and set(report["micro"].values()) == {1.0}
    assert len(list((tmp_path / "plots").glob("*.png"))) == 2
    assert set(kept) == {"evaluate-measures", "evaluate-episodes", "evaluate-notes"}
    rows = json.loads(kept["evaluate-measures"].data)
    assert {r["measure"]: r["pooled"] for r in rows} == report["micro"]
