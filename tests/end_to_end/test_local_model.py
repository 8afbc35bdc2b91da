"""A whole run with a vision-language model in the process of the run: real video in, written rows out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.annotate import annotate

pytest.importorskip("xgrammar")


@pytest.mark.slow
def test_a_run_with_a_model_in_process_writes_rows(tiny_vlm: Path, tmp_path: Path) -> None:
    from tasks.dataset.generate import generate

    root = generate(tmp_path / "tabletop", episodes=1, seconds=2.5, fps=10, size=(160, 120))
    model = ["--vlm.backend=transformers", f"--vlm.model_id={tiny_vlm}", "--vlm.temperature=0"]
    done = annotate("run", f"--root={root}", "--json", *model, env={"HF_HUB_OFFLINE": "1"}, timeout_s=280)
    assert done.returncode in (0, 3), done.stderr  # 3: random weights may well name times outside of the episode
    summary = json.loads(done.stdout)
    assert summary["written"], summary

    shard = sorted((root / "data").rglob("*.parquet"))[0]
    events = pq.read_table(shard, columns=["language_events"])["language_events"].to_pylist()
    rows = [row for frame in events for row in frame if row["style"] == "vqa"]
    assert {row["role"] for row in rows} == {"user", "assistant"}
    assert {row["camera"] for row in rows} == {"observation.images.front", "observation.images.side"}
    assert all(json.loads(row["content"])["type"] for row in rows if row["role"] == "assistant")

    calls = [json.loads(line) for line in (root / ".annotate_staging/ledger.jsonl").read_text().splitlines()]
    assert {c["server"] for c in calls} == {"cpu"} and {c["outcome"] for c in calls} <= {"answered", "skipped"}
    seeing = [c for c in calls if c["phase"] == "vqa"]
    assert len(seeing) == 6 and all(c["pictures"] == 1 and c["picture_bytes"] > 500 for c in seeing)
    costs = summary["costs"]["total"]
    assert costs["tokens_in"] == sum(c["tokens_in"] for c in calls) > 1000
    assert costs["tokens_out"] == sum(c["tokens_out"] for c in calls) > 20
    assert annotate("check", f"--root={root}").returncode == 0
