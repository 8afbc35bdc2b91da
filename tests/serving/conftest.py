"""Daemons for tests, ended when a test is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.serving.driver import Served


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start daemons: `serve(policy, **settings)`. See Served."""
    running: list[Served] = []

    def start(*args: object, **settings: object) -> Served:
        running.append(Served(*args, **settings))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for served in running:
        served.stop()
