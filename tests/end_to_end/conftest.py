"""A misbehaving VLM server for whole runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.answers.bad_server import BadServer

QUICK = ["--vlm.request_timeout_s=1.5", "--vlm.max_retries=1", "--vlm.retry_backoff_s=0.01"]


def flags(server: BadServer) -> list[str]:
    """What makes a run ask this server, and lose patience soon."""
    where = [f"--vlm.api_base={server.api_base}", f"--vlm.model_id={server.model}"]
    return ["--vlm.backend=openai", *where, *QUICK]


@pytest.fixture
def bad_server() -> Iterator[Callable[..., BadServer]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:
        yield lambda mode="ok", **options: stack.enter_context(BadServer(mode, **options))
