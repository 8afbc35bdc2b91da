"""The `edge` command. Heavy imports happen inside the commands that need them: help and errors come at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edge.console import DONE, EXIT_CODES, FAILED, err, guard, log_to_stderr, out, say, say_json

app = typer.Typer(
    help="Drive a robot by a policy that runs on a server; no weights here.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
WITH_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
METAVAR = "[--SETTING=VALUE]... [OPTIONS]"
Config = Annotated[Path | None, typer.Option("--config_path", help="settings from a YAML file; flags win over it")]
Json = Annotated[bool, typer.Option("--json", help="for machines: JSON on standard output and nothing else")]
Verbose = Annotated[bool, typer.Option("--verbose", help="log more, to stderr")]


@app.command(context_settings=WITH_SETTINGS, options_metavar=METAVAR, epilog=EXIT_CODES)
def run(context: typer.Context, config: Config = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Drive a robot. The server is asked before the robot is energised.

    \b
    Examples:
      edge run --policy.path=me/act_towels --robot.type=so101_follower --robot.port=/dev/ttyACM0 \\
        --inference.connect_endpoint=tcp/gpu-box:7447 --task="fold the towel" --fps=30 --duration=60
      edge run --policy.path=recording --robot.type=dataset --robot.root=recording     a recording plays the robot
      edge run … --dry_run                                  read and ask, send nothing
      edge run … --strategy.type=episodic --strategy.num_episodes=10 --dataset.root=out   record what is driven
      edge run … --display=rerun --display.save=run.rrd     pictures, states, actions, latency
      edge run --config_path=towels.yaml --task="fold it twice"

    Every setting is a dotted flag; `edge fields` lists them, `edge fields --robot.type=…` those of one robot.
    Ctrl-C: the robot goes back to where it began and stands still; once more: it stops where it is.
    """
    with guard(as_json):
        from edge.run_settings import load

        settings = load(context.args, config)
        log_to_stderr(verbose)
        from edge import run as running
        from edge.summary import show

        running.interrupt_on_sigterm()
        summary = running.drive(running.plan(settings), quiet=as_json)
        if as_json:
            say_json(summary.to_json())
        else:
            show(summary, out)
    raise typer.Exit(DONE if summary.ok else FAILED)


@app.command(context_settings=WITH_SETTINGS, options_metavar=METAVAR, epilog=EXIT_CODES)
def check(context: typer.Context, config: Config = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Try all that can be tried before the robot is energised: network, certificates, names, cameras, latency.

    \b
    Examples:
      edge check --policy.path=me/act_towels --robot.type=so101_follower --robot.port=/dev/ttyACM0 \\
        --inference.connect_endpoint=tcp/gpu-box:7447 --task="fold the towel"
      edge check … --json | jq '.findings[] | select(.outcome == "error")'

    The same flags as `edge run`. Exit code 1 when anything is an error.
    """
    with guard(as_json):
        from edge.run_settings import load

        settings = load(context.args, config)
        log_to_stderr(verbose, quiet=not verbose)  # what is wrong becomes a finding
        from configuration.findings import findings_table
        from edge.check import check as look

        with err.status("looking") as status:
            report = look(settings, lambda text: status.update(text))
        if as_json:
            say_json(report.to_json())
        else:
            out.print(findings_table("", report.findings))
            out.print("[bold green]ok[/]" if report.ok else "[bold red]not ok[/]", report.verdict, highlight=False)
    raise typer.Exit(DONE if report.ok else FAILED)


@app.command()
def watch(
    client: Annotated[str, typer.Argument(help="only robots whose id begins so")] = "",
    once: Annotated[bool, typer.Option("--once", help="one look, then end")] = False,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="seconds to wait for a first one")] = 1.0,
    as_json: Json = False,
) -> None:
    """How the running edges of this machine go: state, queue, latency, age, drops; live, until Ctrl-C.

    \b
    Examples:
      edge watch
      edge watch arm-3 --json | jq .left_s

    Exit code 1 when none runs.
    """
    with guard(as_json):
        from edge.watch import watch as look

        found = look(client, as_json=as_json, once=once, wait_s=wait_s)
    raise typer.Exit(DONE if found else FAILED)


@app.command()
def recover(
    root: Annotated[Path, typer.Argument(help="folder of a recording that was cut off")],
    writer: Annotated[
        str, typer.Option(help="own: lay it out without LeRobot, where that was wanted and does not work")
    ] = "",
    as_json: Json = False,
) -> None:
    """Put what a kill, a power cut or a full disk left behind into the dataset. Any number of times.

    \b
    Example: edge recover out/rollout_towels
    """
    with guard(as_json):
        from edge.recording.recover import recover as mend

        found = mend(root, writer or None)
        episodes, frames = (found.episodes, found.frames) if found else (0, 0)
        if as_json:
            say_json({"root": str(root), "episodes": episodes, "frames": frames})
        elif found:
            say(f"recovered {episodes} episodes, {frames} frames into {found.root}")
        else:
            say(f"nothing waits at {root}")


@app.command(context_settings=WITH_SETTINGS, options_metavar=METAVAR)
def fields(context: typer.Context, as_json: Json = False) -> None:
    """List every setting: flag, type, default, meaning. With a robot's, strategy's or teleoperator's type: theirs too.

    \b
    Examples:
      edge fields
      edge fields --robot.type=dataset --strategy.type=episodic --json
    """
    with guard(as_json):
        from edge.run_settings import described

        rows = list(described(context.args))
        if as_json:
            say_json([dict(zip(("flag", "type", "default", "meaning"), row, strict=True)) for row in rows])
            return
        from rich.table import Table

        table = Table("flag", "type", "default", "meaning", box=None, header_style="bold")
        for row in rows:
            table.add_row(*row)
        out.print(table)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the console script."""
    return app(args=list(arguments if arguments is not None else sys.argv[1:]), prog_name="edge")


if __name__ == "__main__":
    main()
