"""A recording says what was seen, what was sent, why, and for which task, and never holds up who drives."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge.errors import RecordingError
from edge.recording import DatasetSettings, open_recorder
from edge.robots.base import Reading, RobotFeatures
from tests.edge.recording.drives import (
    CAMERAS,
    FPS,
    ROBOT,
    begin,
    check_whole,
    drive,
    episodes_of,
    fallback,
    info_of,
    level,
    notes_of,
    numbers_of,
    policy,
    rows_of,
    tasks_of,
)

ADD_US_MAX = 200


def test_rows_hold_what_was_seen_and_what_was_really_sent(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with begin(root) as recorder:
        drive(recorder, 0, 6)
        recorder.save_episode("pick")
        drive(recorder, 6, 4)
        recorder.save_episode("place")
    assert check_whole(root) == [list(range(6)), list(range(6, 10))]
    rows = rows_of(root)
    assert rows["observation.state"][3] == [3.0, -3.0] and rows["action"][3] == [3.5, 3.0]
    assert rows["timestamp"][:3] == [float(np.float32(i / FPS)) for i in range(3)]
    assert tasks_of(root) == ["pick"] * 6 + ["place"] * 4
    info = info_of(root)
    assert (info["robot_type"], info["fps"], info["total_tasks"]) == ("arm", FPS, 2)
    assert info["features"]["action"]["names"] == ["a.pos", "b.pos"]


def test_every_action_says_where_it_came_from(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with begin(root) as recorder:
        drive(recorder, 0, 2)
        drive(recorder, 2, 1, fallback("repeat_last"))
        drive(recorder, 3, 1, fallback("stop"))
        recorder.add(*_frame(4), None, {"intervention": True})
        recorder.add(*_frame(5), None, {"source": "teleop", "intervention": True})
        recorder.save_episode("pick")
    rows = rows_of(root)
    assert rows["provenance.source"] == ["policy", "policy", "repeat_last", "stop", "teleop", "teleop"]
    assert rows["provenance.session_id"] == ["session-7"] * 2 + [""] * 4
    assert rows["provenance.seq_id"] == [11, 11, -1, -1, -1, -1]
    assert rows["provenance.episode_id"] == [3, 3, -1, -1, -1, -1]
    assert rows["provenance.row"] == [0, 1, -1, -1, -1, -1]
    assert rows["provenance.age_ms"] == [31.0, 31.0, -1, -1, -1, -1]
    assert rows["provenance.queue_wait_ms"][0] == 1.5 and rows["provenance.inference_ms"][0] == 20.0
    assert rows["provenance.captured_s"] == pytest.approx([i / FPS for i in range(6)])
    assert rows["intervention"] == [False] * 4 + [True] * 2
    assert [(note["fallback"], note["intervention"]) for note in notes_of(root)] == [(2, 2)]


def _frame(number: int) -> tuple[Reading, np.ndarray]:
    from tests.edge.recording.drives import reading

    return reading(number), np.array([number + 0.5, number], np.float32)


def test_frames_are_labelled_with_the_task_they_were_driven_for(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with begin(root, single_task="tidy up") as recorder:
        drive(recorder, 0, 2, policy(task="pick"))
        drive(recorder, 2, 2, policy(task="place"))
        drive(recorder, 4, 1)
        recorder.save_episode("pour")
        drive(recorder, 5, 2)
        recorder.save_episode()
    assert tasks_of(root) == ["pick", "pick", "place", "place", "pour", "tidy up", "tidy up"]
    assert [row["tasks"] for row in episodes_of(root)] == [["pick", "place", "pour"], ["tidy up"]]
    check_whole(root)


def test_a_discarded_episode_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with begin(root) as recorder:
        drive(recorder, 0, 5)
        recorder.discard_episode()
        recorder.save_episode("nothing to save")
        drive(recorder, 5, 3)
        recorder.save_episode("pick")
        drive(recorder, 8, 3)
        recorder.discard_episode()
    assert check_whole(root) == [[5, 6, 7]]
    assert tasks_of(root) == ["pick"] * 3


def test_frames_that_nobody_saved_are_kept_and_named(tmp_path: Path) -> None:
    root = tmp_path / "d"
    recorder = begin(root)
    drive(recorder, 0, 3, policy(task="pick"))
    assert recorder.finalize() == root and recorder.finalize() == root
    assert check_whole(root) == [[0, 1, 2]]
    assert [note["ended"] for note in notes_of(root)] == ["stopped"]


def test_nothing_driven_leaves_nothing(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "d")
    recorder.save_episode("pick")
    assert recorder.finalize() is None
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_drive_loses_no_frame(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with pytest.raises(ZeroDivisionError), begin(root) as recorder:
        drive(recorder, 0, 4)
        raise ZeroDivisionError
    assert check_whole(root) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "mpeg4"])
def test_every_codec_gives_each_frame_at_once(tmp_path: Path, codec: str) -> None:
    """What an encoder holds back, a kill takes away."""
    root = tmp_path / "d"
    with begin(root, codec=codec, gop=3) as recorder:
        drive(recorder, 0, 5)
        assert recorder.flush(30)
        (part,) = tmp_path.glob(".d.recording/part-*")
        from edge.recording.spool import Frame, records

        held = [len(camera) for r in records(part) if isinstance(r, Frame) for camera in r.packets]
        assert held == [1] * 10
        recorder.save_episode("pick")
    check_whole(root)
    assert info_of(root)["features"][CAMERAS[0]]["info"]["video.codec"] == codec


def test_cameras_may_be_stored_as_pictures(tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from PIL import Image

    root = tmp_path / "d"
    with begin(root, video=False) as recorder:
        drive(recorder, 0, 3)
        recorder.save_episode("pick")
    assert info_of(root)["features"][CAMERAS[1]]["dtype"] == "image" and not (root / "videos").exists()
    cells = pq.read_table(root / "data")[CAMERAS[1]].to_pylist()
    (tmp_path / "p.png").write_bytes(cells[2]["bytes"])
    assert np.asarray(Image.open(tmp_path / "p.png"))[0, 0].tolist() == [level(2, camera=1)] * 3


def test_a_robot_without_cameras_is_recorded(tmp_path: Path) -> None:
    robot = RobotFeatures("blind", ("a.pos",), ("a.pos",))
    settings = DatasetSettings(root=tmp_path / "d", disk_reserve_mib=0)
    with open_recorder(settings, robot, FPS) as recorder:
        recorder.add(Reading(np.zeros(1, np.float32), {}, 0.0), np.ones(1, np.float32), policy())
        recorder.save_episode("pick")
    assert rows_of(tmp_path / "d")["action"] == [1.0], "LeRobot has vectors of one as scalars"


# --- slices, growing -----------------------------------------------------------------------------------------------


def test_slices_are_saved_and_published_while_frames_come(tmp_path: Path) -> None:
    """As a recording without end does it: another thread cuts and publishes, the loop goes on."""
    root, published = tmp_path / "d", []
    recorder, stop = begin(root), threading.Event()

    def slice_up() -> None:
        while not stop.wait(0.1):
            recorder.save_episode("watch")
            recorder.publish()
            published.append(sum(map(len, numbers_of(root))))

    other = threading.Thread(target=slice_up)
    other.start()
    try:
        for number in range(120):
            drive(recorder, number, 1)
            time.sleep(0.005)
    finally:
        stop.set()
        other.join()
    recorder.finalize()
    numbers = check_whole(root)
    assert [n for frames in numbers for n in frames] == list(range(120)) and len(numbers) > 2
    assert published == sorted(published) and published[0] < 120, "published while it went on"


def test_files_are_laid_out_as_they_fill(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with begin(root, video_files_size_in_mb=0.01) as recorder:
        for episode in range(6):
            drive(recorder, 10 * episode, 10)
            recorder.save_episode("pick")
        assert recorder.flush(30)
        deadline = time.monotonic() + 30
        while not (root / "meta/info.json").exists():
            assert time.monotonic() < deadline, "nothing was laid out before the end"
            time.sleep(0.01)
    assert [len(frames) for frames in check_whole(root)] == [10] * 6
    assert len(list(root.rglob("*.mp4"))) > 2


def test_resume_appends(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for first in (0, 4, 8):
        with begin(root, resume=True) as recorder:
            drive(recorder, first, 4, policy(task="pick" if first else "place"))
            recorder.save_episode()
    assert check_whole(root) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert tasks_of(root) == ["place"] * 4 + ["pick"] * 8
    stats = json.loads((root / "meta/stats.json").read_text())["observation.state"]
    assert stats["count"] == [12] and stats["max"][0] == 11.0 and stats["mean"][0] == pytest.approx(5.5)
    assert (
        len({note["id"] for note in json.loads((root / "meta/cuebook_recording.json").read_text())["recordings"]}) == 3
    )


# --- refused before anything moves ---------------------------------------------------------------------------------


def test_a_dataset_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with begin(root) as recorder:
        drive(recorder, 0, 2)
    with pytest.raises(RecordingError, match="resume=true"):
        begin(root)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("all of it")
    with pytest.raises(RecordingError, match=r"thesis\.txt"):
        begin(tmp_path / "other")
    assert check_whole(root) == [[0, 1]] and (tmp_path / "other/thesis.txt").exists()


def test_what_does_not_fit_is_not_appended(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with begin(root) as recorder:
        drive(recorder, 0, 2)
    other = RobotFeatures("arm", ("a.pos", "b.pos"), ("b.pos", "a.pos"), dict(ROBOT.cameras))
    for robot, fps, options, match in (
        (other, FPS, {}, "another action"),
        (ROBOT, 30.0, {}, "20 fps"),
        (ROBOT, FPS, {"codec": "mpeg4"}, "codec h264"),
        (ROBOT, FPS, {"video": False}, "another observation.images.front"),
    ):
        with pytest.raises(RecordingError, match=match):
            open_recorder(DatasetSettings(root=root, resume=True, **options), robot, fps)
    assert check_whole(root) == [[0, 1]]


def test_lerobots_writer_is_refused_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.recording.lerobot.installed", lambda: False)
    with pytest.raises(RecordingError, match=r"--dataset\.writer=own"):
        begin(tmp_path / "d", writer="lerobot")
    monkeypatch.setattr("edge.recording.lerobot.installed", lambda: True)
    with pytest.raises(RecordingError, match="h264, hevc, av1"):
        begin(tmp_path / "d", writer="lerobot", codec="mpeg4")
    assert list(tmp_path.iterdir()) == []


def test_one_recording_at_a_time(tmp_path: Path) -> None:
    with begin(tmp_path / "d") as recorder:
        with pytest.raises(RecordingError, match="process"):
            begin(tmp_path / "d")
        drive(recorder, 0, 2)
    assert check_whole(tmp_path / "d") == [[0, 1]]


def test_a_place_that_cannot_be_written_is_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="file"):
        begin(tmp_path / "file")
    with pytest.raises(RecordingError):
        begin(tmp_path / "file/d")


# --- the control loop ----------------------------------------------------------------------------------------------


def test_add_takes_microseconds_for_two_large_cameras(tmp_path: Path) -> None:
    size = (480, 640)
    robot = RobotFeatures("arm", ("a.pos",), ("a.pos",), {"front": size, "wrist": size})
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    images = {"front": noise, "wrist": noise}
    took = []
    with open_recorder(DatasetSettings(root=tmp_path / "d", codec="mpeg4"), robot, 30.0) as recorder:
        for _ in range(60):
            reading = Reading(np.zeros(1, np.float32), images, time.monotonic())
            began = time.perf_counter()
            recorder.add(reading, np.zeros(1, np.float32), policy(), {})
            took.append(1e6 * (time.perf_counter() - began))
            time.sleep(0.02)
        assert recorder.flush(60) and recorder.stats().dropped == 0
    assert np.median(took) < ADD_US_MAX, f"median {np.median(took):.0f} us, most {max(took):.0f} us"


def test_a_robot_that_breaks_its_word_ends_the_recording_not_the_process(tmp_path: Path) -> None:
    root = tmp_path / "d"
    recorder = begin(root)
    drive(recorder, 0, 3)
    recorder.add(Reading(np.zeros(2, np.float32), {"front": np.zeros((48, 64, 3), np.uint8)}, 0.0), np.zeros(2))
    assert recorder.flush(30)
    assert "wrist" in str(recorder.failure)
    with pytest.raises(RecordingError, match="wrist"):
        drive(recorder, 4, 1)
    with pytest.raises(RecordingError, match="wrist"):
        recorder.finalize()
    assert check_whole(root) == [[0, 1, 2]]
