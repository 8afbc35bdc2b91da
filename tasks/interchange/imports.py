"""Labels of an older form into the language columns: read all of them, then one commit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.dataset.commit import check_writable, recover
from tasks.dataset.episode import Episode
from tasks.dataset.episodes import named
from tasks.dataset.layout import Dataset, open_dataset
from tasks.dataset.lock import lock_dataset
from tasks.errors import DatasetError, SettingsError
from tasks.interchange.form import Form, FormOptions
from tasks.interchange.gr00t import Gr00t
from tasks.interchange.labels import Found
from tasks.interchange.record import with_entry
from tasks.interchange.sarm import Sarm
from tasks.interchange.stored import Progress, check_new_folder, count_rows, silent
from tasks.interchange.subtask_index import SubtaskIndex
from tasks.language.arrow import row_table
from tasks.language.rows import Row
from tasks.language.staged import ORDER_BITS
from tasks.language.styles import style
from tasks.write import write_rows

FormName = Literal["auto", "subtask_index", "sarm", "gr00t"]
FORMS: dict[str, type[Form]] = {"subtask_index": SubtaskIndex, "sarm": Sarm, "gr00t": Gr00t}
NEEDS_SUBTASK = frozenset({"plan", "memory"})  # a dataset with such rows must say what is being done at every frame


@dataclass(frozen=True)
class ImportedEpisode:
    """The rows of one episode, and what had to be decided for it."""

    episode_index: int
    rows: list[Row]
    extended_frames: int = 0  # before the first subtask, which now begins at the first frame
    unlabelled_frames: int = 0  # without a label: the one before goes on
    overlaps: int = 0
    hidden: int = 0  # labels left out because another one begins on the same frame
    replaced_rows: int = 0

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        rows = [{"style": r.style, "timestamp": r.timestamp, "content": r.content} for r in self.rows]
        return {**self.__dict__, "rows": rows}


@dataclass
class ImportReport:
    """What an import has written, or would write."""

    dataset: Path
    form: str
    choices: list[str]
    episodes: list[ImportedEpisode]
    without: list[int]  # episodes without labels, which stay as they are
    written: bool = False
    shards_written: int = 0

    @property
    def rows(self) -> Counter[str]:
        """How many rows of each style."""
        return Counter(r.style or "" for e in self.episodes for r in e.rows)

    def total(self, name: str) -> int:
        """The sum of a number over all episodes."""
        return sum(getattr(e, name) for e in self.episodes)

    def counts(self) -> dict[str, Any]:
        """The figures of the summary."""
        return {
            "episodes": len(self.episodes),
            "rows": dict(self.rows),
            "spans_extended": sum(bool(e.extended_frames) for e in self.episodes),
            "frames_extended": self.total("extended_frames"),
            "frames_unlabelled": self.total("unlabelled_frames"),
            "labels_cut": self.total("overlaps"),
            "labels_hidden": self.total("hidden"),
            "rows_replaced": self.total("replaced_rows"),
            "episodes_without_labels": len(self.without),
        }

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "dataset": str(self.dataset),
            "from": self.form,
            "choices": self.choices,
            "written": self.written,
            "shards_written": self.shards_written,
            **self.counts(),
            "without_labels": self.without,
            "imported": [e.to_json() for e in self.episodes],
        }


@dataclass
class _Merged:
    """The rows of every episode: imported ones in place of those of their styles, all others kept."""

    imported: Mapping[int, Sequence[Row]]
    styles: Mapping[int, frozenset[str | None]] = field(init=False)

    def __post_init__(self) -> None:
        self.styles = {e: frozenset(r.style for r in rows) for e, rows in self.imported.items()}

    def __call__(self, episodes: Sequence[int], persistent: pa.Table, events: pa.Table) -> tuple[pa.Table, pa.Table]:
        gone = np.zeros(len(persistent), dtype=bool)
        owner = persistent.column("episode").to_numpy()
        for name in set().union(*self.styles.values()):
            imported = np.array([name in self.styles.get(e, ()) for e in episodes])
            of_style = pc.fill_null(pc.equal(persistent.column("style"), name), False).to_numpy()
            gone |= of_style & imported[owner]
        new = [
            (position, (1 << ORDER_BITS) | i, row)  # after rows that are kept
            for position, episode in enumerate(episodes)
            for i, row in enumerate(self.imported.get(episode, ()))
        ]
        return pa.concat_tables([persistent.filter(pa.array(~gone)), row_table(new)]), events


def import_labels(
    root: Path,
    form: FormName = "auto",
    options: FormOptions | None = None,
    *,
    output: Path | None = None,
    only_episodes: Sequence[int] | None = None,
    replace: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> ImportReport:
    """Write the labels of an older form as rows, in place or as a new dataset at `output`; all of them or none.

    Episodes without labels, rows of other styles and the older form itself stay as they are. Raises DatasetError where
    the form cannot be read or rows of the imported styles are there already (unless `replace`), SettingsError where
    what was asked for does not fit the dataset, CommitError and DatasetBusyError as annotation runs do.
    """
    dataset = open_dataset(root)
    check_new_folder(output)
    target = output or dataset.root
    if not dry_run:
        check_writable(dataset.root, output)
    with nullcontext() if dry_run else lock_dataset(target):
        if not dry_run:
            recover(target)
            dataset = open_dataset(root)  # recovery may have changed it
        report = _read(dataset, form, options or FormOptions(), target, only_episodes, progress)
        report.episodes = _replacing(dataset, report.episodes, replace=replace)
        if not dry_run:
            progress("writing", 0, 0)
            _write(dataset, report, output)
    return report


def find_form(dataset: Dataset) -> str:
    """The one form that a dataset has labels of. Raises SettingsError for several, DatasetError for none."""
    found = [name for name, form in FORMS.items() if form.is_in(dataset)]
    if len(found) > 1:
        raise SettingsError("want one form of labels to import", " and ".join(found), f"say --from={found[0]}")
    if not found:
        want = "want labels to import: subtask_index, SARM columns in meta/episodes, or annotation.* columns"
        raise DatasetError(want, f"none in {dataset.root}", "check the folder; `annotate run` makes labels anew")
    return found[0]


def _meant(options: FormOptions) -> str | None:
    """The form that options are about."""
    if options.gr00t_map is not None:
        return "gr00t"
    return None if options.sarm_level is None else "sarm"


def _read(
    dataset: Dataset,
    form: FormName,
    options: FormOptions,
    target: Path,
    only: Sequence[int] | None,
    progress: Progress,
) -> ImportReport:
    """All labels as rows; nothing is written."""
    episodes = dataset.episodes(only)
    name = (_meant(options) or find_form(dataset)) if form == "auto" else form
    if options.gr00t_map is not None and name != "gr00t":
        raise SettingsError("want --gr00t.map with --from=gr00t only", f"--from={name}", "leave one of them out")
    if options.sarm_level is not None and name != "sarm":
        raise SettingsError("want --sarm.level with --from=sarm only", f"--from={name}", "leave one of them out")
    opened = FORMS[name].open(dataset, episodes, options)
    report = ImportReport(target, name, list(opened.choices), [], [])
    for i, episode in enumerate(episodes):
        found = {s: f for s, f in opened.read(episode).items() if f.labels}
        if found:
            report.episodes.append(_episode(episode, found))
        else:
            report.without.append(episode.episode_index)
        progress("reading labels", i + 1, len(episodes))
    if not report.episodes:
        got = f"no label in {len(episodes)} episodes ({'; '.join(report.choices)})"
        raise DatasetError("want labels to import", got, "choose other episodes, or another --from")
    return report


def _episode(episode: Episode, found: Mapping[str, Found]) -> ImportedEpisode:
    """The rows of one episode, each on the timestamp of its frame."""
    rows: list[Row] = []
    for name, labels in found.items():
        role = style(name).roles[-1]  # of a style that both may say, a label is the robot's
        if name == "task_aug":  # another wording of the task holds for the whole episode
            wordings = dict.fromkeys(label.text for label in labels.labels)
            rows += [Row(role, text, name, episode.start_s) for text in wordings]
            continue
        starts = [label.start for label in labels.labels]
        if name == "subtask":
            starts[0] = 0  # every frame has a subtask
        rows += [
            Row(role, label.text, name, episode.times[start])
            for start, label in zip(starts, labels.labels, strict=True)
        ]
    late = found["subtask"].late if "subtask" in found else 0
    main = found.get("subtask") or next(iter(found.values()))
    return ImportedEpisode(
        episode.episode_index,
        [row.check() for row in rows],
        extended_frames=late,
        unlabelled_frames=main.unlabelled - late,
        overlaps=sum(f.overlaps for f in found.values()),
        hidden=sum(f.hidden for f in found.values()),
    )


def _replacing(dataset: Dataset, episodes: Sequence[ImportedEpisode], *, replace: bool) -> list[ImportedEpisode]:
    """The episodes with the number of rows that theirs replace. Raises DatasetError unless that is wanted."""
    styles = {e.episode_index: {r.style for r in e.rows} for e in episodes}
    counts = count_rows(dataset, {name or "" for names in styles.values() for name in names} | {"subtask"})
    for index, names in styles.items():
        if names & NEEDS_SUBTASK and "subtask" not in names and (index, "subtask") not in counts:
            want = f"want subtasks in episode {index} beside rows of {', '.join(sorted(names & NEEDS_SUBTASK))}"
            raise DatasetError(want, "none", "import a column as subtask too")
    replaced = {i: sum(counts.get((i, name or ""), 0) for name in names) for i, names in styles.items()}
    there = [index for index, count in replaced.items() if count]
    if there and not replace:
        names = sorted({s for i in there for s in (n or "" for n in styles[i]) if (i, s) in counts})
        got = f"{sum(replaced.values())} rows in episodes {named(there)}"
        remedy = "pass --replace to put the imported ones in their place, or --only_episodes to leave these out"
        raise DatasetError(f"want no {' or '.join(names)} rows on the imported episodes", got, remedy)
    return [dataclasses.replace(e, replaced_rows=replaced[e.episode_index]) for e in episodes]


def _write(dataset: Dataset, report: ImportReport, output: Path | None) -> None:
    rows = {e.episode_index: e.rows for e in report.episodes}
    entry = {"command": "import", "from": report.form, "choices": report.choices, **report.counts()}
    written = write_rows(
        dataset,
        _Merged(rows),
        rows,
        output=output,
        provenance=with_entry(dataset.root, entry, rows_changed=True),
        drop_subtask_index=False,
    )
    report.dataset, report.shards_written, report.written = written.path, written.shards_written, True
