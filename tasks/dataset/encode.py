"""Frames to mp4 while they come: one file holds several episodes, each starting on a keyframe."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags

from tasks.dataset.feature_stats import PictureStats, Stats
from tasks.errors import DatasetError, VideoError

QUEUE_FRAMES_MAX = 32  # bounds memory: a slow encoder makes add_frame wait instead
STATS_PER_S = 3  # pictures per second that enter the statistics
GOP_DEFAULT = 2  # training reads single frames in random order: a keyframe is never further than one frame away
FPS_DENOMINATOR_MAX = 1001  # 29.97 is 30000/1001


@dataclass(frozen=True)
class Encoding:
    """How a camera is encoded. No B-frames: decoding order is display order, so episodes can be appended."""

    encoder: str  # name of the ffmpeg encoder
    pix_fmt: str = "yuv420p"
    gop: int = GOP_DEFAULT
    crf: int | None = None
    preset: str | None = None
    bits_per_pixel: float | None = None  # for encoders without a quality setting
    options: Mapping[str, str] = field(default_factory=dict)

    def codec_options(self) -> dict[str, str]:
        """The options as ffmpeg wants them."""
        named = {"g": self.gop, "crf": self.crf, "preset": self.preset}
        return {k: str(v) for k, v in named.items() if v is not None} | dict(self.options)


ENCODINGS: Mapping[str, Encoding] = {
    "h264": Encoding("libx264", crf=23, preset="veryfast", options={"bf": "0"}),
    # two threads a camera: with more, they wait for each other longer than they encode a small picture
    "av1": Encoding("libsvtav1", crf=30, preset="12", options={"svtav1-params": "lp=2"}),
    "hevc": Encoding("libx265", crf=26, preset="ultrafast", options={"bf": "0", "x265-params": "log-level=error"}),
    "mpeg4": Encoding("mpeg4", bits_per_pixel=0.4, options={"sc_threshold": "1000000000"}),
    # 12-bit codes of a depth camera; lossless, because a smeared code is a wrong distance
    "depth": Encoding("libx265", "gray12le", options={"bf": "0", "x265-params": "lossless=1:log-level=error"}),
}


def encoding_for(codec: str, gop: int | None = None) -> Encoding:
    """The encoding of a codec name, with another keyframe distance if given."""
    if codec not in ENCODINGS:
        raise DatasetError("a known video codec", codec, f"choose one of {', '.join(ENCODINGS)}")
    encoding = ENCODINGS[codec]
    return encoding if gop is None else replace(encoding, gop=gop)


class _Mark(Enum):
    """What is queued besides pictures."""

    END_OF_EPISODE = auto()
    STOP = auto()


@dataclass(frozen=True)
class Clip:
    """Where an episode of one camera was written."""

    chunk_index: int
    file_index: int
    from_s: float
    to_s: float
    stats: Stats


class VideoTrack:
    """The mp4 files of one camera, written by a thread of its own.

    `path_of(chunk, file)` names the files. A new one is begun before the episode that might outgrow `bytes_max`.
    """

    def __init__(
        self,
        path_of: Callable[[int, int], Path],
        encoding: Encoding,
        *,
        fps: float,
        size: tuple[int, int],
        bytes_max: float,
        chunk_files_max: int,
    ) -> None:
        self._path_of, self._encoding, self._size = path_of, encoding, size
        self._rate = Fraction(fps).limit_denominator(FPS_DENOMINATOR_MAX)
        self._bytes_max, self._chunk_files_max = bytes_max, chunk_files_max
        self.info: dict[str, object] = {}  # the feature's `info` block, known once the first file is closed
        self._files = -1  # index of the open file, counted over all chunks
        self._frames = 0  # frames in the open file
        self._bytes = 0
        self._episode_bytes_max = 0
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._queue: queue.Queue[np.ndarray | _Mark] = queue.Queue(QUEUE_FRAMES_MAX)
        self._ended = threading.Event()  # the running episode is finished, or cannot be any more
        self._clip: Clip | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="cuebook-encode", daemon=True)
        self._thread.start()

    def add(self, frame: np.ndarray) -> None:
        """Queue one picture of the running episode; waits while the encoder is behind."""
        self._put(frame)

    def end_episode(self) -> Clip:
        """Finish the running episode and say where it lies."""
        self._ended.clear()
        self._put(_Mark.END_OF_EPISODE)
        self._ended.wait()
        self._raise()
        assert self._clip is not None
        return self._clip

    def close(self) -> None:
        """Finish the open file. Raises VideoError when anything could not be encoded."""
        self.stop()
        self._raise()

    def stop(self) -> None:
        """End the thread and close the file, whatever happened before."""
        if self._thread.is_alive():
            self._queue.put(_Mark.STOP)
            self._thread.join()

    def _put(self, item: np.ndarray | _Mark) -> None:
        self._raise()
        self._queue.put(item)

    def _raise(self) -> None:
        if self._error is not None:
            raise VideoError(
                f"{self._encoding.encoder} to encode {self._size[0]}x{self._size[1]} frames",
                f"{type(self._error).__name__}: {self._error}",
                "choose another codec, or free disk space",
            ) from self._error

    def _work(self) -> None:
        try:
            while self._episode():
                self._ended.set()
        except Exception as error:  # noqa: BLE001 - any failure belongs to the recording thread, which raises it
            self._error = error
            self._drain()
        try:
            self._close_file()
        except Exception as error:  # noqa: BLE001 - as above
            self._error = self._error or error

    def _drain(self) -> None:
        """Let nobody wait for a track that has failed, until it is told to stop."""
        self._ended.set()
        while (item := self._queue.get()) is not _Mark.STOP:
            if item is _Mark.END_OF_EPISODE:
                self._ended.set()

    def _episode(self) -> bool:
        """Encode one episode; False when told to stop."""
        item = self._queue.get()
        if isinstance(item, _Mark):
            return item is not _Mark.STOP
        context = self._begin()
        stats = PictureStats(every=max(1, round(self._rate / STATS_PER_S)))
        start, bytes_before = self._frames, self._bytes
        while isinstance(item, np.ndarray):
            stats.add(item)
            self._mux(context.encode(self._picture(item)))
            self._frames += 1
            item = self._queue.get()
        self._mux(context.encode(None))
        self._episode_bytes_max = max(self._episode_bytes_max, self._bytes - bytes_before)
        chunk, file = divmod(self._files, self._chunk_files_max)
        self._clip = Clip(chunk, file, float(start / self._rate), float(self._frames / self._rate), stats.result())
        return item is not _Mark.STOP

    def _begin(self) -> av.VideoCodecContext:
        """A fresh encoder; in a new file when this episode might make the open one too large."""
        if self._container is not None and self._bytes + self._episode_bytes_max < self._bytes_max:
            context = av.CodecContext.create(self._encoding.encoder, "w")
            context.flags |= Flags.global_header  # parameter sets lie in the file's header, equal for all episodes
            context.options = self._encoding.codec_options()
            return self._configure(context)
        self._close_file()
        self._files, self._frames, self._bytes = self._files + 1, 0, 0
        if self._encoding.encoder == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # the only way to keep the library's banner off stderr
        path = self._path_of(*divmod(self._files, self._chunk_files_max))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(
            self._encoding.encoder, rate=self._rate, options=self._encoding.codec_options()
        )
        return self._configure(self._stream.codec_context)

    def _configure(self, context: av.VideoCodecContext) -> av.VideoCodecContext:
        context.width, context.height = self._size
        context.pix_fmt = self._encoding.pix_fmt
        context.framerate, context.time_base = self._rate, 1 / self._rate
        if self._encoding.bits_per_pixel is not None:
            context.bit_rate = int(self._encoding.bits_per_pixel * self._size[0] * self._size[1] * self._rate)
        return context

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        layout = "gray12le" if frame.dtype == np.uint16 else "rgb24"
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=layout)
        picture.pts, picture.time_base = self._frames, 1 / self._rate
        return picture

    def _mux(self, packets: Iterable[av.Packet]) -> None:
        assert self._container is not None and self._stream is not None
        for packet in packets:
            packet.stream = self._stream
            self._bytes += packet.size
            self._container.mux(packet)

    def _close_file(self) -> None:
        if self._container is None or self._stream is None:
            return
        context = self._stream.codec_context
        self.info = {
            "video.height": self._size[1],
            "video.width": self._size[0],
            "video.codec": context.codec.canonical_name,
            "video.pix_fmt": self._encoding.pix_fmt,
            "video.fps": int(self._rate) if self._rate.denominator == 1 else float(self._rate),
            "video.channels": 1 if self._encoding.pix_fmt.startswith("gray") else 3,
            "video.g": self._encoding.gop,
            "has_audio": False,
            "is_depth_map": self._encoding.pix_fmt.startswith("gray"),
        }
        container, self._container = self._container, None
        container.close()
