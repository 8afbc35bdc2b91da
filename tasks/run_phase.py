"""Run one phase of one episode: skip it when its staged rows are current, else ask, stage and leave a receipt."""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import prompts
from tasks import interjections, plan, vqa
from tasks.context import RunContext
from tasks.dataset.episode import Episode
from tasks.dataset.files import write_atomic
from tasks.dataset.frames import Wants
from tasks.dataset.signals import read_signals
from tasks.errors import AnnotateError, AnswererError, DatasetError, EpisodeError, StagingError
from tasks.language.rows import Row
from tasks.phase import PhaseContext, PhaseReport, Staged
from tasks.settings import AnnotateSettings, PhaseName
from tasks.staging import Receipt, digest_json

log = logging.getLogger(__name__)

MODULES: dict[str, ModuleType] = {"plan": plan, "interjections": interjections, "vqa": vqa}
DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
# What of the vlm section changes an answer; addresses, limits and time-outs do not.
ANSWER_KEYS = (
    "temperature", "max_new_tokens", "thinking", "reasoning_effort", "chat_template_kwargs", "camera_key", "backend",
    "max_images", "max_pixels", "mm_processor_kwargs",
)  # fmt: skip


def phase_key(context: RunContext, episode: Episode, phase: PhaseName) -> str:
    """Digest of everything the rows of this phase depend on."""
    upstream = _subtasks_digest(context, episode) if phase == "interjections" else ""
    return digest_json([_settings_digest(context, phase), episode.digest, upstream])


def _settings_digest(context: RunContext, phase: PhaseName) -> str:
    """The part of the key that all episodes of a run share, made once."""
    known = context.settings_digests
    if phase not in known:
        settings, module = context.settings, MODULES[phase]
        vlm = settings.vlm.model_dump(mode="json")
        made_of: dict[str, Any] = {
            "code": module.CODE_VERSION,
            "settings": getattr(settings, phase).model_dump(mode="json"),
            "prompts": {name: prompts.digest(name) for name in module.prompt_names(settings)},
            "model": context.answerer.model_id,
            "vlm": {k: vlm[k] for k in ANSWER_KEYS},
            "cameras": context.cameras,
            "seed": None if phase == "plan" else settings.seed,
        }
        known[phase] = digest_json(made_of)
    return known[phase]


def _refreshes_plan(settings: AnnotateSettings) -> bool:
    return "plan" in settings.phases and settings.plan.emit_plan


def _subtasks_digest(context: RunContext, episode: Episode) -> str:
    """Identity of the subtasks that interjections speak about: those of this run, else what the dataset has."""
    receipt = context.staging.receipt(episode.episode_index, "plan")
    task = receipt.facts.get("effective_task") if receipt else None
    if "plan" not in context.settings.phases:
        rows = context.dataset_rows(episode)
        if any(r.style == "subtask" for r in rows):
            return digest_json([task, _digest_of_subtasks(rows)])
    return digest_json([task, receipt.facts.get("subtasks_digest") if receipt else None])


def _digest_of_subtasks(rows: Sequence[Row]) -> str:
    return digest_json([[r.timestamp, r.content] for r in rows if r.style == "subtask"])


def current(context: RunContext, episode: Episode, phase: PhaseName) -> Receipt | None:
    """The receipt of staged rows that are still right, else None."""
    receipt = context.staging.receipt(episode.episode_index, phase)
    return receipt if receipt is not None and receipt.key == phase_key(context, episode, phase) else None


def run_phase(context: RunContext, episode_index: int, phase: PhaseName) -> PhaseReport:
    """Bring one phase of one episode up to date.

    A failure of this episode is reported, not raised. Raises AnswererError when nobody answers any more, and
    StagingError when the disk cannot take the rows.
    """
    episode = context.episodes[episode_index]
    try:
        return _run_phase(context, episode, phase)
    except (EpisodeError, DatasetError) as err:
        return _failed(context, episode, phase, str(err))
    except OSError as err:
        if err.errno in DISK_ERRNOS:
            raise _disk_error(context, err) from err
        raise
    finally:
        context.phase_done(episode_index, phase)


def _run_phase(context: RunContext, episode: Episode, phase: PhaseName) -> PhaseReport:
    receipt = current(context, episode, phase)
    if receipt is not None:
        report = PhaseReport.from_json(receipt.facts["report"])
        if phase not in context.settings.refresh or receipt.facts.get("run_id") == context.run_id:
            if phase == "interjections" and _refreshes_plan(context.settings):
                _refresh_plan(context, episode, context.staging.rows(episode.episode_index, phase))
            if receipt.facts.get("run_id") != context.run_id:
                report.status = "cached"
            return report
    if phase == "interjections" and "plan" in context.settings.phases and not current(context, episode, "plan"):
        raise EpisodeError(
            "want the plan of this episode first", "its plan phase failed", "see the reason given for plan"
        )
    began = time.monotonic()
    report = PhaseReport(episode.episode_index, phase)
    frames = context.frames(episode, wants(context, episode))
    ctx = PhaseContext(episode, context.settings, context.answerer, frames, context.staging, report)
    ctx.signals = partial(read_signals, context.dataset, episode)
    if phase == "interjections" and "plan" not in context.settings.phases:
        ctx.dataset_rows = context.dataset_rows(episode)
    staged: Staged = MODULES[phase].run(ctx)
    for row in staged.rows:
        row.check()
    report.rows, report.seconds = len(staged.rows), round(time.monotonic() - began, 3)
    _stage(context, episode, phase, staged, report)
    return report


