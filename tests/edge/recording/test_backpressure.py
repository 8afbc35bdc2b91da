"""A writer that does not keep up: nothing is dropped until the queue is full; then it is told, and no episode jumps."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge.recording import DatasetSettings, open_recorder
from edge.recording.pictures import Camera
from tests.edge.recording.drives import FPS, ROBOT, check_whole, drive, notes_of, reading

FRAME_BYTES = 1024 + sum(picture.nbytes for picture in reading(0).images.values())
HELD = 16 * 1024 * 1024 // FRAME_BYTES  # frames that fit into the smallest queue


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Encoders wait for it."""
    gate, encode = threading.Event(), Camera.encode

    def waiting(camera: Camera, picture: Any) -> Any:
        assert gate.wait(60)
        return encode(camera, picture)

    monkeypatch.setattr(Camera, "encode", waiting)
    return gate


def test_a_full_queue_ends_the_episode_before_the_gap(tmp_path: Path, gate: threading.Event) -> None:
    told: list[str] = []
    settings = DatasetSettings(root=tmp_path / "d", queue_mib=16, disk_reserve_mib=0)
    recorder = open_recorder(settings, ROBOT, FPS, on_problem=told.append)
    drive(recorder, 0, HELD + 100)
    before = recorder.stats()
    assert before.dropped == 100 and before.waiting == before.waiting_max == HELD
    gate.set()
    assert recorder.flush(60)
    drive(recorder, 2000, 5)
    recorder.save_episode("pick")
    assert recorder.finalize() == tmp_path / "d"
    first, second = check_whole(tmp_path / "d")
    assert first == list(range(HELD)) and second == list(range(2000, 2005))
    assert [(n["ended"], n["dropped_before"]) for n in notes_of(tmp_path / "d")] == [("split", 0), ("saved", 100)]
    assert any("lost" in problem for problem in told) and len(told) < 5, "told once a gap, not once a frame"
    assert all(a != b for a, b in pairwise(told))


def test_what_fits_into_the_queue_is_never_dropped(tmp_path: Path, gate: threading.Event) -> None:
    told: list[str] = []
    settings = DatasetSettings(root=tmp_path / "d", queue_mib=16, disk_reserve_mib=0)
    recorder = open_recorder(settings, ROBOT, FPS, on_problem=told.append, burst_mib=16)
    drive(recorder, 0, 2 * HELD)
    gate.set()
    recorder.save_episode("pick")
    recorder.finalize()
    assert check_whole(tmp_path / "d") == [list(range(2 * HELD))] and recorder.stats().dropped == 0
    assert len(told) == 1 and "behind" in told[0] and "none is lost" in told[0]


def test_a_discarded_episode_takes_its_split_parts_along(tmp_path: Path, gate: threading.Event) -> None:
    settings = DatasetSettings(root=tmp_path / "d", queue_mib=16, disk_reserve_mib=0)
    recorder = open_recorder(settings, ROBOT, FPS)
    drive(recorder, 0, HELD + 1)
    gate.set()
    assert recorder.flush(60)
    drive(recorder, 3000, 2)
    recorder.discard_episode()
    drive(recorder, 4000, 2)
    recorder.save_episode("pick")
    recorder.finalize()
    assert check_whole(tmp_path / "d") == [[4000, 4001]]
