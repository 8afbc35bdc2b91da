"""The `serving` command. Heavy imports happen inside the commands that need them: help and errors come at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.console import DONE, EXIT_CODES, FAILED, guard, log_to_stderr, out, say, say_json

app = typer.Typer(
    help="Serve a trained policy to many robots over Zenoh.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
WITH_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
Json = Annotated[bool, typer.Option("--json", help="for machines: JSON on standard output and nothing else")]
Manifests = Annotated[
    list[Path] | None, typer.Option("--manifest", help="a manifest; the same as naming it without a flag")
]
OneService = Annotated[str, typer.Option("--service", help="only this one of the list services:")]
Verbose = Annotated[bool, typer.Option("--verbose", help="log more, to stderr")]


def _plans(context: typer.Context, manifests: Sequence[Path] | None, only: str) -> list[Any]:
    from serving.overrides import load, split_words

    paths, settings = split_words(context.args)
    return load([*(manifests or ()), *paths], settings, only)


@app.command(context_settings=WITH_SETTINGS, options_metavar="[MANIFEST]... [--SETTING=VALUE]... [OPTIONS]")
def up(
    context: typer.Context,
    manifests: Manifests = None,
    only: OneService = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Serve: one service in this process, or several as supervised processes, one per GPU.

    \b
    Examples:
      serving up manifest.yaml
      serving up manifest.yaml --model.device=cpu --zenoh.connect_endpoints=tcp/a:7447,tcp/b:7447
      serving up --manifest=services.yaml                a services: list: a process each, started again when it ends
      serving up services.yaml --service=towels          one of them alone
      serving up --model.repo_or_path=my_robot.policies:load --zenoh.mode=peer --zenoh.listen_endpoints=tcp/0.0.0.0:7447

    Every field of the manifest is a flag, and flags win; `serving fields` lists them all.
    """
    with guard(as_json):
        plans = _plans(context, manifests, only)
        log_to_stderr(verbose)
        from serving.up import up_many, up_one

        code = up_one(plans[0], as_json) if len(plans) == 1 else up_many(plans, as_json)
    raise typer.Exit(code)


@app.command(context_settings=WITH_SETTINGS, options_metavar="[MANIFEST]... [--SETTING=VALUE]... [OPTIONS]")
def check(context: typer.Context, manifests: Manifests = None, only: OneService = "", as_json: Json = False) -> None:
    """Try all that can be tried without a GPU: files, revision, ports, endpoints, certificates, the policy's spec.

    \b
    Examples:
      serving check manifest.yaml
      serving check manifest.yaml --json | jq '.services[].findings[] | select(.outcome == "error")'

    Exit code 1 when anything is an error.
    """
    with guard(as_json):
        plans = _plans(context, manifests, only)
        from configuration.findings import findings_table
        from serving.check import check as look

        found = {plan.name: look(plan.manifest) for plan in plans}
        ok = not any(finding.outcome == "error" for findings in found.values() for finding in findings)
        if as_json:
            services = [{"name": n, "findings": [vars(f) for f in findings]} for n, findings in found.items()]
            say_json({"ok": ok, "services": services})
        else:
            for name, findings in found.items():
                out.print(findings_table(name if len(found) > 1 else "", findings))
            out.print("[bold green]ok[/]" if ok else "[bold red]not ok[/]")
    raise typer.Exit(DONE if ok else FAILED)


