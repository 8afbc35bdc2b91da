"""The `annotate eval` command. Heavy imports happen inside the commands that need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from typer.core import TyperGroup

from flows.console import DONE, DONE_WITH_FAILURES, INTERRUPTED, err, guard, out, stop_on_sigterm
from flows.flags import build, leaves, parse
from tasks.errors import SettingsError
from tasks.evaluate.settings import EvaluateSettings, JudgeSettings, judge_run
from tasks.settings import AnnotateSettings

if TYPE_CHECKING:
    from tasks.evaluate.report import Evaluation
    from tasks.evaluate.source import Source

EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}
HELP = """Compare an annotated dataset with the truth, or with another annotation of the same recordings.

\b
Examples:
  annotate eval --root=DATASET --reference=DATASET.truth.json        against what is known to be true
  annotate eval --root=A --reference=B --plots=pictures               two annotations, timelines as pictures
  annotate eval --root=RUN1 --reference=RUN2 --json                   agreement of two runs of one model
  annotate eval --root=A --reference=B --judge.backend=openai --judge.api_base=http://gpu:8000/v1 --judge.model_id=MODEL
  annotate eval sweep --help                                          several prompts, models, settings, ranked

Every setting of the model (`annotate settings`, section vlm) can be given for the judge of labels as --judge.NAME.
"""


class _CompareByDefault(TyperGroup):
    """`annotate eval --root=…` compares; `annotate eval sweep …` names its command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["compare", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of a comparison, then the other commands."""
        self.commands["compare"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


app = typer.Typer(
    cls=_CompareByDefault, help=HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.command(context_settings=EXTRA, help=HELP, hidden=True)
def compare(
    context: typer.Context,
    root: Annotated[Path | None, typer.Option(help="annotated dataset folder (or a truth.json)")] = None,
    reference: Annotated[Path | None, typer.Option(help="truth.json, or another annotated dataset folder")] = None,
    episodes: Annotated[str | None, typer.Option(help="episode indices, e.g. 0,3; all when left out")] = None,
    plots: Annotated[Path | None, typer.Option(help="draw both timelines of each episode into this folder")] = None,
    output: Annotated[Path | None, typer.Option("--out", help="also write the report here, as JSON")] = None,
    missing_as_zero: Annotated[
        bool, typer.Option("--missing_as_zero", help="episodes that root has not annotated count as 0")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON and nothing else")] = False,
) -> None:
    with guard(as_json, interrupted="interrupted"):
        names = ["root", "reference", "episodes", "plots", "out", "missing_as_zero", "json"]
        flat = parse(context.args, [*names, *(name for name, _ in leaves(EvaluateSettings))])
        judge: JudgeSettings = build(EvaluateSettings, flat).judge
        if root is None or reference is None:
            lacking = "--root" if root is None else "--reference"
            raise SettingsError(
                "want two sides to compare", f"no {lacking}", "pass --root=A --reference=B or --reference=TRUTH.json"
            )
        if judge.backend == "off" and flat:
            raise SettingsError(
                "want a judge for --judge settings", "no --judge.backend", "pass --judge.backend=openai"
            )
        sides = _load(root, reference, _indices(episodes), plots)
        evaluation = _evaluate(*sides, missing_as_zero, judge)
        if output is not None:
            _write(output, evaluation.to_json())
        if plots is not None:
            _draw(evaluation, *sides, plots, quiet=as_json)
        _show(evaluation, as_json)


def _load(root: Path, reference: Path, episodes: list[int] | None, plots: Path | None) -> tuple[Source, Source]:
    from tasks.evaluate.source import load

    if plots is not None:
        from tasks.evaluate.plot import check_matplotlib

        check_matplotlib()  # before any work
    return load(root, episodes), load(reference, episodes)


def _evaluate(a: Source, b: Source, missing_as_zero: bool, judge: JudgeSettings) -> Evaluation:
    from tasks.evaluate.compare import evaluate

    evaluation = evaluate(a, b, missing_as_zero=missing_as_zero)
    if judge.backend == "off":
        return evaluation
    from tasks.answers.factory import make_answerer
    from tasks.dataset.layout import open_dataset
    from tasks.evaluate.judge import judge as judged

    folder = next((s.path for s in (a, b) if not s.known), None)
    if folder is None:
        raise SettingsError("want an annotated dataset to judge", "two files of truth", "leave out --judge")
    answerer = make_answerer(judge_run(judge), open_dataset(folder))
    try:
        return judged(evaluation, answerer)
    finally:
        answerer.close()


def _indices(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        found = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise SettingsError("want episode indices such as --episodes=0,3", repr(text), "name them with commas between")
    return found


def _write(path: Path, report: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SettingsError("want to write the report", str(error), "name another --out") from error


def _draw(evaluation: Evaluation, root: Source, reference: Source, folder: Path, quiet: bool) -> None:
    from tasks.evaluate.plot import plot_episodes

    drawn = sum(1 for _ in plot_episodes(evaluation, root, reference, folder))
    if not quiet:
        out.print(f"drew {drawn} timelines in {folder}", highlight=False, markup=False, soft_wrap=True)


def _show(evaluation: Evaluation, as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps(evaluation.to_json()))
        return
    from flows.evaluate_render import evaluation_parts

    for part in evaluation_parts(evaluation):
        out.print(part)


SWEEP_HELP = """Annotate with several prompts, models or settings, compare each with the reference, and rank them.

\b
Examples:
  annotate eval sweep --root=DATASET --reference=DATASET.truth.json --out=sweep --vary plan.max_steps=4,8
  annotate eval sweep --root=DATASET --reference=TRUTH.json --out=sweep --vlm.backend=openai --only_episodes=0,1,2
        --vary vlm.model_id=MODEL,OTHER --vary prompt.plan_subtasks=shipped,mine.txt
  annotate eval sweep --root=DATASET --reference=TRUTH.json --out=sweep --config=sweep.yaml

Every flag of `annotate run` can be given and holds for all variants. Each variant keeps its work under --out: the same
sweep again asks nothing twice, and goes on where it was stopped. DATASET itself is not changed.
"""


@app.command(context_settings=EXTRA, help=SWEEP_HELP)
def sweep(
    context: typer.Context,
    root: Annotated[Path | None, typer.Option(help="dataset folder to annotate; it is not changed")] = None,
    reference: Annotated[Path | None, typer.Option(help="truth.json, or an annotated dataset folder")] = None,
    output: Annotated[Path | None, typer.Option("--out", help="folder of the sweep: variants and sweep.json")] = None,
    vary: Annotated[list[str] | None, typer.Option(help="NAME=VALUE,VALUE of a setting, or prompt.NAME=FILE,…")] = None,
    config: Annotated[Path | None, typer.Option(help="a sweep in YAML: base, vary, variants")] = None,
    rank_by: Annotated[str | None, typer.Option("--rank_by", help="measure that decides")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON and nothing else")] = False,
) -> None:
    with guard(as_json):
        names = ["root", "reference", "out", "vary", "config", "rank_by", "json"]
        base = parse(context.args, [*names, *(name for name, _ in leaves(AnnotateSettings))])
        given = {"root": root, "reference": reference, "out": output}
        for name, value in given.items():
            if value is None:
                raise SettingsError("want --root, --reference and --out", f"no --{name}", "pass --" + name)
        code = _sweep(root, reference, output, vary or [], config, rank_by, base, as_json)  # type: ignore[arg-type]
    raise typer.Exit(code)


def _sweep(
    root: Path,
    reference: Path,
    folder: Path,
    vary: list[str],
    config: Path | None,
    rank_by: str | None,
    base: dict[str, str],
    as_json: bool,
) -> int:
    from flows.evaluate_render import sweep_table
    from flows.sweep import REPORT_NAME, Sweep, run_sweep, write_report
    from flows.sweep_plan import RANK_BY, check_rank, prepare

    plan = prepare(vary, config, base, folder)
    measure = check_rank(rank_by or plan.rank_by or RANK_BY)
    from tasks.dataset.layout import open_dataset
    from tasks.evaluate.source import load

    open_dataset(root)
    stop_on_sigterm()
    done: list[Any] = []
    shared = Sweep(root, load(reference, plan.only_episodes), folder, base, plan.config)
    console = err if as_json else out

    def tell(i: int, news: Any) -> None:
        if hasattr(news, "evaluation"):
            done.append(news)
        console.print(_line(i, len(plan.variants), news, measure), highlight=False, markup=False, soft_wrap=True)

    stopped = False
    try:
        run_sweep(shared, plan.variants, plan.settings, tell, measure)
    except KeyboardInterrupt:
        if not done:
            raise
        stopped = True
    report = write_report(shared, done, measure, len(plan.variants))
    if as_json:
        out.print_json(json.dumps(report))
    else:
        out.print(sweep_table(report))
        out.print(f"report in {folder / REPORT_NAME}", highlight=False, markup=False, soft_wrap=True)
    if stopped:
        left = len(plan.variants) - len(done)
        err.print(f"stopped; {left} of {len(plan.variants)} variants left, run the same command to go on")
        return INTERRUPTED
    return DONE if all(o.failure is None for o in done) else DONE_WITH_FAILURES


def _line(i: int, count: int, news: Any, measure: str) -> str:
    """One line of progress."""
    head = f"[eval] {i + 1} of {count}: "
    if not hasattr(news, "evaluation"):
        return f"{head}{news.name} …"
    if news.failure is not None:
        return f"{head}failed: {news.failure}"
    value = news.value(measure)
    shown = "no value" if value is None else f"{value:.3f}"
    return f"{head}{measure} {shown}, {news.requests} requests, {news.seconds:.1f} s"
