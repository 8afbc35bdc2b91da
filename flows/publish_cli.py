"""`annotate publish`, and the two moments of a run that publishes: the check before any work, the upload at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.console import DONE, err, guard, out
from tasks.settings import AnnotateSettings

if TYPE_CHECKING:
    from flows.session import RunSummary
    from tasks.publish import Published, Target, UploadPlan

STOPPED = "interrupted; run the same command to go on, files that arrived are not sent again"
DELETED_SHOWN = 10
UNITS = ("B", "kB", "MB", "GB", "TB")


def publish(
    root: Annotated[Path, typer.Option(help="annotated dataset folder")],
    repo_id: Annotated[str, typer.Option("--repo_id", help="hub dataset to publish to, USER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="make it private when it is new")] = False,
    message: Annotated[str | None, typer.Option(help="commit message")] = None,
    dry_run: Annotated[bool, typer.Option("--dry_run", help="show what would be uploaded; write nothing")] = False,
    skip_validation: Annotated[
        bool, typer.Option("--skip_validation", help="publish although the dataset has errors, or is not annotated")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON and nothing else")] = False,
) -> None:
    """Upload an annotated dataset to the hub: one commit, the card extended, the version tag at the commit.

    \b
    Examples:
      annotate publish --root=DATASET --repo_id=USER/NAME --dry_run
      annotate publish --root=DATASET --repo_id=USER/NAME --private
    """
    with guard(as_json, STOPPED):
        from tasks.publish import check_target, plan_upload

        target = check_target(repo_id, private=private)
        say("checking the dataset", quiet=as_json)
        plan = plan_upload(root, target, message=message, skip_validation=skip_validation)
        if dry_run:
            show_json(plan.to_json()) if as_json else show_plan(plan, out)
        else:
            published = _upload(plan, lambda line: say(line, quiet=as_json), bars=not as_json)
            show_json(published.to_json()) if as_json else show_published(published, out)
    raise typer.Exit(DONE)


def check_before_run(settings: AnnotateSettings) -> Target | None:
    """Refuse a run whose result could not be published, before any work; None when it is not to be published."""
    if not settings.push_to_hub:
        return None
    from tasks.publish.target import check_name, check_target

    repo_id = settings.new_repo_id or settings.repo_id
    check_name(repo_id)
    return check_target(repo_id, private=settings.push_private)


def push_after_run(settings: AnnotateSettings, summary: RunSummary, speak: Callable[[str], None]) -> Published:
    """Publish what a run has written. The target is looked at anew: hours may have passed. Raises PublishError."""
    from tasks.errors import PublishError
    from tasks.publish import check_target, plan_upload

    try:
        target = check_target(settings.new_repo_id or settings.repo_id, private=settings.push_private)
        plan = plan_upload(
            summary.dataset,
            target,
            source_id=settings.repo_id if settings.root is None else None,  # beside a root, it is where to push
            message=settings.push_commit_message,
            skip_validation=settings.skip_validation,
        )
        return _upload(plan, speak, bars=False)
    except PublishError as error:
        again = f"annotate publish --root={summary.dataset} --repo_id={settings.new_repo_id or settings.repo_id}"
        remedy = f"{error.remedy}; the annotated dataset is complete, only the upload is missing: {again}"
        raise PublishError(error.wanted, error.got, remedy) from error


def _upload(plan: UploadPlan, speak: Callable[[str], None], *, bars: bool) -> Published:
    """With or without the hub library's own progress bars."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    from tasks.publish import publish as upload

    silence = not bars and not are_progress_bars_disabled()
    if silence:
        disable_progress_bars()
    try:
        return upload(plan, speak)
    finally:
        if silence:
            enable_progress_bars()


def say(line: str, *, quiet: bool) -> None:
    """One line of progress, on stderr."""
    if not quiet:
        err.print(f"[annotate] {line}", highlight=False, markup=False, soft_wrap=True)


def show_json(value: object) -> None:
    """One JSON document on stdout."""
    out.print_json(json.dumps(value))


def show_plan(plan: UploadPlan, console: Console) -> None:
    """What a publish would do, as a table."""
    from rich.table import Table

    target = plan.target
    state = "exists" if target.exists else "would be made"
    reach = "private" if target.private else "public"
    console.print(f"[bold]{target.repo_id}[/]  {target.url}  ({state}, {reach})", highlight=False, soft_wrap=True)
    table = Table("file", "size", box=None, header_style="bold")
    table.columns[1].justify = "right"
    for file in plan.files:
        table.add_row(file.path, size_text(file.size))
    if plan.card is not None:
        table.add_row("README.md (the card, below)", size_text(len(plan.card.encode())))
    table.add_section()
    table.add_row(f"{plan.count} files", size_text(plan.bytes))
    console.print(table)
    for path in plan.deleted[:DELETED_SHOWN]:
        console.print(f"removed there: {path}", markup=False, highlight=False, soft_wrap=True)
    if len(plan.deleted) > DELETED_SHOWN:
        console.print(f"removed there: {len(plan.deleted) - DELETED_SHOWN} more", highlight=False)
    for item in plan.left_out:
        console.print(f"stays here: {item.path} ({item.reason})", markup=False, highlight=False, soft_wrap=True)
    console.print(f"tag {plan.tag}, message {plan.message!r}", markup=False, highlight=False, soft_wrap=True)
    if plan.card is not None:
        console.rule("README.md")
        console.print(plan.card, markup=False, highlight=False, soft_wrap=True)
        console.rule()
    _show_warnings(plan.warnings, console)
    console.print("dry run: nothing was uploaded", highlight=False)


def show_published(published: Published, console: Console) -> None:
    """What a publish did."""
    removed = f", {published.deleted} stale files removed" if published.deleted else ""
    tag = f", tag {published.tag}" if published.tag else ""
    console.print(
        f"published {published.url} ({'private' if published.private else 'public'}): "
        f"{published.files} files, {size_text(published.bytes)}{removed}; commit {published.commit[:12]}{tag}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    _show_warnings(published.warnings, console)


def size_text(size: float) -> str:
    """Bytes for people."""
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {UNITS[-1]}"


def _show_warnings(warnings: tuple[str, ...], console: Console) -> None:
    for warning in warnings:
        console.print("[bold yellow]warning[/]", end=" ")
        console.print(warning, markup=False, highlight=False, soft_wrap=True)
