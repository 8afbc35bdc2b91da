"""What all commands share: two consoles, exit codes, and errors as one clear message."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from tasks.errors import AnnotateError, RecipeError, SettingsError

DONE, FAILED, USAGE, DONE_WITH_FAILURES, INTERRUPTED = 0, 1, 2, 3, 130
KEPT = "interrupted; finished work is kept, run the same command to go on"
out = Console()
err = Console(stderr=True)


@contextmanager
def guard(as_json: bool = False, interrupted: str = KEPT) -> Iterator[None]:
    """Errors become one clear message and an exit code."""
    try:
        yield
    except (AnnotateError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        code = INTERRUPTED if stopped else USAGE if isinstance(error, SettingsError | RecipeError) else FAILED
        message = interrupted if stopped else str(error)
        if as_json:
            out.print_json(json.dumps({"error": type(error).__name__, "message": message, "exit_code": code}))
        else:
            err.print("[bold red]stopped[/]" if stopped else "[bold red]error[/]", end=" ")
            err.print(message, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(code) from None


def stop_on_sigterm() -> None:
    """Let a service manager's stop end the command as cleanly as Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
