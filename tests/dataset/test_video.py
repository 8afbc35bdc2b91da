"""Frames by exact time: every codec and keyframe pattern, sparse and dense, damaged files."""

from __future__ import annotations

import random
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dataset.video import Clip, PacketEntry, Scaler, Stretch, check_video, fit_size, plan_stretches
from tasks.errors import VideoError
from tests.dataset.media import WIDTH, read_index, write_mp4

FPS = 10
FRAMES = 60
X265 = "log-level=none:pools=none:frame-threads=1"
KINDS = {
    "mpeg4, keyframe every 12": ("mpeg4", {"g": "12"}, "yuv420p"),
    "mpeg4, B-frames": ("mpeg4", {"g": "12", "bf": "2"}, "yuv420p"),
    "h264, no B-frames": ("libx264", {"g": "10", "bf": "0"}, "yuv420p"),
    "h264, B-frames": ("libx264", {"x264-params": "keyint=15:min-keyint=15:bframes=3:b-adapt=0:scenecut=0"}, "yuv420p"),
    "h264, open groups": (
        "libx264",
        {"x264-params": "keyint=12:min-keyint=1:bframes=3:b-adapt=0:open-gop=1:scenecut=0"},
        "yuv420p",
    ),
    "h264, one long group": ("libx264", {"x264-params": "keyint=250:min-keyint=250:bframes=2:scenecut=0"}, "yuv420p"),
    "h264, 10 bits": ("libx264", {"g": "10"}, "yuv420p10le"),
    "hevc, B-frames": ("libx265", {"x265-params": f"keyint=12:bframes=3:open-gop=0:{X265}"}, "yuv420p"),
    "hevc, open groups": ("libx265", {"x265-params": f"keyint=12:bframes=3:open-gop=1:{X265}"}, "yuv420p"),
    "av1, keyframe every 2": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}, "yuv420p"),
    "av1, one long group": ("libsvtav1", {"g": "250", "crf": "10", "preset": "8"}, "yuv420p"),
}


