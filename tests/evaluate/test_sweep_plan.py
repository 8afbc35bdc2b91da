"""Which variants a sweep has, what they are called, and how they are ranked: without running any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.sweep import Outcome, Sweep, _own_work, ranked, write_report
from flows.sweep_plan import VARIANTS_MAX, Variant, check_rank, plan_variants, prepare, read_vary
from tasks.episode_view import VisualQA
from tasks.errors import SettingsError
from tasks.evaluate.compare import evaluate
from tasks.evaluate.source import Annotated, Source, load
from tasks.segments import Span


def test_every_combination_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("{x}")
    vary = read_vary(["plan.max_steps=4,8", "prompt.plan_subtasks=a.txt,shipped", "plan.max_steps=4"])
    found = plan_variants(vary, [], tmp_path)
    assert [(dict(v.flags), {k: p and p.name for k, p in v.prompts.items()}) for v in found] == [
        ({"plan.max_steps": "4"}, {"plan_subtasks": "a.txt"}),
        ({"plan.max_steps": "4"}, {"plan_subtasks": None}),
        ({"plan.max_steps": "8"}, {"plan_subtasks": "a.txt"}),
        ({"plan.max_steps": "8"}, {"plan_subtasks": None}),
    ]
    assert len({v.folder for v in found}) == 4
    assert found[0].name == "plan.max_steps=4 prompt.plan_subtasks=a.txt"
    assert all(c.isalnum() or c in "._=-" for v in found for c in v.folder)


def test_listed_variants_and_values_of_any_kind(tmp_path: Path) -> None:
    listed = [{"name": "short", "plan.max_steps": 3}, {"phases": ["plan", "vqa"], "plan.emit_plan": False}]
    found = plan_variants(read_vary(["vlm.model_id=org/a:v1,org/b", "vlm.max_images=null"]), listed, tmp_path)
    assert len(found) == 4 and [v.name for v in found[:2]] == ["short", "short"]
    assert found[1].flags == {"plan.max_steps": "3", "vlm.model_id": "org/b", "vlm.max_images": "null"}
    assert found[2].flags["phases"] == '["plan", "vqa"]' and found[2].flags["plan.emit_plan"] == "false"


def test_a_folder_is_of_the_settings_not_of_their_order() -> None:
    a, b = Variant({"plan.max_steps": "4", "seed": "1"}), Variant({"seed": "1", "plan.max_steps": "4"})
    assert a.folder.rsplit("-", 1)[1] == b.folder.rsplit("-", 1)[1]
    assert Variant({"plan.max_steps": "4"}).folder != Variant({"plan.max_steps": "5"}).folder


def test_keys_are_neither_shown_nor_stored() -> None:
    variant = Variant({"vlm.api_key": "sk-secret", "vlm.model_id": "m"})
    assert "secret" not in json.dumps([variant.name, variant.folder, variant.to_json()])


@pytest.mark.parametrize(
    ("vary", "hint"),
    [
        (["plan.max_steps"], "NAME|name and values"),
        (["plan.max_steps="], "name and values"),
        (["plan.max_stesp=3"], "plan.max_steps"),
        (["prompt.plan_subtask=shipped"], "prompt.plan_subtasks"),
        (["prompt.plan_subtasks=nowhere.txt"], "nowhere.txt"),
        (["staging_dir=a"], "staging_dir"),
        (["only_episodes=[0],[1]"], "only_episodes"),
        (["job.target=h200"], "job.target"),
        ([f"seed={','.join(map(str, range(VARIANTS_MAX + 1)))}"], "at most"),
        (["plan.max_steps=4,many"], "variant plan.max_steps=many"),
        ([], "something to vary"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_the_nearest_name(tmp_path: Path, vary: list[str], hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        prepare(vary, None, {}, tmp_path / "out")


def test_a_file_with_base_settings(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("base: {plan: {max_steps: 5}}\nvary: {seed: [1, 2]}\nonly_episodes: [0, 3]\nrank_by: edit\n")
    plan = prepare(["plan.min_subtask_s=1,2"], file, {"plan.emit_memory": "false"}, tmp_path / "out")
    assert len(plan.variants) == 4 and plan.only_episodes == [0, 3] and plan.rank_by == "edit"
    assert {(s.plan.max_steps, s.plan.emit_memory) for s in plan.settings} == {(5, False)}
    assert sorted({(s.seed, s.plan.min_subtask_s) for s in plan.settings}) == [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)]
    assert plan.config == tmp_path / "out" / "base.yaml"


@pytest.mark.parametrize("text", ["variation: {}", "vary: [a]", "base: {root: x}\nvary: {seed: [1]}", "vary: {"])
def test_a_file_that_is_no_sweep(tmp_path: Path, text: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError):
        prepare([], file, {}, tmp_path / "out")


def test_flags_that_the_sweep_decides(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--output"):
        prepare(["seed=1"], None, {"output": "x"}, tmp_path)
    with pytest.raises(SettingsError, match="boundary_f1_1s"):
        check_rank("boundary_f1")


# ------------------------------------------------------------------------------------------------ ranks


def source(tmp_path: Path, name: str, cut: float, label: str = "put") -> Source:
    spans = [{"text": "pick", "start": 0, "end": cut}, {"text": label, "start": cut, "end": 8}]
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"fps": 10, "episodes": [{"episode_index": 0, "frames": 80, "subtasks": spans}]}))
    return load(path)


def test_ranks_by_measure_then_by_words_and_failures_last(tmp_path: Path) -> None:
    truth = source(tmp_path, "truth", 4.0)
    outcomes = [Outcome(Variant({"seed": "0"}), tmp_path, failure="server down")]
    for seed, (cut, label) in enumerate([(7.0, "put"), (4.2, "drop"), (4.9, "put")], start=1):
        evaluation = evaluate(source(tmp_path, f"v{seed}", cut, label), truth)
        outcomes.append(Outcome(Variant({"seed": str(seed)}), tmp_path, evaluation))
    assert [o.variant.flags["seed"] for o in ranked(outcomes, "boundary_f1_1s")] == ["3", "2", "1", "0"]
    assert [o.variant.flags["seed"] for o in ranked(outcomes, "boundary_f1_0.5s")] == ["2", "3", "1", "0"]
    sweep = Sweep(tmp_path / "d", truth, tmp_path, {"vlm.api_key": "sk-secret", "phases": "plan"})
    report = write_report(sweep, outcomes, "iou", 5)
    assert [v["rank"] for v in report["variants"]] == [1, 2, 3, 4] and report["planned"] == 5
    assert report["base"] == {"phases": "plan"} and "secret" not in (tmp_path / "sweep.json").read_text()


def test_rows_of_an_earlier_annotation_are_not_the_variants_work() -> None:
    qa = [VisualQA(0.0, "front", "?", {"type": "count"})]
    old = Annotated(0, "", [0.0, 0.1], 0.2, [Span("a", 0, 0.2)], qa, {"subtask": 1, "vqa": 2, "memory": 1})
    given = Source("d", Path("d"), "dataset", {0: old, 1: old})
    failed = {"failures": [{"episode": 1, "phase": "plan", "reason": "x"}]}
    mine = _own_work(given, failed, ["plan"])
    assert (mine.episodes[0].spans, mine.episodes[0].vqa) == (old.spans, [])
    assert mine.episodes[1].spans == [] and not mine.episodes[1].annotated
    both = _own_work(given, failed, ["plan", "vqa"])
    assert both.episodes[0] == old and (both.episodes[1].spans, both.episodes[1].vqa) == ([], qa)
