"""Pictures to packets while they come, and packets to files later. Every frame leaves its encoder at once.

An encoder that looks ahead holds frames that a kill would take. With keyframes every second frame looking ahead gains
little, so all encoders here run without.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

from edge.errors import RecordingError
from tasks.dataset.encode import FPS_DENOMINATOR_MAX, Encoding
from tasks.dataset.feature_stats import picture_counts

Packets = list[tuple[bytes, bool]]  # encoded picture, whether a keyframe; the n-th belongs to the n-th frame
LOSSLESS, PNG = "lossless", "png"
COUNTS_PER_S = 3  # pictures per second that enter the statistics
ENCODINGS: Mapping[str, Encoding] = {
    "h264": Encoding("libx264", crf=23, preset="veryfast", options={"bf": "0", "tune": "zerolatency"}),
    "hevc": Encoding(
        "libx265", crf=26, preset="ultrafast",
        options={"bf": "0", "tune": "zerolatency", "x265-params": "log-level=error"},
    ),
    "av1": Encoding("libsvtav1", crf=30, preset="12", options={"svtav1-params": "lp=1:pred-struct=1:lookahead=0"}),
    "mpeg4": Encoding("mpeg4", bits_per_pixel=0.4, options={"sc_threshold": "1000000000"}),
    # for another writer, which encodes by itself
    LOSSLESS: Encoding("libx264", preset="ultrafast", options={"qp": "0", "bf": "0", "tune": "zerolatency"}),
}  # fmt: skip
DECODERS = {"h264": "h264", LOSSLESS: "h264", "hevc": "hevc", "av1": "libdav1d", "mpeg4": "mpeg4"}


def encoding_of(codec: str, gop: int) -> Encoding:
    """How a codec of the settings is encoded."""
    return replace(ENCODINGS[codec], gop=gop)


def frame_rate(fps: float) -> Fraction:
    """Frames per second as codecs have it: 29.97 is 30000/1001."""
    return Fraction(fps).limit_denominator(FPS_DENOMINATOR_MAX)


def open_encoder(encoding: Encoding, size: tuple[int, int], rate: Fraction) -> av.VideoCodecContext:
    """An encoder for (width, height) pixels whose parameters lie outside of its packets. RecordingError."""
    _quiet(encoding)
    try:
        context = av.CodecContext.create(encoding.encoder, "w")
        context.flags |= Flags.global_header
        context.options = encoding.codec_options()
        configure(context, encoding, size, rate)
        context.open()
    except (av.error.FFmpegError, ValueError) as err:
        wanted = f"want {encoding.encoder} to encode {size[0]}x{size[1]} pictures"
        raise RecordingError(wanted, str(err), "say another --dataset.codec") from err
    return context


def configure(context: Any, encoding: Encoding, size: tuple[int, int], rate: Fraction) -> None:
    """Give an encoder, or a stream of one, its size and rate."""
    context.width, context.height = size
    context.pix_fmt = encoding.pix_fmt
    context.framerate, context.time_base = rate, 1 / rate
    context.thread_count = 1  # a frame of more threads would wait for the others; cameras are encoded side by side
    if encoding.bits_per_pixel is not None:
        context.bit_rate = int(encoding.bits_per_pixel * size[0] * size[1] * rate)


class Camera:
    """One camera of the part that is being written."""

    def __init__(self, name: str, size: tuple[int, int], codec: str, gop: int, fps: float) -> None:
        self._name, self._size, self._rate = name, size, frame_rate(fps)
        self._every = max(1, round(self._rate / COUNTS_PER_S))
        self._seen = 0
        self._context = None if codec == PNG else open_encoder(encoding_of(codec, gop), size, self._rate)

    @property
    def extradata(self) -> bytes:
        """What a decoder needs beside the packets."""
        return b"" if self._context is None else bytes(self._context.extradata or b"")

    def encode(self, picture: np.ndarray) -> tuple[Packets, bytes]:
        """A picture, uint8 (height, width, 3), as packets, and its histogram when it is one of those counted."""
        wanted = (self._size[1], self._size[0], 3)
        if picture.shape != wanted or picture.dtype != np.uint8:
            got = f"{picture.dtype.name} {picture.shape}"
            raise RecordingError(f"want uint8 {wanted} of camera {self._name}", got, "check the robot's features")
        counts = b"" if self._seen % self._every else picture_counts(picture).astype("<u4").tobytes()
        packets = self._png(picture) if self._context is None else self._video(picture)
        self._seen += 1
        return packets, counts

    def flush(self) -> Packets:
        """What the encoder still holds; it takes no picture afterwards."""
        return [] if self._context is None else _plain(self._context.encode(None))

    def _video(self, picture: np.ndarray) -> Packets:
        assert self._context is not None
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self._seen, 1 / self._rate
        return _plain(self._context.encode(frame))

    def _png(self, picture: np.ndarray) -> Packets:
        from PIL import Image

        buffer = BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
        return [(buffer.getvalue(), True)]


class Mp4:
    """An mp4 file made of packets that were encoded before: several episodes, each from a keyframe on."""

    def __init__(self, path: Path, codec: str, gop: int, size: tuple[int, int], fps: float) -> None:
        self._encoding, self._size, self._rate, self._codec = encoding_of(codec, gop), size, frame_rate(fps), codec
        self._frames = 0
        _quiet(self._encoding)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        options = self._encoding.codec_options()
        self._stream = self._container.add_stream(self._encoding.encoder, rate=self._rate, options=options)
        configure(self._stream.codec_context, self._encoding, size, self._rate)
        self._container.start_encoding()  # opens the encoder: the file's header holds its parameters
        self._extradata = bytes(self._stream.codec_context.extradata or b"")

    def append(self, codec: str, extradata: bytes, packets: Iterable[tuple[bytes, bool]]) -> tuple[float, float]:
        """Add an episode; returns where it lies, in seconds. Pictures of another encoding are encoded anew."""
        if codec != self._codec or extradata != self._extradata:
            packets = self._anew(decoded(codec, extradata, packets))
        start = self._frames
        for data, key in packets:
            packet = av.Packet(data)
            packet.pts = packet.dts = self._frames
            packet.time_base, packet.duration, packet.is_keyframe = 1 / self._rate, 1, key
            packet.stream = self._stream
            self._container.mux(packet)
            self._frames += 1
        return float(start / self._rate), float(self._frames / self._rate)

    def close(self) -> dict[str, Any]:
        """Finish the file; returns the feature's `info`."""
        self._container.close()
        return {
            "video.height": self._size[1], "video.width": self._size[0],
            "video.codec": self._stream.codec_context.codec.canonical_name, "video.pix_fmt": self._encoding.pix_fmt,
            "video.fps": int(self._rate) if self._rate.denominator == 1 else float(self._rate),
            "video.channels": 3, "video.g": self._encoding.gop, "has_audio": False, "is_depth_map": False,
        }  # fmt: skip

    def _anew(self, pictures: Iterable[np.ndarray]) -> Iterator[tuple[bytes, bool]]:
        context = open_encoder(self._encoding, self._size, self._rate)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / self._rate
            yield from _plain(context.encode(frame))
        yield from _plain(context.encode(None))


def decoded(codec: str, extradata: bytes, packets: Iterable[tuple[bytes, bool]]) -> Iterator[np.ndarray]:
    """The pictures of an episode, uint8 RGB (height, width, 3)."""
    if codec == PNG:
        from PIL import Image

        yield from (np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data, _ in packets)
        return
    context = av.CodecContext.create(DECODERS[codec], "r")
    context.extradata = extradata
    for number, (data, _) in enumerate(packets):
        packet = av.Packet(data)
        packet.pts = packet.dts = number
        yield from (frame.to_ndarray(format="rgb24") for frame in context.decode(packet))
    yield from (frame.to_ndarray(format="rgb24") for frame in context.decode(None))


def _plain(packets: Iterable[av.Packet]) -> Packets:
    return [(bytes(packet), packet.is_keyframe) for packet in packets]


def _quiet(encoding: Encoding) -> None:
    if encoding.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # the only way to keep the library's banner off stderr
