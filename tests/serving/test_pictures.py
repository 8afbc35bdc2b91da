"""Pictures are decoded into memory that is used again, by threads that help each other: neither may be noticed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import simplejpeg

from serving.pictures import NO_HELPERS, Helpers
from serving.wire.buffers import Buffers
from serving.wire.errors import MessageError
from serving.wire.images import Image, decode_image, encode_image

WAIT_S = 10.0


def picture(seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)


def test_memory_is_used_again_once_nobody_looks_at_it():
    buffers = Buffers()
    first = buffers.take(100)
    address = first.ctypes.data
    view = first[10:].reshape(9, 10)[::2]
    del first
    second = buffers.take(100)
    assert second.ctypes.data != address  # a part of the first is still looked at
    del view
    assert buffers.take(100).ctypes.data == address
    assert buffers.take(200).nbytes == 200


def test_what_is_kept_is_bounded():
    buffers = Buffers(bytes_max=1000, number_max=3)
    held = [buffers.take(100) for _ in range(5)]
    assert len({array.ctypes.data for array in held}) == 5
    assert len(buffers._kept) == 3
    buffers.take(900)
    assert sum(array.nbytes for array in buffers._kept) <= 1000
    assert buffers.take(5000).nbytes == 5000 and all(array.nbytes < 5000 for array in buffers._kept)
    for i, array in enumerate(held):  # what was let go of still belongs to who holds it
        array[:] = i
    assert [int(array[0]) for array in held] == list(range(5))


def test_pictures_that_are_held_stay_as_they_are():
    sent = [encode_image(picture(i)) for i in range(20)]
    held = [decode_image(image, "camera")[4:] for image in sent]
    for image, rows in zip(sent, held, strict=True):
        np.testing.assert_array_equal(rows, simplejpeg.decode_jpeg(image.data)[4:])


def test_threads_never_share_a_picture():
    sent = [encode_image(picture(i)) for i in range(4)]
    wanted = [simplejpeg.decode_jpeg(image.data) for image in sent]
    wrong: list[int] = []

    def decode_many(i: int) -> None:
        for _ in range(100):
            if not np.array_equal(decode_image(sent[i], "camera"), wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=decode_many, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []


def test_a_broken_picture_leaves_no_trace():
    whole = encode_image(picture(1))
    half = Image(memoryview(bytes(whole.data)[: whole.data.nbytes // 2]))
    for _ in range(3):
        with pytest.raises(MessageError):
            decode_image(half, "camera")
        np.testing.assert_array_equal(decode_image(whole, "camera"), simplejpeg.decode_jpeg(whole.data))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_all_is_done_in_order(threads):
    helpers = Helpers(threads)
    assert helpers.map(lambda x: x * x, range(7)) == [0, 1, 4, 9, 16, 25, 36]
    assert helpers.map(str, []) == [] and helpers.map(str, [1]) == ["1"]
    helpers.close(), helpers.close()


def test_the_work_is_shared():
    helpers, together = Helpers(1), threading.Barrier(2)
    assert helpers.map(lambda _: together.wait(WAIT_S) >= 0, [1, 2]) == [True, True]  # neither can pass alone
    helpers.close()


def test_busy_helpers_delay_nobody():
    helpers, busy, go = Helpers(1), threading.Event(), threading.Event()
    other = threading.Thread(target=helpers.map, args=(lambda i: (busy.set() if i else None, go.wait(WAIT_S)), [0, 1]))
    other.start()
    assert busy.wait(WAIT_S)
    seen = helpers.map(lambda _: threading.get_ident(), [1, 2, 3])
    assert seen == [threading.get_ident()] * 3
    go.set()
    other.join(WAIT_S)
    helpers.close()


@pytest.mark.parametrize("helpers", [NO_HELPERS, Helpers(2)])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_fails_is_told(helpers, bad):
    def fail(item: int) -> int:
        if item == bad:
            raise MessageError(f"want no {bad}")
        return item

    with pytest.raises(MessageError, match=f"want no {bad}"):
        helpers.map(fail, [0, 1, 2])
    assert helpers.map(str, [1, 2]) == ["1", "2"]
