"""The recorder writes what LeRobot v3.0 readers expect, in every codec, and shows nothing before it is complete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.dataset.record import DatasetRecorder, camera_feature, vector_feature
from tasks.errors import DatasetError, VideoError

FPS = 10
SIZE = (64, 48)
CAMERA = "observation.images.top"
FEATURES = {"observation.state": vector_feature(["a", "b"]), CAMERA: camera_feature(SIZE)}


def grey(level: int) -> np.ndarray:
    """A picture that a codec keeps apart from others by its brightness."""
    return np.full((SIZE[1], SIZE[0], 3), level, np.uint8)


def level(episode: int, frame: int) -> int:
    return 20 + episode * 70 + frame * 5


def record(out: Path, lengths: tuple[int, ...] = (7, 5, 8), **options: Any) -> Path:
    with DatasetRecorder(out, fps=FPS, features=FEATURES, robot_type="arm", **options) as recorder:
        for episode, frames in enumerate(lengths):
            for i in range(frames):
                recorder.add_frame({"observation.state": [episode, i], CAMERA: grey(level(episode % 3, i))})
            recorder.save_episode(f"Do task {episode % 2}.")
    return out


def episodes_of(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()


def video_of(out: Path, row: dict[str, Any], camera: str = CAMERA) -> Path:
    chunk, file = row[f"videos/{camera}/chunk_index"], row[f"videos/{camera}/file_index"]
    return out / f"videos/{camera}/chunk-{chunk:03d}/file-{file:03d}.mp4"


def decoded(path: Path) -> list[tuple[float, bool, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(f.time, f.key_frame, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


@pytest.mark.parametrize("codec", ["h264", "av1", "hevc", "mpeg4"])
def test_every_frame_lies_at_its_episodes_time(tmp_path: Path, codec: str) -> None:
    out = record(tmp_path / "d", codec=codec, gop=4)
    rows = episodes_of(out)
    assert len({video_of(out, row) for row in rows}) == 1, "episodes share one mp4"
    frames = decoded(video_of(out, rows[0]))
    assert len(frames) == sum(row["length"] for row in rows)
    for row in rows:
        start = row[f"videos/{CAMERA}/from_timestamp"]
        assert row[f"videos/{CAMERA}/to_timestamp"] == pytest.approx(start + row["length"] / FPS)
        for i in range(row["length"]):
            time_s, key_frame, picture = frames[round(start * FPS) + i]
            assert time_s == pytest.approx(start + i / FPS, abs=1e-4)
            assert key_frame == (i % 4 == 0), "an episode begins on a keyframe, the next follow at the wanted distance"
            assert abs(float(picture.mean()) - level(row["episode_index"], i)) < 3
    info = json.loads((out / "meta/info.json").read_text())["features"][CAMERA]["info"]
    assert (info["video.codec"], info["video.width"], info["video.height"]) == (codec, *SIZE)


def test_data_and_metadata_follow_the_layout(tmp_path: Path) -> None:
    out = record(tmp_path / "d")
    info = json.loads((out / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["robot_type"] == "arm" and info["fps"] == FPS
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 20, 2)
    assert info["splits"] == {"train": "0:3"}
    assert info["features"]["observation.state"]["names"] == ["a", "b"]
    shard = pq.ParquetFile(out / "data/chunk-000/file-000.parquet")
    assert [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)] == [7, 5, 8]
    assert {shard.metadata.row_group(0).column(i).compression for i in range(3)} == {"SNAPPY"}
    table = shard.read()
    assert str(table.schema.field("timestamp").type) == "float"
    assert table["index"].to_pylist() == list(range(20))
    assert table["task_index"].to_pylist() == [0] * 7 + [1] * 5 + [0] * 8
    second = table.slice(7, 5).to_pydict()
    assert second["episode_index"] == [1] * 5 and second["frame_index"] == [0, 1, 2, 3, 4]
    assert second["timestamp"] == [float(np.float32(i / FPS)) for i in range(5)]
    assert second["observation.state"] == [[1.0, float(i)] for i in range(5)]
    row = episodes_of(out)[1]
    assert (row["dataset_from_index"], row["dataset_to_index"], row["tasks"]) == (7, 12, ["Do task 1."])


def test_tasks_are_a_pandas_frame_indexed_by_text(tmp_path: Path) -> None:
    table = pq.read_table(record(tmp_path / "d") / "meta/tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["Do task 0.", "Do task 1."]}
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_per_episode_and_merged(tmp_path: Path) -> None:
    out = record(tmp_path / "d", lengths=(4, 9))
    values = np.array(pq.read_table(out / "data")["observation.state"].to_pylist())
    rows = episodes_of(out)
    for row, part in zip(rows, (values[:4], values[4:]), strict=True):
        assert np.allclose(row["stats/observation.state/mean"], part.mean(axis=0))
        assert np.allclose(row["stats/observation.state/q50"], np.median(part, axis=0))
    stats = json.loads((out / "meta/stats.json").read_text())
    assert np.allclose(stats["observation.state"]["mean"], values.mean(axis=0))
    assert np.allclose(stats["observation.state"]["std"], values.std(axis=0))
    assert stats["observation.state"]["min"] == [0.0, 0.0] and stats["observation.state"]["max"] == [1.0, 8.0]
    assert stats["observation.state"]["count"] == [13]
    camera = rows[0][f"stats/{CAMERA}/mean"]
    assert np.shape(camera) == (3, 1, 1)
    assert np.allclose(camera, np.mean([level(0, i) for i in (0, 3)]) / 255, atol=1e-3), "every third frame counts"


def test_files_roll_before_they_pass_their_limit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    limit_mb = 0.08
    options = {"chunks_size": 2, "video_files_size_in_mb": limit_mb, "data_files_size_in_mb": 0.004}
    with DatasetRecorder(tmp_path / "d", fps=FPS, features=FEATURES, **options) as recorder:
        for episode in range(8):
            for i in range(12):
                recorder.add_frame({"observation.state": [episode, i], CAMERA: noise[i]})
            recorder.save_episode("Go.")
    out, rows = tmp_path / "d", episodes_of(tmp_path / "d")
    files = [(row[f"videos/{CAMERA}/chunk_index"], row[f"videos/{CAMERA}/file_index"]) for row in rows]
    assert len(set(files)) > 2 and files == sorted(files) and files[-1][0] > 0, "chunks hold two files"
    assert max(files.count(file) for file in files) > 1, "small episodes share a file"
    for path in (out / "videos").rglob("*.mp4"):
        assert path.stat().st_size < limit_mb * 1024 * 1024 * 1.1
    for before, row in pairwise(rows):
        start = row[f"videos/{CAMERA}/from_timestamp"]
        same = video_of(out, before) == video_of(out, row)
        assert start == pytest.approx(before[f"videos/{CAMERA}/to_timestamp"] if same else 0.0)
    shards = {(row["data/chunk_index"], row["data/file_index"]) for row in rows}
    assert len(shards) > 1
    for chunk, file in shards:
        table = pq.read_table(out / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet")
        mine = [r["episode_index"] for r in rows if (r["data/chunk_index"], r["data/file_index"]) == (chunk, file)]
        assert sorted(set(table["episode_index"].to_pylist())) == mine


def test_image_and_depth_cameras(tmp_path: Path) -> None:
    features = {"still": camera_feature(SIZE, stored="image"), "depth": camera_feature(SIZE, depth=True)}
    codes = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % 4096
    with DatasetRecorder(tmp_path / "d", fps=FPS, features=features) as recorder:
        for i in range(5):
            recorder.add_frame({"still": grey(level(0, i)), "depth": codes + i})
        recorder.save_episode("Look.")
    cell = pq.read_table(tmp_path / "d/data")["still"][3].as_py()
    with av.open(__import__("io").BytesIO(cell["bytes"])) as picture:
        assert np.array_equal(next(picture.decode(video=0)).to_ndarray(format="rgb24"), grey(level(0, 3)))
    with av.open(str(video_of(tmp_path / "d", episodes_of(tmp_path / "d")[0], "depth"))) as container:
        frames = [f.to_ndarray(format="gray12le") for f in container.decode(video=0)]
    assert np.array_equal(frames[2], codes + 2), "distances are kept exactly"
    assert json.loads((tmp_path / "d/meta/info.json").read_text())["features"]["depth"]["info"]["is_depth_map"]


def test_pictures_are_taken_when_they_are_added(tmp_path: Path) -> None:
    buffer, state = grey(0), np.zeros(2)
    with DatasetRecorder(tmp_path / "d", fps=FPS, features=FEATURES) as recorder:
        for i in range(6):
            buffer[:] = level(0, i)
            state[:] = i
            recorder.add_frame({"observation.state": state, CAMERA: buffer})
        recorder.save_episode("Go.")
    frames = decoded(video_of(tmp_path / "d", episodes_of(tmp_path / "d")[0]))
    assert [round(float(p.mean())) for _, _, p in frames] == pytest.approx([level(0, i) for i in range(6)], abs=3)
    assert [s[0] for s in pq.read_table(tmp_path / "d/data")["observation.state"].to_pylist()] == list(range(6))


def test_a_discarded_episode_leaves_no_trace_in_the_metadata(tmp_path: Path) -> None:
    with DatasetRecorder(tmp_path / "d", fps=FPS, features=FEATURES) as recorder:
        for keep, brightness in ((True, 40), (False, 90), (True, 160)):
            for i in range(4):
                recorder.add_frame({"observation.state": [0, i], CAMERA: grey(brightness)})
            if keep:
                recorder.save_episode("Go.")
            else:
                recorder.discard_episode()
    rows = episodes_of(tmp_path / "d")
    assert [row["length"] for row in rows] == [4, 4]
    assert len(pq.read_table(tmp_path / "d/data")) == 8
    start = rows[1][f"videos/{CAMERA}/from_timestamp"]
    picture = decoded(video_of(tmp_path / "d", rows[1]))[round(start * FPS)][2]
    assert abs(float(picture.mean()) - 160) < 3


def test_nothing_is_visible_before_finalize(tmp_path: Path) -> None:
    recorder = DatasetRecorder(tmp_path / "d", fps=FPS, features=FEATURES)
    recorder.add_frame({"observation.state": [0, 0], CAMERA: grey(9)})
    recorder.save_episode("Go.")
    assert not (tmp_path / "d").exists()
    recorder.finalize()
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    with pytest.raises(DatasetError):
        recorder.add_frame({"observation.state": [0, 0], CAMERA: grey(9)})


def test_an_error_while_recording_removes_the_rest(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), DatasetRecorder(tmp_path / "d", fps=FPS, features=FEATURES) as recorder:
        recorder.add_frame({"observation.state": [0, 0], CAMERA: grey(9)})
        raise RuntimeError("the robot fell over")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_recording_shows_no_dataset(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, sys
        import numpy as np
        from tests.dataset.test_record import FEATURES, CAMERA, FPS, grey
        from tasks.dataset.record import DatasetRecorder
        recorder = DatasetRecorder({str(tmp_path / "d")!r}, fps=FPS, features=FEATURES)
        for i in range(20):
            recorder.add_frame({{"observation.state": [0, i], CAMERA: grey(i)}})
        recorder.save_episode("Go.")
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "d").exists()
    record(tmp_path / "d")  # and the place is free for the next try
    assert (tmp_path / "d/meta/info.json").is_file()


@pytest.mark.parametrize(
    "frame",
    [
        {"observation.state": [0, 0]},
        {"observation.state": [0, 0], CAMERA: grey(0), "reward": 1.0},
        {"observation.state": [0, 0, 0], CAMERA: grey(0)},
        {"observation.state": [0, 0], CAMERA: grey(0)[:10]},
        {"observation.state": [0, 0], CAMERA: grey(0).astype(np.float32)},
    ],
)
def test_a_frame_that_does_not_fit_is_refused(tmp_path: Path, frame: dict[str, Any]) -> None:
    recorder = DatasetRecorder(tmp_path / "d", fps=FPS, features=FEATURES)
    with pytest.raises(DatasetError) as error:
        recorder.add_frame(frame)
    assert error.value.got and error.value.remedy
    recorder.add_frame({"observation.state": [0, 0], CAMERA: grey(0)})
    recorder.save_episode("Go.")
    recorder.finalize()
    assert len(decoded(video_of(tmp_path / "d", episodes_of(tmp_path / "d")[0]))) == 1, "the refused frame is nowhere"


def test_bad_places_and_codecs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(DatasetError, match="empty"):
        DatasetRecorder(tmp_path / "full", fps=FPS, features=FEATURES)
    with pytest.raises(DatasetError, match="h264"):
        DatasetRecorder(tmp_path / "d", fps=FPS, features=FEATURES, codec="vhs")
    recorder = DatasetRecorder(tmp_path / "d", fps=FPS, features=FEATURES)
    with pytest.raises(DatasetError, match="episode"):
        recorder.finalize()
    recorder.abort()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_a_failing_encoder_is_an_error_and_no_deadlock(tmp_path: Path) -> None:
    odd = (63, 47)  # 4:2:0 colour needs even sides
    recorder = DatasetRecorder(tmp_path / "d", fps=FPS, features={CAMERA: camera_feature(odd)})
    with pytest.raises(VideoError, match="63x47"):
        for _ in range(200):
            recorder.add_frame({CAMERA: np.zeros((47, 63, 3), np.uint8)})
        recorder.save_episode("Go.")
    recorder.abort()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("features", [["observation.state"], [CAMERA], ["observation.state", CAMERA]])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, features: list[str]) -> None:
    """Files may not grow beyond 20 kB: the write itself fails, as on a full disk."""
    script = textwrap.dedent(f"""
        import resource, signal, sys
        import numpy as np
        from tests.dataset.test_record import FEATURES, CAMERA, FPS, SIZE
        from tasks.dataset.record import DatasetRecorder
        from tasks.errors import DatasetError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        rng = np.random.default_rng(0)
        features = {{key: FEATURES[key] for key in {features!r}}}
        try:
            with DatasetRecorder({str(tmp_path / "d")!r}, fps=FPS, features=features) as recorder:
                for episode in range(3):
                    for i in range(2_000 if len(features) == 1 and CAMERA not in features else 100):
                        picture = rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
                        frame = {{"observation.state": rng.random(2), CAMERA: picture}}
                        recorder.add_frame({{key: frame[key] for key in features}})
                    recorder.save_episode("Go.")
        except DatasetError as error:
            print(error)
            sys.exit(3)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "disk space" in done.stdout
    assert list(tmp_path.iterdir()) == []
