"""One camera's stretch of an episode as an H.264 file that any server can decode: made once, then reused.

Always encoded anew: many servers cannot decode what datasets are recorded in, and a cut between keyframes would not be
exact. Frames lie on an even grid from the start of the stretch on, so that times in the file are times in the stretch.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.video.frame import VideoFrame

from tasks.answers.question import Clip
from tasks.dataset.episode import Episode, VideoRef
from tasks.dataset.files import write_atomic
from tasks.dataset.frames import DECODING
from tasks.dataset.video import Clip as Reader
from tasks.dataset.video import Scaler, fit_size, opened, stretch_packets, tolerance_s
from tasks.errors import VideoError

VERSION = 1  # of how clips are made: raise it when the same source gives other files
ENCODER = "libx264"
OPTIONS = {"crf": "23", "preset": "veryfast", "bf": "0"}  # without B-frames the first picture is at 0 for every reader
FRAMES_PER_LOOK = 4  # frames in the file for each that the model looks at: servers may sample more densely than asked
RATE_DENOMINATOR_MAX = 1001  # 29.97 is 30000/1001


@dataclass(frozen=True)
class ClipSpec:
    """How a clip is made."""

    width_max: int
    looks_per_s: float  # frames per second that the model should look at
    pixels_max: int | None = None


def make_clip(episode: Episode, camera: str, start_s: float, end_s: float, spec: ClipSpec, folder: Path) -> Clip:
    """The clip of [start_s, end_s], episode time, in `folder`; a whole one that is there already is taken.

    Raises VideoError when the source cannot be decoded or the clip not encoded, OSError when it cannot be written.
    """
    ref = episode.videos[camera]
    rate = clip_rate(episode.fps, spec.looks_per_s)
    count = int((end_s - start_s) * rate + 1e-6) + 1
    rows = [episode.nearest(start_s + float(i / rate)) for i in range(count)]
    times = [ref.from_s + episode.times[row] for row in rows]
    digest = _digest(ref, times, spec, rate)
    path = folder / f"{digest}.mp4"
    size = _size_if_whole(path, count)
    if size is None:
        folder.mkdir(parents=True, exist_ok=True)
        with DECODING:
            data, size = _encode(Reader(ref.path, times[0], times[-1], episode.fps), times, spec, rate)
        write_atomic(path, data)
    return Clip(path, digest, float(count / rate), *size, spec.looks_per_s)


def clip_rate(fps: float, looks_per_s: float) -> Fraction:
    """Frames per second of the file: the recording's own, or a whole part of it that is still dense enough."""
    every = max(1, int(fps / (FRAMES_PER_LOOK * looks_per_s)))
    return Fraction(fps).limit_denominator(RATE_DENOMINATOR_MAX) / every


def _digest(ref: VideoRef, times: list[float], spec: ClipSpec, rate: Fraction) -> str:
    """Identity of what the clip shows: the recorded packets, not the file's path or date, which a copy changes."""
    hasher = hashlib.blake2b(digest_size=16)
    shown = [round(t - times[0], 4) for t in times]
    hasher.update(f"{VERSION} {OPTIONS} {rate} {spec.width_max} {spec.pixels_max} {shown}".encode())
    slack_s = tolerance_s(float(rate))
    with opened(ref.path) as (container, stream):
        hasher.update(stream.codec_context.extradata or b"")
        for packet in stretch_packets(container, stream, times[0], times[-1], slack_s):
            hasher.update(f"{float(packet.pts * packet.time_base) - times[0]:.4f}".encode())
            hasher.update(packet)
    return hasher.hexdigest()


def _size_if_whole(path: Path, count: int) -> tuple[int, int] | None:
    """Width and height of a clip that is there and holds all its frames."""
    if not path.is_file():
        return None
    try:
        with opened(path) as (_, stream):
            return (stream.width, stream.height) if stream.frames == count else None
    except VideoError:
        return None  # made again


def _encode(reader: Reader, times: list[float], spec: ClipSpec, rate: Fraction) -> tuple[bytes, tuple[int, int]]:
    """The file's bytes, and width and height. Scaled frame by frame, so that only the clip itself is held in memory."""
    out, scaler = io.BytesIO(), Scaler()
    size: tuple[int, int] | None = None
    try:
        with av.open(out, "w", format="mp4") as container:
            stream = container.add_stream(ENCODER, rate=rate, options=OPTIONS)
            for i, frame in in_order(reader.read(times)):
                if size is None:
                    size = fit_size((frame.width, frame.height), spec.width_max, spec.pixels_max, multiple=2)
                    _configure(stream.codec_context, frame, size, rate)
                picture = scaler.scale(frame, *size, "yuv420p")
                picture.pts, picture.time_base = i, 1 / rate
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except (av.error.FFmpegError, av.codec.codec.UnknownCodecError) as err:
        raise VideoError(
            f"want {ENCODER} to encode a clip of {reader.path}", str(err), "use --plan.media=sheets"
        ) from err
    assert size is not None  # reading yields every time or raises
    return out.getvalue(), size


def _configure(context: av.VideoCodecContext, source: VideoFrame, size: tuple[int, int], rate: Fraction) -> None:
    context.width, context.height = size
    context.pix_fmt = "yuv420p"
    context.framerate, context.time_base = rate, 1 / rate
    context.color_range, context.colorspace = source.color_range, source.colorspace  # else colours shift a little
    context.thread_count = 1  # episodes are encoded side by side, and the same input gives the same bytes


def in_order(frames: Iterable[tuple[int, VideoFrame]]) -> Iterator[tuple[int, VideoFrame]]:
    """The same pairs by index, from 0 on; a frame that comes early waits."""
    waiting: dict[int, VideoFrame] = {}
    following = 0
    for index, frame in frames:
        waiting[index] = frame
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1
