"""The answers that phases ask for, as pydantic models: their JSON schemas are what servers are held to.

Strings and arrays are bounded so that a constrained decoder must end. Field names are those of the prompt files.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=400)]
LongText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=6000)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]


def _without_empty(texts: object) -> object:
    """Models fill lists up with nothing; the rest of such a list is good."""
    if not isinstance(texts, list):
        return texts
    return [t for t in texts if t is not None and not (isinstance(t, str) and not t.strip())]


Texts = Annotated[list[Text], BeforeValidator(_without_empty)]


class Answer(BaseModel):
    """Base of all answers: extra keys are ignored, NaN and infinities refused."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class VideoTask(Answer):
    """plan_video_task"""

    task: Text


class Description(Answer):
    """plan_subtask_describe"""

    description: LongText


class Segment(Answer):
    """One subtask; seconds inside the window that was shown."""

    text: Text
    start: float = Field(ge=-1e6, le=1e6)
    end: float = Field(ge=-1e6, le=1e6)


class Segments(Answer):
    """plan_subtasks"""

    subtasks: list[Segment] = Field(max_length=200)


class RelabeledSegment(Answer):
    """plan_subtask_relabel"""

    label: Text


class Memory(Answer):
    """plan_memory"""

    memory: Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)]  # empty: nothing to add


class Rephrasings(Answer):
    """plan_task_rephrasings"""

    rephrasings: Texts = Field(max_length=100)


class TaskAugAxes(Answer):
    """plan_task_aug_axes: five lists, in this order."""

    synonym_paraphrase: Texts = Field(default=[], max_length=30)
    omit_arm: Texts = Field(default=[], max_length=30)
    omit_orientation: Texts = Field(default=[], max_length=30)
    omit_grasp_method: Texts = Field(default=[], max_length=30)
    combined_omissions: Texts = Field(default=[], max_length=30)

    @model_validator(mode="after")
    def _says_something(self) -> TaskAugAxes:
        if not self.model_fields_set:
            raise ValueError(f"want at least one of the lists {', '.join(type(self).model_fields)}")
        return self


class InitialSpeech(Answer):
    """interjections_initial_speech"""

    text: Text


class Interjection(Answer):
    """interjections_interjection"""

    interjection: Text
    speech: Text


class LabelVerdict(Answer):
    """judge_labels"""

    same: bool


class Detection(Answer):
    """One box: x_min, y_min, x_max, y_max."""

    label: Label
    bbox_format: Literal["xyxy"] = "xyxy"
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)]


class Bbox(Answer):
    """Boxes of what the question asks for; at least one."""

    detections: list[Detection] = Field(min_length=1, max_length=50)


class Keypoint(Answer):
    """One point: x, y."""

    label: Label
    point_format: Literal["xy"] = "xy"
    point: Annotated[list[float], Field(min_length=2, max_length=2)]


class Count(Answer):
    """How many."""

    label: Label
    count: int = Field(ge=0, le=1000, strict=True)
    note: str | None = Field(default=None, max_length=400)


class Attribute(Answer):
    """Colour, shape, state."""

    label: Label
    attribute: Label
    value: Label


class Spatial(Answer):
    """How two things lie to each other in the picture."""

    subject: Label
    relation: Literal["left_of", "right_of", "on", "in", "above", "below", "near"]
    object: Label


class BboxQA(Answer):
    """vqa_bbox"""

    question: Text
    answer: Bbox


class KeypointQA(Answer):
    """vqa_keypoint"""

    question: Text
    answer: Keypoint


class CountQA(Answer):
    """vqa_count"""

    question: Text
    answer: Count


class AttributeQA(Answer):
    """vqa_attribute"""

    question: Text
    answer: Attribute


class SpatialQA(Answer):
    """vqa_spatial"""

    question: Text
    answer: Spatial


VqaType = Literal["bbox", "keypoint", "count", "attribute", "spatial"]
VQA_ANSWERS: dict[str, type[Answer]] = {
    "bbox": BboxQA,
    "keypoint": KeypointQA,
    "count": CountQA,
    "attribute": AttributeQA,
    "spatial": SpatialQA,
}
