"""What was driven can be annotated: the recording is an ordinary dataset, and keeps its columns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import RecordingError
from tests.conftest import REPO
from tests.edge.recording.drives import begin, check_whole, drive, fallback, rows_of


def test_annotate_run_labels_a_recording(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with begin(root) as recorder:
        for episode in range(2):
            drive(recorder, 100 * episode, 40)
            drive(recorder, 100 * episode + 40, 5, fallback())
            recorder.save_episode("Put the cup on the tray.")
    before = rows_of(root)
    command = [sys.executable, "-m", "flows.cli", "run", f"--root={root}", "--engine=inline"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(root)
    assert {name: rows[name] for name in before} == before, "its own columns are as they were"
    assert any(row["style"] == "subtask" for row in rows["language_persistent"][0])
    assert [len(numbers) for numbers in check_whole(root)] == [45, 45]
    with pytest.raises(RecordingError, match="another language_events, language_persistent"):
        begin(root, resume=True)
