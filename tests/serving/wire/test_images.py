"""Pictures: RGB on both ends, of the size that was counted, and nothing that is dear to decode."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc

import numpy as np
import pytest
import simplejpeg

from serving.wire.errors import LimitError, MessageError
from serving.wire.images import JPEG, RAW, Image, check_images, decode_image, encode_image, image_size
from serving.wire.jpeg import SEGMENTS_MAX, jpeg_size
from serving.wire.limits import DEFAULT_LIMITS, Limits
from serving.wire.messages import Observation, decode, encode
from tests.serving.wire import golden


def gradient(height: int, width: int) -> np.ndarray:
    """A smooth picture in which each colour runs its own way, uint8 (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def trip(rgb: np.ndarray, quality: int) -> np.ndarray:
    """Through a whole body."""
    sent = decode(encode(Observation(images={"a": encode_image(rgb, quality)})), Observation).images
    check_images(sent, DEFAULT_LIMITS)
    return decode_image(sent["a"], "a")


def by_pillow(mode: str = "RGB", size: tuple[int, int] = (40, 64), **options: object) -> bytes:
    """The same picture as another library writes it."""
    from PIL import Image as Picture

    file = io.BytesIO()
    Picture.fromarray(gradient(*size)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def refused(data: bytes, image: Image | None = None) -> str:
    """Why a picture is refused when it is counted, before anything is decoded."""
    with pytest.raises(MessageError) as caught:
        check_images({"front": image or Image(memoryview(data))}, DEFAULT_LIMITS)
    assert "images.front" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("quality", [90, 0])
def test_red_stays_red(quality):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 255
    found = trip(red, quality)
    assert found[..., 0].mean() > 200 and found[..., 2].mean() < 50 and found[..., 1].mean() < 50


def test_golden_red_is_red():
    found = decode_image(Image(memoryview(golden.JPEG)), "a")
    assert found.shape == (8, 8, 3) and found[..., 0].min() > 200 and found[..., 1:].max() < 50


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (480, 640), (33, 15)])
def test_raw_is_exact_and_jpeg_is_close(size):
    rgb = gradient(*size)
    assert (trip(rgb, 0) == rgb).all() and trip(rgb, 0).flags.writeable
    found = trip(rgb, 95)
    assert found.shape == rgb.shape and found.dtype == np.uint8
    if min(size) > 1:
        assert np.abs(found.astype(int) - rgb).mean() < 6


def test_the_default_codec_is_jpeg_and_need_not_be_said():
    image = encode_image(gradient(8, 8))
    assert image.codec == JPEG and image.shape is None and bytes(image.data[:2]) == b"\xff\xd8"
    raw = encode_image(gradient(8, 8), 0)
    assert raw.codec == RAW and raw.shape == [8, 8, 3] and raw.data.nbytes == 192
    assert encode_image(gradient(8, 8), -1).codec == RAW


def test_a_picture_that_is_a_view_is_sent_as_it_looks():
    rgb = gradient(16, 24)
    for view in (rgb[::-1], rgb[:, ::-1], rgb[4:12, 4:12]):
        assert (trip(view, 0) == view).all()


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8), np.zeros((4, 0, 3), np.uint8), [[[0, 0, 0]]], None,
    ],
    ids=lambda rgb: str(getattr(rgb, "shape", rgb)),
)  # fmt: skip
def test_only_rgb_of_bytes_is_sent(rgb):
    for quality in (90, 0):
        with pytest.raises(MessageError, match="uint8 picture"):
            encode_image(rgb, quality)


def test_a_quality_beyond_the_scale_is_refused():
    with pytest.raises(MessageError, match="quality"):
        encode_image(gradient(8, 8), 101)


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}, {"quality": 1}, {"mode": "L"}]
)
def test_what_other_libraries_write_in_one_pass_is_taken(options):
    data = by_pillow(**options)
    image = Image(memoryview(data))
    assert image_size(image, "a") == (40, 64)
    found = decode_image(image, "a")
    assert found.shape == (40, 64, 3)
    if options.get("mode") == "L":
        assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"progressive": True}, "progressive"), ({"mode": "CMYK"}, "4 components"), ({"mode": "YCbCr"}, "")],
)
def test_other_kinds_of_jpeg_are_refused_with_what_to_do(options, said):
    data = by_pillow(**options)
    if not said:  # what colour JPEGs are inside anyway
        assert image_size(Image(memoryview(data)), "a") == (40, 64)
    else:
        assert said in refused(data) and "do: " in refused(data)


def test_a_jpeg_of_many_passes_is_refused_at_once_however_many_it_has():
    """Each pass of some bytes would visit each block of the picture."""
    data = by_pillow(progressive=True, size=(64, 64))
    scan = data[data.rindex(b"\xff\xda") : -2]
    begun_s = time.thread_time()
    refused(data[:-2] + scan * 20_000 + data[-2:])
    assert time.thread_time() - begun_s < 0.02


def test_a_jpeg_whose_colours_come_one_after_the_other_is_refused():
    data = bytearray(by_pillow())
    at = data.index(b"\xff\xda")
    data[at + 4] = 1
    assert "several passes" in refused(bytes(data))


