"""A sweep: each variant annotates in a process of its own, is compared with the reference, and takes its rank.

A variant keeps its staging under the sweep's folder: the same sweep again asks nothing twice.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.sweep_plan import SECRET, Variant
from prompts import OVERRIDE_PREFIX
from tasks.dataset.files import write_atomic
from tasks.errors import AnnotateError, StagingError
from tasks.evaluate.compare import evaluate
from tasks.evaluate.report import Evaluation
from tasks.evaluate.source import Source, load
from tasks.settings import AnnotateSettings

STOP_S = 60.0  # how long a variant may take to end cleanly
REPORT_NAME = "sweep.json"
RESULT_NAME = "result.json"
DONE_CODES = (0, 3)  # of `annotate run`: all done, done with failures
TIE_BREAKS = ("label_token_f1", "iou")


@dataclass
class Outcome:
    """What became of one variant."""

    variant: Variant
    folder: Path
    evaluation: Evaluation | None = None
    failure: str | None = None
    seconds: float = 0.0  # of all runs of this variant
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float | None = None
    skipped: int = 0
    failed_phases: int = 0

    def value(self, measure: str) -> float | None:
        """One measure, all episodes pooled."""
        return None if self.evaluation is None else self.evaluation.micro(measure)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        e = self.evaluation
        return {
            **self.variant.to_json(),
            "folder": str(self.folder),
            "failure": self.failure,
            "measures": None if e is None else {m.name: e.micro(m.name) for m in e.measures},
            "vqa": None if e is None else {kind: v.to_json() for kind, v in e.visual.items()},
            "episodes": 0 if e is None else len(e.episodes),
            "failed_phases": self.failed_phases,
            "skipped": self.skipped,
            "requests": self.requests,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "money": self.money,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Sweep:
    """What all variants share."""

    root: Path
    reference: Source
    out: Path
    base: Mapping[str, str]  # flags of `annotate run`
    config: Path | None = None  # settings file of all variants; flags win over it

    def run(self, variant: Variant, settings: AnnotateSettings) -> Outcome:
        """Annotate and compare one variant; what goes wrong with it is part of the outcome."""
        folder = self.out / variant.folder
        outcome = Outcome(variant, folder, seconds=_seconds_before(folder))
        began = time.monotonic()
        try:
            summary = self._annotate(variant, folder)
            outcome.skipped, outcome.failed_phases = len(summary["skips"]), len(summary["failures"])
            _add_costs(outcome, summary, settings)
            mine = _own_work(load(folder / "dataset", settings.only_episodes), summary, settings.phases)
            outcome.evaluation = evaluate(mine, self.reference, missing_as_zero=True)
        except AnnotateError as err:
            outcome.failure = " ".join(str(err).split())
        outcome.seconds += time.monotonic() - began
        write_atomic(folder / RESULT_NAME, json.dumps(outcome.to_json(), indent=2).encode())
        return outcome

    def _annotate(self, variant: Variant, folder: Path) -> dict[str, Any]:
        """Run `annotate run` and return its summary. Raises AnnotateError with the reason it gave."""
        output = folder / "dataset"
        if (folder / RESULT_NAME).exists() and output.is_dir():
            shutil.rmtree(output)  # an earlier sweep's; the staging beside it keeps what was answered
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RESULT_NAME, json.dumps({**variant.to_json(), "failure": "not finished"}).encode())
        own = {"root": str(self.root), "output": str(output), "staging_dir": str(folder / "staging")}
        flags = {**self.base, **variant.flags, **own}
        command = [sys.executable, "-m", "flows.cli", "run", "--engine=inline", "--json"]
        command += [f"--config={self.config}"] if self.config else []
        command += [f"--{name}={value}" for name, value in flags.items()]
        with (folder / "run.log").open("wb") as log:
            code, printed = _run(command, _environment(variant), log)
        try:
            summary = json.loads(printed)
        except ValueError:
            tail = (folder / "run.log").read_text(errors="replace").strip().splitlines()[-1:] or ["nothing printed"]
            raise AnnotateError(f"annotate run ended with exit code {code}", tail[0], f"see {folder}/run.log") from None
        if code not in DONE_CODES:
            raise AnnotateError(str(summary.get("message", f"annotate run ended with exit code {code}")))
        return summary


def run_sweep(
    sweep: Sweep,
    variants: Sequence[Variant],
    settings: Sequence[AnnotateSettings],
    tell: Callable[[int, Outcome | Variant], None],
    rank_by: str,
) -> list[Outcome]:
    """Run all variants one after the other; ranked outcomes. Ctrl-C ends the running one and keeps those that are done.

    `tell` hears of each variant before and after. The report is written after each one.
    """
    outcomes: list[Outcome] = []
    for i, (variant, of_variant) in enumerate(zip(variants, settings, strict=True)):
        tell(i, variant)
        outcomes.append(sweep.run(variant, of_variant))
        write_report(sweep, outcomes, rank_by, len(variants))
        tell(i, outcomes[-1])
    return ranked(outcomes, rank_by)


def ranked(outcomes: Sequence[Outcome], rank_by: str) -> list[Outcome]:
    """Best first; by words of labels, then by overlap, where the measure is equal; failed ones last."""

    def key(outcome: Outcome) -> tuple[float, ...]:
        values = [outcome.value(name) for name in (rank_by, *TIE_BREAKS)]
        return (outcome.evaluation is not None, *(-1.0 if v is None else round(v, 9) for v in values))

    return sorted(outcomes, key=key, reverse=True)


def write_report(sweep: Sweep, outcomes: Sequence[Outcome], rank_by: str, planned: int) -> dict[str, Any]:
    """sweep.json: ranked outcomes so far."""
    report = {
        "root": str(sweep.root),
        "reference": str(sweep.reference.path),
        "rank_by": rank_by,
        "base": {k: v for k, v in sweep.base.items() if k not in SECRET},
        "planned": planned,
        "variants": [{"rank": i, **o.to_json()} for i, o in enumerate(ranked(outcomes, rank_by), start=1)],
    }
    write_atomic(sweep.out / REPORT_NAME, (json.dumps(report, indent=2) + "\n").encode())
    return report


# ------------------------------------------------------------------------------------------------ one process


def _environment(variant: Variant) -> dict[str, str]:
    env = dict(os.environ)
    for name, path in variant.prompts.items():
        key = OVERRIDE_PREFIX + name.upper()
        if path is None:
            env.pop(key, None)
        else:
            env[key] = str(path)
    return env


def _run(command: Sequence[str], env: Mapping[str, str], log: Any) -> tuple[int, bytes]:
    """Exit code and stdout. In a process group of its own: Ctrl-C reaches it once, from here, and it may finish."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        printed, _ = process.communicate()
    except BaseException:
        _stop(process)
        raise
    return process.returncode, printed


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


