"""Clips: H.264 in real time, the right pictures at the right times, made once, and whole or not at all."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tasks.answers.question import Clip
from tasks.dataset.clip import ClipSpec, clip_rate, in_order, make_clip
from tasks.dataset.episode import Episode, VideoRef
from tasks.errors import VideoError
from tests.dataset.media import CAMERA, HEIGHT, WIDTH, read_index, write_mp4

FPS, FIRST = 10, 40  # the episode begins in mid-file
SPEC = ClipSpec(width_max=640, looks_per_s=2.0)
AV1 = {"preset": "8", "crf": "10", "g": "20", "svtav1-params": "lp=1"}


def episode_of(path: Path, frames: int = 60, fps: float = FPS, first: int = FIRST) -> Episode:
    ref = VideoRef(path, first / fps, (first + frames) / fps, height=HEIGHT, width=WIDTH)
    stamps = (np.arange(frames) / fps).astype(np.float32)
    return Episode(0, "", stamps, np.arange(frames), Path("data.parquet"), 0, 0, fps, {CAMERA: ref})


@pytest.fixture(scope="module")
def av1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """110 frames of AV1; the episode is its frames 40 to 99."""
    return write_mp4(tmp_path_factory.mktemp("source") / "file-000.mp4", 110, codec="libsvtav1", fps=FPS, options=AV1)


def shown(clip: Clip) -> list[tuple[float, int]]:
    """(time, index that the picture spells) of every frame."""
    with av.open(str(clip.path)) as file:
        return [(frame.time, read_index(frame.to_ndarray(format="rgb24"))) for frame in file.decode(video=0)]


# ---------------------------------------------------------------- what is in it


def test_a_clip_is_h264_that_anybody_can_decode(av1: Path, tmp_path: Path) -> None:
    clip = make_clip(episode_of(av1), CAMERA, 0.0, 5.9, SPEC, tmp_path)
    with av.open(str(clip.path)) as file:
        assert [s.type for s in file.streams] == ["video"]
        codec = file.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (clip.width, clip.height) == (codec.width, codec.height) == (WIDTH, HEIGHT)
        assert (clip.fps, clip.seconds) == (2.0, 6.0)
        assert file.duration / av.time_base == pytest.approx(6.0, abs=0.01)


def test_each_moment_of_the_clip_is_that_moment_of_the_stretch(av1: Path, tmp_path: Path) -> None:
    clip = make_clip(episode_of(av1), CAMERA, 1.5, 4.5, SPEC, tmp_path)
    frames = shown(clip)
    assert [t for t, _ in frames] == pytest.approx([i / FPS for i in range(31)])
    assert [index for _, index in frames] == list(range(FIRST + 15, FIRST + 46))


def test_a_fast_camera_is_thinned_but_time_stays_real(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "fast.mp4", 90, codec="libx264", fps=30)
    clip = make_clip(episode_of(path, 60, fps=30, first=30), CAMERA, 0.0, 59 / 30, SPEC, tmp_path)
    assert shown(clip) == [(pytest.approx(i / 10), 30 + 3 * i) for i in range(20)]
    assert clip.seconds == pytest.approx(2.0, abs=1 / 30)


@pytest.mark.parametrize(
    ("fps", "looks", "rate"), [(30, 2, 10), (10, 2, 10), (30, 0.5, 2), (29.97, 10, 29.97), (5, 9, 5)]
)
def test_the_file_holds_more_frames_than_the_model_looks_at(fps: float, looks: float, rate: float) -> None:
    assert float(clip_rate(fps, looks)) == pytest.approx(rate)
    assert clip_rate(fps, looks) >= min(fps, 4 * looks) * 0.999


def test_a_gap_in_the_recording_stays_a_gap(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "gap.mp4", 40, codec="libx264")
    episode = episode_of(path, 40, first=0)
    stamps = np.delete(episode.timestamps, np.arange(5, 15))
    clip = make_clip(replace(episode, timestamps=stamps), CAMERA, 0.0, 2.0, SPEC, tmp_path)
    assert [i for _, i in shown(clip)] == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 15, 15, 15, 15, 15, 15, 16, 17, 18, 19, 20]


@pytest.mark.parametrize(
    ("limits", "size"), [({"width_max": 64}, (64, 42)), ({"width_max": 65}, (64, 42)), ({"pixels_max": 5000}, (86, 58))]
)
def test_a_clip_is_no_larger_than_wanted_and_its_sides_are_even(tmp_path: Path, limits: dict, size: tuple) -> None:
    path = write_mp4(tmp_path / "wide.mp4", 12, codec="libx264")
    clip = make_clip(episode_of(path, 12, first=0), CAMERA, 0.0, 0.5, replace(SPEC, **limits), tmp_path)
    assert (clip.width, clip.height) == size
    assert [i for _, i in shown(clip)] == list(range(6))


def test_colours_are_those_of_the_recording(generated_dataset: Path, tmp_path: Path) -> None:
    from tasks.dataset.frames import EpisodeFrames
    from tasks.dataset.layout import open_dataset

    dataset = open_dataset(generated_dataset)
    episode, camera = dataset.episodes()[1], dataset.cameras[0]
    clip = make_clip(episode, camera, 0.0, episode.end_s, SPEC, tmp_path)
    own = EpisodeFrames(episode, {}).tiles(camera, [1.0, 3.0], 160)
    with av.open(str(clip.path)) as file:
        frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    for shot, row in zip(own, (10, 30), strict=True):
        assert np.abs(frames[row].astype(int) - shot.rgb).mean() < 4
        assert np.abs(frames[row].mean((0, 1)) - shot.rgb.mean((0, 1))).max() < 1.5


# ---------------------------------------------------------------- made once


def test_a_clip_is_made_once(av1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_clip(episode_of(av1), CAMERA, 0.0, 1.0, SPEC, tmp_path)
    monkeypatch.setattr("tasks.dataset.clip._encode", lambda *_: pytest.fail("it is there already"))
    assert make_clip(episode_of(av1), CAMERA, 0.0, 1.0, SPEC, tmp_path) == first


def test_another_stretch_or_size_is_another_clip_and_a_copied_source_is_not(av1: Path, tmp_path: Path) -> None:
    def digest(source: Path, start_s: float = 0.0, end_s: float = 1.0, spec: ClipSpec = SPEC) -> str:
        return make_clip(episode_of(source), CAMERA, start_s, end_s, spec, tmp_path / "clips").digest

    copied = tmp_path / "elsewhere.mp4"
    copied.write_bytes(av1.read_bytes())
    assert digest(copied) == digest(av1)
    other = write_mp4(tmp_path / "other.mp4", range(1, 111), codec="libsvtav1", fps=FPS, options=AV1)
    clips = {digest(av1), digest(av1, 0.1), digest(av1, 0.0, 1.1), digest(other)}
    clips |= {digest(av1, spec=replace(SPEC, width_max=48)), digest(av1, spec=replace(SPEC, looks_per_s=0.5))}
    assert len(clips) == 6


def test_a_damaged_clip_is_made_again(av1: Path, tmp_path: Path) -> None:
    clip = make_clip(episode_of(av1), CAMERA, 0.0, 1.0, SPEC, tmp_path)
    whole = clip.path.read_bytes()
    shorter = make_clip(episode_of(av1), CAMERA, 0.0, 0.5, SPEC, tmp_path).path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], shorter):
        clip.path.write_bytes(damaged)
        make_clip(episode_of(av1), CAMERA, 0.0, 1.0, SPEC, tmp_path)
        assert clip.path.read_bytes() == whole  # the same input gives the same bytes


def test_makers_at_the_same_time_do_not_disturb_each_other(av1: Path, tmp_path: Path) -> None:
    gate, made = threading.Barrier(4), []

    def make() -> None:
        gate.wait()
        made.append(make_clip(episode_of(av1), CAMERA, 0.0, 2.0, SPEC, tmp_path))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and len(set(made)) == 1
    assert [p.name for p in tmp_path.iterdir()] == [f"{made[0].digest}.mp4"]
    assert len(shown(made[0])) == 21


# ---------------------------------------------------------------- failures


def test_a_source_that_ends_too_early_leaves_no_clip(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "source" / "short.mp4", 50, codec="libx264")
    with pytest.raises(VideoError, match=r"want a frame at .* in .*short\.mp4"):
        make_clip(episode_of(path), CAMERA, 0.0, 5.9, SPEC, tmp_path / "clips")
    assert not list(tmp_path.rglob("clips/*"))


def test_a_source_that_does_not_decode_leaves_no_clip(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "source" / "bad.mp4", 60, codec="libx264", options={"g": "5"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = b"\x00" * 3000
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        make_clip(episode_of(path, first=0), CAMERA, 0.0, 5.9, SPEC, tmp_path / "clips")
    assert not list(tmp_path.rglob("clips/*"))


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        make_clip(episode_of(tmp_path / "gone.mp4"), CAMERA, 0.0, 1.0, SPEC, tmp_path)


def test_a_missing_encoder_says_what_to_do(av1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.dataset.clip.ENCODER", "libnothing")
    with pytest.raises(VideoError, match=r"plan\.media=sheets"):
        make_clip(episode_of(av1), CAMERA, 0.0, 1.0, SPEC, tmp_path)


def test_frames_that_come_early_wait() -> None:
    mixed = [(2, "c"), (0, "a"), (1, "b"), (4, "e"), (3, "d")]
    assert list(in_order(mixed)) == [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e")]  # type: ignore[arg-type]