def _stage(context: RunContext, episode: Episode, phase: PhaseName, staged: Staged, report: PhaseReport) -> None:
    key = phase_key(context, episode, phase)
    facts = {**staged.facts, "run_id": context.run_id, "report": report.to_json()}
    if phase == "plan":
        facts["subtasks_digest"] = _digest_of_subtasks(staged.rows)
    if phase == "interjections" and _refreshes_plan(context.settings):
        _refresh_plan(context, episode, staged.rows)
    context.staging.write(episode.episode_index, phase, staged.rows, key=key, facts=facts)
    _failure_path(context, episode, phase).unlink(missing_ok=True)


def _refresh_plan(context: RunContext, episode: Episode, cues: list[Row]) -> None:
    """Append the plan that is in force after each interjection to the staged plan, old rows first."""
    receipt = context.staging.receipt(episode.episode_index, "plan")
    if receipt is None:
        raise StagingError("want the staged plan", "it was removed meanwhile", "run again")
    staged = context.staging.rows(episode.episode_index, "plan")
    base = staged[: receipt.base_rows]
    added = plan.plan_refresh_rows(
        plan.spans_of(base, episode.end_s),
        [r.timestamp for r in cues if r.style == "interjection"],
        {r.timestamp for r in base if r.style == "plan"},
        emit_plan=context.settings.plan.emit_plan,
    )
    if [*base, *added] != staged:
        context.staging.write(
            episode.episode_index, "plan", [*base, *added], key=receipt.key, facts=receipt.facts, base_rows=len(base)
        )


def wants(context: RunContext, episode: Episode) -> dict[str, Wants]:
    """What the phases of this run will ask to see of an episode, so that one pass decodes it."""
    if not context.answerer.needs_pictures:
        return {}
    merged: dict[str, Wants] = {}
    for phase in ("plan", "vqa"):
        if phase in context.settings.phases:
            for camera, want in MODULES[phase].wanted(episode, context.settings, context.cameras).items():
                merged[camera] = _merge(merged[camera], want) if camera in merged else want
    return merged


def _merge(tiles: Wants, stills: Wants) -> Wants:
    return replace(
        tiles,
        stills=tiles.stills | stills.stills,
        still=stills.still,
    )


def _failure_path(context: RunContext, episode: Episode, phase: PhaseName) -> Path:
    return context.staging.path(episode.episode_index, phase).with_suffix(".failure.json")


def _failed(context: RunContext, episode: Episode, phase: PhaseName, reason: str) -> PhaseReport:
    report = PhaseReport(episode.episode_index, phase, status="failed", error=reason)
    log.warning("episode %d, %s left out: %s", episode.episode_index, phase, reason)
    path = _failure_path(context, episode, phase)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"run_id": context.run_id, "report": report.to_json()}).encode())
    return report


def _disk_error(context: RunContext, err: OSError) -> AnnotateError:
    return StagingError(
        f"want to write staged rows to {context.staging.root}",
        str(err),
        "free space or pass --staging_dir on a writable disk; the next run goes on from here",
    )


def run_group(context: RunContext, episode_indices: list[int], phase: PhaseName) -> list[PhaseReport]:
    """One phase of several episodes, one after the other; an error leaves out its episode only.

    Raises PhaseGroupFailed at the end when episodes failed; those that are done are current when it is tried again.
    """
    reports, unexpected = [], False
    for index in episode_indices:
        try:
            reports.append(run_phase(context, index, phase))
        except (AnswererError, StagingError):
            raise
        except Exception as err:  # whatever breaks one episode must not end the others
            log.exception("episode %d, %s: unexpected error", index, phase)
            reports.append(_failed(context, context.episodes[index], phase, f"{type(err).__name__}: {err}"))
            unexpected = True
    failed = [r for r in reports if r.status == "failed"]
    if failed:
        raise PhaseGroupFailed(reports, retryable=unexpected)
    return reports


class PhaseGroupFailed(AnnotateError):
    """Some episodes of a group failed; `reports` tells which. `retryable`: at least one for an unexpected reason."""

    def __init__(self, reports: list[PhaseReport], retryable: bool) -> None:
        failed = [r for r in reports if r.status == "failed"]
        super().__init__(
            f"want {failed[0].phase} of {len(reports)} episodes", f"{len(failed)} failed: {failed[0].error}"
        )
        self.reports, self.retryable = reports, retryable

    def __reduce__(self) -> tuple[type, tuple[list[PhaseReport], bool]]:  # crosses process boundaries
        return type(self), (self.reports, self.retryable)


def collect(context: RunContext) -> list[PhaseReport]:
    """What became of each phase of each episode, read from the staged files: the one truth whatever engine ran."""
    return [
        _collect_one(context, episode, phase)
        for episode in context.episodes.values()
        for phase in context.settings.phases
    ]


def _collect_one(context: RunContext, episode: Episode, phase: PhaseName) -> PhaseReport:
    try:
        failure = json.loads(_failure_path(context, episode, phase).read_bytes())
        if failure["run_id"] == context.run_id:
            return PhaseReport.from_json(failure["report"])
    except (OSError, ValueError):
        pass
    receipt = current(context, episode, phase)
    if receipt is None:
        return PhaseReport(episode.episode_index, phase, status="failed", error="its task did not finish")
    report = PhaseReport.from_json(receipt.facts["report"])
    if receipt.facts.get("run_id") != context.run_id:
        report.status = "cached"
    return report
