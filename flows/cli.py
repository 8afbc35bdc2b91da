"""The `annotate` command. Heavy imports happen inside the commands that need them: help and errors come at once."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flows import evaluate_cli
from flows.chat_cli import export_chat_command
from flows.console import DONE, DONE_WITH_FAILURES, FAILED, err, guard, out, stop_on_sigterm
from flows.costs_cli import costs
from flows.flags import build, describe, leaves, parse
from flows.interchange_cli import export_labels, import_labels
from flows.preview_cli import preview
from flows.publish_cli import publish
from tasks.errors import SettingsError
from tasks.settings import AnnotateSettings

if TYPE_CHECKING:
    from flows.session import RunSummary

PICTURE_COLUMNS = 110
# A model takes minutes to load: silence would look like a hang.
SPOKEN = tuple(f"tasks.answers.{name}" for name in ("servers", "server_log", "server_process", "endpoint"))
EXIT_CODES = """Exit codes: 0 done; 1 failed, nothing written (or written but not uploaded, which is then said); 2 wrong
flag or setting; 3 done with failures (what could be annotated is written, what was left out is named); 130 interrupted,
the next run goes on from there."""

app = typer.Typer(
    help="Watch robot recordings with a vision-language model, write their language columns, make training samples.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
RUN_EXAMPLES = """\b
Examples:
  annotate run --root=DATASET                                      no model: motion signals, in place
  annotate run --root=DATASET --output=NEW --vlm.backend=openai --vlm.api_base=http://gpu:8000/v1 --vlm.model_id=MODEL
  annotate run --root=DATASET --vlm.backend=openai --vlm.auto_serve --vlm.model_id=MODEL     starts vllm, ends it
  annotate run --root=DATASET --vlm.backend=replay --vlm.replay_path=LEDGER                  again, offline
  annotate run --repo_id=lerobot/pusht --output=pusht-annotated    from the hub
  annotate run --root=DATASET --phases=vqa --refresh=vqa           one phase again
  annotate run --config=settings.yaml --only_episodes=0,2

Every setting is a dotted flag; `annotate settings` lists them all with types, defaults and meanings.
"""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, epilog=EXIT_CODES)
def run(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="settings from a YAML file; flags win over it")] = None,
    engine: Annotated[
        str, typer.Option(help="prefect (configured server, else an embedded one) or inline")
    ] = "prefect",
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON and nothing else")] = False,
    verbose: Annotated[bool, typer.Option(help="log what happens, to stderr")] = False,
) -> None:
    with guard(as_json):
        flat = parse(context.args, [name for name, _ in leaves(AnnotateSettings)])
        if engine not in ("prefect", "inline"):
            raise SettingsError("want --engine=prefect or --engine=inline", repr(engine))
        settings = build(AnnotateSettings, flat, config)
        if settings.root is None and settings.repo_id is None:
            raise SettingsError(
                "want a dataset", "neither --root nor --repo_id", "pass --root=FOLDER or --repo_id=USER/NAME"
            )
        if settings.job.target != "local":
            from flows.jobs import submit

            words = context.obj or sys.argv[1:]
            raise typer.Exit(submit(settings, words[words.index("run") + 1 :], err))
        code = _annotate(settings, engine, as_json=as_json, verbose=verbose)
    raise typer.Exit(code)


run.__doc__ = "Annotate a dataset: phases plan, interjections and vqa, validation, one atomic write.\n\n" + RUN_EXAMPLES
app.registered_commands[-1].help = run.__doc__


def _annotate(settings: AnnotateSettings, engine: str, *, as_json: bool = False, verbose: bool = False) -> int:
    stop_on_sigterm()
    _set_up_logging(verbose)
    from flows.progress import view

    with view(err if as_json else out, quiet=as_json):
        summary = _engine(engine)(settings)
    if as_json:
        out.print_json(json.dumps(summary.to_json()))
    else:
        _print_summary(summary)
    return DONE if summary.complete else DONE_WITH_FAILURES


def _engine(name: str) -> Callable[[AnnotateSettings], RunSummary]:
    if name == "inline":
        from flows.inline import annotate_inline

        return annotate_inline
    return _annotate_prefect


def _annotate_prefect(settings: AnnotateSettings) -> RunSummary:
    from flows.embedded_server import server
    from flows.prefect_environment import prepare

    prepare()
    with server() as embedded:
        from flows.annotate import annotate  # slow: meanwhile the server starts

        if embedded is not None:
            embedded.ready()
        return annotate(config=settings)


class _Spoken(logging.Handler):
    """Log records as lines on the error console, above a live view."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"[annotate] {record.getMessage()}", highlight=False, markup=False, soft_wrap=True)


