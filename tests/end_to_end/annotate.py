"""Run the real `annotate` command as a user does, and compare dataset folders byte by byte."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "flows.cli"]
TIMEOUT_S = 120


def annotate(
    *arguments: str, env: dict[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """`annotate …` in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=REPO,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        check=False,
    )


def run(root: Path, *flags: str, **kwargs: Any) -> tuple[int, dict[str, Any]]:
    """`annotate run --engine=inline --json`: exit code and summary (or error)."""
    done = annotate("run", f"--root={root}", "--engine=inline", "--json", *flags, **kwargs)
    try:
        return done.returncode, json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"no JSON: exit {done.returncode}\n{done.stdout}\n{done.stderr}") from None


def interrupt(root: Path, *flags: str, when: Callable[[], bool]) -> None:
    """Start a run, press Ctrl-C as soon as `when` returns true (it waits for that), and see it end as interrupted."""
    process = subprocess.Popen(
        [*COMMAND, "run", f"--root={root}", "--engine=inline", "--vlm.client_concurrency=4", *flags],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert when()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output


def contents(root: Path) -> dict[str, str]:
    """Digest of every file of a dataset, its staging left out."""
    return {
        str(p.relative_to(root)): hashlib.blake2b(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".annotate_staging" not in p.parts
    }
