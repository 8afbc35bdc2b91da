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
    media: Literal["sheets", "video"] = Field(
        "sheets", description="what the model watches: contact sheets, or a clip (for servers that take video_url)"
    )
    clip_width: int = Field(640, ge=64, le=4096, description="pixels of a clip; wider video is scaled down")
    motion_hints: bool = Field(False, description="tell the model when grippers close and open and the arm rests")
    snap_to_motion_s: float = Field(
        0.0, ge=0, le=10, description="move a boundary to a gripper or rest event at most so far away; 0: never"
    )
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
    coordinates: Literal["auto", "pixel", "norm1000", "norm1"] = Field(
        "auto", description="what the model's numbers mean; auto: by the model's name"
    )
    stored_coordinates: Literal["pixel", "norm1000"] = Field(
        "pixel", description="what rows hold: pixels of the camera's own frame, or thousandths of it"
    )

    @model_validator(mode="after")
    def _weights(self) -> VqaSettings:
        w = self.question_weights
        if w is not None and (len(w) != len(self.question_types) or min(w) < 0 or sum(w) <= 0):
            raise ValueError("question_weights: want one weight >= 0 per question type, not all 0")
        return self


class VlmSettings(Section):
    """Who answers."""

    backend: Literal["motion", "openai", "transformers", "vllm", "replay"] = Field(
        "motion",
        description="motion: recorded signals, no model; openai: a server; transformers, vllm: a model in this "
        "process; replay: answers recorded earlier",
    )
    model_id: str = Field("Qwen/Qwen3.6-27B", description="model name that the server knows, or a hub id or folder")
    api_base: str = Field("http://localhost:8000/v1", description="server; several with commas between them")
    api_key: str = Field("EMPTY", description="bearer token; env:NAME takes it from the environment", repr=False)
    # servers that we start
    auto_serve: bool = Field(False, description="start servers for backend=openai, unless one answers at api_base")
    serve_command: str | None = Field(
        None, description="how to start one; {port} and {model} are filled in; null: vllm serve"
    )
    serve_port: int = Field(8000, ge=1, le=65535, description="port of the first server; the next ones follow")
    parallel_servers: int = Field(1, ge=1, le=64, description="servers to start, each on GPUs of its own")
    gpus_per_server: int = Field(1, ge=0, le=64, description="GPUs of each server; 0: do not assign any")
    serve_ready_timeout_s: float = Field(600.0, gt=0, description="how long a server may take to load its model")
    # requests
    client_concurrency: int = Field(16, ge=1, le=1024, description="requests in flight, in the whole process")
    request_timeout_s: float = Field(120.0, gt=0)
    max_retries: int = Field(4, ge=0, le=20, description="after 429, 5xx, time-outs and broken connections")
    retry_backoff_s: float = Field(0.5, ge=0, description="first pause; doubles each time, with jitter")
    # what is asked for
    max_new_tokens: int = Field(512, ge=16)
    temperature: float = Field(0.2, ge=0, le=2)
    structured: Literal["auto", "json_schema", "json_object", "off"] = Field(
        "auto", description="response_format; auto steps down by itself when the server refuses"
    )
    thinking: bool = Field(False, description="let a thinking model think; off where its chat template allows")
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    chat_template_kwargs: dict[str, object] | None = Field(None, description="wins over thinking")
    # pictures
    camera_key: str | None = Field(None, description="default camera; null: the first")
    max_images: int | None = Field(None, ge=1, description="most pictures of one request; null: no limit known")
    max_pixels: int | None = Field(None, ge=4096, description="most pixels of one picture; larger ones are scaled down")
    video_as: Literal["data", "file"] = Field(
        "data", description="clips inside the request, or as a path that the server can read"
    )
    mm_processor_kwargs: dict[str, object] | None = Field(
        None, description="sent with clips, e.g. {fps: 2}; left out when the server refuses"
    )
    # models in this process, and servers that we start
    max_model_len: int | None = Field(None, ge=512, description="context length; null: 32768 for servers that we start")
    gpu_memory_utilization: float = Field(0.8, gt=0, le=1, description="vllm in this process")
    device: str | None = Field(None, description="transformers: cuda, cpu, ...; null: cuda where there is one")
    device_map: Literal["manual", "auto"] = Field("manual", description="transformers: auto spreads over all GPUs")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    batch_size: int = Field(4, ge=1, le=256, description="transformers: questions answered at once")
    trust_remote_code: bool = Field(False, description="run code that a model's repository brings along")
    # what it cost
    replay_path: Path | None = Field(None, description="ledger of answers to replay (JSONL), for backend=replay")
    record_path: Path | None = Field(None, description="ledger of every call (JSONL); null: ledger.jsonl in staging")
    price_in: float | None = Field(None, ge=0, description="money per million tokens sent")
    price_out: float | None = Field(None, ge=0, description="money per million tokens received")


class JobSettings(Section):
    """Where the run happens: here, or the same command on a rented machine."""

    target: str = Field("local", description="local, or a flavor of the hub's jobs such as a10g-large or h200")
    image: str = "vllm/vllm-openai:latest"
    timeout: str = Field("2h", description="the machine is given back after this time")
    detach: bool = Field(False, description="do not follow the log")
    ref: str = Field("main", description="git reference of this package that the machine installs")
    tags: list[str] = []


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
    push_to_hub: bool = Field(False, description="upload the result; see also annotate publish")
    new_repo_id: str | None = Field(None, description="hub dataset to upload to; null: repo_id")
    push_private: bool = Field(False, description="make the uploaded dataset private when it is new")
    push_commit_message: str | None = None
    plan: PlanSettings = PlanSettings()
    interjections: InterjectionSettings = InterjectionSettings()
    vqa: VqaSettings = VqaSettings()
    vlm: VlmSettings = VlmSettings()
    executor: ExecutorSettings = ExecutorSettings()
    job: JobSettings = JobSettings()