# ------------------------------------------------------------------------------------------------ results


def _seconds_before(folder: Path) -> float:
    """What earlier runs of this variant took."""
    try:
        return float(json.loads((folder / RESULT_NAME).read_bytes()).get("seconds", 0.0))
    except (OSError, ValueError, TypeError, AttributeError):
        return 0.0


def _add_costs(outcome: Outcome, summary: Mapping[str, Any], settings: AnnotateSettings) -> None:
    """All calls that this variant ever made, as its ledger has them; those of this run where there is no ledger."""
    from tasks.ledger import costs, find_ledgers

    vlm, usage = settings.vlm, summary["usage"]
    outcome.requests, outcome.tokens_in, outcome.tokens_out = (
        usage[k] for k in ("requests", "tokens_in", "tokens_out")
    )
    try:
        ledgers = find_ledgers(outcome.folder / "staging") if vlm.record_path is None else []
    except StagingError:
        ledgers = []  # an answerer without a model keeps none
    if ledgers:
        total = costs(ledgers, price_in=vlm.price_in, price_out=vlm.price_out).total
        outcome.requests, outcome.tokens_in, outcome.tokens_out = total.attempts, total.tokens_in, total.tokens_out
        outcome.money = total.money


def _own_work(source: Source, summary: Mapping[str, Any], phases: Sequence[str]) -> Source:
    """Without rows that the dataset had before: those of phases that failed or were not run are not this variant's."""
    failed = {(f["episode"], f["phase"]) for f in summary["failures"]}
    episodes = {}
    for index, episode in source.episodes.items():
        if "plan" not in phases or (index, "plan") in failed:
            episode = replace(episode, spans=[], rows={k: v for k, v in episode.rows.items() if k == "vqa"})
        if "vqa" not in phases or (index, "vqa") in failed:
            episode = replace(episode, vqa=[], rows={k: v for k, v in episode.rows.items() if k != "vqa"})
        episodes[index] = episode
    return replace(source, episodes=episodes)
