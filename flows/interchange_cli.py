"""`annotate import` and `annotate export`: labels of older forms into the language columns, and out of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.console import DONE, err, guard, out
from tasks.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.interchange import ExportReport, ImportReport

FormName = Literal["auto", "subtask_index", "sarm", "gr00t"]
SarmLevel = Literal["sparse", "dense"]
STOPPED = "interrupted; nothing was written"
ROWS_SHOWN = 60  # of a dry run
EPISODES_NAMED = 12

Progress = Callable[[str, int, int], None]


def import_labels(
    root: Annotated[Path, typer.Option(help="LeRobot v3 dataset folder")],
    form: Annotated[FormName, typer.Option("--from", help="the older form (auto: the only one there is)")] = "auto",
    output: Annotated[Path | None, typer.Option(help="write a new dataset here (default: in place)")] = None,
    only_episodes: Annotated[str | None, typer.Option("--only_episodes", help="episode indices: 0,2,5")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="put imported rows in place of those of their style")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry_run", help="show what would be written; write nothing")] = False,
    sarm_level: Annotated[
        SarmLevel | None, typer.Option("--sarm.level", help="which SARM columns (default: dense where there are any)")
    ] = None,
    gr00t_map: Annotated[
        str | None, typer.Option("--gr00t.map", help="COLUMN=STYLE,… (default: chosen by what the columns say)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the summary as JSON and nothing else")] = False,
) -> None:
    """Take over labels of an older form: subtask_index, SARM columns of meta/episodes, GR00T annotation columns.

    \b
    Examples:
      annotate import --root=DATASET --dry_run
      annotate import --root=DATASET --from=sarm --sarm.level=sparse --output=NEW
      annotate import --root=DATASET --gr00t.map=annotation.human.action.task_description=subtask --replace
    """
    with guard(as_json, STOPPED):
        episodes = _episodes(only_episodes)
        from tasks import interchange

        with _progress(quiet=as_json) as progress:
            report = interchange.import_labels(
                root,
                form,
                interchange.FormOptions(sarm_level, gr00t_map),
                output=output,
                only_episodes=episodes,
                replace=replace,
                dry_run=dry_run,
                progress=progress,
            )
        if as_json:
            out.print_json(json.dumps(report.to_json()))
        else:
            _show_import(report)
    raise typer.Exit(DONE)


def export_labels(
    root: Annotated[Path, typer.Option(help="annotated dataset folder")],
    to: Annotated[str, typer.Option(help="subtask_index, sarm, gr00t or csv")],
    output: Annotated[Path | None, typer.Option(help="a new dataset folder, or the file for csv")] = None,
    in_place: Annotated[bool, typer.Option("--in_place", help="add to the dataset itself instead")] = False,
    style: Annotated[str, typer.Option(help="which rows: subtask, plan, memory, …")] = "subtask",
    replace: Annotated[bool, typer.Option("--replace", help="put them in place of labels of that form")] = False,
    sarm_level: Annotated[
        SarmLevel, typer.Option("--sarm.level", help="which SARM columns (LeRobot reads sparse by default)")
    ] = "sparse",
    gr00t_column: Annotated[
        str, typer.Option("--gr00t.column", help="name of the GR00T column")
    ] = "annotation.human.action.task_description",
    as_json: Annotated[bool, typer.Option("--json", help="the summary as JSON and nothing else")] = False,
) -> None:
    """Write labels in an older form: a dataset with the columns that other tools read, or a CSV file.

    \b
    Examples:
      annotate export --root=DATASET --to=csv --output=subtasks.csv
      annotate export --root=DATASET --to=subtask_index --output=NEW
      annotate export --root=DATASET --to=sarm --in_place
    """
    with guard(as_json, STOPPED):
        if (output is None) != in_place:
            got = "both" if in_place else "neither"
            raise SettingsError(
                "want either --output or --in_place", got, "say --output=PATH to keep the dataset as it is"
            )
        from tasks import interchange

        options = interchange.ExportOptions(style, sarm_level, gr00t_column, replace)
        with _progress(quiet=as_json) as progress:
            report = interchange.export_labels(root, to, output, options, progress=progress)
        if as_json:
            out.print_json(json.dumps(report.to_json()))
        else:
            _show_export(report)
    raise typer.Exit(DONE)


def _episodes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise SettingsError("want episode indices as --only_episodes", repr(text), "for example 0,2,5") from error


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, a line a stage elsewhere, nothing for machines."""
    from rich.progress import Progress as Bar

    bars = Bar(console=err, transient=True, disable=quiet or not err.is_terminal)
    tasks: dict[str, int] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total or None)
            if not quiet and not err.is_terminal:
                err.print(f"[annotate] {what}", highlight=False, markup=False)
        bars.update(tasks[what], completed=done)

    with bars:
        yield show


def _show_import(report: ImportReport) -> None:
    for choice in report.choices:
        _say(choice)
    if not report.written:
        out.print(_rows_table(report))
    counts = report.counts()
    rows = ", ".join(f"{n} {name}" for name, n in counts["rows"].items())
    table = _table()
    table.add_row("episodes", str(counts["episodes"]))
    table.add_row("rows", rows)
    frames = f" ({counts['frames_extended']} frames)" if counts["spans_extended"] else ""
    table.add_row("first subtasks extended to the first frame", f"{counts['spans_extended']}{frames}")
    table.add_row("later frames without a label (the one before goes on)", str(counts["frames_unlabelled"]))
    table.add_row("labels cut off by the next one", str(counts["labels_cut"]))
    table.add_row("labels left out (another begins on the same frame)", str(counts["labels_hidden"]))
    table.add_row("rows replaced", str(counts["rows_replaced"]))
    table.add_row("episodes without labels (left as they are)", _named(report.without))
    out.print(table)
    verb = f"wrote {report.shards_written} shards of" if report.written else "dry run, nothing was written to"
    _say(f"{verb} {report.dataset}")


def _rows_table(report: ImportReport) -> Table:
    """What a dry run would write."""
    from rich.table import Table
    from rich.text import Text

    rows = [(e.episode_index, row) for e in report.episodes for row in e.rows]
    hidden = len(rows) - ROWS_SHOWN
    caption = f"and {hidden} more rows; --json lists all" if hidden > 0 else None
    table = Table("episode", "from", "style", "text", box=None, header_style="bold", caption=caption)
    for index, row in rows[:ROWS_SHOWN]:
        table.add_row(str(index), f"{row.timestamp:.2f} s", row.style, Text(row.content or ""))
    return table


def _show_export(report: ExportReport) -> None:
    table = _table()
    table.add_row("episodes", str(report.episodes))
    table.add_row(f"{report.style} spans", f"{report.labels}, {report.texts} different texts")
    table.add_row("episodes without labels", _named(list(report.without)))
    out.print(table)
    _say(f"wrote {report.to}: {report.path}")


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, show_header=False)


def _named(indices: list[int]) -> str:
    head = ", ".join(map(str, indices[:EPISODES_NAMED]))
    more = ", …" if len(indices) > EPISODES_NAMED else ""
    return f"{len(indices)}: {head}{more}" if indices else "0"


def _say(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)
