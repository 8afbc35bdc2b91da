"""Contact sheets: many small frames in one picture, each with its time printed on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.answers.question import Picture
from tasks.dataset.episode import VideoRef
from tasks.dataset.frames import EpisodeFrames, Shot, encode_jpeg
from tasks.settings import AnnotateSettings

TILE_WIDTH_MIN = (
    80  # narrower tiles have no room for the printed time; sheets that are still too large are scaled later
)
BADGE_HEIGHT_SHARE = 0.12  # of the tile's height: smaller digits cannot be read by a model that scales pictures down
BADGE_HEIGHT_MIN_PX = 14
BADGE_PAD_SHARE = 0.018
BADGE_PAD_MIN_PX = 3


def badge_text(time_s: float) -> str:
    """The printed time, always of one width below 1000 s."""
    return f"{max(0.0, time_s):06.2f}s"


@lru_cache(maxsize=16)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _draw_badge(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, height: int, time_s: float) -> None:
    font = _font(max(BADGE_HEIGHT_MIN_PX, round(BADGE_HEIGHT_SHARE * height)))
    pad = max(BADGE_PAD_MIN_PX, round(BADGE_PAD_SHARE * min(width, height)))
    text = badge_text(time_s)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    draw.rectangle((x, y, x + right - left + 2 * pad, y + bottom - top + 2 * pad), fill="black")
    draw.text((x + pad - left, y + pad - top), text, font=font, fill="white")


def _sheet(shots: Sequence[Shot], columns: int, zero_s: float) -> Image.Image:
    """One grid, as wide and high as its frames need."""
    cell_w, cell_h = max(s.rgb.shape[1] for s in shots), max(s.rgb.shape[0] for s in shots)
    columns = min(columns, len(shots))
    sheet = Image.new("RGB", (columns * cell_w, -(-len(shots) // columns) * cell_h))
    draw = ImageDraw.Draw(sheet)
    for i, shot in enumerate(shots):
        x, y = i % columns * cell_w, i // columns * cell_h
        height, width = shot.rgb.shape[:2]
        sheet.paste(Image.fromarray(shot.rgb), (x, y))
        _draw_badge(draw, x, y, width, height, shot.time_s - zero_s)
    return sheet


def contact_sheets(
    shots: Sequence[Shot], *, columns: int, per_sheet: int, quality: int, zero_s: float = 0.0
) -> list[Picture]:
    """The shots in sheets of at most `per_sheet`, row by row in time. Printed: the frames' own times less `zero_s`."""
    sheets = []
    for i in range(0, len(shots), per_sheet):
        sheets.append(encode_jpeg(np.asarray(_sheet(shots[i : i + per_sheet], columns, zero_s)), quality))
    return sheets


def tile_width(settings: AnnotateSettings, video: VideoRef) -> int:
    """Width of this camera's tiles: as set, or less so that a full sheet keeps within vlm.max_pixels."""
    plan, pixels_max = settings.plan, settings.vlm.max_pixels
    width = plan.contact_sheet_frame_width
    if pixels_max is None or video.width <= 0 or video.height <= 0:
        return width
    columns = min(plan.contact_sheet_columns, plan.contact_sheet_frames_per_sheet)
    rows = -(-plan.contact_sheet_frames_per_sheet // columns)
    while width > TILE_WIDTH_MIN and columns * width * rows * round(width * video.height / video.width) > pixels_max:
        width -= 1
    return width


def view_caption(cameras: Sequence[str], i: int) -> str:
    """What is said before the pictures of camera `i`, where there are several."""
    return f"Camera {i + 1} of {len(cameras)} ({cameras[i]}), the same moments:" if len(cameras) > 1 else ""


@dataclass(frozen=True)
class SheetMaker:
    """Makes the contact sheets of one episode. Without cameras it makes none."""

    frames: EpisodeFrames
    cameras: tuple[str, ...]
    settings: AnnotateSettings
    _made: dict[tuple[object, ...], tuple[Picture, ...]] = field(default_factory=dict)

    def make(self, times: Sequence[float], zero_s: float = 0.0) -> tuple[Picture, ...]:
        """Sheets of all cameras at these times; several cameras are told apart by captions. Made once per selection."""
        key = (self.cameras, tuple(times), zero_s)
        if key not in self._made:
            self._made[key] = tuple(p for i in range(len(self.cameras)) for p in self._of_camera(i, times, zero_s))
        return self._made[key]

    def _of_camera(self, i: int, times: Sequence[float], zero_s: float) -> list[Picture]:
        camera, plan = self.cameras[i], self.settings.plan
        sheets = contact_sheets(
            self.frames.tiles(camera, times, tile_width(self.settings, self.frames.episode.videos[camera])),
            columns=plan.contact_sheet_columns,
            per_sheet=plan.contact_sheet_frames_per_sheet,
            quality=plan.contact_sheet_quality,
            zero_s=zero_s,
        )
        sheets[:1] = [replace(p, caption=view_caption(self.cameras, i)) for p in sheets[:1]]
        return sheets
