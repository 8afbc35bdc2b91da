"""What Prefect needs to know before it is imported. The user's own settings always win."""

from __future__ import annotations

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",  # no calls home: offline they log errors
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the progress view and the final error speak for the run
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # events that come after the embedded server has gone
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    # The recorder's small batches fall behind a thousand task runs.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


def prepare() -> None:
    """Set what is not set yet, for this process and the server it may start."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
