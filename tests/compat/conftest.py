"""The other interpreter, scripts that run in it, and one annotated dataset for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPO

PYTHON_ENV = "CUEBOOK_COMPAT_PYTHON"  # a Python 3.12 with tests/compat/requirements.txt

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def lerobot_python() -> str:
    """The other interpreter, or skip."""
    python = os.environ.get(PYTHON_ENV)
    if not python:
        pytest.skip(f"set {PYTHON_ENV} to a Python that has tests/compat/requirements.txt")
    return python


@pytest.fixture(scope="session")
def script(lerobot_python: str) -> Script:
    """Run a script of this folder in the other interpreter, this project beside lerobot; no network, no accelerator."""

    def run(name: str, *arguments: str | Path, python: str = lerobot_python) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPO)}
        command = [python, str(Path(__file__).with_name(name)), *map(str, arguments)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=240)

    return run


@pytest.fixture(scope="session")
def annotated_dataset(generated_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated dataset, annotated by the real command with the embedded default. Read only."""
    dataset = Path(shutil.copytree(generated_dataset, tmp_path_factory.mktemp("annotated") / "tabletop"))
    command = [sys.executable, "-m", "flows.cli", "run", f"--root={dataset}", "--engine=inline"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return dataset
