"""Contact sheets: geometry, legible times, and real frames of a real mp4 under their own times."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from tasks import plan
from tasks.answers.question import Picture
from tasks.dataset.episode import VideoRef
from tasks.dataset.frames import EpisodeFrames, Shot
from tasks.dataset.layout import open_dataset
from tasks.settings import AnnotateSettings
from tasks.sheets import TILE_WIDTH_MIN, SheetMaker, badge_text, contact_sheets, tile_width
from tests.answerers import FRONT, WRIST, DrawnFrames, make_episode

GREY = 90


def shots(count: int, width: int = 224, height: int = 168) -> list[Shot]:
    return [Shot(i * 0.5, np.full((height, width, 3), GREY, np.uint8)) for i in range(count)]


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(picture.jpeg)).convert("L"))


def make(count: int, zero_s: float = 0.0) -> list[Picture]:
    return contact_sheets(shots(count), columns=5, per_sheet=20, quality=84, zero_s=zero_s)


def test_sheets_have_as_many_rows_as_they_use() -> None:
    assert [(p.width, p.height) for p in make(47)] == [(1120, 672), (1120, 672), (1120, 336)]
    assert [(p.width, p.height) for p in make(3)] == [(672, 168)]
    assert make(0) == []


def test_pictures_are_jpeg_of_the_stated_size() -> None:
    (sheet,) = make(7)
    image = Image.open(BytesIO(sheet.jpeg))
    assert image.format == "JPEG" and image.size == (sheet.width, sheet.height)


def test_each_frame_carries_a_legible_time_in_its_corner() -> None:
    (sheet,) = make(7)
    grey = pixels(sheet)
    for i in range(7):
        x, y = i % 5 * 224, i // 5 * 168
        badge = grey[y : y + 24, x : x + 80]
        assert badge.min() < 20 and badge.max() > 235  # black ground, white digits
        digits = np.flatnonzero((badge > 200).any(axis=1))
        assert digits[-1] - digits[0] + 1 >= 12  # digits at least 12 pixels high
        rest = grey[y + 40 : y + 168, x : x + 224]
        assert abs(int(rest.mean()) - GREY) < 4
    assert grey[200:320, 2 * 224 + 10 :].max() < 10  # unused cells are black


def test_times_have_one_width_and_are_never_negative() -> None:
    assert [badge_text(t) for t in (0.0, 12.5, 345.678, -0.02)] == ["000.00s", "012.50s", "345.68s", "000.00s"]


def test_different_times_look_different_and_windows_count_from_their_start() -> None:
    assert make(5)[0].jpeg != make(5, zero_s=1.0)[0].jpeg
    later = [Shot(s.time_s + 30.0, s.rgb) for s in shots(5)]
    shifted = contact_sheets(later, columns=5, per_sheet=20, quality=84, zero_s=30.0)
    assert shifted[0].jpeg == make(5)[0].jpeg


def test_the_second_camera_has_sheets_of_its_own_under_a_caption() -> None:
    episode = make_episode(12.0)
    settings = AnnotateSettings()
    maker = SheetMaker(DrawnFrames(episode), (FRONT, WRIST), settings)  # type: ignore[arg-type]
    pictures = maker.make([i * 0.5 for i in range(25)])
    assert [bool(p.caption) for p in pictures] == [True, False, True, False]
    assert FRONT in pictures[0].caption and WRIST in pictures[2].caption
    alone = SheetMaker(DrawnFrames(episode), (FRONT,), settings)  # type: ignore[arg-type]
    assert [p.caption for p in alone.make([0.0, 1.0])] == [""]


def test_a_full_sheet_keeps_within_the_pixels_that_the_model_takes() -> None:
    def width(pixels_max: int | None, size: tuple[int, int] = (640, 480)) -> int:
        settings = AnnotateSettings.model_validate({"vlm": {"max_pixels": pixels_max}})
        return tile_width(settings, VideoRef(Path("clip.mp4"), 0.0, 9.0, height=size[1], width=size[0]))

    assert width(None) == width(1_000_000) == width(5 * 224 * 4 * 168) == 224
    assert width(5 * 224 * 4 * 168 - 1) == 223
    assert width(300_000, (480, 640)) < width(300_000) < 224
    assert width(4096) == TILE_WIDTH_MIN and width(4096, (0, 0)) == 224


def test_smaller_tiles_are_drawn_where_the_model_takes_few_pixels() -> None:
    episode = make_episode(12.0, size=(640, 480))
    settings = AnnotateSettings.model_validate({"vlm": {"max_pixels": 300_000}})
    maker = SheetMaker(DrawnFrames(episode, (640, 480)), (FRONT,), settings)  # type: ignore[arg-type]
    (full, _) = maker.make([i * 0.5 for i in range(25)])
    assert 280_000 < full.width * full.height <= 300_000
    wants = plan.wanted(episode, settings, [FRONT])
    assert wants[FRONT].tile_width * 5 == full.width


def test_a_selection_is_drawn_once() -> None:
    frames = DrawnFrames(make_episode())
    maker = SheetMaker(frames, (FRONT,), AnnotateSettings())  # type: ignore[arg-type]
    assert maker.make([0.0, 1.0]) is maker.make([0.0, 1.0])
    assert len(frames.calls) == 1


def test_real_video_under_its_own_times(generated_dataset: Path) -> None:
    dataset = open_dataset(generated_dataset)
    episode, settings = dataset.episodes()[1], AnnotateSettings()
    frames = EpisodeFrames(episode, plan.wanted(episode, settings, dataset.cameras))
    camera = dataset.cameras[0]
    times = [0.0, 0.52, 1.04, 3.9]
    shown = frames.tiles(camera, times, 224)
    assert [s.time_s for s in shown] == [episode.snap(t) for t in times]
    (sheet,) = SheetMaker(frames, (camera,), settings).make(times)
    drawn = np.asarray(Image.open(BytesIO(sheet.jpeg)).convert("RGB")).astype(int)
    for i, shot in enumerate(shown):
        height, width = shot.rgb.shape[:2]
        tile = drawn[:height, i * width : (i + 1) * width]
        assert np.abs(tile[40:] - shot.rgb[40:]).mean() < 8
    expected = len(plan.wanted(episode, settings, dataset.cameras)[camera].tiles | {episode.nearest(t) for t in times})
    assert frames.decoded == expected  # one pass, nothing twice
