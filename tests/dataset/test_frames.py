"""Pictures of an episode: one decode however many ask, right times, a budget that holds, failures that stay."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.dataset import video
from tasks.dataset.episode import Episode, VideoRef
from tasks.dataset.frames import EpisodeFrames, FrameStore, Still, Wants
from tasks.dataset.layout import open_dataset
from tasks.errors import VideoError
from tests.conftest import real_dataset
from tests.dataset.media import HEIGHT, WIDTH, read_index, write_mp4

FPS, FRAMES, FROM = 10, 30, 20
FRONT, SIDE = "observation.images.front", "observation.images.side"
TILE = 48


def episode(folder: Path, index: int = 0, cameras: tuple[str, ...] = (FRONT, SIDE)) -> Episode:
    """30 frames that begin at frame 20 of each camera's file; the second camera shows 1000 more."""
    videos = {}
    for n, camera in enumerate(cameras):
        path = folder / f"{camera}.mp4"
        if not path.exists():
            write_mp4(path, range(n * 1000, n * 1000 + 60), codec="libx264", fps=FPS, options={"g": "10"})
        videos[camera] = VideoRef(path, FROM / FPS, (FROM + FRAMES) / FPS, HEIGHT, WIDTH)
    times = (np.arange(FRAMES) / FPS).astype(np.float32)
    return Episode(index, "", times, np.arange(FRAMES), folder / "x.parquet", 0, 0, FPS, videos)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


def jpeg_index(jpeg: bytes) -> int:
    return read_index(np.asarray(Image.open(io.BytesIO(jpeg))))


def test_tiles_show_the_frames_whose_times_they_carry(folder: Path) -> None:
    frames = EpisodeFrames(episode(folder), {})
    shots = frames.tiles(FRONT, [2.9, 0.0, 0.52, 1.26], TILE)
    assert [round(s.time_s, 3) for s in shots] == [0.0, 0.5, 1.3, 2.9]
    assert [read_index(s.rgb) for s in shots] == [20, 25, 33, 49]
    assert {s.rgb.shape for s in shots} == {(32, TILE, 3)} and shots[0].rgb.dtype == np.uint8
    assert [read_index(s.rgb) for s in frames.tiles(SIDE, [0.1], TILE)] == [1021]


def test_times_that_fall_on_one_frame_give_one_shot(folder: Path) -> None:
    ep = episode(folder)
    frames = EpisodeFrames(ep, {})
    shots = frames.tiles(FRONT, [1.0, 1.01, 0.98, 5.0, 2.9], TILE)
    assert [s.time_s for s in shots] == [ep.times[10], ep.times[29]]
    assert frames.tiles(FRONT, [], TILE) == []
    assert frames.decoded == 2


