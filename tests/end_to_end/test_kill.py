"""SIGKILL at random instants leaves a dataset equal to the old one or the new one, never a mix."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.end_to_end.annotate import COMMAND, REPO, annotate, contents, interrupt, run
from tests.end_to_end.conftest import flags

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KILLS = 50
WRITING = "validating and writing"  # what the plain progress view says when the writing part begins
PROVENANCE = "meta/cuebook.json"  # holds the time of the run


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "run", f"--root={root}", "--engine=inline"],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def until_writing(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if WRITING in line:
            return
    raise AssertionError("the run ended before it wrote")


def rows(root: Path) -> dict[str, str]:
    return {k: v for k, v in contents(root).items() if k != PROVENANCE}


@pytest.fixture
def folder(generated_dataset, tmp_path) -> Path:
    parent = tmp_path / "data"
    parent.mkdir()
    return parent / "set"


def fresh(source: Path, root: Path) -> None:
    for leftover in root.parent.iterdir():
        shutil.rmtree(leftover)
    shutil.copytree(source, root)


def test_killed_at_fifty_instants(generated_dataset, folder):
    rng = random.Random(20)
    fresh(generated_dataset, folder)
    old = rows(folder)
    began = time.monotonic()
    process = start(folder)
    until_writing(process)
    before_writing_s = time.monotonic() - began
    process.wait()
    writing_s = time.monotonic() - began - before_writing_s
    new = rows(folder)
    assert old != new
    seen = {"old": 0, "new": 0}
    for kill in range(KILLS):
        fresh(generated_dataset, folder)
        process = start(folder)
        if kill % 2:
            until_writing(process)
            time.sleep(rng.uniform(0, writing_s))  # the instant is the point of the test
        else:
            time.sleep(rng.uniform(0, before_writing_s + writing_s))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = rows(folder)
        assert found in (old, new), f"kill {kill} left a mixed dataset"
        seen["new" if found == new else "old"] += 1
    assert seen["old"] and seen["new"], f"the instants missed one side: {seen}"

    code, _ = run(folder)
    assert code == 0 and rows(folder) == new
    assert [p.name for p in folder.parent.iterdir()] == [folder.name], "leftovers of killed runs were not removed"
    assert annotate("check", f"--root={folder}").returncode == 0


def test_interrupted_run_goes_on_where_it_was(dataset_copy, bad_server):
    """SIGINT ends the run with 130; the next one asks only what is still open."""
    server = bad_server("slow", delay_s=0.1)
    interrupt(dataset_copy, *flags(server), when=lambda: server.wait_for(lambda: len(server.bodies) >= 20, 60))
    before = len(list(dataset_copy.glob(".annotate_staging/*/*.receipt.json")))
    code, summary = run(dataset_copy, *flags(server))
    assert code == 0
    assert sum(c.get("cached", 0) for c in summary["phases"].values()) == before
    server.bodies.clear()
    code, summary = run(dataset_copy, *flags(server))
    assert (code, len(server.bodies), summary["written"]) == (0, 0, False)
