"""Phase vqa: which frames and cameras are asked, what comes out, and which coordinates can be true."""

from __future__ import annotations

import json
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tasks import vqa
from tasks.answers.question import Picture, Question
from tasks.coordinates import Rejected, Scale
from tasks.dataset.frames import EpisodeFrames, Still
from tasks.dataset.layout import open_dataset
from tasks.errors import EpisodeError
from tasks.language.rows import Row
from tasks.phase import PhaseContext
from tasks.questions import Attribute, Bbox, Count, Detection, Keypoint, Spatial
from tasks.settings import AnnotateSettings
from tasks.vqa import anchors, checked_answer
from tests.answerers import FRONT, WRIST, DrawnFrames, ScriptedAnswerer, make_context, make_episode

BOX = {"detections": [{"label": "cup", "bbox_format": "xyxy", "bbox": [1, 2, 30, 40]}]}
SAID: dict[str, object] = {
    "vqa_bbox": {"question": "Where is the cup?", "answer": BOX},
    "vqa_keypoint": {
        "question": "Where is the lid?",
        "answer": {"label": "lid", "point_format": "xy", "point": [5, 6]},
    },
    "vqa_count": {"question": "How many cups?", "answer": {"label": "cups", "count": 2}},
    "vqa_attribute": {
        "question": "Is it open?",
        "answer": {"label": "gripper", "attribute": "state", "value": "open"},
    },
    "vqa_spatial": {
        "question": "Where is the cup?",
        "answer": {"subject": "cup", "relation": "on", "object": "plate"},
    },
}


def context(root: Path, script: object = None, **more: object) -> PhaseContext:
    return make_context(root, ScriptedAnswerer(SAID if script is None else script), phase="vqa", **more)  # type: ignore[arg-type]


def run(ctx: PhaseContext) -> list[Row]:
    return [row.check() for row in vqa.run(ctx).rows]


def asked(ctx: PhaseContext) -> list[Question]:
    return ctx.answerer.asked  # type: ignore[attr-defined]


# ---------------------------------------------------------------- which frames


def test_ticks_are_once_a_second_from_first_to_last_frame() -> None:
    episode = make_episode(3.0)
    assert anchors(episode, 1.0, 1) == [0, 10, 20, 30]
    assert anchors(episode, 1.0, 3) == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30]
    assert anchors(episode, 10.0, 3) == list(range(31))
    assert anchors(episode, 0.0, 1) == anchors(episode, 1.0, 0) == []


def test_two_cameras_and_three_frames_a_tick(tmp_path: Path) -> None:
    ctx = context(tmp_path, vqa={"K": 3})
    rows = run(ctx)
    assert len(rows) == 2 * 2 * (8 * 3 + 1)
    assert max(Counter((r.timestamp, r.camera, r.role) for r in rows).values()) == 1
    assert {r.camera for r in rows} == {FRONT, WRIST}
    assert [r.role for r in rows[:2]] == ["user", "assistant"]
    assert all(json.loads(r.content or "")["type"] for r in rows if r.role == "assistant")
    assert {r.timestamp for r in rows} <= set(ctx.episode.times)
    assert len(ctx.answerer.batches) == 1  # type: ignore[attr-defined]


