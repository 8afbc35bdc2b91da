"""Every setting of an annotation run: one pydantic tree shared by the command line, YAML files and the Prefect form."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.questions import VqaType

PhaseName = Literal["plan", "interjections", "vqa"]
PHASES: tuple[PhaseName, ...] = ("plan", "interjections", "vqa")


class Section(BaseModel):
    """Base of all settings: unknown keys are errors, values are checked on assignment too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class TaskAugAxes(Section):
    """How many rephrasings of each kind to ask for; replaces plan.n_task_rephrasings when enabled."""

    enabled: bool = False
    synonym_paraphrase: int = Field(3, ge=0, le=30)
    omit_arm: int = Field(3, ge=0, le=30)
    omit_orientation: int = Field(2, ge=0, le=30)
    omit_grasp_method: int = Field(2, ge=0, le=30)
    combined_omissions: int = Field(2, ge=0, le=30)


class PlanSettings(Section):
    """Subtasks, plan, memory and task rephrasings."""

    n_task_rephrasings: int = Field(10, ge=0, le=100, description="rephrasings of the task; 0 asks for none")
    derive_task_from_video: Literal["off", "if_short", "always"] = Field(
        "if_short", description="ask the model for the task when the dataset's own says nothing"
    )
    derive_task_min_words: int = Field(3, ge=1, description="a task with fewer words counts as short")
    frames_per_second: float = Field(2.0, gt=0, le=60, description="frames shown per second of video")
    max_frames_per_prompt: int = Field(60, ge=2, le=1000, description="longer episodes are cut into windows")
    window_overlap_s: float = Field(2.0, ge=0, description="how far neighbouring windows overlap")
    contact_sheet_columns: int = Field(5, ge=1, le=20)
    contact_sheet_frames_per_sheet: int = Field(20, ge=1, le=200)
    contact_sheet_frame_width: int = Field(224, ge=16, le=2048, description="pixels of one tile")
    contact_sheet_quality: int = Field(84, ge=1, le=95, description="JPEG quality")
    min_subtask_s: float = Field(1.5, ge=0, description="shorter segments are merged into a neighbour")
    max_steps: int = Field(8, ge=1, le=100, description="most segments per window; the shortest are merged away")
    subtask_describe_first: bool = Field(True, description="first describe, then segment the description")
    subtask_seeded_relabel: bool = Field(False, description="one more look at each segment to correct its label")
    subtask_relabel_frames: int = Field(5, ge=1, le=20)
    second_camera: str | None = Field(None, description="another camera shown below the default one")
    emit_plan: bool = True
    emit_memory: bool = True
    task_aug_axes: TaskAugAxes = TaskAugAxes()


class InterjectionSettings(Section):
    """What a person says meanwhile, and what the robot answers."""

    max_interjections_per_episode: int = Field(3, ge=0, le=50)
    interjection_min_t: float = Field(2.0, ge=0, description="no cue before this time, seconds")
    interjection_lead_s: float = Field(
        0.0,
        ge=0,
        le=30,
        description="how long before the next subtask the cue comes; above 0 the plan is refreshed there",
    )
    interjection_window_seconds: float = Field(2.0, ge=0)
    interjection_window_frames: int = Field(4, ge=1, le=50)


class VqaSettings(Section):
    """Questions about single frames."""

    vqa_emission_hz: float = Field(1.0, ge=0, le=60, description="questions per second and camera; 0 asks none")
    K: int = Field(1, ge=0, le=100, description="consecutive frames asked at each tick, each for itself")
    question_types: list[VqaType] = Field(["bbox", "keypoint", "count", "attribute", "spatial"], min_length=1)
    question_weights: list[float] | None = Field(None, description="one weight per question type; null: equal")
    restrict_to_default_camera: bool = False
    image_width_max: int = Field(1280, ge=16, le=8192, description="wider frames are scaled down before they are sent")
    image_quality: int = Field(84, ge=1, le=95, description="JPEG quality")
    coordinates: Literal["pixel", "norm1000", "norm1"] = Field(
        "pixel", description="what the model's numbers mean; rows always hold pixels of the camera's own frame"
    )

    @model_validator(mode="after")
    def _weights(self) -> VqaSettings:
        w = self.question_weights
        if w is not None and (len(w) != len(self.question_types) or min(w) < 0 or sum(w) <= 0):
            raise ValueError("question_weights: want one weight >= 0 per question type, not all 0")
        return self


