"""What the card says was added: rows by style counted in the shards, runs as meta/cuebook.json records them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from tasks.dataset.layout import Dataset
from tasks.language.styles import EVENTS, PERSISTENT
from tasks.report import Report
from tasks.settings import PHASES
from tasks.write import PROVENANCE

COUNTED = {PERSISTENT: "card_persistent", EVENTS: "card_events"}  # column -> script
ASKS_NOTHING = frozenset({"motion"})  # backends that no prompt is sent to
PROVENANCE_BYTES_MAX = 32 * 1024 * 1024


@dataclass(frozen=True)
class StyleCount:
    """How often a style occurs."""

    column: str
    style: str
    rows: int
    episodes: int


@dataclass(frozen=True)
class PhaseRun:
    """The last run of one phase, as it was recorded. Numbers are 0 and texts empty where the record says nothing."""

    phase: str
    time: str
    model: str
    backend: str
    seed: str
    prompts: dict[str, str]  # name -> digest
    done: int  # episodes, cached ones too
    failed: int


@dataclass(frozen=True)
class Facts:
    """All that the card's section is made from."""

    episodes: int
    counts: tuple[StyleCount, ...]
    version: str  # of this tool, which wrote the columns
    phases: tuple[PhaseRun, ...]
    failures: int  # episode phases of the last run that were left out
    skips: int  # questions of the last run without an answer
    checked_rows: int | None = None  # None: not checked
    errors: int = 0
    warnings: int = 0


def gather(dataset: Dataset, report: Report | None) -> Facts:
    """Count and read."""
    record = _record(dataset.root)
    runs = [r for r in _list(record.get("runs")) if isinstance(r, dict)]
    last = runs[0] if runs else {}
    return Facts(
        episodes=dataset.info.total_episodes,
        counts=tuple(count_styles(dataset)),
        version=_text(record.get("cuebook")),
        phases=tuple(p for p in (_phase(phase, runs) for phase in PHASES) if p is not None),
        failures=len(_list(last.get("failures"))),
        skips=sum(_int(n) for n in _dict(last.get("skips")).values()),
        checked_rows=None if report is None else report.rows_checked,
        errors=0 if report is None else len(report.errors),
        warnings=0 if report is None else len(report.warnings),
    )


def count_styles(dataset: Dataset) -> list[StyleCount]:
    """Rows per style, over all shards."""
    shards = [str(p) for p in dataset.data_files]
    columns = {name for p in shards for name in pq.read_schema(p).names}
    found = []
    # the same precautions as in validation: nothing is downloaded
    config: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    with duckdb.connect(config=config) as db:
        for column, script in COUNTED.items():
            if column in columns:
                sql = package_files("tasks").joinpath("sql", f"{script}.sql").read_text(encoding="utf-8")
                rows = db.execute(sql, {"shards": shards}).fetchall()
                found += [StyleCount(column, style, n, episodes) for style, n, episodes in rows]
    return found


def source_of(root: Path, repo_id: str | None) -> str | None:
    """The hub dataset that a folder was made from: its download mark, else what the run says, else its record."""
    mark = root.with_name(root.name + ".download.json")
    runs = [r for r in _list(_record(root).get("runs")) if isinstance(r, dict)]
    recorded = _dict(runs[0].get("settings")).get("repo_id") if runs else None
    found = _load(mark).get("repo_id") or repo_id or recorded
    return found if isinstance(found, str) else None


def _phase(phase: str, runs: Sequence[Mapping[str, Any]]) -> PhaseRun | None:
    for run in runs:
        counts = _dict(_dict(run.get("phases")).get(phase))
        if counts:
            prompts = {} if run.get("backend") in ASKS_NOTHING else _dict(run.get("prompts"))
            return PhaseRun(
                phase=phase,
                time=_text(run.get("time")),
                model=_text(run.get("model")),
                backend=_text(run.get("backend")),
                seed=_text(run.get("seed")),
                prompts={_text(k): _text(v) for k, v in prompts.items() if _belongs(str(k), phase)},
                done=_int(counts.get("done")) + _int(counts.get("cached")),
                failed=_int(counts.get("failed")),
            )
    return None


def _belongs(prompt: str, phase: str) -> bool:
    """Prompts are named after their phase; a name of none is shared by all."""
    return prompt.startswith(phase) or not prompt.startswith(PHASES)


def _record(root: Path) -> dict[str, Any]:
    return _load(root / PROVENANCE)


def _load(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is none: a card can be made without."""
    try:
        with path.open("rb") as file:
            return _dict(json.loads(file.read(PROVENANCE_BYTES_MAX)))
    except (OSError, ValueError):
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(value: Any) -> str:
    return "" if value is None else str(value)
