"""One annotation run from lock to commit, whatever engine works through the phases in between."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prompts
from flows.progress import listener
from flows.publish_cli import check_before_run, push_after_run
from tasks.answers.factory import IN_PROCESS
from tasks.answers.question import Usage
from tasks.context import RunContext, register, staging_path, unregister
from tasks.dataset.commit import check_writable, recover
from tasks.dataset.digest import dataset_identity
from tasks.dataset.files import write_atomic
from tasks.dataset.hub import in_hub_cache, resolve_root
from tasks.dataset.layout import open_dataset
from tasks.dataset.lock import lock_dataset
from tasks.errors import AnnotateError, DatasetError, SettingsError, StagingError, ValidationFailed
from tasks.ledger import Costs, costs
from tasks.phase import PhaseReport, Skip
from tasks.report import Report, save_report
from tasks.run_phase import MODULES, collect
from tasks.settings import PHASES, AnnotateSettings
from tasks.staging import digest_json
from tasks.validate import validate
from tasks.write import PROVENANCE, write_dataset

if TYPE_CHECKING:
    from tasks.publish import Published

log = logging.getLogger(__name__)

# Settings that meta/cuebook.json does not repeat: it is published, and these tell of keys, machines and folders only.
PRIVATE = {
    "root": True, "output": True, "staging_dir": True, "job": True,
    "vlm": {"api_key", "api_base", "serve_command", "replay_path", "record_path"},
}  # fmt: skip
RUNS_KEPT = 50  # entries of meta/cuebook.json
MANIFEST_NAME = "dataset.json"
REPORT_NAME = "validation.json"
FAILURES_NAMED = 3  # in the message of a run in which every episode failed


@dataclass
class RunSummary:
    """What a run did."""

    dataset: Path
    staging: Path
    episodes: int
    written: bool  # False: the dataset already held exactly these rows
    reports: list[PhaseReport]
    validation: Report
    seconds: float
    costs: Costs = field(default_factory=Costs)  # of this run, from its ledger: also of phases that failed in the end
    ledger: Path | None = None  # None: no model was asked
    published: Published | None = None

    @property
    def failures(self) -> list[PhaseReport]:
        """Phases of episodes that were left out."""
        return [r for r in self.reports if r.status == "failed"]

    @property
    def skips(self) -> list[Skip]:
        """Questions that went unanswered."""
        return [s for r in self.reports for s in r.skips]

    @property
    def complete(self) -> bool:
        """Nothing was left out."""
        return not self.failures and not self.skips

    @property
    def usage(self) -> Usage:
        """What this run asked; cached phases cost nothing."""
        return sum((r.usage for r in self.reports if r.status == "done"), Usage())

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "dataset": str(self.dataset),
            "staging": str(self.staging),
            "episodes": self.episodes,
            "written": self.written,
            "complete": self.complete,
            "seconds": round(self.seconds, 3),
            "usage": asdict(self.usage),
            "costs": self.costs.to_json(),
            "ledger": None if self.ledger is None else str(self.ledger),
            "rows": sum(r.rows for r in self.reports),
            "phases": phase_counts(self.reports),
            "failures": [{"episode": r.episode, "phase": r.phase, "reason": r.error} for r in self.failures],
            "skips": [asdict(s) for s in self.skips],
            "validation": self.validation.to_json(),
            "published": self.published.to_json() if self.published else None,
        }


def phase_counts(reports: list[PhaseReport]) -> dict[str, dict[str, int]]:
    """Per phase: how many episodes were done, cached or failed."""
    counts: dict[str, Counter[str]] = {}
    for r in reports:
        counts.setdefault(r.phase, Counter())[r.status] += 1
    return {phase: dict(c) for phase, c in counts.items()}


class Session:
    """A run's guard rails: nothing is asked before what can be checked is checked, nothing written before all is valid.

    Use as a context manager; engines run the phases inside, then call `finish`.
    """

    def __init__(self, settings: AnnotateSettings) -> None:
        self.settings = settings
        self.began = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        try:
            self._enter()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _enter(self) -> None:
        settings = self.settings
        check_before_run(settings)
        root = resolve_root(settings)
        settings = self.settings = settings.model_copy(update={"root": root})
        target = settings.output or root
        open_dataset(root)  # first of all: whether this is a dataset
        if settings.output is None and in_hub_cache(root):
            raise DatasetError(
                "want a dataset folder that may be changed",
                f"{root}, part of the hub cache",
                "pass --output=DIR to write a new dataset, or --repo_id to work on a copy",
            )
        check_writable(root, settings.output)
        self._stack.enter_context(lock_dataset(target))
        recover(target)
        self.context = RunContext.open(settings)
        self._stack.callback(self.context.close)
        self.settings = self.context.settings
        self._check_choices()
        self._claim_staging()  # before the ledger is opened in it
        listener().watch(self.context.answerer.slots)
        if settings.vlm.backend in IN_PROCESS or settings.vlm.auto_serve:
            listener().stage("waiting for the model")
        self.context.answerer.preflight()  # before any decoding
        if self.context.answerer.needs_pictures:
            self.context.dataset.check_videos(list(self.context.episodes.values()))
        register(self.context)
        self._stack.callback(unregister, self.context.run_id)

    def _check_choices(self) -> None:
        settings, dataset = self.settings, self.context.dataset
        if not settings.phases:
            raise SettingsError(
                "want at least one phase", "none", "pass --phases=plan,interjections,vqa or a part of it"
            )
        unused = set(settings.refresh) - set(settings.phases)
        if unused:
            raise SettingsError(
                "want refreshed phases to be run",
                f"{sorted(unused)} not in phases {settings.phases}",
                "add them to --phases",
            )
        partial = settings.only_episodes is not None or set(settings.phases) != set(PHASES)
        if partial and settings.output is not None and _holds_result(settings.output):
            raise _keeps_rows(settings.output, "a run of some episodes or phases only")
        if settings.vlm.backend in IN_PROCESS and settings.executor.runner != "threads":
            raise SettingsError(
                "want one process with the model",
                f"--executor.runner={settings.executor.runner}, whose every worker would load {settings.vlm.model_id}",
                "use --executor.runner=threads, or servers: --vlm.backend=openai --vlm.auto_serve",
            )
        for camera in (settings.vlm.camera_key, settings.plan.second_camera):
            dataset.default_camera(camera)
        if not self.context.cameras and self.context.answerer.needs_pictures:
            raise DatasetError(
                "want a colour video camera",
                f"cameras {sorted(dataset.info.features)} hold none",
                "use --vlm.backend=motion, which looks at signals only",
            )

    def _claim_staging(self) -> None:
        """Refuse a staging folder that holds the work of another dataset."""
        path = staging_path(self.settings)
        identity = dataset_identity(self.context.dataset)
        manifest = path / MANIFEST_NAME
        try:
            path.mkdir(parents=True, exist_ok=True)
            if manifest.exists():
                other = json.loads(manifest.read_bytes())
                if other.get("identity") != identity:
                    raise StagingError(
                        f"want a staging folder of {self.context.dataset.root}",
                        f"{path}, which holds staged rows of {other.get('root', 'another dataset')}",
                        "pass another --staging_dir, or delete the folder if its work is not needed",
                    )
            write_atomic(manifest, json.dumps({"identity": identity, "root": str(self.context.dataset.root)}).encode())
        except (ValueError, AttributeError) as err:
            raise StagingError(f"want a readable {manifest}", str(err), "delete the file") from err
        except OSError as err:
            raise StagingError(f"want to stage in {path}", str(err), "pass --staging_dir on a writable disk") from err
        if self.settings.staging_dir is not None:  # else it lies inside or beside the target, which is locked
            self._stack.enter_context(lock_dataset(path))

    def finish(self) -> RunSummary:
        """Collect what was staged, validate all of it at once, and write what is complete."""
        context, settings = self.context, self.settings
        reports = collect(context)
        failed = [r for r in reports if r.status == "failed"]
        skips = [s for r in reports for s in r.skips]
        if failed and len(failed) == len(reports):
            raise _nothing_done(failed)
        if settings.strict and (failed or skips):
            raise AnnotateError(
                "want every episode and question answered (--strict)",
                f"{len(failed)} episode phases failed, {len(skips)} questions unanswered; first: "
                + (str(failed[0].error) if failed else skips[0].reason),
                "mend the cause and run again (finished work is kept), or leave out --strict",
            )
        modules: dict[int, list[str]] = {}
        for r in reports:
            if r.status != "failed":
                modules.setdefault(r.episode, []).append(r.phase)
        episodes = [context.episodes[i] for i in modules]
        report = validate(context.staging, episodes, modules, settings, context.dataset.camera_sizes)
        save_report(report, context.staging.root / REPORT_NAME)
        if not report.ok and not settings.skip_validation:
            raise _invalid(report, context.staging.root / REPORT_NAME)
        return self._write(reports, modules, report)

    def _write(self, reports: list[PhaseReport], modules: dict[int, list[str]], report: Report) -> RunSummary:
        context, settings = self.context, self.settings
        target = settings.output or context.dataset.root
        staged = _staged_digest(context, modules)
        summary = RunSummary(
            target, context.staging.root, len(context.episodes), False, reports, report, time.monotonic() - self.began
        )
        if context.ledger is not None:
            summary.ledger, summary.costs = context.ledger.path, self._costs(context.ledger.path)
        if not _holds_already(target, staged):
            if summary.failures and settings.output is not None and _holds_result(settings.output):
                raise _keeps_rows(settings.output, f"{len(summary.failures)} failed episode phases")
            written = write_dataset(
                context.dataset,
                context.staging,
                modules,
                output=settings.output,
                provenance=self._provenance(summary, staged),
                drop_subtask_index=settings.drop_subtask_index,
            )
            summary.written = True
            log.info("wrote %d shards, kept %d", written.shards_written, written.shards_kept)
        summary.seconds = time.monotonic() - self.began
        return summary

    def _costs(self, ledger: Path) -> Costs:
        """What this run cost; nothing when its ledger is gone meanwhile: rows must not be lost for want of a price."""
        vlm = self.settings.vlm
        try:
            return costs(ledger, self.context.run_id, vlm.price_in, vlm.price_out)
        except StagingError as err:
            log.warning("the costs of this run are unknown: %s", err)
            return Costs()

    def _provenance(self, summary: RunSummary, staged: str) -> dict[str, Any]:
        """meta/cuebook.json: this run first, then the earlier ones."""
        context, settings = self.context, self.settings
        names = sorted({n for p in settings.phases for n in MODULES[p].prompt_names(settings)})
        run = {
            "run_id": context.run_id,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "model": context.answerer.model_id,
            "backend": settings.vlm.backend,
            "code": {p: MODULES[p].CODE_VERSION for p in settings.phases},
            "prompts": {n: prompts.digest(n) for n in names},
            "seed": settings.seed,
            "settings": settings.model_dump(mode="json", exclude=PRIVATE),
            "phases": phase_counts(summary.reports),
            "rows": sum(r.rows for r in summary.reports if r.status != "failed"),
            "asked": sum(r.asked for r in summary.reports),
            "usage": asdict(summary.usage),
            "costs": _recorded_costs(summary),
            "seconds": round(summary.seconds, 3),
            "failures": [{"episode": r.episode, "phase": r.phase, "reason": r.error} for r in summary.failures],
            "skips": Counter(s.question for s in summary.skips),
            "warnings": len(summary.validation.warnings),
        }
        earlier = _read_provenance(settings.output or context.dataset.root)
        version = importlib.metadata.version("cuebook")
        runs = [run, *earlier.get("runs", [])][:RUNS_KEPT]
        return {**earlier, "cuebook": version, "staged": staged, "runs": runs}  # what imports wrote there stays

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def _recorded_costs(summary: RunSummary) -> dict[str, Any] | None:
    """What the run cost, by phase and in all; the prices stand among the settings."""
    if summary.ledger is None:
        return None
    by_phase = {phase: cost.to_json() for phase, cost in summary.costs.by_phase.items()}
    return {"ledger": summary.ledger.name, "total": summary.costs.total.to_json(), "by_phase": by_phase}


def publish_result(settings: AnnotateSettings, summary: RunSummary) -> None:
    """Upload what a run has written, where its settings want that; to be called when the session is over."""
    if settings.push_to_hub:
        listener().stage("publishing")
        summary.published = push_after_run(settings, summary, listener().stage)


def _read_provenance(root: Path) -> dict[str, Any]:
    try:
        found = json.loads((root / PROVENANCE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _staged_digest(context: RunContext, modules: dict[int, list[str]]) -> str:
    """Identity of all rows that would be written."""
    digests = []
    for episode, phases in sorted(modules.items()):
        for phase in sorted(phases):
            receipt = context.staging.receipt(episode, phase)
            digests.append([episode, phase, receipt.digest if receipt else ""])
    return digest_json([digests, context.settings.drop_subtask_index, sorted(context.episodes)])


def _holds_already(target: Path, staged: str) -> bool:
    """Whether the last commit wrote just these rows and nobody has touched the shards since."""
    provenance = target / PROVENANCE
    if _read_provenance(target).get("staged") != staged:
        return False
    made = provenance.stat().st_mtime_ns
    return all(p.stat().st_mtime_ns <= made for p in target.glob("data/**/*.parquet"))


def _holds_result(output: Path) -> bool:
    """Whether a run has written there; the folder alone says nothing, since locking makes it."""
    return (output / PROVENANCE).exists()


def _keeps_rows(output: Path, got: str) -> AnnotateError:
    """An output is built from the source: rows that only an earlier output has would be lost."""
    return SettingsError(
        f"want a complete run to replace the earlier result in {output}",
        got,
        f"annotate that result in place (--root={output}, without --output), or give another --output",
    )


def _nothing_done(failed: list[PhaseReport]) -> AnnotateError:
    reasons = [r for r, _ in Counter(f"{r.phase}: {r.error}" for r in failed).most_common(FAILURES_NAMED)]
    return AnnotateError(
        f"want at least one of {len({r.episode for r in failed})} episodes annotated",
        "every one failed; " + "; ".join(reasons),
        "mend the cause and run again; nothing was written",
    )


def _invalid(report: Report, path: Path) -> ValidationFailed:
    first = report.errors[0]
    return ValidationFailed(
        "want staged rows that keep the rules of the language columns",
        f"{len(report.errors)} errors, first: {first.where}: {first.message} (all in {path})",
        first.remedy + "; nothing was written",
    )
