"""`annotate export-chat`: samples of a recipe as chat JSON lines with pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.console import DONE, DONE_WITH_FAILURES, err, guard, out, stop_on_sigterm
from tasks.errors import SettingsError

if TYPE_CHECKING:
    from tasks.language.chat_export import ChatExport, Progress

FAILURES_SHOWN_MAX = 10
LEFT_OUT = {"nothing": "no component can render there", "no target": "no words to learn there"}
KEPT = "interrupted; finished episodes are kept, run the same command to go on"


def export_chat_command(
    root: Annotated[Path, typer.Option(help="annotated dataset folder")],
    recipe: Annotated[str, typer.Option(help="a canonical recipe's name (annotate preview --list), or a YAML file")],
    output: Annotated[Path, typer.Option(help="new folder for the lines and pictures")],
    form: Annotated[
        str, typer.Option(help="messages or prompt_completion (TRL), llamafactory, inline (chat templates)")
    ] = "messages",
    split: Annotated[str, typer.Option(help="files and their shares of the episodes: train:0.9,val:0.1")] = "train:1",
    episodes: Annotated[str | None, typer.Option(help="episode indices, e.g. 0,3; all when left out")] = None,
    components: Annotated[str | None, typer.Option(help="only these components of the blend, e.g. ask_vqa")] = None,
    stride_s: Annotated[float | None, typer.Option("--stride_s", help="seconds between samples [1.0]")] = None,
    every: Annotated[int | None, typer.Option(help="frames between samples, instead of --stride_s; 1: all")] = None,
    moments: Annotated[
        bool, typer.Option("--moments/--no_moments", help="also each frame on which a row begins or stands")
    ] = True,
    limit: Annotated[int | None, typer.Option(help="samples at most, from the first episode on")] = None,
    only_targets: Annotated[
        bool, typer.Option("--only_targets/--all", help="leave out samples without words to learn (actions only)")
    ] = True,
    width_max: Annotated[int | None, typer.Option("--width_max", help="scale pictures down to so many pixels")] = None,
    quality: Annotated[int, typer.Option(help="of the JPEG files, 1 to 100")] = 90,
    seed: Annotated[int, typer.Option(help="of the draws and of the split")] = 0,
    epoch: Annotated[int, typer.Option(min=0, help="of the draws")] = 0,
    skip_ambiguous: Annotated[
        bool, typer.Option("--skip_ambiguous", help="leave out components whose rows contradict each other")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="accept an output that was finished with these flags")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier export")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON and nothing else")] = False,
) -> None:
    """Write rendered samples as chat JSON lines with pictures, to fine-tune a vision-language model on.

    An export that was killed goes on when the same command runs again. Only pictures that samples show are decoded.

    \b
    Examples:
      annotate export-chat --root=DATASET --recipe=subtask_mem_vqa_speech --output=chat
      annotate export-chat --root=DATASET --recipe=subtask --output=chat --split=train:0.9,val:0.1 --stride_s=0.5
      annotate export-chat --root=DATASET --recipe=subtask_mem_vqa_speech --components=ask_vqa --output=vqa
    """
    with guard(as_json, KEPT):
        stop_on_sigterm()
        from tasks.language.chat_export import export_chat
        from tasks.language.chat_options import STRIDE_DEFAULT_S, ChatOptions, parse_split

        options = ChatOptions(
            form=form,
            episodes=_indices(episodes),
            every=every,
            stride_s=STRIDE_DEFAULT_S if stride_s is None else stride_s,
            moments=moments,
            limit=limit,
            only_targets=only_targets,
            components=tuple(word.strip() for word in (components or "").split(",") if word.strip()),
            split=parse_split(split),
            seed=seed,
            epoch=epoch,
            skip_ambiguous=skip_ambiguous,
            width_max=width_max,
            quality=quality,
        )
        if every is not None and stride_s is not None:
            raise SettingsError("want --every or --stride_s", "both", "leave one out")
        with _bar(quiet=as_json) as progress:
            result = export_chat(root, recipe, output, options, overwrite=overwrite, resume=resume, progress=progress)
        out.print_json(json.dumps(result.to_json())) if as_json else _show(result)
    raise typer.Exit(DONE_WITH_FAILURES if result.failures else DONE)


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Progress | None]:
    """A bar on stderr where someone looks at it."""
    if quiet or not err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("episodes, {task.fields[samples]} samples"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as bar:
        task = bar.add_task("", total=None, samples=0)

        def report(done: int, total: int, samples: int) -> None:
            bar.update(task, completed=done, total=total, samples=samples)

        yield report


def _show(result: ChatExport) -> None:
    def say(line: str) -> None:
        out.print(line, markup=False, highlight=False, soft_wrap=True)

    files = ", ".join(f"{name}.jsonl {count:,} lines" for name, count in result.samples.items())
    say(f"wrote {result.output}: {files}, {result.images:,} pictures; took {result.seconds:.1f} s")
    for name, count in result.components.items():
        say(f"  {count:>8,}  {name}")
    for reason, count in result.left_out.items():
        if count:
            say(f"  {count:>8,}  frames left out: {LEFT_OUT[reason]}")
    if result.resumed:
        say(f"{result.resumed} episodes were finished before")
    for index, why in result.failures[:FAILURES_SHOWN_MAX]:
        say(f"left out episode {index}: {why}")
    if len(result.failures) > FAILURES_SHOWN_MAX:
        say(f"left out {len(result.failures) - FAILURES_SHOWN_MAX} more episodes; --json names all")


def _indices(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        found = ()
    if not found:
        raise SettingsError("want episode indices such as --episodes=0,3", repr(text), "name them with commas between")
    return found