@app.command(context_settings=WITH_SETTINGS, options_metavar="[MANIFEST] [--SETTING=VALUE]... [OPTIONS]")
def status(
    context: typer.Context,
    connect: Annotated[list[str] | None, typer.Option(help="where to ask: tcp/router:7447, or a server itself")] = None,
    prefix: Annotated[str, typer.Option(help="key of one service; default: every service there is")] = "",
    manifests: Manifests = None,
    only: OneService = "",
    watch: Annotated[bool, typer.Option("--watch", help="again and again, until Ctrl-C")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="seconds between two looks")] = 1.0,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="seconds to wait for answers")] = 2.0,
    as_json: Json = False,
) -> None:
    """Ask all replicas how they are: model, load, sessions.

    \b
    Examples:
      serving status --connect=tcp/127.0.0.1:7447
      serving status --connect=tcp/router:7447 --watch
      serving status manifest.yaml --json
      serving status --connect=tls/router:7447 --zenoh.tls_root_ca_certificate=ca.pem --zenoh.enable_mtls=false

    Exit code 1 when nobody answers.
    """
    with guard(as_json):
        from network.zenoh_transport import open_transport
        from serving import status_view
        from serving.overrides import load_one, network, split_words

        paths, settings = split_words(context.args)
        paths = [*(manifests or ()), *paths]
        if paths:
            zenoh, key = status_view.of_service(load_one(paths, settings, only).manifest, connect or ())
        else:
            zenoh, key = network(settings, connect or ()), status_view.EVERY_SERVICE
        transport = open_transport(zenoh)
        try:
            found = status_view.show(
                lambda: status_view.ask(transport, prefix or key, timeout_s), every_s if watch else None, as_json
            )
        finally:
            transport.close()
    raise typer.Exit(DONE if found else FAILED)


