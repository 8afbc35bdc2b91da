"""`annotate eval` as a user runs it: in a process of its own, with the figures, files and exit codes promised."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.dataset.generate import truth_path
from tests.answers.bad_server import BadServer
from tests.conftest import real_dataset
from tests.end_to_end.annotate import COMMAND, REPO, annotate, contents, run


def report(*arguments: str) -> dict[str, Any]:
    """The JSON of a comparison."""
    done = annotate("eval", *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_motion_against_the_truth(dataset_copy: Path, tmp_path: Path) -> None:
    assert run(dataset_copy)[0] == 0
    before = contents(dataset_copy)
    sides = (f"--root={dataset_copy}", f"--reference={truth_path(dataset_copy)}")
    found = report(*sides, f"--plots={tmp_path / 'plots'}", f"--out={tmp_path / 'deep' / 'report.json'}")
    assert found["episodes_compared"] == 3 and found["micro"]["boundary_f1_1s"] >= 0.9
    assert found["root"]["frames_share"] == 1.0 and found["root"]["model"].startswith("motion")
    assert json.loads((tmp_path / "deep" / "report.json").read_text()) == found
    assert [p.name for p in sorted((tmp_path / "plots").iterdir())] == [f"episode-00000{i}.png" for i in range(3)]
    assert contents(dataset_copy) == before
    shown = annotate("eval", *sides, "--episodes=0,2")
    assert shown.returncode == 0 and "boundaries" in shown.stdout and "2 episodes" in shown.stdout
    assert "truth" in shown.stdout and "frames with a subtask" in shown.stdout


@pytest.mark.slow
def test_two_annotations_agree_as_much_either_way(dataset_copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run(dataset_copy)[0] == 0
    assert run(dataset_copy, f"--output={other}", "--plan.max_steps=1")[0] == 0
    there = report(f"--root={dataset_copy}", f"--reference={other}")
    back = report(f"--root={other}", f"--reference={dataset_copy}")
    same = report(f"--root={other}", f"--reference={other}")
    assert there["micro"]["iou"] < 1.0
    for name in ("boundary_f1_1s", "iou", "f1_50", "edit", "frame_accuracy", "label_token_f1"):
        assert there["micro"][name] == pytest.approx(back["micro"][name], abs=1e-5), name
        assert same["micro"][name] == 1.0
    assert there["vqa"]["attribute"]["compared"] == there["vqa"]["attribute"]["root"] > 0


@pytest.mark.slow
def test_a_real_recording_is_covered_by_motion(tmp_path: Path) -> None:
    assert run(real_dataset("g1-bottle-v3"), f"--output={tmp_path / 'g1'}", "--phases=plan")[0] == 0
    found = report(f"--root={tmp_path / 'g1'}", f"--reference={tmp_path / 'g1'}")
    assert found["root"]["frames_with_subtask"] == found["root"]["frames"] > 1000
    assert found["root"]["annotated"] == found["root"]["episodes"] == 5
    assert found["micro"]["frame_accuracy"] == found["micro"]["boundary_f1_0.5s"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--refrence=x"], "--reference"),
        (["--root=x"], "no --reference"),
        (["--root={root}", "--reference={truth}", "--judge.model_idd=x"], "--judge.model_id"),
        (["--root={root}", "--reference={truth}", "--judge.model_id=x"], "--judge.backend"),
        (["--root={root}", "--reference={truth}", "--episodes=one"], "--episodes=0,3"),
        (["sweep", "--root={root}", "--reference={truth}"], "no --out"),
        (["sweep", "--root={root}", "--reference={truth}", "--out={out}"], "--vary"),
        (
            ["sweep", "--root={root}", "--reference={truth}", "--out={out}", "--vary", "plan.max_step=1"],
            "plan.max_steps",
        ),
        (["sweep", "--root={root}", "--reference={truth}", "--out={out}", "--vary", "prompt.plan=x"], "prompt.plan_"),
        (["sweep", "--root={root}", "--reference={truth}", "--out={out}", "--vary", "plan.max_steps=0"], "max_steps=0"),
        (["sweep", "--root={root}", "--reference={truth}", "--out={out}", "--vary", "output=a,b"], "output"),
    ],
)
def test_wrong_flags_get_the_nearest_name_before_any_work(
    generated_dataset: Path, tmp_path: Path, arguments: list[str], hint: str
) -> None:
    places = {"root": generated_dataset, "truth": truth_path(generated_dataset), "out": tmp_path / "out"}
    done = annotate("eval", *(a.format(**places) for a in arguments))
    assert done.returncode == 2, done.stdout + done.stderr
    assert hint in done.stderr and "do: " in done.stderr
    assert not (tmp_path / "out" / "sweep.json").exists()


def test_a_dataset_that_nobody_annotated(generated_dataset: Path) -> None:
    done = annotate("eval", f"--root={generated_dataset}", f"--reference={truth_path(generated_dataset)}")
    assert done.returncode == 1 and "not annotated in root: 0, 1, 2" in done.stderr


def test_a_judge_is_asked_over_http(dataset_copy: Path, tmp_path: Path) -> None:
    assert run(dataset_copy, "--phases=plan")[0] == 0
    truth = json.loads(truth_path(dataset_copy).read_text())
    for episode in truth["episodes"]:
        for span in episode["subtasks"]:
            span["text"] = span["text"].replace("pick up", "grab")
    (tmp_path / "reworded.json").write_text(json.dumps(truth))
    with BadServer("ok") as server:
        judge = ["--judge.backend=openai", f"--judge.api_base={server.api_base}", f"--judge.model_id={server.model}"]
        found = report(f"--root={dataset_copy}", f"--reference={tmp_path / 'reworded.json'}", *judge)
        assert len(server.bodies) == found["judge"]["asked"] == found["judge"]["answered"] > 0
    assert found["micro"]["label_exact"] < 1.0 and found["judge"]["model"] == server.model
    assert 0.0 <= found["micro"]["label_judged"] <= 1.0


# ------------------------------------------------------------------------------------------------ sweep


def sweep(root: Path, out: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return annotate(
        "eval", "sweep", f"--root={root}", f"--reference={truth_path(root)}", f"--out={out}", *arguments, **options
    )


@pytest.mark.slow
def test_variants_are_ranked_and_the_dataset_is_left_alone(dataset_copy: Path, tmp_path: Path) -> None:
    before = contents(dataset_copy)
    arguments = ["--vary", "plan.max_steps=1,8", "--phases=plan", "--only_episodes=0,1", "--json"]
    done = sweep(dataset_copy, tmp_path / "s", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [(v["rank"], v["settings"]) for v in found["variants"]] == [
        (1, {"plan.max_steps": "8"}),
        (2, {"plan.max_steps": "1"}),
    ]
    best, worst = (v["measures"]["boundary_f1_1s"] for v in found["variants"])
    assert best >= 0.9 and worst == 0.0, "one step has no boundary"
    assert [v["episodes"] for v in found["variants"]] == [2, 2]
    assert "[eval] 1 of 2" in done.stderr and "boundary_f1_1s" in done.stderr
    assert json.loads((tmp_path / "s" / "sweep.json").read_text()) == found
    assert contents(dataset_copy) == before


@pytest.mark.slow
def test_a_sweep_again_asks_nothing_twice_and_prompts_reach_the_model(dataset_copy: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.txt"
    shipped = (REPO / "prompts" / "plan_subtasks.txt").read_text()
    own.write_text("Look twice at everything.\n" + shipped)
    (tmp_path / "sweep.yaml").write_text(
        "base:\n  plan: {emit_memory: false, n_task_rephrasings: 0}\n"
        "vary:\n  prompt.plan_subtasks: [mine.txt, shipped]\n"
        "variants:\n  - {name: quick, plan.subtask_describe_first: false}\n"
        "only_episodes: [1]\nrank_by: iou\n"
    )
    with BadServer("ok") as server:
        model = ["--vlm.backend=openai", f"--vlm.api_base={server.api_base}", f"--vlm.model_id={server.model}"]
        arguments = [f"--config={tmp_path / 'sweep.yaml'}", "--phases=plan", *model, "--json"]
        first = json.loads(sweep(dataset_copy, tmp_path / "s", *arguments).stdout)
        asked = len(server.bodies)
        assert sum("Look twice at everything." in json.dumps(body) for body in server.bodies) == 1
        assert [v["requests"] for v in first["variants"]] == [1, 1] and asked == 2
        assert all(v["tokens_in"] > 0 and v["name"] == "quick" for v in first["variants"])
        again = json.loads(sweep(dataset_copy, tmp_path / "s", *arguments).stdout)
        assert len(server.bodies) == asked
    assert first["rank_by"] == "iou" and [v["failure"] for v in again["variants"]] == [None, None]
    assert [v["requests"] for v in again["variants"]] == [1, 1], "what it cost in all"
    assert [v["measures"] for v in again["variants"]] == [v["measures"] for v in first["variants"]]


@pytest.mark.slow
def test_one_variant_that_fails_does_not_end_the_sweep(dataset_copy: Path, tmp_path: Path) -> None:
    done = sweep(dataset_copy, tmp_path / "s", "--phases=plan", "--vary", "vlm.camera_key=nowhere,null")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "failed" in done.stdout and "nowhere" in done.stdout
    found = json.loads((tmp_path / "s" / "sweep.json").read_text())["variants"]
    assert [v["failure"] is None for v in found] == [True, False]
    assert "camera" in found[1]["failure"] and found[1]["measures"] is None


@pytest.mark.slow
def test_interrupted_sweeps_keep_what_is_done_and_go_on(dataset_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    flags = ["--phases=plan", "--only_episodes=0", "--plan.n_task_rephrasings=0", "--plan.emit_memory=false"]
    flags += ["--plan.subtask_describe_first=false", "--vary", "vlm.temperature=0.1,0.3"]  # one request a variant
    with BadServer("ok") as server:
        server.before_reply = lambda number: server.gate.clear()  # the second variant waits for its answer
        model = ["--vlm.backend=openai", f"--vlm.api_base={server.api_base}", f"--vlm.model_id={server.model}"]
        sides = [f"--root={dataset_copy}", f"--reference={truth_path(dataset_copy)}", f"--out={out}"]
        command = [*COMMAND, "eval", "sweep", *sides, *flags, *model]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO)
        assert server.wait_for(lambda: len(server.bodies) == 2, 60)
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=90)
        assert process.returncode == 130 and "1 of 2 variants" in shown and "1 of 2 variants left" in said
        found = json.loads((out / "sweep.json").read_text())
        assert len(found["variants"]) == 1 and found["planned"] == 2 and found["variants"][0]["failure"] is None
        server.before_reply = lambda number: None
        server.gate.set()
        asked = len(server.bodies)
        again = sweep(dataset_copy, out, *flags, *model, "--json")
        assert again.returncode == 0 and len(json.loads(again.stdout)["variants"]) == 2
        assert len(server.bodies) == asked + 1, "only the variant that was interrupted asks"


def test_help_comes_at_once_and_names_what_there_is() -> None:
    shown = annotate("eval", "--help")
    assert shown.returncode == 0 and all(
        w in shown.stdout for w in ("--reference", "--plots", "--missing_as_zero", "sweep")
    )
    shown = annotate("eval", "sweep", "--help")
    assert shown.returncode == 0 and all(w in shown.stdout for w in ("--vary", "--config", "--rank_by"))


@pytest.mark.parametrize("arguments", [["eval", "--help"], ["eval", "sweep", "--help"], ["eval", "--rooot=1"]])
def test_nothing_heavy_is_imported_for_help_and_wrong_flags(arguments: list[str]) -> None:
    code = f"""
import sys
from flows.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print([m for m in ("prefect", "pyarrow", "av", "duckdb", "matplotlib", "numpy", "PIL", "torch") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