def test_stills_are_jpeg_of_the_frame_itself(folder: Path) -> None:
    frames = EpisodeFrames(episode(folder), {})
    ((time_s, picture),) = frames.stills(FRONT, [0.7], Still(1280, 84))
    assert time_s == pytest.approx(0.7) and (picture.width, picture.height) == (WIDTH, HEIGHT)  # never scaled up
    image = Image.open(io.BytesIO(picture.jpeg))
    assert image.size == (WIDTH, HEIGHT) and image.format == "JPEG"
    assert [c[1:3] for c in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
    assert jpeg_index(picture.jpeg) == 27
    ((_, small),) = frames.stills(FRONT, [0.7], Still(60, 84))
    assert (small.width, small.height) == (60, 40)
    ((_, coarse),) = frames.stills(FRONT, [0.7], Still(1280, 5))
    assert len(coarse.jpeg) < len(picture.jpeg)


def test_a_still_keeps_within_pixels_and_to_multiples(folder: Path) -> None:
    frames = EpisodeFrames(episode(folder), {})
    for still, size in (
        (Still(pixels_max=WIDTH * HEIGHT // 4), (WIDTH // 2, HEIGHT // 2)),
        (Still(multiple=28), (84, 56)),
    ):
        ((_, picture),) = frames.stills(FRONT, [0.7], still)
        image = Image.open(io.BytesIO(picture.jpeg))
        assert image.size == (picture.width, picture.height) == size
        assert jpeg_index(picture.jpeg) == 27


def test_one_pass_decodes_what_all_phases_want(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = count_opens(monkeypatch)
    wants = Wants(frozenset(range(0, 30, 5)), TILE, frozenset(range(0, 30, 10)), Still(1280, 84))
    frames = EpisodeFrames(episode(folder), {FRONT: wants})
    frames.tiles(FRONT, [0.0, 0.5], TILE)
    assert frames.decoded == 6
    tiles = frames.tiles(FRONT, [i / 10 for i in range(0, 30, 5)], TILE)
    stills = frames.stills(FRONT, [0.0, 1.0, 2.0], Still(1280, 84))
    assert [read_index(s.rgb) for s in tiles] == [20, 25, 30, 35, 40, 45]
    assert [jpeg_index(p.jpeg) for _, p in stills] == [20, 30, 40]
    assert frames.decoded == 6 and len(opened) == 1
    frames.tiles(FRONT, [0.0, 0.7], TILE)
    assert frames.decoded == 7 and len(opened) == 2  # only what nobody had announced


def test_pictures_are_made_once(folder: Path) -> None:
    frames = EpisodeFrames(episode(folder), {})
    (_, first), (_, again) = frames.stills(FRONT, [0.3], Still(1280, 84)) + frames.stills(FRONT, [0.3], Still(1280, 84))
    assert first is again
    assert frames.tiles(FRONT, [0.3], TILE)[0].rgb is frames.tiles(FRONT, [0.3], TILE)[0].rgb
    assert frames.decoded == 2  # the still, then the tile nobody had announced


def count_opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of all files opened by the decoder from now on."""
    opened: list[str] = []
    really = video.av.open

    def spy(path: str, *args: object, **kwargs: object) -> object:
        opened.append(path)
        return really(path, *args, **kwargs)

    monkeypatch.setattr(video.av, "open", spy)
    return opened


def test_phases_that_ask_at_once_wait_for_one_decode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = count_opens(monkeypatch)
    frames = EpisodeFrames(episode(folder), {c: Wants(frozenset(range(30)), TILE) for c in (FRONT, SIDE)})
    start = threading.Barrier(8)

    def ask(n: int) -> list[int]:
        start.wait()
        camera = (FRONT, SIDE)[n % 2]
        return [read_index(s.rgb) for s in frames.tiles(camera, [i / 10 for i in range(n, 30)], TILE)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    for n, got in enumerate(answers):
        assert got == [FROM + i + 1000 * (n % 2) for i in range(n, 30)]
    assert frames.decoded == 60 and len(opened) == 2


def test_cameras_do_not_wait_for_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both cameras are inside the decoder at the same moment, else the barrier breaks."""
    both = threading.Barrier(2, timeout=20)
    really = video.Clip.read

    def read(self: video.Clip, times_s: list[float]) -> object:
        both.wait()
        return really(self, times_s)

    monkeypatch.setattr(video.Clip, "read", read)
    frames = EpisodeFrames(episode(folder), {})
    with ThreadPoolExecutor(2) as pool:
        shots = list(pool.map(lambda c: frames.tiles(c, [0.0], TILE), (FRONT, SIDE)))
    assert [read_index(s[0].rgb) for s in shots] == [20, 1020]


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_is_remembered_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ep = episode(tmp_path)
    ep.videos[FRONT].path.unlink()
    write_mp4(ep.videos[FRONT].path, 40, fps=FPS)  # ends within the episode
    opened = count_opens(monkeypatch)
    frames = EpisodeFrames(ep, {FRONT: Wants(frozenset(range(0, 30, 5)), TILE)})
    for _ in range(3):
        with pytest.raises(VideoError, match=r"want a frame at 4\.000 s"):
            frames.tiles(FRONT, [0.0], TILE)
    assert len(opened) == 1 and frames.size_bytes == 0
    assert read_index(frames.tiles(SIDE, [0.0], TILE)[0].rgb) == 1020


def test_a_camera_the_episode_does_not_have(folder: Path) -> None:
    with pytest.raises(VideoError, match=r"camera wrist[\s\S]*observation\.images\.front"):
        EpisodeFrames(episode(folder), {"wrist": Wants(frozenset({1}))}).tiles("wrist", [0.0], TILE)


# --- the store -----------------------------------------------------------------------------------------------------

TILE_BYTES = 32 * TILE * 3


def test_all_phases_get_the_same_frames_and_their_wants_add_up(folder: Path) -> None:
    store = FrameStore(10**9)
    ep = episode(folder)
    plan = store.open(ep, {FRONT: Wants(frozenset({0, 4}), TILE)})
    vqa = store.open(ep, {FRONT: Wants(stills=frozenset({4, 9}))})
    assert plan is vqa
    plan.tiles(FRONT, [0.0], TILE)
    vqa.stills(FRONT, [0.9], Still(1280, 84))
    assert plan.decoded == 3


def test_the_budget_drops_the_episodes_unused_for_longest(folder: Path) -> None:
    store = FrameStore(25 * TILE_BYTES)
    first, second, third = (store.open(episode(folder, i), {}) for i in range(3))
    times = [i / 10 for i in range(10)]
    first.tiles(FRONT, times, TILE)
    second.tiles(FRONT, times, TILE)
    first.tiles(FRONT, times, TILE)  # used again: now the second is the oldest
    third.tiles(FRONT, times, TILE)
    assert (first.decoded, second.decoded, third.decoded) == (10, 10, 10)
    assert store.size_bytes == 20 * TILE_BYTES and second.size_bytes == 0
    shots = second.tiles(FRONT, times, TILE)  # decoded again, and right
    assert [read_index(s.rgb) for s in shots] == list(range(20, 30)) and second.decoded == 20
    assert store.size_bytes <= 25 * TILE_BYTES


def test_an_episode_at_work_keeps_its_own_pictures(folder: Path) -> None:
    store = FrameStore(1)
    frames = store.open(episode(folder), {})
    frames.tiles(FRONT, [0.0, 0.1], TILE)
    frames.tiles(FRONT, [0.0, 0.1], TILE)
    assert frames.decoded == 2


def test_release_forgets(folder: Path) -> None:
    store = FrameStore(10**9)
    ep = episode(folder)
    frames = store.open(ep, {})
    frames.tiles(FRONT, [0.0], TILE)
    store.release(0)
    store.release(0)
    assert store.size_bytes == 0 and frames.size_bytes == 0
    assert read_index(frames.tiles(FRONT, [0.2], TILE)[0].rgb) == 22  # a straggler is served
    assert frames.size_bytes == 0  # and nothing stays behind
    assert store.open(ep, {}) is not frames


def test_many_threads_within_a_tight_budget_get_the_right_pictures(folder: Path) -> None:
    store = FrameStore(40 * TILE_BYTES)
    episodes = [episode(folder, i) for i in range(4)]

    def work(n: int) -> bool:
        ep = episodes[n % 4]
        frames = store.open(ep, {FRONT: Wants(frozenset(range(0, 30, 3)), TILE)})
        rows = list(range(n % 3, 30, 3))
        shots = frames.tiles(FRONT, [ep.times[r] for r in rows], TILE)
        return [read_index(s.rgb) for s in shots] == [FROM + r for r in rows]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
    for n in range(4):
        store.release(n)
    assert store.size_bytes == 0


def test_the_real_recording_reads_as_a_plain_decode_does() -> None:
    """Several episodes in one AV1 file: the picture at a time equals that of a decode from the file's start."""
    dataset = open_dataset(real_dataset("g1-bottle-v3"))
    (camera,) = dataset.cameras
    ep = dataset.episodes([1])[0]
    rows = [0, 1, 157, 341, 342]
    frames = EpisodeFrames(ep, {})
    shots = frames.tiles(camera, [ep.times[r] for r in rows], 224)
    assert [s.rgb.shape for s in shots] == [(168, 224, 3)] * 5 and frames.decoded == 5
    wanted = {393 + r: shot for r, shot in zip(rows, shots, strict=True)}  # 393 frames of episode 0 come first
    scaler, seen = video.Scaler(), 0
    with video.opened(ep.videos[camera].path) as (container, stream):
        for n, frame in enumerate(container.decode(stream)):
            if n in wanted:
                np.testing.assert_array_equal(scaler.rgb(frame, 224), wanted[n].rgb)
                seen += 1
    assert seen == 5
