"""Whole runs against a real HTTP server that misbehaves in every way a server can."""

from __future__ import annotations

import pytest

from tests.end_to_end.annotate import annotate, contents, run
from tests.end_to_end.conftest import QUICK, flags

ALWAYS = ["401", "403", "404", "422", "500", "prose", "half_json", "wrong_shape", "empty", "null", "no_choices", "drop"]


@pytest.mark.parametrize("mode", [*ALWAYS, "hang"])
def test_a_server_that_never_answers_well_ends_the_run_and_changes_nothing(dataset_copy, bad_server, mode):
    before = contents(dataset_copy)
    code, answer = run(dataset_copy, *flags(bad_server(mode)))
    assert code == 1, answer
    assert answer["message"].count("\n") >= 1, "want what was wanted, what was got, what to do"
    assert contents(dataset_copy) == before


@pytest.mark.parametrize(("models", "hint"), [("wrong", "test-vlm-2"), ("401", "api_key"), ("403", "api_key")])
def test_the_check_before_any_decoding_names_the_cause(dataset_copy, bad_server, models, hint):
    server = bad_server("ok", models=models)
    before = contents(dataset_copy)
    code, answer = run(dataset_copy, *flags(server))
    assert code == 1 and hint in answer["message"]
    assert all(b["max_tokens"] == 1 for b in server.bodies), "no question is asked; a ping tells who it is"
    assert contents(dataset_copy) == before


def test_a_server_that_is_down(dataset_copy):
    before = contents(dataset_copy)
    code, answer = run(dataset_copy, "--vlm.backend=openai", "--vlm.api_base=http://127.0.0.1:9/v1", *QUICK)
    assert code == 1 and "127.0.0.1:9" in answer["message"] and "api_base" in answer["message"]
    assert contents(dataset_copy) == before


@pytest.mark.parametrize(
    "mode",
    ["think", "refuse_json_schema", "refuse_all_formats", "refuse_max_tokens", "overflow", "cut", "invalid_utf8"],
)
def test_a_server_that_can_be_coped_with_gives_a_complete_run(dataset_copy, bad_server, mode):
    code, summary = run(
        dataset_copy, *flags(bad_server(mode, pictures_max=2)), "--interjections.interjection_min_t=0.5"
    )
    assert (code, summary["written"]) == (0, True), summary
    assert annotate("check", f"--root={dataset_copy}").returncode == 0


@pytest.mark.parametrize("mode", ["500", "drop", "prose", "half_json", "422"])
def test_now_and_then_a_bad_answer_costs_no_row_or_is_named(dataset_copy, bad_server, mode):
    code, summary = run(dataset_copy, *flags(bad_server(mode, every=4)))
    named = summary["skips"] + summary["failures"]
    assert code == (3 if named else 0) and summary["written"], summary
    for left_out in named:
        assert left_out["reason"] and left_out["phase"] in ("plan", "interjections", "vqa")
    assert annotate("check", f"--root={dataset_copy}").returncode == 0


def test_strict_writes_nothing_when_a_question_failed(dataset_copy, bad_server):
    before = contents(dataset_copy)
    code, answer = run(dataset_copy, *flags(bad_server("422", every=5)), "--strict")
    assert code == 1 and "--strict" in answer["message"]
    assert contents(dataset_copy) == before


def test_one_bad_episode_is_left_out_and_named_the_rest_is_written(dataset_copy, bad_server):
    """Episode 1 alone cannot be segmented: the server refuses its prompt, which no other episode has."""
    staged = dataset_copy / ".annotate_staging/episode_000001"
    staged.mkdir(parents=True)
    (staged / "plan.jsonl").mkdir()  # nothing can be staged in its place
    code, summary = run(dataset_copy, *flags(bad_server("ok")))
    assert code == 3, summary
    assert {(f["episode"], f["phase"]) for f in summary["failures"]} == {(1, "plan"), (1, "interjections")}
    assert summary["phases"]["vqa"] == {"done": 3}
    (staged / "plan.jsonl").rmdir()
    code, summary = run(dataset_copy, *flags(bad_server("ok")))
    assert code == 0 and summary["phases"]["plan"] == {"done": 1, "cached": 2}


def test_requests_in_flight_never_exceed_the_limit(dataset_copy, bad_server):
    server = bad_server("slow", delay_s=0.05)
    assert run(dataset_copy, *flags(server), "--vlm.client_concurrency=3")[0] == 0
    assert server.max_in_flight == 3


def test_second_run_asks_nothing_and_an_edited_prompt_asks_its_phase_alone(dataset_copy, bad_server, tmp_path):
    server = bad_server("ok")
    assert run(dataset_copy, *flags(server))[0] == 0
    server.bodies.clear()
    code, summary = run(dataset_copy, *flags(server))
    assert (code, summary["written"], len(server.bodies)) == (0, False, 0)
    import prompts

    edited = tmp_path / "vqa_count.txt"
    edited.write_text(prompts.text("vqa_count") + "\nCount only what is wholly inside the picture.")
    code, summary = run(dataset_copy, *flags(server), env={"CUEBOOK_PROMPT_VQA_COUNT": str(edited)})
    assert code == 0 and server.bodies
    assert summary["phases"]["plan"] == summary["phases"]["interjections"] == {"cached": 3}
    assert summary["phases"]["vqa"] == {"done": 3}


def test_recorded_answers_replay_to_the_same_rows(dataset_copy, bad_server, tmp_path):
    """A run repeated offline from its own recording stages the same rows."""
    record = tmp_path / "answers.jsonl"
    server = bad_server("ok")
    code, _ = run(dataset_copy, *flags(server), f"--vlm.record_path={record}", f"--staging_dir={tmp_path / 'a'}")
    assert code == 0
    code, _ = run(
        dataset_copy, "--vlm.backend=replay", f"--vlm.model_id={server.model}", f"--vlm.replay_path={record}",
        f"--staging_dir={tmp_path / 'b'}",
    )  # fmt: skip
    assert code == 0
    first, second = (
        {p.relative_to(d): p.read_bytes() for p in d.rglob("*.jsonl")} for d in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second
