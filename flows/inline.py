"""The annotate graph on plain threads: no Prefect, no server. The same phases, cache and summary."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from flows.progress import listener
from flows.session import RunSummary, Session, publish_result
from tasks.context import RunContext
from tasks.run_phase import PhaseGroupFailed, run_group
from tasks.settings import AnnotateSettings

THREADS_PER_EPISODE = 2  # the chain plan -> interjections, and vqa beside it


def annotate_inline(settings: AnnotateSettings) -> RunSummary:
    """Annotate a dataset in this process. Raises AnnotateError; KeyboardInterrupt leaves a resumable staging folder."""
    listener().stage("opening")
    with Session(settings) as session:
        listener().start(len(session.context.episodes), session.settings.phases)
        listener().stage("annotating")
        _run_graph(session.context)
        listener().stage("validating and writing")
        summary = session.finish()
    publish_result(settings, summary)
    return summary


def _run_graph(context: RunContext) -> None:
    """Per episode plan then interjections, vqa beside them. Episodes never wait for each other."""
    chains: list[list[str]] = [
        [p for p in ("plan", "interjections") if p in context.settings.phases],
        [p for p in ("vqa",) if p in context.settings.phases],
    ]
    pool = ThreadPoolExecutor(context.settings.executor.episode_parallelism * THREADS_PER_EPISODE, "annotate")
    futures: list[Future[None]] = []
    try:
        for index in context.episodes:
            futures += [pool.submit(_run_chain, context, index, chain) for chain in chains if chain]
        for future in as_completed(futures):
            future.result()
    except BaseException:
        context.close()  # ends calls in flight, so that the threads end soon
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


def _run_chain(context: RunContext, index: int, phases: list[str]) -> None:
    for phase in phases:
        for attempt in range(context.settings.executor.task_retries + 1):
            try:
                reports = run_group(context, [index], phase)  # type: ignore[arg-type]
            except PhaseGroupFailed as failure:
                reports = failure.reports
                if failure.retryable and attempt < context.settings.executor.task_retries:
                    continue
            break
        for report in reports:
            listener().report(report)
