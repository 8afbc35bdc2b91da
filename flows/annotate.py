"""The Prefect flow `annotate`: phases as cached, retryable task runs over groups of episodes.

A thin shell: what a phase does is in `tasks`, what a run guarantees is in `flows.session`. Truth is in the staged
files; Prefect's cache says only that a task need not run again. Deployment `annotate/hf-dataset` is in prefect.yaml.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import allow_failure, flow, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.progress import listener
from flows.session import RunSummary, Session, phase_counts, publish_result
from tasks.context import RunContext, context_of, group_episodes
from tasks.errors import SettingsError
from tasks.ledger import Cost, Costs
from tasks.phase import PhaseReport
from tasks.run_phase import PhaseGroupFailed, current, phase_key, run_group
from tasks.settings import AnnotateSettings, PhaseName
from tasks.staging import digest_json

# A task that waits for another holds its thread: three per group in flight, so that waiting ones never starve the rest.
THREADS_PER_GROUP = 3
PROGRESS_EVERY_S = 3.0  # artifact updates are API calls
TABLE_ROWS_MAX = 200


def _cache_key(_: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    """Digest of the keys of all episodes in the group.

    When staged files are gone or altered, or a refresh is asked for, the cached result is removed first: then the task
    runs, and its new result goes under the same key.
    """
    context = context_of(parameters["run_id"], parameters["settings_json"])
    phase: PhaseName = parameters["phase"]
    episodes = [context.episodes[i] for i in parameters["episodes"]]
    key = f"cuebook-{phase}-" + digest_json([phase_key(context, e, phase) for e in episodes])
    stale = phase in context.settings.refresh or not all(current(context, e, phase) for e in episodes)
    if stale:
        (PREFECT_LOCAL_STORAGE_PATH.value() / key).unlink(missing_ok=True)
    return key


def _worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, PhaseGroupFailed) and failure.retryable


def _run_name(parameters: dict[str, Any]) -> str:
    """ "plan 7", or "plan 7-12 (6)" for a group."""
    episodes = parameters["episodes"]
    if len(episodes) == 1:
        return f"{parameters['phase']} {episodes[0]}"
    return f"{parameters['phase']} {episodes[0]}-{episodes[-1]} ({len(episodes)})"


def _phase_task(phase: PhaseName, what: str):
    def run(run_id: str, settings_json: str, phase: PhaseName, episodes: list[int], after: Any = None) -> list[dict]:
        context = context_of(run_id, settings_json)
        return [r.to_json() for r in run_group(context, episodes, phase)]

    return task(
        run,
        name=phase,
        description=what,
        task_run_name=_run_name,
        cache_policy=CacheKeyFnPolicy(cache_key_fn=_cache_key),
        persist_result=True,
        result_serializer="json",
        retry_condition_fn=_worth_retrying,
        retry_delay_seconds=1,
        retry_jitter_factor=0.5,
    )


PHASE_TASKS = {
    "plan": _phase_task("plan", "subtasks, plan, memory and task rephrasings"),
    "interjections": _phase_task("interjections", "what a person says meanwhile, and what the robot answers"),
    "vqa": _phase_task("vqa", "questions and answers about single frames"),
}


@flow(name="annotate-episodes", persist_result=False, validate_parameters=False)
def annotate_episodes(run_id: str) -> None:
    """All phases of all episodes. Interjections wait for the plan of their own episodes; nothing else waits."""
    context = context_of(run_id, "")  # flow parameters are stored by the server: settings may hold a key
    settings, settings_json = context.settings, context.settings.model_dump_json()
    tasks = {p: PHASE_TASKS[p].with_options(retries=settings.executor.task_retries) for p in settings.phases}
    futures: list[PrefectFuture[Any]] = []
    for group in _groups(context):
        plan: Any = None
        for phase in ("plan", "vqa", "interjections"):  # upstream first: a waiting task must find its input running
            if phase not in tasks:
                continue
            after = allow_failure(plan) if phase == "interjections" and plan is not None else None
            future = tasks[phase].submit(run_id, settings_json, phase, group, after)
            plan = future if phase == "plan" else plan
            futures.append(future)
    try:
        _follow(context, futures)
    except BaseException:
        context.close()  # ends calls in flight: this flow waits for its tasks before it ends
        raise


def _groups(context: RunContext) -> list[list[int]]:
    """Episodes with work to do in groups of their own; those whose rows are all current in one, which costs little."""
    phases = context.settings.phases
    done = [
        index
        for index, episode in context.episodes.items()
        if not set(phases) & set(context.settings.refresh) and all(current(context, episode, p) for p in phases)
    ]
    rest = [index for index in context.episodes if index not in set(done)]
    groups = group_episodes(rest, len(phases), context.settings.executor.task_runs_max)
    return [done, *groups] if done else groups


def _follow(context: RunContext, futures: list[PrefectFuture[Any]]) -> None:
    """Tell the progress view and the progress artifact; end early when nobody answers any more."""
    artifact = create_progress_artifact(0.0, key="annotate-progress", description="episode phases finished")
    told = time.monotonic()
    for done, future in enumerate(as_completed(futures), start=1):
        outcome = future.result(raise_on_failure=False)  # waits: a future is called done before its state is final
        if isinstance(outcome, PhaseGroupFailed):
            reports = outcome.reports
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            reports = [PhaseReport.from_json(r) for r in outcome]
        for report in reports:
            if future.state.name == "Cached":
                report.status = "cached"
            listener().report(report)
        if time.monotonic() - told > PROGRESS_EVERY_S or done == len(futures):
            told = time.monotonic()
            update_progress_artifact(artifact, 100.0 * done / len(futures))  # type: ignore[arg-type]


def task_runner(settings: AnnotateSettings) -> TaskRunner[Any]:
    """Threads, or the Ray or Dask runner of its extra."""
    executor = settings.executor
    if executor.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=executor.episode_parallelism * THREADS_PER_GROUP)
    try:
        if executor.runner == "ray":
            from prefect_ray import RayTaskRunner

            return RayTaskRunner()
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner()
    except ImportError as err:
        raise SettingsError(
            f"want the {executor.runner} runner", str(err), f"pip install 'cuebook[{executor.runner}]'"
        ) from err


@task(name="validate-and-write", cache_policy=NO_CACHE, persist_result=False)
def finish(session: Any) -> RunSummary:
    """Validate all staged rows at once and commit the new dataset."""
    return session.finish()


@flow(name="annotate", persist_result=False)
def annotate(
    root: Path | None = None,
    repo_id: str | None = None,
    output: Path | None = None,
    phases: list[PhaseName] | None = None,
    refresh: list[PhaseName] | None = None,
    only_episodes: list[int] | None = None,
    config: AnnotateSettings = AnnotateSettings(),  # noqa: B008 - the form shows its fields
) -> RunSummary:
    """Watch every episode of a LeRobot v3 dataset and write its language columns.

    Args:
        root: local dataset folder.
        repo_id: hub dataset, downloaded when root is not given.
        output: write a new dataset here; empty: annotate in place.
        phases: phases to run; empty: all of `config`.
        refresh: phases to run again although nothing they depend on has changed.
        only_episodes: episode indices; empty: all.
        config: every other setting. The fields above win over the same fields in here.
    """
    given = {
        "root": root, "repo_id": repo_id, "output": output,
        "phases": phases, "refresh": refresh, "only_episodes": only_episodes,
    }  # fmt: skip
    settings = AnnotateSettings.model_validate(
        {**config.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    )
    return run(settings)


def run(settings: AnnotateSettings) -> RunSummary:
    """The body of the flow."""
    listener().stage("opening")
    with Session(settings) as session:
        context = session.context
        listener().start(len(context.episodes), context.settings.phases)
        listener().stage("annotating")
        phases = annotate_episodes.with_options(task_runner=task_runner(context.settings))
        phases(context.run_id)
        listener().stage("validating and writing")
        summary = finish(session)
    _record(summary)
    publish(settings, summary)
    return summary


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(settings: AnnotateSettings, summary: RunSummary) -> None:
    """Upload the result, where the settings want that."""
    publish_result(settings, summary)


def _record(summary: RunSummary) -> None:
    """Cost, failures and validation as artifacts of the run."""
    rows = [
        {"phase": phase, **{s: n.get(s, 0) for s in ("done", "cached", "failed")}}
        for phase, n in phase_counts(summary.reports).items()
    ]
    create_table_artifact(rows, key="annotate-phases", description="episodes by phase")
    _record_costs(summary.costs)
    left_out = [{"episode": r.episode, "phase": r.phase, "reason": r.error} for r in summary.failures]
    left_out += [
        {"episode": s.episode, "phase": s.phase, "reason": f"{s.question}: {s.reason}", "reply": s.preview}
        for s in summary.skips
    ]
    if left_out:
        create_table_artifact(
            left_out[:TABLE_ROWS_MAX], key="annotate-left-out", description=f"{len(left_out)} left out"
        )
    checks = "\n".join(f"- {check}: {n}" for check, n in summary.validation.by_check().items()) or "- nothing found"
    checked = f"{summary.validation.rows_checked} rows of {summary.validation.episodes_checked} episodes"
    create_markdown_artifact(f"# Validation\n\n{checked}\n\n{checks}\n", key="annotate-validation")


def _record_costs(costs: Costs) -> None:
    """What this run asked, and where the most went."""
    phases = [_cost_row("phase", name, cost) for name, cost in costs.by_phase.items()]
    create_table_artifact(
        [*phases, _cost_row("phase", "total", costs.total)], key="annotate-cost", description="what this run asked"
    )
    dearest = sorted(costs.by_episode.items(), key=lambda item: -item[1].tokens_in - item[1].tokens_out)
    if dearest:
        create_table_artifact(
            [_cost_row("episode", name, cost) for name, cost in dearest[:TABLE_ROWS_MAX]],
            key="annotate-cost-episodes",
            description=f"the dearest of {len(dearest)} episodes",
        )


def _cost_row(kind: str, name: str, cost: Cost) -> dict[str, Any]:
    row = {
        kind: name, "calls": cost.calls, "skipped": cost.skipped, "requests": cost.attempts,
        "tokens in": cost.tokens_in, "tokens out": cost.tokens_out, "seconds": round(cost.latency_s, 1),
    }  # fmt: skip
    return row if cost.money is None else {**row, "money": round(cost.money, 4)}