def _set_up_logging(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("flows", "tasks"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if verbose else [logging.NullHandler()]
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
        logger.propagate = False
    for name in () if verbose else SPOKEN:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Spoken()], False
        logger.setLevel(logging.INFO)


def _print_summary(summary: RunSummary) -> None:
    from flows.render import findings_table, ledger_line, skips_table, summary_table

    out.print(summary_table(summary.reports, summary.costs))
    if summary.failures or summary.skips:
        out.print(skips_table(summary.reports))
    if summary.validation.findings:
        out.print(findings_table(summary.validation))
    verb = "wrote" if summary.written else "nothing new to write:"
    out.print(f"{verb} {summary.episodes} episodes, {summary.dataset}", highlight=False, soft_wrap=True)
    out.print(f"took {summary.seconds:.1f} s; staged rows in {summary.staging}", highlight=False, soft_wrap=True)
    if summary.ledger is not None:
        out.print(ledger_line(summary.costs, summary.ledger))
    if summary.published is not None:
        from flows.publish_cli import show_published

        show_published(summary.published, out)
    if not summary.complete:
        n = f"{len(summary.failures)} episode phases and {len(summary.skips)} questions"
        out.print(f"[bold yellow]done with failures:[/] {n} left out; run again to try the failed episodes once more, ")
        out.print("or pass --refresh=PHASE to ask unanswered questions again")


@app.command()
def settings(as_json: Annotated[bool, typer.Option("--json", help="the JSON Schema of all settings")] = False) -> None:
    """List every setting: flag, type, default, meaning."""
    if as_json:
        out.print_json(json.dumps(AnnotateSettings.model_json_schema()))
        return
    from rich.table import Table

    table = Table("flag", "type", "default", "meaning", box=None, header_style="bold")
    for row in describe(AnnotateSettings):
        table.add_row(*row)
    out.print(table)


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="where to make the demo dataset")] = Path("demo"),
    episodes: Annotated[int, typer.Option(min=1, max=1000)] = 6,
    engine: Annotated[str, typer.Option(help="inline (default) or prefect")] = "inline",
    show_episode: Annotated[int, typer.Option("--show", help="episode shown at the end")] = 0,
) -> None:
    """Make a small pick-and-place dataset, annotate it without any model, and show the result.

    \b
    Example: annotate demo --dir=demo
    """
    with guard():
        from tasks.dataset.generate import generate

        root = directory / "pick-place"
        if not root.exists():
            out.print(f"[annotate] recording {episodes} episodes of a tabletop scene", highlight=False)
            directory.mkdir(parents=True, exist_ok=True)
            generate(root, episodes=episodes)
        code = _annotate(AnnotateSettings(root=root), engine)
        _show(root, show_episode, out)
        out.print(f"\nThe annotated dataset lies in [bold]{root.resolve()}[/]", highlight=False, soft_wrap=True)
        out.print(f"Look at another episode:  annotate show --root={root} --episode=1", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@app.command()
def check(
    root: Annotated[Path, typer.Option(help="annotated dataset folder")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Verify an annotated dataset on disk: types, invariants, timestamps, info.json. Exit code 1 when it has errors.

    \b
    Example: annotate check --root=DATASET
    """
    with guard(as_json):
        from tasks.check import check_dataset

        report = check_dataset(root)
        if as_json:
            out.print_json(json.dumps(report.to_json()))
        else:
            from flows.render import findings_table

            if report.findings:
                out.print(findings_table(report))
            verdict = "[bold green]ok[/]" if report.ok else "[bold red]not ok[/]"
            counts = f"{report.episodes_checked} episodes, {report.rows_checked} rows, "
            counts += f"{len(report.errors)} errors, {len(report.warnings)} warnings"
            out.print(verdict, f"{root}: {counts}", highlight=False, soft_wrap=True)
    raise typer.Exit(DONE if report.ok else FAILED)


@app.command()
def show(
    root: Annotated[Path, typer.Option(help="annotated dataset folder")],
    episode: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    svg: Annotated[Path | None, typer.Option(help="also save the view as a picture")] = None,
) -> None:
    """Show the rows of one episode and a timeline, in the terminal.

    \b
    Example: annotate show --root=DATASET --episode=3
    """
    with guard(as_json):
        if as_json:
            from flows.render import episode_json

            out.print_json(json.dumps(episode_json(root, episode)))
        elif svg is not None:
            picture = Console(record=True, width=PICTURE_COLUMNS, file=io.StringIO(), force_terminal=True)
            _show(root, episode, picture)
            title = f"annotate show --root={root.name} --episode={episode}"
            picture.save_svg(str(svg), title=title, code_format=_svg_format())
            out.print(f"saved {svg}", highlight=False, markup=False)
        else:
            _show(root, episode, out)


def _svg_format() -> str:
    """Rich's picture of a terminal, without its fonts from the web: a picture must not call anywhere."""
    from rich.console import CONSOLE_SVG_FORMAT

    return re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def _show(root: Path, episode: int, console: Console) -> None:
    from flows.render import show_episode as render_episode

    render_episode(console, root, episode)


app.command()(preview)
app.command(name="export-chat")(export_chat_command)
app.command(name="import")(import_labels)
app.command(name="export")(export_labels)
app.command()(costs)
app.command()(publish)
app.add_typer(evaluate_cli.app, name="eval")


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the console script."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")
    words = list(arguments if arguments is not None else sys.argv[1:])
    return app(args=words, obj=words)  # a remote run replays the very words


if __name__ == "__main__":
    main()
