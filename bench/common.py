"""What all benchmarks share: a work folder, one measured subprocess, one table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

REPO = Path(__file__).resolve().parents[1]
WORK = REPO / "bench" / "work"  # ignored by git; delete it to make all inputs afresh
WIDTH = 150  # of tables in files and pipes
REFERENCE_ENV = "CUEBOOK_REFERENCE_PYTHON"  # a Python that can import lerobot


@dataclass(frozen=True)
class Measured:
    """What one subprocess cost, its waited-for children included."""

    wall_s: float
    cpu_s: float
    rss_mib: float  # peak of the largest single process
    stdout: str

    @property
    def result(self) -> Any:
        """The JSON value on the last line of stdout."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def measure(argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Measured:
    """Run a command in the repository root; raise CalledProcessError when it fails."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        child = subprocess.Popen([str(a) for a in argv], stdout=out, cwd=REPO, env={**os.environ, **(env or {})})
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        stdout = out.read().decode()
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, [str(a) for a in argv], stdout)
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, stdout)


def measure_self(script: str, *args: str) -> Measured:
    """Run a benchmark script of this folder again as a subprocess, so that its peak memory is its own."""
    return measure([sys.executable, Path(script).resolve(), *args], {"PYTHONPATH": str(REPO)})


def reference_python() -> str | None:
    """The Python named by CUEBOOK_REFERENCE_PYTHON, or None."""
    return os.environ.get(REFERENCE_ENV) or None


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One table; floats with three significant digits."""
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row))
    console = Console()
    if not console.is_terminal:  # rich would take 80
        console = Console(width=WIDTH)
    console.print(table)
