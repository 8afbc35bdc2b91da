"""Validation of staged rows: the rules in `tasks/sql`, run by DuckDB over all staged files at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import get_args

import duckdb
import numpy as np
import pyarrow as pa

from tasks.dataset.episode import Episode
from tasks.language.styles import MODULE_STYLES, column_for_style, styles
from tasks.lines import LineBatch, StagedFile, read_lines
from tasks.questions import Spatial
from tasks.report import FINDINGS_PER_CHECK_MAX, Finding, Report
from tasks.settings import AnnotateSettings
from tasks.staging import Staging

SCRIPTS = ("rows", "check_rows", "check_plan", "check_speech", "check_vqa")  # in this order
RELATIONS: tuple[str, ...] = get_args(Spatial.model_fields["relation"].annotation)
SPILL_NAME = ".duckdb"  # inside the staging folder, made only when memory runs out

_LISTED = f"""
SELECT severity, "check", episode, phase, line, message, remedy FROM findings
QUALIFY row_number() OVER (PARTITION BY "check" ORDER BY episode, phase, line) <= {FINDINGS_PER_CHECK_MAX}
ORDER BY severity, episode, phase, line, "check"
"""


def validate(
    staging: Staging,
    episodes: Sequence[Episode],
    modules: Mapping[int, Sequence[str]],
    settings: AnnotateSettings,
    camera_sizes: Mapping[str, tuple[int, int]],
) -> Report:
    """Judge the staged rows of `modules[episode_index]`, the modules whose rows will be written.

    `camera_sizes` holds (width, height) of every camera that rows may name; 0 where the dataset does not say.
    """
    judged = [e for e in episodes if modules.get(e.episode_index)]
    unknown = sorted(set(modules) - {e.episode_index for e in episodes})
    report = Report([_unknown_episode(e) for e in unknown], episodes_checked=len(judged))
    rules = _rule_tables(settings, camera_sizes)
    by_index = {e.episode_index: e for e in judged}
    for batch in read_lines(_wanted(staging, judged, modules)):
        mine = [by_index[e] for e in dict.fromkeys(f.episode for f in batch.files)]
        _judge(report, {**rules, **_episode_tables(mine), **_file_tables(batch)}, staging.root / SPILL_NAME)
    return report


def _wanted(
    staging: Staging, episodes: Sequence[Episode], modules: Mapping[int, Sequence[str]]
) -> Iterator[list[StagedFile]]:
    for index in (e.episode_index for e in episodes):
        yield [StagedFile(index, module, staging.path(index, module)) for module in modules[index]]


def _unknown_episode(index: int) -> Finding:
    return Finding(
        "error",
        "episode_unknown",
        f"want an episode of the dataset, found staged rows for {index}",
        "point --staging_dir at the staging folder of this dataset",
        episode=index,
    )


def _judge(report: Report, tables: Mapping[str, pa.Table], spill: Path) -> None:
    """Run every script over one batch and add what it found."""
    config = {
        "autoinstall_known_extensions": False,  # json is built in; nothing is ever downloaded
        "autoload_known_extensions": False,
        "temp_directory": str(spill),
        "preserve_insertion_order": False,  # tables fill from all threads; findings are sorted at the end
    }
    with duckdb.connect(config=config) as db:
        for name, table in tables.items():
            db.register(name, table)
        for script in SCRIPTS:
            db.execute(sql_text(script))
        found = [
            Finding(severity, check, message, remedy, episode, phase, line)
            for severity, check, episode, phase, line, message, remedy in db.execute(_LISTED).fetchall()
        ]
        counts = dict(db.execute('SELECT "check", count(*) FROM findings GROUP BY ALL').fetchall())
        (rows,) = db.execute("SELECT count(*) FROM rows WHERE is_object").fetchone() or (0,)
    report.extend(found, counts)
    report.rows_checked += rows


@lru_cache(maxsize=len(SCRIPTS))
def sql_text(script: str) -> str:
    """The SQL of one script."""
    return package_files("tasks").joinpath("sql", f"{script}.sql").read_text(encoding="utf-8")


def _rule_tables(settings: AnnotateSettings, camera_sizes: Mapping[str, tuple[int, int]]) -> dict[str, pa.Table]:
    """The rules' data, taken from where the writer and the questions take theirs. A null style is the speech atom."""
    kinds = [(s.name, s.column, list(s.roles), s.needs_camera) for s in styles()]
    kinds.append((None, column_for_style(None), ["assistant"], False))
    owned = [(module, name, column_for_style(name)) for module, names in MODULE_STYLES.items() for name in names]
    cameras = [(name, width, height) for name, (width, height) in camera_sizes.items()]
    text, number, flag = pa.string(), pa.int64(), pa.bool_()
    return {
        "styles": _table(kinds, name=text, column_name=text, roles=pa.list_(text), needs_camera=flag),
        "module_styles": _table(owned, module=text, style=text, column_name=text),
        "cameras": _table(cameras, camera=text, width=number, height=number),
        "relations": _table([(r,) for r in RELATIONS], name=text),
        "run": _table([(settings.plan.emit_plan,)], emit_plan=flag),
    }


def _episode_tables(episodes: Sequence[Episode]) -> dict[str, pa.Table]:
    """Every frame's own timestamp, in float32 as stored."""
    counts = [e.frames for e in episodes]
    index = np.repeat(np.array([e.episode_index for e in episodes], np.int64), counts)
    stamps = [np.asarray(e.timestamps, np.float32) for e in episodes]
    starts = [(e.episode_index, ts[0] if len(ts) else None) for e, ts in zip(episodes, stamps, strict=True)]
    return {
        "frames": pa.table({"episode": index, "ts": np.concatenate([np.empty(0, np.float32), *stamps])}),
        "episodes": _table(starts, episode=pa.int64(), t0=pa.float32()),
    }


def _file_tables(batch: LineBatch) -> dict[str, pa.Table]:
    listed = [
        (i, f.episode, f.phase, str(f.path), there)
        for i, (f, there) in enumerate(zip(batch.files, batch.present, strict=True))
    ]
    types = {"file": pa.int32(), "episode": pa.int64(), "phase": pa.string(), "path": pa.string()}
    return {"files": _table(listed, **types, present=pa.bool_()), "lines": batch.lines}


def _table(rows: Sequence[tuple[object, ...]], **types: pa.DataType) -> pa.Table:
    """A small table of typed columns."""
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    return pa.table([pa.array(c, t) for c, t in zip(columns, types.values(), strict=True)], names=list(types))
