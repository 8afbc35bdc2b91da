"""What all commands of the robot's side share: which errors are told, exit codes, and the log."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from configuration import console
from configuration.console import DONE, FAILED, INTERRUPTED, USAGE, err, out, say, say_json
from edge.errors import EdgeError, SettingsError
from network.errors import TransportError
from serving.wire.errors import WireError

__all__ = [
    "DONE", "EXIT_CODES", "FAILED", "INTERRUPTED", "USAGE", "err", "guard", "log_to_stderr", "out", "say", "say_json",
]  # fmt: skip

EXIT_CODES = """Exit codes: 0 done, or ended well when told to stop; 1 failed while asking, driving or recording: the
robot stands in its safe state; 2 wrong flag or setting, nothing was started; 130 interrupted before the robot moved."""
PACKAGES = ("edge", "network")


def guard(as_json: bool = False) -> AbstractContextManager[None]:
    """Errors become one clear message and an exit code."""
    return console.reported((EdgeError, TransportError, WireError), SettingsError, as_json)


def log_to_stderr(verbose: bool, quiet: bool = False) -> None:
    """Lines of our own log; other libraries stay as they are. `quiet`: errors only."""
    console.log_to_stderr(PACKAGES, logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
