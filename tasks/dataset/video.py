"""Frames of an mp4 by exact time. Only groups of pictures that hold a wanted frame are decoded, each once.

The packets of an episode's stretch are first listed without decoding. That gives the exact presentation time of every
frame, so a frame that is not there is noticed before any work, and the keyframe each wanted frame depends on, so the
choice between reading on and jumping needs no guess about group size, B-frames or container quirks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from tasks.errors import VideoError

TOLERANCE_MIN_S = 0.01
HALF_FRAME = 0.499  # of the frame period: exactly halfway between two frames is neither of them
ROUNDING = 1e-9
SEEK_PACKETS_MIN = 32  # a shorter gap is read through, which costs less than a seek
SEEK_BACK_MAX = 64  # keyframes to step back for the start of a stretch before reading from the file's start
# from PyAV 17 on the scaler starts a thread per core for each picture, which costs twice the CPU at these sizes
SCALER_OPTIONS = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
RESTORE = "restore the file, or leave the episode out with only_episodes"


@dataclass(frozen=True)
class PacketEntry:
    """One packet in decode order."""

    pts: int
    dts: int
    key: bool
    shown: bool  # False: trimmed by an edit list, or damaged


@dataclass(frozen=True)
class Stretch:
    """Packets to decode without a break, by position in decode order; the first is a keyframe."""

    start: int
    stop: int  # last one


def tolerance_s(fps: float) -> float:
    """How far a frame may be from the wanted time."""
    return max(TOLERANCE_MIN_S, HALF_FRAME / fps)


def plan_stretches(entries: Sequence[PacketEntry], wanted: Iterable[int]) -> list[Stretch]:
    """The least packets that yield the wanted positions (decode order), each packet at most once."""
    keys = [i for i, e in enumerate(entries) if e.key]
    stretches: list[Stretch] = []
    for position in sorted(set(wanted)):
        k = bisect_left(keys, position + 1) - 1
        # a frame decoded after a keyframe but shown before it may need pictures from before that keyframe
        while k > 0 and entries[keys[k]].pts > entries[position].pts:
            k -= 1
        start = keys[max(k, 0)]
        while stretches and stretches[-1].start > start:
            stretches.pop()  # covered by the one that must begin earlier
        if stretches and start <= stretches[-1].stop + 1:
            stretches[-1] = Stretch(stretches[-1].start, position)
        else:
            stretches.append(Stretch(start, position))
    return stretches


class Clip:
    """One episode's stretch of an mp4. Opens the file per read and keeps only the list of its packets."""

    def __init__(self, path: Path, first_s: float, last_s: float, fps: float) -> None:
        self.path = path
        self.tolerance_s = tolerance_s(fps)
        self.packets_decoded = 0  # over all reads
        self._first_s, self._last_s = first_s, last_s
        self._entries: list[PacketEntry] | None = None

    def read(self, times_s: Sequence[float]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (index into times_s, frame) for every wanted video time; VideoError when one cannot be had."""
        with opened(self.path) as (container, stream):
            if self._entries is None:
                self._entries = list_packets(container, stream, self._first_s, self._last_s, self.tolerance_s)
            wanted = self._match(times_s, float(stream.time_base))
            positions = {e.pts: i for i, e in enumerate(self._entries)}
            stretches = plan_stretches(self._entries, (positions[pts] for pts in wanted))
            yield from self._decode(container, stream, stretches, wanted)
            if wanted:
                missing = sorted(times_s[i] for indices in wanted.values() for i in indices)
                self._fail(f"a frame at {missing[0]:.3f} s", f"{len(missing)} of {len(times_s)} frames do not decode")

    def _match(self, times_s: Sequence[float], time_base: float) -> dict[int, list[int]]:
        """pts of the frame nearest to each time -> indices of those times."""
        shown = sorted(e.pts for e in self._entries or () if e.shown)
        pts_s = np.array(shown) * time_base
        wanted: dict[int, list[int]] = {}
        for i, time_s in enumerate(times_s):
            j = int(np.searchsorted(pts_s, time_s))
            off_s, near = min(
                ((abs(pts_s[k] - time_s), k) for k in (j - 1, j) if 0 <= k < len(shown)), default=(inf, -1)
            )
            if off_s > self.tolerance_s:
                got = f"the nearest is at {pts_s[near]:.3f} s" if shown else "no frame in that part of the file"
                self._fail(f"a frame at {time_s:.3f} s, within {self.tolerance_s * 1000:.1f} ms", got)
            wanted.setdefault(shown[near], []).append(i)
        return wanted

    def _decode(
        self, container: InputContainer, stream: VideoStream, stretches: Sequence[Stretch], wanted: dict[int, list[int]]
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Feed the stretches; entries leave `wanted` as they are yielded."""
        entries = self._entries or []
        codec = stream.codec_context
        packets: Iterator[av.Packet] = iter(())
        position = len(entries)  # of the next packet in `packets`; past the end: a seek is needed
        for stretch in stretches:
            if not position <= stretch.start < position + SEEK_PACKETS_MIN:
                packets, position = seek_to(container, stream, entries, stretch.start), stretch.start
            codec.flush_buffers()
            while position <= stretch.stop:
                packet = next(packets, None)
                if packet is None:
                    return
                if packet.pts != entries[position].pts:
                    continue  # the seek landed before the wanted keyframe
                if position >= stretch.start:
                    self.packets_decoded += 1
                    yield from _deliver(codec.decode(packet), wanted)
                position += 1
            yield from _deliver(codec.decode(None), wanted)  # frames held back for reordering

    def _fail(self, wanted: str, got: str) -> None:
        raise VideoError(f"want {wanted} in {self.path}", got, RESTORE)


def _deliver(frames: Iterable[VideoFrame], wanted: dict[int, list[int]]) -> Iterator[tuple[int, VideoFrame]]:
    for frame in frames:
        if frame.pts in wanted and not frame.is_corrupt:
            for index in wanted.pop(frame.pts):
                yield index, frame


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream, one decoder thread; what FFmpeg raises meanwhile becomes a VideoError."""
    if not path.is_file():
        raise VideoError(f"want the video file {path}", "it is missing", RESTORE)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"want a video stream in {path}", "none", RESTORE)
            stream = container.streams.video[0]
            # episodes and cameras are decoded side by side: threads inside one decoder would only add delay
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.error.FFmpegError, OSError) as err:
        raise VideoError(f"want a readable video file: {path}", str(err), RESTORE) from err


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets from where the container stands, without the empty one that marks the end."""
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            yield packet


def stretch_packets(
    container: InputContainer, stream: VideoStream, first_s: float, last_s: float, slack_s: float
) -> Iterator[av.Packet]:
    """Packets from a keyframe shown no later than `first_s` to the last one that can be shown until `last_s`."""
    time_base = float(stream.time_base)
    first_pts, last_pts = (first_s + slack_s) / time_base, (last_s + slack_s) / time_base
    target = int(first_s / time_base)
    for _ in range(SEEK_BACK_MAX):
        container.seek(max(target, 0), stream=stream, backward=True)
        head = next(packets_of(container, stream), None)
        if head is None or (head.is_keyframe and head.pts <= first_pts) or target <= 0:
            break
        target = _dts(head) - 1
    else:
        target = 0
    container.seek(max(target, 0), stream=stream, backward=True)
    for packet in packets_of(container, stream):
        if _dts(packet) > last_pts:
            break
        yield packet


def list_packets(
    container: InputContainer, stream: VideoStream, first_s: float, last_s: float, slack_s: float
) -> list[PacketEntry]:
    """What is known of these packets without decoding them."""
    return [
        PacketEntry(p.pts, _dts(p), p.is_keyframe, shown=not (p.is_discard or p.is_corrupt))
        for p in stretch_packets(container, stream, first_s, last_s, slack_s)
    ]


def seek_to(
    container: InputContainer, stream: VideoStream, entries: Sequence[PacketEntry], position: int
) -> Iterator[av.Packet]:
    """Packets from the keyframe at `position`, or from some way before it."""
    container.seek(entries[position].dts, stream=stream, backward=True)
    return packets_of(container, stream)


def _dts(packet: av.Packet) -> int:
    return packet.pts if packet.dts is None else packet.dts


def fit_size(
    size: tuple[int, int], width_max: int, pixels_max: int | None = None, multiple: int = 1
) -> tuple[int, int]:
    """Width and height within the limits, sides a multiple of `multiple`; nothing is scaled up beyond that rounding."""
    width, height = size
    shrink = min(1.0, width_max / width, sqrt(pixels_max / (width * height)) if pixels_max else 1.0)
    for whole in (round, int):  # the nearest, unless that is too large
        w = max(1, whole(width * shrink / multiple + ROUNDING)) * multiple
        h = max(1, whole(height * w / width / multiple + ROUNDING)) * multiple
        if w <= width_max and (pixels_max is None or w * h <= pixels_max):
            break
    return w, h


class Scaler:
    """Frames to RGB arrays at the wanted size, scaled while they are converted."""

    def __init__(self) -> None:
        self._reformatters: dict[int, VideoReformatter] = {}  # each keeps its tables for one size

    def rgb(self, frame: VideoFrame, width: int, height: int | None = None) -> np.ndarray:
        """uint8 (height, width, 3); without a height the aspect is kept."""
        height = height or max(1, round(frame.height * width / frame.width))
        return self.scale(frame, width, height, "rgb24").to_ndarray()

    def scale(self, frame: VideoFrame, width: int, height: int, pix_fmt: str) -> VideoFrame:
        """The frame in another size and pixel format."""
        reformatter = self._reformatters.setdefault(width, VideoReformatter())
        way = Interpolation.AREA if width < frame.width else Interpolation.BILINEAR
        return reformatter.reformat(frame, width, height, pix_fmt, interpolation=way, **SCALER_OPTIONS)


def check_video(path: Path, ranges: Sequence[tuple[float, float, int]], fps: float) -> None:
    """Raise VideoError unless the file opens and lasts for all (from_s, to_s, episode) that lie in it."""
    episodes = sorted({episode for _, _, episode in ranges})
    names = f"episode{'s' if len(episodes) > 1 else ''} {', '.join(map(str, episodes))}"
    try:
        with opened(path) as (container, stream):
            end_s = _last_frame_s(container, stream, max(to_s for _, to_s, _ in ranges), fps)
    except VideoError as err:
        raise VideoError(err.wanted, f"{err.got} (needed by {names})", err.remedy) from err
    cut = sorted({e for _, to_s, e in ranges if end_s < to_s - (1 + HALF_FRAME) / fps})
    if cut:
        need_s = max(to_s for _, to_s, _ in ranges) - 1 / fps
        got = f"the last one is at {end_s:.3f} s; episode {', '.join(map(str, cut))} cannot be shown whole"
        raise VideoError(f"want frames until {need_s:.3f} s in {path}", got, RESTORE)


def _last_frame_s(container: InputContainer, stream: VideoStream, to_s: float, fps: float) -> float:
    """Time of the last whole frame up to `to_s`; only a file that is too short is read from its start."""
    time_base = float(stream.time_base)
    for from_s in (max(to_s - 1 / fps, 0.0), 0.0):
        container.seek(int(from_s / time_base), stream=stream, backward=True)
        end_s = -1.0
        for packet in packets_of(container, stream):
            if packet.is_corrupt or _dts(packet) * time_base > to_s:
                break
            end_s = max(end_s, packet.pts * time_base)
        if end_s >= to_s - (1 + HALF_FRAME) / fps:
            break
    return end_s
