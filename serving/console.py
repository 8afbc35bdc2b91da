"""What all commands share: two consoles, exit codes, and errors as one clear message."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from network.errors import TransportError
from serving.errors import ManifestError, ServingError
from serving.wire.errors import Told

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = """Exit codes: 0 done, or drained when told to stop; 1 failed while loading, serving or asking; 2 wrong
flag or manifest, nothing was started; 130 interrupted before anything ran."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
out = Console()
err = Console(stderr=True)


@contextmanager
def guard(as_json: bool = False) -> Iterator[None]:
    """Errors become one clear message and an exit code."""
    try:
        yield
    except (ServingError, TransportError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        code = INTERRUPTED if stopped else USAGE if isinstance(error, ManifestError) else FAILED
        message = "interrupted" if stopped else str(error)
        if as_json:
            say_json({"error": type(error).__name__, "message": message, "exit_code": code, **_parts(error)})
        else:
            err.print("[bold red]stopped[/]" if stopped else "[bold red]error[/]", end=" ")
            err.print(message, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(code) from None


def _parts(error: BaseException) -> dict[str, object]:
    """What a program may want of an error."""
    problems = getattr(error, "problems", ())
    if problems:
        return {"problems": [vars(problem) for problem in problems]}
    if isinstance(error, Told):
        return {"wanted": error.wanted, "got": error.got, "remedy": error.remedy}
    return {}


def say(text: str) -> None:
    """A line as it is."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def say_json(value: object) -> None:
    """A value on one line of standard output."""
    out.file.write(json.dumps(value) + "\n")
    out.file.flush()


def log_to_stderr(verbose: bool) -> None:
    """Lines of the daemon's own log; other libraries stay as they are."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    for package in ("serving", "network"):
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.DEBUG if verbose else logging.INFO)
