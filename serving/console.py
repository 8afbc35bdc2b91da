"""What all commands of the daemon share: which errors are told, exit codes, and the log."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from configuration import console
from configuration.console import DONE, FAILED, INTERRUPTED, USAGE, err, out, say, say_json
from network.errors import TransportError
from serving.errors import ManifestError, ServingError

__all__ = [
    "DONE", "EXIT_CODES", "FAILED", "INTERRUPTED", "USAGE", "err", "guard", "log_to_stderr", "out", "say", "say_json",
]  # fmt: skip

EXIT_CODES = """Exit codes: 0 done, or drained when told to stop; 1 failed while loading, serving or asking; 2 wrong
flag or manifest, nothing was started; 130 interrupted before anything ran."""
PACKAGES = ("serving", "network")


def guard(as_json: bool = False) -> AbstractContextManager[None]:
    """Errors become one clear message and an exit code."""
    return console.reported((ServingError, TransportError), ManifestError, as_json)


def log_to_stderr(verbose: bool) -> None:
    """Lines of the daemon's own log; other libraries stay as they are."""
    console.log_to_stderr(PACKAGES, logging.DEBUG if verbose else logging.INFO)
