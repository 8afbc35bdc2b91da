"""What commands share: two consoles, exit codes, errors as one clear message, and a log above a live line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
out = Console()
err = Console(stderr=True)


@contextmanager
def reported(
    errors: tuple[type[Exception], ...], wrong_usage: type[Exception], as_json: bool = False
) -> Iterator[None]:
    """These errors become one clear message and an exit code."""
    try:
        yield
    except (*errors, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        code = INTERRUPTED if stopped else USAGE if isinstance(error, wrong_usage) else FAILED
        message = (str(error) or "interrupted") if stopped else str(error)
        if as_json:
            say_json({"error": type(error).__name__, "message": message, "exit_code": code, **_parts(error)})
        else:
            err.print("[bold red]stopped[/]" if stopped else "[bold red]error[/]", end=" ")
            err.print(message, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(code) from None


def _parts(error: BaseException) -> dict[str, object]:
    """What a program may want of an error."""
    if problems := getattr(error, "problems", ()):
        return {"problems": [vars(problem) for problem in problems]}
    return {part: getattr(error, part) for part in ("wanted", "got", "remedy") if hasattr(error, part)}


def say(text: str) -> None:
    """A line as it is."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def say_json(value: object) -> None:
    """A value on one line of standard output."""
    out.file.write(json.dumps(value) + "\n")
    out.file.flush()


class _Lines(logging.Handler):
    """Log records as lines on the error console, above a live line."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), highlight=False, markup=False, soft_wrap=True)


def log_to_stderr(packages: tuple[str, ...], level: int) -> None:
    """Lines of our own packages' log; other libraries stay as they are."""
    handler = _Lines()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    for package in packages:
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
