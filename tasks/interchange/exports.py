"""Labels out of the language columns into older forms: a dataset with more columns, or a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tasks.dataset.commit import check_writable, recover
from tasks.dataset.files import write_atomic
from tasks.dataset.layout import Dataset, open_dataset
from tasks.dataset.lock import lock_dataset
from tasks.errors import CommitError, DatasetError, RowError, SettingsError
from tasks.interchange import gr00t, sarm, subtask_index
from tasks.interchange.additions import Additions, add
from tasks.interchange.form import SarmLevel
from tasks.interchange.record import with_entry
from tasks.interchange.spreadsheet import csv_text
from tasks.interchange.stored import EpisodeLabels, Progress, check_new_folder, silent, stored_labels
from tasks.language.styles import PERSISTENT, styles
from tasks.language.styles import style as style_of


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how."""

    style: str = "subtask"
    sarm_level: SarmLevel = "sparse"  # the level that LeRobot reads by default
    gr00t_column: str = gr00t.DESCRIPTION
    replace: bool = False  # labels of that form that are there already


@dataclass(frozen=True)
class ExportReport:
    """What an export has written."""

    path: Path
    to: str
    style: str
    episodes: int  # with labels
    labels: int
    texts: int  # different ones
    without: tuple[int, ...]  # episodes without labels

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {**self.__dict__, "path": str(self.path), "without": list(self.without)}


@dataclass(frozen=True)
class ExportJob:
    """What an exporter is given: labels of all episodes, and where they shall go (None: the dataset itself)."""

    dataset: Dataset
    episodes: Sequence[EpisodeLabels]
    output: Path | None
    options: ExportOptions
    entry: dict[str, Any]  # for meta/cuebook.json


@dataclass(frozen=True)
class Exporter:
    """One form: `write` returns what it wrote; `is_file` when the output is a file instead of a dataset folder."""

    write: Callable[[ExportJob], Path]
    is_file: bool = False


def _into_dataset(additions: Callable[[ExportJob], Additions]) -> Exporter:
    def write(job: ExportJob) -> Path:
        found = additions(job)
        found.check_new(replace=job.options.replace)
        provenance = with_entry(job.dataset.root, job.entry, rows_changed=False)
        return add(job.dataset, found, output=job.output, provenance=provenance)

    return Exporter(write)


def _write_csv(job: ExportJob) -> Path:
    assert job.output is not None
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(job.output, csv_text(job.episodes, job.options.style).encode("utf-8"))
    except OSError as err:
        raise CommitError(f"want to write {job.output}", err.strerror or str(err), "choose another --output") from err
    return job.output


EXPORTERS: dict[str, Exporter] = {
    "subtask_index": _into_dataset(lambda job: subtask_index.additions(job.dataset, job.episodes)),
    "sarm": _into_dataset(lambda job: sarm.additions(job.dataset, job.episodes, job.options.sarm_level)),
    "gr00t": _into_dataset(lambda job: gr00t.additions(job.dataset, job.episodes, job.options.gr00t_column)),
    "csv": Exporter(_write_csv, is_file=True),
}


def export_labels(
    root: Path,
    to: str,
    output: Path | None,
    options: ExportOptions | None = None,
    *,
    progress: Progress = silent,
) -> ExportReport:
    """Write the labels of one style in an older form, to `output` or (None) into the dataset itself; all or nothing.

    Rows stay as they are. Raises SettingsError for a form or style that cannot be, DatasetError where there is nothing
    to export or labels of that form are there already, CommitError and DatasetBusyError as annotation runs do.
    """
    options = options or ExportOptions()
    exporter = _exporter(to)
    _check_style(options.style)
    dataset = open_dataset(root)
    if exporter.is_file:
        _check_new_file(output, dataset, to)
    else:
        check_new_folder(output)
        check_writable(dataset.root, output)
    with nullcontext() if exporter.is_file else lock_dataset(output or dataset.root):
        if not exporter.is_file:
            recover(output or dataset.root)
            dataset = open_dataset(root)  # recovery may have changed it
        episodes = stored_labels(dataset, options.style, progress)
        report = _report(dataset, to, options.style, episodes)
        progress("writing", 0, 0)
        entry = {"command": "export", "to": to, "style": options.style, "episodes": report.episodes}
        path = exporter.write(ExportJob(dataset, episodes, output, options, entry))
    return replace(report, path=path)


def _exporter(to: str) -> Exporter:
    if to not in EXPORTERS:
        near = get_close_matches(to, EXPORTERS, n=1, cutoff=0.0)
        raise SettingsError(f"want --to={'|'.join(EXPORTERS)}", repr(to), f"did you mean {near[0]}?")
    return EXPORTERS[to]


def _check_style(name: str) -> None:
    known = ", ".join(s.name for s in styles() if s.column == PERSISTENT)
    try:
        holds = style_of(name).column == PERSISTENT
    except RowError as err:
        raise SettingsError("want a style to export", err.got, f"use one of {known}") from err
    if not holds:
        raise SettingsError("want a style that holds over time", name, f"use one of {known}")


def _check_new_file(output: Path | None, dataset: Dataset, to: str) -> None:
    if output is None:
        raise SettingsError(f"want a file for --to={to}", "--in_place", f"say --output=labels.{to}")
    if output.exists():
        raise DatasetError(f"want a new file as --output for --to={to}", f"{output} exists", "choose another name")
    if output.resolve().is_relative_to(dataset.root.resolve()):
        raise SettingsError("want a file outside the dataset", str(output), "choose another --output")


def _report(dataset: Dataset, to: str, style: str, episodes: Sequence[EpisodeLabels]) -> ExportReport:
    """The figures; nothing is written yet. Raises DatasetError when there is nothing to write."""
    labelled = [e for e in episodes if e.labels]
    if not labelled:
        want = f"want {style} rows to export"
        raise DatasetError(want, f"none in {dataset.root}", "annotate it first (`annotate run`), or name another style")
    return ExportReport(
        path=dataset.root,
        to=to,
        style=style,
        episodes=len(labelled),
        labels=sum(len(e.labels) for e in labelled),
        texts=len({label.text for e in labelled for label in e.labels}),
        without=tuple(e.episode.episode_index for e in episodes if not e.labels),
    )