def test_each_question_has_one_picture_and_it_is_its_own_frame(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    run(ctx)
    for question in asked(ctx):
        (picture,) = question.pictures
        level = Image.open(BytesIO(picture.jpeg)).convert("L").getpixel((5, 5))
        row = ctx.episode.nearest(question.window_s[0])
        assert abs(level - row) <= 2  # DrawnFrames draws the row number as grey
        assert question.inputs["time"] == round(ctx.episode.times[row], 2)


def test_types_are_drawn_per_frame_and_camera_by_weight(tmp_path: Path) -> None:
    ctx = context(tmp_path, episode=make_episode(60.0))
    run(ctx)
    by_tick: dict[object, set[str]] = {}
    for q in asked(ctx):
        by_tick.setdefault(q.window_s, set()).add(q.name)
    assert any(len(names) == 2 for names in by_tick.values())  # cameras of one tick differ
    assert {q.name for q in asked(ctx)} == set(SAID)
    weighted = context(tmp_path, vqa={"question_types": ["bbox", "count"], "question_weights": [0, 1]})
    run(weighted)
    assert {q.name for q in asked(weighted)} == {"vqa_count"}


def test_the_draw_is_the_same_again_and_of_each_episode_its_own(tmp_path: Path) -> None:
    def names(index: int) -> list[str]:
        ctx = context(tmp_path, episode=make_episode(20.0, index=index))
        run(ctx)
        return [q.name for q in asked(ctx)]

    assert names(0) == names(0) != names(1)


def test_only_the_default_camera_when_told_so(tmp_path: Path) -> None:
    ctx = context(tmp_path, vqa={"restrict_to_default_camera": True}, vlm={"camera_key": WRIST})
    assert {r.camera for r in run(ctx)} == {WRIST}
    settings = ctx.settings
    assert set(vqa.wanted(ctx.episode, settings, [FRONT, WRIST])) == {WRIST}


def test_wanted_names_every_still(tmp_path: Path) -> None:
    episode, settings = make_episode(), AnnotateSettings()
    frames = DrawnFrames(episode)
    run(context(tmp_path, episode=episode, frames=frames))
    shown = {c: frozenset(episode.nearest(t) for t in times) for _, c, times in frames.calls}
    assert {c: w.stills for c, w in vqa.wanted(episode, settings, [FRONT, WRIST]).items()} == shown


def test_an_answerer_without_eyes_is_asked_what_it_can_know(tmp_path: Path) -> None:
    ctx = context(tmp_path, frames=DrawnFrames(make_episode(), broken=True))
    ctx.answerer = ScriptedAnswerer(SAID, needs_pictures=False, vqa_types={"attribute"})
    rows = run(ctx)
    assert len(rows) == 18 and {r.camera for r in rows} == {FRONT}
    assert {q.name for q in asked(ctx)} == {"vqa_attribute"} and not any(q.pictures for q in asked(ctx))
    assert (asked(ctx)[0].inputs["width"], asked(ctx)[0].inputs["height"]) == (64, 48)


def test_no_question_that_can_be_answered_means_no_rows(tmp_path: Path) -> None:
    ctx = context(tmp_path, vqa={"question_types": ["bbox"]})
    ctx.answerer = ScriptedAnswerer(SAID, needs_pictures=False, vqa_types={"attribute"})
    assert run(ctx) == [] and asked(ctx) == []


def test_an_episode_without_a_camera_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(context(tmp_path, episode=make_episode(cameras=()))) == []
    assert "no colour video camera" in caplog.text


# ---------------------------------------------------------------- answers


def only(kind: str, answer: object, root: Path, **more: object) -> PhaseContext:
    said = {f"vqa_{kind}": {"question": "Where?", "answer": answer}}
    return context(root, said, vqa={"question_types": [kind], **more}, episode=make_episode(0.0, size=(640, 480)))


def first_answer(ctx: PhaseContext) -> dict[str, object]:
    return json.loads(run(ctx)[1].content or "")


def test_content_is_sorted_json_with_type_and_image_size(tmp_path: Path) -> None:
    content = run(only("bbox", BOX, tmp_path))[1].content or ""
    assert content == json.dumps(json.loads(content), sort_keys=True)
    assert json.loads(content) == {
        "type": "bbox",
        "image_size": [640, 480],
        "detections": [{"label": "cup", "bbox_format": "xyxy", "bbox": [1.0, 2.0, 30.0, 40.0]}],
    }
    assert "image_size" not in first_answer(only("count", {"label": "cups", "count": 0}, tmp_path))


def test_coordinates_of_a_smaller_picture_become_pixels_of_the_camera(tmp_path: Path) -> None:
    ctx = only("bbox", BOX, tmp_path, image_width_max=320)
    assert first_answer(ctx)["detections"][0]["bbox"] == [2.0, 4.0, 60.0, 80.0]  # type: ignore[index]
    question = asked(ctx)[0]
    assert (question.inputs["width"], question.inputs["height"]) == (320, 240)
    assert "320 at the right edge" in str(question.inputs["coordinates_rule"])


@pytest.mark.parametrize(
    ("coordinates", "box"), [("norm1000", [250, 500, 500, 1000]), ("norm1", [0.25, 0.5, 0.5, 1.0])]
)
def test_other_conventions_become_pixels_of_the_camera(tmp_path: Path, coordinates: str, box: list[float]) -> None:
    answer = {"detections": [{"label": "cup", "bbox_format": "xyxy", "bbox": box}]}
    ctx = only("bbox", answer, tmp_path, coordinates=coordinates, image_width_max=320)
    assert first_answer(ctx)["detections"][0]["bbox"] == [160.0, 240.0, 320.0, 480.0]  # type: ignore[index]


def test_a_point_outside_or_one_thing_twice_is_rejected() -> None:
    scale = Scale("pixel", (640, 480), (640, 480))
    assert checked_answer(Keypoint(label="lid", point=[10.26, 20]), scale)["point"] == [10.3, 20.0]
    with pytest.raises(Rejected):
        checked_answer(Keypoint(label="lid", point=[10, 600]), scale)
    with pytest.raises(Rejected):
        checked_answer(Spatial(subject="Cup", relation="near", object="cup"), scale)


def test_one_bad_box_rejects_the_answer_and_nothing_is_kept_of_it() -> None:
    good, bad = Detection(label="a", bbox=[0, 0, 9, 9]), Detection(label="b", bbox=[0, 0, 9, 999])
    with pytest.raises(Rejected):
        checked_answer(Bbox(detections=[good, bad]), Scale("pixel", (64, 48), (64, 48)))


def test_other_answers_are_stored_as_they_are() -> None:
    scale = Scale("pixel", (64, 48), (64, 48), "norm1000")
    assert checked_answer(Count(label="cups", count=2), scale) == {"label": "cups", "count": 2}
    attribute = Attribute(label="door", attribute="state", value="open")
    assert checked_answer(attribute, scale) == {"label": "door", "attribute": "state", "value": "open"}


def test_thousandths_are_stored_when_the_settings_say_so(tmp_path: Path) -> None:
    assert first_answer(only("bbox", BOX, tmp_path, stored_coordinates="norm1000")) == {
        "type": "bbox",
        "image_size": [640, 480],
        "coordinates": "norm1000",
        "detections": [{"label": "cup", "bbox_format": "xyxy", "bbox": [2, 4, 47, 83]}],
    }


# ---------------------------------------------------------------- the picture that is sent


def sent(root: Path, *, size: tuple[int, int] = (640, 480), **sections: dict[str, object]) -> tuple[Question, Picture]:
    """The question about the first frame of a camera of that size, and its picture."""
    sections.setdefault("vqa", {})["question_types"] = ["bbox"]
    ctx = context(root, SAID, episode=make_episode(0.0, size=size), **sections)
    run(ctx)
    (picture,) = asked(ctx)[0].pictures
    assert Image.open(BytesIO(picture.jpeg)).size == (picture.width, picture.height)
    return asked(ctx)[0], picture


def test_no_picture_has_more_pixels_than_the_model_takes_and_its_size_is_told(tmp_path: Path) -> None:
    question, picture = sent(tmp_path, vlm={"max_pixels": 100_000, "model_id": "some-model"})
    assert picture.width * picture.height <= 100_000 < (picture.width + 4) * (picture.height + 4)
    assert picture.width / picture.height == pytest.approx(640 / 480, rel=0.01)
    assert (question.inputs["width"], question.inputs["height"]) == (picture.width, picture.height)
    assert f"{picture.width} at the right edge" in str(question.inputs["coordinates_rule"])


@pytest.mark.parametrize("limits", [{}, {"max_pixels": 200_000}])
def test_a_model_that_counts_pixels_after_stretching_gets_a_picture_that_it_need_not_stretch(
    tmp_path: Path, limits: dict[str, object]
) -> None:
    model = {"model_id": "Qwen/Qwen2.5-VL-7B-Instruct", **limits}
    question, picture = sent(tmp_path, vlm=model)
    assert picture.width % 28 == picture.height % 28 == 0
    assert picture.width * picture.height <= limits.get("max_pixels", 1 << 30)  # type: ignore[operator]
    assert (question.inputs["width"], question.inputs["height"]) == (picture.width, picture.height)
    if not limits:
        assert (picture.width, picture.height) == (644, 476)
    edge = {"detections": [{"label": "cup", "bbox": [0, 0, picture.width, picture.height / 2]}]}
    ctx = context(
        tmp_path,
        {"vqa_bbox": {"question": "Where?", "answer": edge}},
        vlm=model,
        vqa={"question_types": ["bbox"]},
        episode=make_episode(0.0, size=(640, 480)),
    )
    assert first_answer(ctx)["detections"][0]["bbox"] == [0.0, 0.0, 640.0, 240.0]  # type: ignore[index]


def test_a_rejected_answer_is_a_skip_with_a_reason(tmp_path: Path) -> None:
    def last_is_wrong(question: Question) -> object:
        box = [0, 0, 9, 9000] if question.window_s == (8.0, 8.0) else [0, 0, 9, 9]
        return {"question": "Where?", "answer": {"detections": [{"label": "cup", "bbox": box}]}}

    ctx = context(tmp_path, last_is_wrong, vqa={"question_types": ["bbox"]})
    assert len(run(ctx)) == 2 * 2 * 8
    assert ctx.report.asked == 18 and ctx.report.answered == 16
    assert len(ctx.report.skips) == 2 and "vqa.coordinates=pixel" in ctx.report.skips[0].reason
    assert ctx.report.skips[0].question == "vqa_bbox"


def test_when_every_question_failed_the_episode_failed(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="404 no such model"):
        vqa.run(context(tmp_path, lambda q: "404 no such model"))
    assert vqa.run(context(tmp_path, lambda q: None)).rows == []  # nothing wrong: it cannot know


def test_broken_video_fails_the_episode(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="truncated"):
        vqa.run(context(tmp_path, frames=DrawnFrames(make_episode(), broken=True)))


def test_a_task_that_says_nothing_is_not_shown(tmp_path: Path) -> None:
    ctx = context(tmp_path, episode=make_episode(1.0, task="TODO"))
    run(ctx)
    assert {q.inputs["task"] for q in asked(ctx)} == {""}


def test_prompt_names_follow_the_settings() -> None:
    def names(**section: object) -> tuple[str, ...]:
        return vqa.prompt_names(AnnotateSettings.model_validate({"vqa": section}))

    assert names(question_types=["count"]) == ("vqa_count",)
    assert names(question_types=["bbox"], coordinates="norm1") == ("vqa_bbox", "coordinates_norm1")


def test_a_real_episode_from_its_mp4(tmp_path: Path, generated_dataset: Path) -> None:
    dataset = open_dataset(generated_dataset)
    episode = dataset.episodes()[1]
    wants = vqa.wanted(episode, AnnotateSettings(), dataset.cameras)
    frames = EpisodeFrames(episode, wants)
    ctx = context(tmp_path, episode=episode, frames=frames)
    rows = run(ctx)
    assert {r.camera for r in rows} == set(dataset.cameras) and len(rows) == 2 * 2 * 4
    assert frames.decoded == 2 * 4
    own = frames.stills(dataset.cameras[0], [1.0], Still())[0][1]
    (shown,) = [q for q in asked(ctx) if q.pictures[0].jpeg == own.jpeg]
    assert shown.window_s == (episode.snap(1.0),) * 2
