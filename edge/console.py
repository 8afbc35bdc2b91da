"""What all commands share: two consoles, exit codes, and errors as one clear message."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from edge.errors import EdgeError, SettingsError
from network.errors import TransportError
from serving.wire.errors import Told, WireError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = """Exit codes: 0 done, or ended well when told to stop; 1 failed while asking, driving or recording: the
robot stands in its safe state; 2 wrong flag or setting, nothing was started; 130 interrupted before the robot moved."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PACKAGES = ("edge", "network")
out = Console()
err = Console(stderr=True)


@contextmanager
def guard(as_json: bool = False) -> Iterator[None]:
    """Errors become one clear message and an exit code."""
    try:
        yield
    except (EdgeError, TransportError, WireError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        code = INTERRUPTED if stopped else USAGE if isinstance(error, SettingsError) else FAILED
        message = (str(error) or "interrupted") if stopped else str(error)
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


class _Above(logging.Handler):
    """Log records as lines on the error console, above a live line."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), highlight=False, markup=False, soft_wrap=True)


def log_to_stderr(verbose: bool, quiet: bool = False) -> None:
    """Lines of our own log; other libraries stay as they are. `quiet`: errors only."""
    handler = _Above()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
