"""Language in lerobot's own training path: the step in its pipeline, and the same samples as its renderer gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.compat.conftest import Script

pytestmark = pytest.mark.compat

# The known weaknesses of lerobot's rendering that show in a sample; the others are about speed, files and fixed lists.
WEAKNESSES = {1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}


@pytest.mark.slow
def test_the_step_renders_in_a_lerobot_pipeline(script: Script, annotated_dataset: Path, tmp_path: Path) -> None:
    done = script("check_render_step.py", annotated_dataset, tmp_path / "pipeline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("120 samples")


@pytest.mark.slow
def test_both_renderers_give_the_same_samples(script: Script, annotated_dataset: Path) -> None:
    done = script("check_language_parity.py", annotated_dataset)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["equal"] > 5000 and counts["equal"] > 20 * (counts["empty text"] + counts["actions alone"]), counts


def test_every_intended_difference_is_one(script: Script) -> None:
    done = script("intended_differences.py")
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = {line.split("|")[0].strip() for line in done.stdout.splitlines()}
    assert numbers == {*map(str, WEAKNESSES), "new"}


def test_another_python_renders_the_same(script: Script, lerobot_python: str) -> None:
    here, there = (script("hash_samples.py", python=python) for python in (sys.executable, lerobot_python))
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    ours, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert ours["samples"] > 3000 and theirs["python"] >= [3, 12]
    assert (ours["samples"], ours["digest"]) == (theirs["samples"], theirs["digest"])