class VlmSettings(Section):
    """Who answers."""

    backend: Literal["motion", "openai", "replay"] = Field(
        "motion", description="motion: recorded signals, no model; openai: a server; replay: answers recorded earlier"
    )
    model_id: str = Field("Qwen/Qwen3.6-27B", description="model name that the server knows")
    api_base: str = "http://localhost:8000/v1"
    api_key: str = Field("EMPTY", description="bearer token; env:NAME takes it from the environment", repr=False)
    auto_serve: bool = Field(False, description="start the server; not in this version: start it yourself")
    client_concurrency: int = Field(16, ge=1, le=1024, description="requests in flight, in the whole process")
    request_timeout_s: float = Field(120.0, gt=0)
    max_retries: int = Field(4, ge=0, le=20, description="after 429, 5xx, time-outs and broken connections")
    retry_backoff_s: float = Field(0.5, ge=0, description="first pause; doubles each time, with jitter")
    max_new_tokens: int = Field(512, ge=16)
    temperature: float = Field(0.2, ge=0, le=2)
    structured: Literal["auto", "json_schema", "json_object", "off"] = Field(
        "auto", description="response_format; auto steps down by itself when the server refuses"
    )
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    chat_template_kwargs: dict[str, object] | None = None
    camera_key: str | None = Field(None, description="default camera; null: the first")
    replay_path: Path | None = Field(None, description="answers to replay (JSONL), for backend=replay")
    record_path: Path | None = Field(None, description="append every answer here (JSONL), for a later replay")


class ExecutorSettings(Section):
    """How many episodes at a time, and who runs them."""

    runner: Literal["threads", "ray", "dask"] = "threads"
    episode_parallelism: int = Field(16, ge=1, le=1024, description="episodes in flight")
    task_runs_max: int = Field(900, ge=3, description="episodes are grouped to stay below this many Prefect task runs")
    task_retries: int = Field(1, ge=0, le=10, description="of a whole phase task, after an unexpected error")
    frame_cache_mib: int = Field(384, ge=16, description="decoded pictures kept for the phases of episodes in flight")


class AnnotateSettings(Section):
    """An annotation run."""

    root: Path | None = Field(None, description="local dataset folder")
    repo_id: str | None = Field(None, description="hub dataset, downloaded when root is not given")
    revision: str | None = Field(None, description="hub revision: branch, tag or commit")
    output: Path | None = Field(None, description="write a new dataset here; null: annotate in place")
    staging_dir: Path | None = Field(None, description="null: .annotate_staging beside or inside the dataset")
    phases: list[PhaseName] = Field(list(PHASES), description="phases to run; rows of the others stay as they are")
    refresh: list[PhaseName] = Field([], description="phases to run again although their staged rows are current")
    only_episodes: list[int] | None = Field(None, description="episode indices; null: all")
    seed: int = 1729
    strict: bool = Field(False, description="write nothing when any episode or question failed")
    skip_validation: bool = Field(False, description="write although validation found errors")
    drop_subtask_index: bool = Field(True, description="drop the legacy subtask_index column")
    plan: PlanSettings = PlanSettings()
    interjections: InterjectionSettings = InterjectionSettings()
    vqa: VqaSettings = VqaSettings()
    vlm: VlmSettings = VlmSettings()
    executor: ExecutorSettings = ExecutorSettings()
