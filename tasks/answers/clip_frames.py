"""A clip as single pictures, for models that take no video file."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from tasks.answers.question import Clip, Picture

JPEG_QUALITY = 84
CLIPS_KEPT = 4  # describe and segment show the same clip
EARLY_S = 0.005  # times in a video file are rounded


@lru_cache(maxsize=CLIPS_KEPT)
def clip_frames(clip: Clip) -> tuple[Picture, ...]:
    """The frames that the model should look at, each captioned with its time. Raises VideoError."""
    from tasks.dataset.frames import encode_jpeg
    from tasks.dataset.video import Scaler, opened

    scaler = Scaler()
    found: list[Picture] = []
    with opened(clip.path) as (container, stream):
        for frame in container.decode(stream):
            time_s = float(frame.pts * stream.time_base)
            if time_s < len(found) / clip.fps - EARLY_S:
                continue  # before the next wanted moment
            picture = encode_jpeg(scaler.rgb(frame, clip.width, clip.height), JPEG_QUALITY)
            words = f"{clip.caption} " if clip.caption else ""
            found.append(replace(picture, caption=f"{words}at {time_s:.2f} s"))
    return tuple(found)
