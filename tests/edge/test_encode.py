"""Pictures on their way: chosen, shrunk, encoded; and observations kept for policies that look back."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edge.contract import camera_key
from edge.encode import Encoder
from edge.observations import ObservationSlot, Observed
from edge.resize import shrink
from edge.robots.base import Reading
from serving.wire.errors import MessageError
from serving.wire.images import decode_image, image_size

FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def scene(height: int = 480, width: int = 640) -> np.ndarray:
    """A slope of each colour, so that a wrong place or channel shows."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / (width - 1), 255 * y / (height - 1), np.full(x.shape, 80)], -1).astype(np.uint8)


@pytest.mark.parametrize("size", [(480, 640), (60, 80)], ids=["encoded by two threads", "by one"])
def test_only_the_cameras_of_the_policy_are_sent_under_its_names(size):
    encoder = Encoder({FRONT: "cam0", WRIST: "cam1"}, {}, 95)
    pictures = {"cam0": scene(*size), "cam1": 255 - scene(*size), "other": scene(*size)}
    sent = encoder.encode(pictures)
    encoder.close()
    assert list(sent) == [FRONT, WRIST]
    for key, name in ((FRONT, "cam0"), (WRIST, "cam1")):
        seen = decode_image(sent[key], key)
        assert np.abs(seen.astype(int) - pictures[name]).mean() < 3


def test_pictures_are_shrunk_to_what_is_wanted_and_never_stretched():
    wanted = {FRONT: (224, 224), WRIST: (960, 1280)}
    encoder = Encoder({FRONT: "cam0", WRIST: "cam1"}, wanted, 90)
    sent = encoder.encode({"cam0": scene(), "cam1": scene()})
    encoder.close()
    assert image_size(sent[FRONT], FRONT) == (224, 224)
    assert image_size(sent[WRIST], WRIST) == (480, 640)


@pytest.mark.parametrize("opencv", [True, False], ids=["OpenCV", "NumPy"])
def test_a_shrunk_picture_shows_the_same_scene(opencv, monkeypatch):
    if opencv:
        pytest.importorskip("cv2")
    else:
        monkeypatch.delitem(sys.modules, "cv2", raising=False)
    small = shrink(scene(), 224, 200)
    exact = scene(224, 200)
    assert np.abs(small.astype(int) - exact).max() <= 3


def test_raw_pictures_arrive_bit_by_bit():
    encoder = Encoder({FRONT: "cam0"}, {}, 0)
    picture = scene(60, 80)
    np.testing.assert_array_equal(decode_image(encoder.encode({"cam0": picture})[FRONT], FRONT), picture)


def test_a_picture_of_another_kind_is_refused_and_a_missing_camera_is_named():
    encoder = Encoder({FRONT: "cam0"}, {}, 90)
    with pytest.raises(MessageError, match="uint8 picture"):
        encoder.encode({"cam0": scene().astype(np.float32)})
    with pytest.raises(KeyError, match="cam0"):
        encoder.encode({"cam1": scene()})


@pytest.mark.parametrize(
    ("name", "renamed", "key"),
    [
        ("front", {}, FRONT),
        (FRONT, {}, FRONT),
        ("top", {"top": FRONT}, FRONT),
        ("top", {"observation.images.top": "front"}, FRONT),
        ("top", {"other": FRONT}, "observation.images.top"),
    ],
)
def test_cameras_get_the_names_that_policies_use(name, renamed, key):
    assert camera_key(name, renamed) == key


def observed(number: int) -> Observed:
    return Observed(Reading(np.array([number], np.float32), {}, float(number)), number, 0)


def test_the_slot_keeps_the_newest_and_as_many_earlier_ones_as_told():
    slot = ObservationSlot()
    assert slot.newest() is None
    for number in range(3):
        slot.put(observed(number))
    assert slot.newest().step == 2 and slot.earlier(2, 1) == []
    slot.keep(5)
    for number in range(3, 9):
        slot.put(observed(number))
    assert [(back, one.step) for back, one in slot.earlier(2, 2)] == [(4, 4), (2, 6)]
    slot.clear()
    assert slot.newest() is None and slot.earlier(2, 2) == []


def test_who_waits_for_an_observation_is_told_once():
    slot, told = ObservationSlot(), []
    slot.tell(lambda: told.append(1))
    slot.put(observed(0))
    slot.put(observed(1))
    assert told == [1]
