"""Partial runs keep every row they did not make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.annotate import contents, run


def rows_by_style(root: Path, episode: int) -> dict[str, list]:
    from tasks.dataset.layout import open_dataset
    from tasks.language.stored import episode_rows

    dataset = open_dataset(root)
    found: dict[str, list] = {}
    for row in episode_rows(dataset, dataset.episodes([episode])[0]):
        found.setdefault(str(row.style), []).append(row)
    return found


@pytest.fixture
def annotated(dataset_copy) -> Path:
    assert run(dataset_copy)[0] == 0
    return dataset_copy


def test_other_episodes_keep_their_rows(annotated):
    before = [rows_by_style(annotated, e) for e in (0, 1, 2)]
    code, summary = run(annotated, "--only_episodes=1", "--seed=5", "--plan.n_task_rephrasings=1", "--refresh=plan")
    assert code == 0 and summary["written"]
    after = [rows_by_style(annotated, e) for e in (0, 1, 2)]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]


def test_one_phase_keeps_the_rows_of_the_others(annotated):
    before = rows_by_style(annotated, 0)
    code, _ = run(annotated, "--phases=vqa", "--vqa.vqa_emission_hz=2")
    assert code == 0
    after = rows_by_style(annotated, 0)
    assert len(after["vqa"]) > len(before["vqa"])
    assert {k: v for k, v in after.items() if k != "vqa"} == {k: v for k, v in before.items() if k != "vqa"}


def test_second_run_changes_nothing(annotated):
    before = contents(annotated)
    code, summary = run(annotated)
    assert (code, summary["written"], contents(annotated)) == (0, False, before)


def test_output_leaves_the_source_alone_and_shares_its_videos(dataset_copy, tmp_path):
    before = contents(dataset_copy)
    out = tmp_path / "new"
    assert run(dataset_copy, f"--output={out}")[0] == 0
    assert contents(dataset_copy) == before
    assert not (dataset_copy / ".annotate_staging").exists()
    video = next(out.rglob("*.mp4"))
    assert video.stat().st_ino == (dataset_copy / video.relative_to(out)).stat().st_ino


def test_provenance_names_model_prompts_settings_and_counts(annotated):
    run(annotated, "--phases=vqa", "--vqa.vqa_emission_hz=2")
    newest, first = json.loads((annotated / "meta/cuebook.json").read_text())["runs"]
    assert newest["settings"]["vqa"]["vqa_emission_hz"] == 2
    assert set(first["phases"]) == {"plan", "interjections", "vqa"}
    assert first["model"].startswith("motion") and first["rows"] > 0 and first["prompts"]
    assert "api_key" not in json.dumps([newest, first])


def test_interjections_alone_build_on_the_plan_of_the_dataset(annotated):
    before = rows_by_style(annotated, 0)
    code, _ = run(annotated, "--phases=interjections", "--seed=7", "--interjections.max_interjections_per_episode=1")
    assert code == 0
    after = rows_by_style(annotated, 0)
    assert after["subtask"] == before["subtask"] and after["plan"] == before["plan"]
    assert len(after["interjection"]) == 1


def test_interjections_alone_are_current_after_a_whole_run(annotated):
    code, summary = run(annotated, "--phases=interjections")
    assert (code, summary["phases"]) == (0, {"interjections": {"cached": 3}})


def test_early_cues_refresh_the_plan(dataset_copy):
    code, summary = run(
        dataset_copy, "--interjections.interjection_lead_s=0.5", "--interjections.interjection_min_t=0.5"
    )
    assert code == 0, summary
    found = rows_by_style(dataset_copy, 0)
    plan_times = {r.timestamp for r in found["plan"]}
    subtask_times = {r.timestamp for r in found["subtask"]}
    assert plan_times > subtask_times
    code, summary = run(dataset_copy, "--refresh=plan", "--interjections.interjection_lead_s=0.5",
                        "--interjections.interjection_min_t=0.5")  # fmt: skip
    assert {r.timestamp for r in rows_by_style(dataset_copy, 0)["plan"]} == plan_times


def test_a_first_output_may_hold_a_part(dataset_copy, tmp_path):
    code, summary = run(dataset_copy, f"--output={tmp_path / 'part'}", "--only_episodes=1", "--phases=plan")
    assert (code, summary["written"]) == (0, True)
    assert set(rows_by_style(tmp_path / "part", 1)) == {"subtask", "plan", "memory", "task_aug"}
    assert rows_by_style(tmp_path / "part", 0) == {}


def test_an_earlier_output_is_not_replaced_by_less(dataset_copy, tmp_path):
    """An output is built from its source: a partial run would lose the rows of the earlier result."""
    out = tmp_path / "new"
    assert run(dataset_copy, f"--output={out}")[0] == 0
    before = contents(out)
    for partial in ("--phases=vqa", "--only_episodes=1"):
        code, answer = run(dataset_copy, f"--output={out}", partial)
        assert code == 2 and f"--root={out}" in answer["message"]
    assert contents(out) == before
    assert run(out, "--phases=vqa", "--refresh=vqa")[0] == 0
    assert run(dataset_copy, f"--output={out}", "--seed=4")[0] == 0
