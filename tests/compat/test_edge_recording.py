"""Recordings of ours, and those that LeRobot's own writer lays out for us, as LeRobot itself reads them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from edge.errors import RecordingError
from edge.recording.recover import recover
from tests.compat.conftest import Script
from tests.edge.recording.drives import begin, check_whole, drive, info_of, level, notes_of, tasks_of

pytestmark = [pytest.mark.compat, pytest.mark.slow]

LEVEL_OFF_MAX = 4


def seen_by_training(script: Script, root: Path) -> dict[str, Any]:
    for name, arguments in (("check_loader.py", (root,)), ("check_edge_recording.py", ("train", root))):
        done = script(name, *arguments)
        assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_seen(found: dict[str, Any], firsts: tuple[int, ...]) -> None:
    """All values of recordings of 10 frames each, at the frames to which they belong."""
    numbers = [first + i for first in firsts for i in range(10)]
    held = [first + i for first in firsts for i in (4, 5)]
    assert found["policy_features"] == [
        "action", "observation.images.front", "observation.images.wrist", "observation.state",
    ]  # fmt: skip
    for name, wanted in (("all", numbers), ("driven", [n for n in numbers if n not in held])):
        seen = found[name]
        assert seen["numbers"] == wanted and seen["actions"] == [n + 0.5 for n in wanted]
        assert seen["sources"] == ["repeat_last" if n in held else "policy" for n in wanted]
        assert seen["sessions"] == ["" if n in held else "session-7" for n in wanted]
        assert seen["seq_ids"] == [-1 if n in held else 11 for n in wanted]
        assert seen["ages_ms"] == [-1.0 if n in held else 31.0 for n in wanted]
        assert seen["tasks"] == ["pick" if n % 100 < 4 else "place" for n in wanted]
        assert seen["interventions"] == [n % 100 >= 6 for n in wanted]
        off = [abs(a - level(n, camera=1)) for a, n in zip(seen["levels"], wanted, strict=True)]
        assert max(off) <= LEVEL_OFF_MAX, off


def record(script: Script, root: Path, writer: str, first: int) -> str:
    done = script("check_edge_recording.py", "record", root, writer, str(first))
    return "" if done.returncode == 0 else done.stderr


def test_training_reads_our_recording_and_can_leave_out_what_no_policy_drove(script: Script, tmp_path: Path) -> None:
    root = tmp_path / "d"
    for first in (0, 100):
        assert record(script, root, "own", first) == ""
    assert len(check_whole(root)) == 4
    check_seen(seen_by_training(script, root), (0, 100))


def test_lerobots_own_writer_lays_out_the_same(script: Script, tmp_path: Path) -> None:
    root = tmp_path / "d"
    assert record(script, root, "lerobot", 0) == ""
    assert [note["ended"] for note in notes_of(root)] == ["saved", "saved"]
    assert record(script, root, "auto", 100) == "", "auto goes on with who began"
    assert info_of(root)["total_episodes"] == 4 and tasks_of(root).count("pick") == 8
    check_seen(seen_by_training(script, root), (0, 100))
    assert "go on with the writer that laid out" in record(script, root, "own", 200)
    assert info_of(root)["total_episodes"] == 4


def test_what_lerobots_writer_could_not_take_is_recovered_by_ours(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here LeRobot seems to be installed, and fails when it is asked to write."""
    if importlib.util.find_spec("lerobot"):
        pytest.skip("LeRobot works here")
    root = tmp_path / "d"
    monkeypatch.setattr("edge.recording.lerobot.installed", lambda: True)
    recorder = begin(root, writer="lerobot")
    drive(recorder, 0, 8)
    recorder.save_episode("pick")
    with pytest.raises(RecordingError, match=r"lerobot[\s\S]*edge recover"):
        recorder.finalize()
    with pytest.raises(RecordingError, match="lerobot"):
        recover(root)
    recovered = recover(root, "own")
    assert recovered is not None and recovered.frames == 8
    assert check_whole(root) == [list(range(8))], "its lossless pictures are encoded as asked"
    done = script("check_loader.py", root)
    assert done.returncode == 0, done.stderr
