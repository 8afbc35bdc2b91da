"""What the phases of a run share: grouping, staging place, and pictures that go when the last phase is done."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tasks.context import RunContext, group_episodes, staging_path
from tasks.run_phase import collect, run_group
from tasks.settings import AnnotateSettings


@given(st.integers(0, 5000), st.integers(1, 3), st.integers(3, 1000))
def test_groups_keep_every_episode_in_order_and_stay_below_the_limit(episodes, phases, task_runs_max):
    groups = group_episodes(range(episodes), phases, task_runs_max)
    assert [i for g in groups for i in g] == list(range(episodes))
    assert len(groups) * phases <= task_runs_max
    assert all(groups)


def test_small_datasets_have_a_task_run_for_each_episode_and_phase():
    assert group_episodes([4, 7, 9], 3, 900) == [[4], [7], [9]]


def test_staging_lies_inside_the_dataset_or_beside_the_output():
    inside = staging_path(AnnotateSettings(root=Path("/d/set")))
    beside = staging_path(AnnotateSettings(root=Path("/d/set"), output=Path("/o/new")))
    given_path = staging_path(AnnotateSettings(root=Path("/d/set"), staging_dir=Path("/s")))
    assert [str(p) for p in (inside, beside, given_path)] == [
        "/d/set/.annotate_staging",
        "/o/.new.annotate_staging",
        "/s",
    ]


def open_context(root: Path, **settings: object) -> RunContext:
    return RunContext.open(AnnotateSettings(root=root, **settings))


def test_truth_is_what_is_staged_not_what_an_engine_says(dataset_copy):
    context = open_context(dataset_copy)
    for phase in ("plan", "vqa"):
        run_group(context, [0, 1, 2], phase)
    context.staging.discard(1, "vqa")
    told = {(r.episode, r.phase): r.status for r in collect(context)}
    assert told[1, "vqa"] == told[0, "interjections"] == "failed"
    assert told[0, "vqa"] == told[2, "plan"] == "done"
    again = open_context(dataset_copy, phases=["plan"])
    assert [r.status for r in collect(again)] == ["cached"] * 3


def test_keys_follow_what_rows_depend_on(dataset_copy):
    first = open_context(dataset_copy)
    for phase in ("plan", "vqa"):
        run_group(first, [0], phase)

    def cached(**settings: object) -> dict[str, bool]:
        context = open_context(dataset_copy, only_episodes=[0], phases=["plan", "vqa"], **settings)
        return {r.phase: r.status == "cached" for r in collect(context)}

    assert cached() == {"plan": True, "vqa": True}
    assert cached(vqa={"vqa_emission_hz": 2}) == {"plan": True, "vqa": False}
    assert cached(plan={"max_steps": 3}) == {"plan": False, "vqa": True}
    assert cached(seed=3) == {"plan": True, "vqa": False}
    assert cached(vlm={"api_base": "http://elsewhere/v1", "client_concurrency": 2}) == {"plan": True, "vqa": True}


def test_refresh_runs_again_once(dataset_copy):
    run_group(open_context(dataset_copy), [0], "vqa")
    context = open_context(dataset_copy, refresh=["vqa"])
    assert [run_group(context, [0], "vqa")[0].status for _ in range(2)] == ["done", "done"]
    (first,) = run_group(context, [0], "vqa")
    assert first.seconds == run_group(context, [0], "vqa")[0].seconds  # the receipt's report: not run a third time