def with_size(data: bytes, height: int, width: int) -> bytes:
    """A JPEG that says another size."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def test_a_jpeg_that_says_more_pixels_than_its_data_can_be_is_refused_at_no_cost():
    data = with_size(by_pillow(), 3900, 4000)
    tracemalloc.start()
    begun_s = time.thread_time()
    try:
        assert "bytes of data for 4000x3900" in refused(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000 and time.thread_time() - begun_s < 0.02
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("height", "width"), [(56, 64), (40, 80), (200, 200)])
def test_a_jpeg_that_says_a_little_more_than_it_has_is_refused_when_decoded(height, width):
    image = Image(memoryview(with_size(by_pillow(), height, width)))
    with pytest.raises(MessageError, match="front"):
        check_images({"front": image}, DEFAULT_LIMITS)
        decode_image(image, "front")


@pytest.mark.parametrize("factors", [(0x14, 0x11, 0x11), (0x24, 0x11, 0x11), (0x11, 0x22, 0x22), (0x44, 0x11, 0x11)])
def test_a_sampling_that_the_decoder_does_not_know_is_refused(factors):
    """The decoder's library raises KeyError for the first of these; coverage-guided fuzzing found it."""
    data = bytearray(by_pillow(quality=95))
    at = data.index(b"\xff\xc0") + 11
    data[at : at + 9 : 3] = bytes(factors)
    assert "want a" in refused(bytes(data))


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 20, 100, 200, 400])
def test_a_jpeg_that_ends_within_its_header_is_refused(cut):
    assert "want a whole JPEG" in refused(by_pillow()[:cut])


@pytest.mark.parametrize("missing", [3, 10, 200])
def test_a_jpeg_that_ends_within_its_data_is_refused(missing):
    data = by_pillow(size=(80, 80), quality=95)
    with pytest.raises(MessageError, match="front"):
        decode_image(Image(memoryview(data[:-missing])), "front")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: b"\x89PNG" + d[4:], "something else"),
        (lambda d: with_size(d, 0, 64), "64x0"),
        (lambda d: with_size(d, 40, 0), "0x40"),
        (lambda d: d.replace(b"\xff\xc0", b"\xff\xc3"), "rare kind"),
        (lambda d: d.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), "12 bits"),
        (lambda d: d[:2] + d[d.index(b"\xff\xda") :], "without a size"),
        (lambda d: d[: d.index(b"\xff\xc0")] + d[d.index(b"\xff\xc0") :][:19] + d[d.index(b"\xff\xc0") :], "twice"),
        (lambda d: d[:2] + b"\xff\xd0" + d[2:], "damaged"),
        (lambda d: d[:2] + b"\xff\xfe\x00\x01" + d[2:], "damaged"),
        (lambda d: d[:2] + b"\xff\xfe\x00\x02" * SEGMENTS_MAX + d[2:], "segments"),
        (lambda d: d[:2] + b"\xff" * 1_000_000, "damaged"),
    ],
)
def test_a_damaged_header_is_refused(change, said):
    assert said in refused(change(by_pillow()))


def test_a_long_comment_or_colour_profile_is_stepped_over():
    data = by_pillow()
    longer = data[:2] + (b"\xff\xe2\xff\xff" + bytes(65_533)) * 20 + data[2:]
    assert jpeg_size(memoryview(longer), "a") == (40, 64)
    assert decode_image(Image(memoryview(longer)), "a").shape == (40, 64, 3)


def test_the_size_that_is_counted_is_the_one_that_the_decoder_goes_by():
    for size in ((1, 1), (9, 17), (480, 640), (2, 3000)):
        data = simplejpeg.encode_jpeg(gradient(*size))
        assert jpeg_size(memoryview(data), "a") == size == simplejpeg.decode_jpeg_header(data)[:2]


@pytest.mark.parametrize("flat", ["RGB", "L"])
def test_no_picture_of_one_colour_is_taken_for_one_without_data(flat):
    """The least data that a picture can have: one bit for the mean and one for the rest of each block."""
    from PIL import Image as Picture

    file = io.BytesIO()
    Picture.new(flat, (2000, 1000)).save(file, "JPEG", optimize=True, quality=1)
    assert jpeg_size(memoryview(file.getvalue()), "a") == (1000, 2000)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (None, 12), ([2, 2], 12), ([2, 2, 1], 4), ([2, 2, 4], 16), ([0, 2, 3], 0), ([2, 2, 3], 11), ([2, 2, 3], 13),
        ([1 << 62, 1 << 62, 3], 12), ([1, 2, 2, 3], 12), ([], 1),
    ],
)  # fmt: skip
def test_a_raw_picture_has_the_bytes_of_its_shape(shape, size):
    assert refused(b"", Image(memoryview(bytes(size)), RAW, shape))
    with pytest.raises(MessageError):
        decode_image(Image(memoryview(bytes(size)), RAW, shape), "front")


@pytest.mark.parametrize("codec", ["png", "", "JPEG", "pickle"])
def test_an_unknown_codec_is_refused(codec):
    assert "codec" in refused(b"", Image(memoryview(golden.JPEG), codec))
    with pytest.raises(MessageError, match="codec"):
        decode_image(Image(memoryview(golden.JPEG), codec), "front")


def test_pictures_and_their_pixels_are_counted_together_before_any_is_decoded():
    small = encode_image(gradient(10, 10))
    check_images({str(i): small for i in range(16)}, DEFAULT_LIMITS)
    with pytest.raises(LimitError, match="at most 16 pictures"):
        check_images({str(i): small for i in range(17)}, DEFAULT_LIMITS)
    with pytest.raises(LimitError, match="at most 199 pixels"):
        check_images({"a": small, "b": encode_image(gradient(10, 10), 0)}, Limits(pixels_max=199))
    check_images({"a": small, "b": small}, Limits(pixels_max=200))