@app.command()
def router(
    config: Annotated[Path | None, typer.Argument(help="YAML file of the router; see docs/network.md")] = None,
    listen: Annotated[list[str] | None, typer.Option(help="where to listen: tcp/0.0.0.0:7447")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a Zenoh router in this process, where robots and servers meet.

    \b
    Examples:
      serving router --listen=tcp/0.0.0.0:7447
      serving router router.yaml
    """
    with guard(as_json):
        log_to_stderr(verbose)
        from serving import router as routing
        from serving.problems import problems_of_flags

        settings = routing.load_settings(config) if config else routing.RouterSettings()
        if listen:
            with problems_of_flags():
                settings = routing.RouterSettings.model_validate({**settings.model_dump(), "listen_endpoints": listen})
        ready = {"event": "ready", "listen": settings.listen_endpoints}
        routing.run(settings, lambda: say_json(ready) if as_json else say(f"routing on {', '.join(ready['listen'])}"))
    raise typer.Exit(DONE)


@app.command(context_settings=WITH_SETTINGS, options_metavar="CAPTURE [MANIFEST] [--SETTING=VALUE]... [OPTIONS]")
def replay(
    context: typer.Context,
    manifests: Manifests = None,
    only: OneService = "",
    as_json: Json = False,
) -> None:
    """Run captured requests again and compare the answers byte for byte.

    \b
    Example: serving replay capture manifest.yaml

    Exit code 1 when an answer differs.
    """
    with guard(as_json):
        from serving.errors import ManifestError
        from serving.overrides import load_one, split_words

        paths, settings = split_words(context.args)
        if not paths:
            raise ManifestError("want a capture to run again", "none", "serving replay CAPTURE MANIFEST")
        manifest = load_one([*(manifests or ()), *paths[1:]], settings, only).manifest
        from serving.replay_capture import replay as run_again

        report = run_again(paths[0], manifest)
        same = report.pairs - len(report.differences)
        if as_json:
            say_json({**asdict(report), "path": str(report.path), "ok": report.ok})
        else:
            for difference in report.differences:
                say(f"{difference.client} request {difference.seq_id}: {difference.what}")
            for note in report.notes:
                say(f"note: {note}")
            say(f"{same} of {report.pairs} answers came out the same")
    raise typer.Exit(DONE if report.ok else FAILED)


@app.command()
def capacity(
    predict_ms: Annotated[float | None, typer.Option(help="p95 of one batch on the device, ms")] = None,
    requests_hz: Annotated[float | None, typer.Option(help="requests a second of one robot")] = None,
    horizon: Annotated[int, typer.Option(help="control steps that a robot executes of a chunk")] = 50,
    fps: Annotated[float, typer.Option(help="control steps a second")] = 30.0,
    round_trip_ms: Annotated[float, typer.Option(help="network round trip, ms")] = 0.0,
    batch: Annotated[float | None, typer.Option(help="requests predicted together")] = None,
    metrics: Annotated[str, typer.Option(help="read what is not given from a running server: host:9100")] = "",
    window_s: Annotated[float, typer.Option("--window", min=0.1, help="seconds to measure it for")] = 10.0,
    robots: Annotated[int | None, typer.Option(min=1, help="say how many replicas so many robots need")] = None,
    as_json: Json = False,
) -> None:
    """How many robots one replica can serve: by throughput, and by how long the last in line waits.

    \b
    Examples:
      serving capacity --predict-ms=20 --requests-hz=1 --horizon=50
      serving capacity --metrics=127.0.0.1:9100 --horizon=50 --round-trip-ms=50 --robots=300
    """
    with guard(as_json):
        from serving.capacity import capacity as compute
        from serving.capacity import figures, lines

        given = figures(predict_ms, requests_hz, horizon, fps, round_trip_ms, batch, metrics, window_s)
        result = compute(given)
        if as_json:
            say_json(result.to_json(robots))
        else:
            for line in lines(result, robots):
                say(line)


@app.command()
def schema() -> None:
    """Print the JSON Schema of manifests, for editors.

    \b
    Example: serving schema > manifest.schema.json
    """
    from serving.manifest_schema import text

    out.file.write(text())


@app.command()
def fields(as_json: Json = False) -> None:
    """List every field of the manifest: flag, type, default, meaning."""
    from configuration.flags import describe
    from serving.manifest import Manifest

    if as_json:
        say_json([dict(zip(("flag", "type", "default", "meaning"), row, strict=True)) for row in describe(Manifest)])
        return
    from rich.table import Table

    table = Table("flag", "type", "default", "meaning", box=None, header_style="bold")
    for row in describe(Manifest):
        table.add_row(*row)
    out.print(table)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="the file to write")] = Path("manifest.yaml"),
    model: Annotated[str, typer.Option(help="what to serve; default: a made recording that is replayed")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps")] = "cuda",
    listen: Annotated[str, typer.Option(help="where robots connect")] = "tcp/127.0.0.1:7447",
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented manifest. Without a model it replays a small recording, so that it comes up anywhere.

    \b
    Examples:
      serving init
      serving init pi0.yaml --model=lerobot/pi0_towels
    """
    with guard(as_json):
        from serving.init_manifest import init as write

        written = write(path, model, device, listen, force)
        if as_json:
            say_json({"written": [str(p) for p in written]})
        else:
            for file in written:
                say(f"wrote {file}")
            say(f"next: serving check {path} && serving up {path}")


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="the new folder: policy.yaml, statistics and program")],
    checkpoint: Annotated[str, typer.Option(help="LeRobot checkpoint: folder or hub id")] = "",
    revision: Annotated[str, typer.Option(help="branch, tag or commit of it")] = "main",
    tiny: Annotated[
        bool, typer.Option("--tiny", help="a small policy with random weights, for tests and demos")
    ] = False,
    fps: Annotated[float, typer.Option(min=0.001, help="control rate of the training data, Hz")] = 30.0,
    batch_max: Annotated[int, typer.Option(min=1, help="most requests of one call")] = 16,
    batch_sizes: Annotated[str, typer.Option(help="one program for each of these sizes: 1,2,4,8")] = "",
    action_names: Annotated[str, typer.Option(help="names of the actions, in order: a,b,c")] = "",
    options: Annotated[list[str] | None, typer.Option("--option", help="of a tiny policy: chunk_size=50")] = None,
    as_json: Json = False,
) -> None:
    """Make an exported policy: a program and a small YAML file, served without the code that trained it.

    \b
    Examples:
      serving export act-towels --checkpoint=me/act_towels --fps=30
      serving export tiny --tiny --action-names=x,y,z,gripper --option=chunk_size=20
    """
    with guard(as_json):
        from serving.overrides import read_options, read_sizes
        from serving.policies.export_tool import export as make

        names = [name for name in action_names.split(",") if name]
        folder = make(
            checkpoint or None, output, tiny=tiny, revision=revision, fps=fps, batch_max=batch_max,
            batch_sizes=read_sizes(batch_sizes), action_names=names, options=read_options(options or ()),
        )  # fmt: skip
        if as_json:
            say_json({"written": str(folder)})
        else:
            say(f"wrote {folder}")
            say(f"next: serving init --model={folder} --device=cpu && serving up manifest.yaml")


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the console script."""
    return app(args=list(arguments if arguments is not None else sys.argv[1:]), prog_name="serving")


if __name__ == "__main__":
    main()
