"""Visual answers against each other, and against a scene whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluate.scene import CHANGE_S, Moment
from tasks.evaluate.truth import Event, TruthEpisode
from tasks.evaluate.visual import box_ious, box_scores, compare_answers
from tests.evaluate.answers import CAMERA, true_answers

SIZE = (320, 240)


def boxes(*found: tuple[str, list[float]], **more: Any) -> dict[str, Any]:
    return {"type": "bbox", "detections": [{"label": label, "bbox": box} for label, box in found], **more}


def value(left: dict[str, Any], right: dict[str, Any], name: str) -> float | None:
    scores = compare_answers(left, right, SIZE)
    return None if scores is None else scores[name].value


# ------------------------------------------------------------------------------------------------ two answers


def test_box_overlap_by_hand() -> None:
    assert box_ious([(0, 0, 10, 10)], [(5, 0, 15, 10), (20, 20, 30, 30)]).tolist() == [[pytest.approx(1 / 3), 0.0]]
    scores = box_scores([(0, 0, 10, 10), (50, 50, 60, 60)], [(0, 0, 10, 10)])
    assert scores["iou"].value == pytest.approx(2 / 3), "a box too many counts as 0"
    assert scores["found_50"].value == pytest.approx(2 / 3)


def test_boxes_match_by_place_and_label() -> None:
    left = boxes(("red cube", [0, 0, 10, 10]), ("red cube", [100, 100, 110, 110]))
    right = boxes(("the red cube", [100, 100, 110, 110]), ("red cube", [0, 0, 10, 10]))
    assert value(left, right, "iou") == pytest.approx(1.0)
    swapped = boxes(("red cube", [0, 0, 10, 10]), ("green ball", [100, 100, 110, 110]))
    crossed = boxes(("green ball", [0, 0, 10, 10]), ("red cube", [100, 100, 110, 110]))
    assert value(swapped, crossed, "iou") == 0.0, "what lies there must be named as well"
    assert compare_answers(boxes(("cup", [0, 0, 9, 9])), boxes(("door", [0, 0, 9, 9])), SIZE) is None


def test_coordinates_of_another_convention_or_frame_size_are_converted() -> None:
    pixels = boxes(("cup", [32, 24, 64, 48]), image_size=[320, 240])
    thousandths = boxes(("cup", [100, 100, 200, 200]), image_size=[320, 240], coordinates="norm1000")
    larger = boxes(("cup", [64, 48, 128, 96]), image_size=[640, 480])
    assert value(pixels, thousandths, "iou") == pytest.approx(1.0)
    assert value(pixels, larger, "iou") == pytest.approx(1.0)


@pytest.mark.parametrize(
    "broken",
    [
        boxes(("cup", [0, 0, 9])),
        boxes(("cup", [float("nan"), 0, 9, 9])),
        boxes(("cup", ["a", 0, 9, 9])),
        boxes(*[("cup", [0, 0, 9, 9])] * 5000),
        {"type": "bbox", "detections": "cup"},
        {"type": "bbox", "detections": [{"label": "cup"}]},
        {"type": "bbox"},
    ],
)
def test_answers_of_other_tools_that_are_no_boxes_are_not_scored(broken: dict[str, Any], scene: TruthEpisode) -> None:
    good = boxes(("cup", [0, 0, 9, 9]))
    assert compare_answers(broken, good, SIZE) is None and compare_answers(good, broken, SIZE) is None
    assert moment(scene, 0).score(broken) is None


@pytest.mark.parametrize("size", [[0, 0], ["a", "b"], [320], "320x240", None, [320.5, 240]])
def test_an_odd_image_size_is_not_believed(size: Any) -> None:
    assert value(boxes(("cup", [0, 0, 9, 9]), image_size=size), boxes(("cup", [0, 0, 9, 9])), "iou") == 1.0


def test_points_by_distance() -> None:
    a, b = ({"type": "keypoint", "label": "lid", "point": p, "image_size": [300, 400]} for p in ([0, 0], [30, 40]))
    scores = compare_answers(a, b, None)
    assert scores and scores["distance_px"].value == pytest.approx(50.0)
    assert scores["distance_share"].value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ({"type": "count", "label": "cups", "count": 2}, {"type": "count", "label": "cups", "count": 2}, 1.0),
        ({"type": "count", "label": "cups", "count": 2}, {"type": "count", "label": "cups", "count": 3}, 0.0),
        ({"type": "count", "label": "cups", "count": 2}, {"type": "count", "label": "doors", "count": 2}, None),
        (
            {"type": "attribute", "label": "the door", "attribute": "state", "value": "Open."},
            {"type": "attribute", "label": "door", "attribute": "State", "value": "open"},
            1.0,
        ),
        (
            {"type": "attribute", "label": "door", "attribute": "state", "value": "open"},
            {"type": "attribute", "label": "door", "attribute": "colour", "value": "red"},
            None,
        ),
        (
            {"type": "spatial", "subject": "cup", "relation": "left_of", "object": "plate"},
            {"type": "spatial", "subject": "plate", "relation": "right_of", "object": "cup"},
            1.0,
        ),
        (
            {"type": "spatial", "subject": "cup", "relation": "on", "object": "plate"},
            {"type": "spatial", "subject": "plate", "relation": "on", "object": "cup"},
            0.0,
        ),
        ({"type": "count", "label": "cups", "count": 2}, {"type": "attribute", "label": "cups"}, None),
        ({"type": "count", "label": "cups", "count": "many"}, {"type": "count", "label": "cups", "count": 2}, None),
        ({"type": "trace"}, {"type": "trace"}, None),
        ({"type": "count", "label": ["cups"], "count": 2}, {"type": "count", "label": {}, "count": 2}, None),
        ({"type": "spatial", "subject": "a"}, {"type": "spatial", "subject": "a"}, None),
    ],
)
def test_words_and_numbers(left: dict[str, Any], right: dict[str, Any], expected: float | None) -> None:
    assert value(left, right, "exact") == expected
    assert value(right, left, "exact") == expected


numbers = st.floats(0, 320, allow_nan=False).map(lambda v: round(v, 1))
found = st.lists(
    st.tuples(st.sampled_from(["cup", "lid", "red cup"]), st.lists(numbers, min_size=4, max_size=4)), max_size=4
)


@given(found, found)
@settings(max_examples=150, deadline=None)
def test_box_scores_are_shares_and_symmetric(a: list, b: list) -> None:
    left, right = boxes(*a), boxes(*b)
    there, back = compare_answers(left, right, SIZE), compare_answers(right, left, SIZE)
    assert (there is None) == (back is None)
    for name in there or {}:
        assert 0 <= there[name].value <= 1 + 1e-9  # type: ignore[index, operator]
    if there:
        assert there["iou"].value == pytest.approx(back["iou"].value)  # type: ignore[index]


# ------------------------------------------------------------------------------------------------ the truth


@pytest.fixture
def scene() -> TruthEpisode:
    """A red cube is put into the blue box from 2 s to 4 s; 10 frames a second."""
    cube = [(0, 20, 100, 100, 120, 120), (21, 39, 150, 60, 170, 80), (40, 59, 250, 110, 270, 130)]
    return TruthEpisode(
        episode_index=0,
        frames=60,
        subtasks=[],
        target="blue box",
        things=["red cube", "green ball", "yellow cube", "blue box"],
        events=[Event(kind="close", time_s=2.0, thing="red cube"), Event(kind="open", time_s=4.0, thing="red cube")],
        boxes={
            CAMERA: {
                "red cube": cube,
                "green ball": [(0, 59, 20, 100, 40, 120)],
                "yellow cube": [(0, 59, 0, 0, 0, 0)],  # out of the picture
                "blue box": [(0, 59, 240, 100, 300, 150)],
            }
        },
    )


def moment(scene: TruthEpisode, frame: int) -> Moment:
    return Moment(scene, CAMERA, frame, frame / 10, SIZE)


def test_labels_mean_things(scene: TruthEpisode) -> None:
    at = moment(scene, 0)
    assert at.things("the red cube") == ["red cube"]
    assert at.things("cubes") == ["red cube", "yellow cube"]
    assert at.things("blocks") == ["red cube", "yellow cube"]
    assert at.things("objects") == ["red cube", "green ball", "yellow cube"]
    assert at.things("box") == ["blue box"]
    for unknown in ("left cube", "robot", "cube handle", "", "cube near the box", "shiny red cube"):
        assert at.things(unknown) is None, unknown


def test_things_in_the_box_are_those_that_were_put_there(scene: TruthEpisode) -> None:
    assert moment(scene, 5).things("cubes in the blue box") == []
    assert moment(scene, 39).things("cubes in the blue box") is None, "it is just being let go"
    assert moment(scene, 55).things("cubes in the blue box") == ["red cube"]
    assert moment(scene, 0).things("objects on the table") == ["red cube", "green ball", "yellow cube"]
    assert moment(scene, 55).things("objects on the table") is None


@pytest.mark.parametrize(
    ("frame", "answer", "expected"),
    [
        (0, {"type": "count", "label": "cubes", "count": 1}, 1.0),  # the other one is out of the picture
        (0, {"type": "count", "label": "cubes", "count": 2}, 0.0),
        (55, {"type": "count", "label": "objects in the box", "count": 1}, 1.0),
        (0, {"type": "attribute", "label": "green ball", "attribute": "colour", "value": "Light green"}, 1.0),
        (0, {"type": "attribute", "label": "green ball", "attribute": "color", "value": "blue"}, 0.0),
        (0, {"type": "attribute", "label": "green ball", "attribute": "shape", "value": "round"}, 1.0),
        (0, {"type": "attribute", "label": "green ball", "attribute": "shape", "value": "smooth"}, None),
        (0, {"type": "attribute", "label": "green ball", "attribute": "material", "value": "wood"}, None),
        (0, {"type": "attribute", "label": "cubes", "attribute": "colour", "value": "red"}, None),
        (30, {"type": "attribute", "label": "gripper", "attribute": "state", "value": "closed"}, 1.0),
        (50, {"type": "attribute", "label": "the gripper", "attribute": "state", "value": "closed"}, 0.0),
        (21, {"type": "attribute", "label": "gripper", "attribute": "state", "value": "closed"}, None),
        (30, {"type": "attribute", "label": "red cube", "attribute": "state", "value": "held"}, 1.0),
        (55, {"type": "attribute", "label": "red cube", "attribute": "state", "value": "held"}, 0.0),
        (0, {"type": "spatial", "subject": "green ball", "relation": "left_of", "object": "red cube"}, 1.0),
        (0, {"type": "spatial", "subject": "green ball", "relation": "right_of", "object": "red cube"}, 0.0),
        (30, {"type": "spatial", "subject": "red cube", "relation": "above", "object": "blue box"}, 1.0),
        (55, {"type": "spatial", "subject": "red cube", "relation": "in", "object": "blue box"}, 1.0),
        (5, {"type": "spatial", "subject": "red cube", "relation": "in", "object": "blue box"}, 0.0),
        (5, {"type": "spatial", "subject": "red cube", "relation": "near", "object": "blue box"}, None),
        (0, {"type": "spatial", "subject": "yellow cube", "relation": "left_of", "object": "red cube"}, None),
        (0, {"type": "count", "label": "cubes"}, None),
        (0, {"type": "unheard of"}, None),
    ],
)
def test_answers_against_the_truth(scene: TruthEpisode, frame: int, answer: dict, expected: float | None) -> None:
    scores = moment(scene, frame).score(answer)
    assert (None if scores is None else scores["exact"].value) == expected


def test_boxes_and_points_against_the_truth(scene: TruthEpisode) -> None:
    at = moment(scene, 25)
    exact = boxes(("red cube", [150, 60, 170, 80]), image_size=list(SIZE))
    assert at.score(exact)["iou"].value == 1.0  # type: ignore[index]
    late = replace(at, frame=45).score(exact)
    assert late and late["iou"].value == 0.0, "there it was earlier"
    both = boxes(("object", [150, 60, 170, 80]), ("object", [20, 100, 40, 120]), image_size=list(SIZE))
    assert at.score(both)["iou"].value == 1.0  # type: ignore[index]
    assert at.score(boxes(("object", [150, 60, 170, 80])))["iou"].value == pytest.approx(2 / 3)  # type: ignore[index]
    assert at.score(boxes(("arm", [0, 0, 9, 9]))) is None
    point = at.score({"type": "keypoint", "label": "red cube", "point": [163, 74], "image_size": list(SIZE)})
    assert point and point["distance_px"].value == pytest.approx(5.0) and point["inside"].value == 1.0
    assert point["distance_share"].value == pytest.approx(5 / 400)


def test_true_answers_are_right_on_every_frame(scene: TruthEpisode) -> None:
    for frame in range(scene.frames or 0):
        for answer in true_answers(scene, frame, frame / 10, SIZE):
            if answer["type"] == "count":
                answer["count"] = 2  # one of the three is out of the picture
            scores = moment(scene, frame).score(answer)
            assert scores, (frame, answer)
            wrong = {n: s.value for n, s in scores.items() if s.value != (0.0 if n.startswith("distance") else 1.0)}
            assert not wrong, (frame, answer, wrong)


def test_no_event_is_near_its_own_moment() -> None:
    assert CHANGE_S > 0.3, "the fingers take that long"