@pytest.fixture(scope="module", params=KINDS)
def mp4(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec, options, pix_fmt = KINDS[request.param]
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    return write_mp4(path, FRAMES, codec=codec, fps=FPS, options=options, pix_fmt=pix_fmt)


def indices(clip: Clip, rows: list[int], width: int = WIDTH, from_s: float = 0.0) -> list[int]:
    """The frame indices spelled by the pictures that the clip gives for these rows."""
    scaler = Scaler()
    got: dict[int, int] = {}
    for i, frame in clip.read([from_s + row / FPS for row in rows]):
        assert i not in got
        got[i] = read_index(scaler.rgb(frame, width))
    return [got[i] for i in range(len(rows))]


def whole(path: Path) -> Clip:
    return Clip(path, 0.0, (FRAMES - 1) / FPS, FPS)


def test_every_frame_has_its_own_time_and_is_decoded_once(mp4: Path) -> None:
    clip = whole(mp4)
    assert indices(clip, list(range(FRAMES))) == list(range(FRAMES))
    assert clip.packets_decoded == FRAMES


def test_any_single_frame(mp4: Path) -> None:
    clip = whole(mp4)
    for row in (0, 1, 9, 10, 11, 12, 13, 14, 15, 23, 24, 25, 35, 36, FRAMES - 2, FRAMES - 1):
        assert indices(clip, [row]) == [row]


def test_sparse_sets(mp4: Path) -> None:
    clip = whole(mp4)
    rng = random.Random(3)
    for count in (2, 3, 5, 8, 20):
        rows = sorted(rng.sample(range(FRAMES), count))
        before = clip.packets_decoded
        assert indices(clip, rows) == rows
        assert clip.packets_decoded - before <= FRAMES  # no packet twice in one read


def test_an_episode_in_the_middle_of_a_file(mp4: Path) -> None:
    clip = Clip(mp4, 2.1, 4.4, FPS)
    assert indices(clip, [0, 4, 5, 22, 23], from_s=2.1) == [21, 25, 26, 43, 44]
    assert clip.packets_decoded <= 45


def test_small_renditions_still_show_the_frame(mp4: Path) -> None:
    assert indices(whole(mp4), [7, 30, 51], width=48) == [7, 30, 51]


def test_the_nearest_frame_is_taken_and_none_beyond_half_a_period(mp4: Path) -> None:
    clip = whole(mp4)
    (got,) = [read_index(Scaler().rgb(f, WIDTH)) for _, f in clip.read([2.04])]
    assert got == 20
    with pytest.raises(VideoError, match=r"nearest is at 5\.900 s"):
        list(clip.read([3.0, 6.0]))


def test_keyframes_every_two_frames_cost_two_packets_a_picture(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "v.mp4", 200, codec="libsvtav1", fps=FPS, options={"g": "2", "preset": "12"})
    clip = Clip(path, 0.0, 19.9, FPS)
    rows = list(range(3, 200, 20))
    assert indices(clip, rows) == rows
    assert clip.packets_decoded == 2 * len(rows)


def test_a_far_frame_costs_its_own_group_only(tmp_path: Path) -> None:
    options = {"x264-params": "keyint=20:min-keyint=20:bframes=0:scenecut=0"}
    path = write_mp4(tmp_path / "v.mp4", 200, codec="libx264", fps=FPS, options=options)
    clip = Clip(path, 0.0, 19.9, FPS)
    assert indices(clip, [1, 165]) == [1, 165]
    assert clip.packets_decoded == 2 + 6


@pytest.mark.parametrize("bframes", [0, 3])
def test_a_stream_that_does_not_start_at_zero(tmp_path: Path, bframes: int) -> None:
    options = {"x264-params": f"keyint=10:bframes={bframes}:b-adapt=0:scenecut=0"}
    path = write_mp4(tmp_path / "v.mp4", 40, codec="libx264", fps=FPS, options=options, start_frame=15)
    with av.open(str(path)) as container:
        start_s = float(container.streams.video[0].start_time * container.streams.video[0].time_base)
    assert start_s == pytest.approx(1.5)
    clip = Clip(path, 1.5, 5.4, FPS)
    assert indices(clip, [0, 13, 39], from_s=1.5) == [0, 13, 39]
    with pytest.raises(VideoError):
        list(Clip(path, 0.0, 5.4, FPS).read([0.5]))


def test_times_in_any_order_and_twice(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "v.mp4", 30, fps=FPS)
    assert indices(Clip(path, 0.0, 2.9, FPS), [20, 3, 20, 11]) == [20, 3, 20, 11]


# --- the plan of what to decode ------------------------------------------------------------------------------------


def entries(text: str) -> list[PacketEntry]:
    """'K0 4 2' -> packets in decode order by pts, K marks keyframes."""
    return [PacketEntry(int(w.lstrip("K")), i, w.startswith("K"), True) for i, w in enumerate(text.split())]


def test_wanted_frames_of_one_group_share_a_stretch() -> None:
    packets = entries("K0 1 2 3 K4 5 6 7 K8 9")
    assert plan_stretches(packets, [2]) == [Stretch(0, 2)]
    assert plan_stretches(packets, [1, 3]) == [Stretch(0, 3)]
    assert plan_stretches(packets, [1, 9]) == [Stretch(0, 1), Stretch(8, 9)]
    assert plan_stretches(packets, [3, 5]) == [Stretch(0, 5)]  # the next group follows without a gap
    assert plan_stretches(packets, [2, 5]) == [Stretch(0, 2), Stretch(4, 5)]
    assert plan_stretches(packets, []) == []


def test_a_frame_shown_before_its_keyframe_starts_a_group_earlier() -> None:
    packets = entries("K0 2 1 K6 4 3 5 8 7 K12 10")
    assert plan_stretches(packets, [5]) == [Stretch(0, 5)]  # pts 3 leads keyframe 6
    assert plan_stretches(packets, [7]) == [Stretch(3, 7)]
    assert plan_stretches(packets, [10]) == [Stretch(3, 10)]
    assert plan_stretches(packets, [0, 3, 5]) == [Stretch(0, 5)]  # not a stretch from keyframe 6 first


# --- damage --------------------------------------------------------------------------------------------------------

RANGES = [(0.0, 2.0, 4), (2.0, 6.0, 5)]


def test_a_whole_file_passes(mp4: Path) -> None:
    check_video(mp4, RANGES, FPS)


def test_a_missing_file_names_file_and_episodes(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"gone\.mp4[\s\S]*missing[\s\S]*episodes 4, 5"):
        check_video(tmp_path / "gone.mp4", RANGES, FPS)


def test_a_file_cut_off_before_its_index(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "v.mp4", FRAMES, fps=FPS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="episodes 4, 5"):
        check_video(path, RANGES, FPS)


@pytest.mark.parametrize(("kept", "cut"), [(0.5, "4, 5"), (0.9, "5")])
def test_a_file_cut_off_behind_its_index(tmp_path: Path, kept: float, cut: str) -> None:
    path = write_mp4(tmp_path / "v.mp4", FRAMES, fps=FPS, movflags="faststart")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(VideoError, match=rf"want frames until 5\.900 s[\s\S]*episode {cut} cannot"):
        check_video(path, RANGES, FPS)
    clip = whole(path)
    assert indices(clip, [2, 9]) == [2, 9]
    with pytest.raises(VideoError, match=r"5\.900 s"):
        list(clip.read([0.2, 5.9]))


def test_a_file_shorter_than_promised(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "v.mp4", FRAMES - 1, fps=FPS)
    with pytest.raises(VideoError, match="episode 5 cannot"):
        check_video(path, RANGES, FPS)
    check_video(path, RANGES[:1], FPS)


def test_bytes_that_are_no_video(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"not a video" * 100)
    with pytest.raises(VideoError, match="readable video file"):
        list(whole(path).read([0.0]))


def test_damaged_pictures_are_never_given_out(tmp_path: Path) -> None:
    """Overwritten bytes: each picture is right or an error is raised."""
    path = write_mp4(tmp_path / "v.mp4", FRAMES, codec="libx264", fps=FPS, options={"g": "10"}, movflags="faststart")
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 3
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(VideoError):
        indices(whole(path), list(range(FRAMES)))


# ---------------------------------------------------------------- sizes


@given(
    size=st.tuples(st.integers(28, 4000), st.integers(28, 4000)),
    width_max=st.integers(56, 2000),
    pixels_max=st.one_of(st.none(), st.integers(56 * 56, 4_000_000)),
    multiple=st.sampled_from([1, 2, 28]),
)
def test_a_size_keeps_within_its_limits_and_near_its_shape(size, width_max, pixels_max, multiple) -> None:
    width, height = fit_size(size, width_max, pixels_max, multiple)
    assert width % multiple == height % multiple == 0 < min(width, height)
    assert width <= width_max and width <= size[0] + multiple
    tiny = min(width, height) == multiple  # cannot be less, whatever the limits
    assert tiny or pixels_max is None or width * height <= pixels_max
    assert tiny or abs(height - width * size[1] / size[0]) <= multiple


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1920, 1080), (480, 640), (321, 243), (64, 48)])
def test_sides_of_28_are_left_alone_by_a_model_that_stretches_to_them(size: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    width, height = fit_size(size, 1280, None, 28)
    limits = {"min_pixels": 56 * 56, "max_pixels": 16384 * 28 * 28}  # as published with Qwen2.5-VL
    assert module.smart_resize(height, width, factor=28, **limits) == (height, width)
