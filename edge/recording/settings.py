"""Where and how a run is recorded: the `--dataset.…` flags."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configuration.refusal import refusal

NAME_PREFIX = "rollout_"  # recordings of a policy are told apart from demonstrations by their name
REPO_ID = re.compile(r"([\w.-]+/)?[\w.-]+", re.ASCII)
LEROBOT_HOME_ENV = "HF_LEROBOT_HOME"


class DatasetSettings(BaseModel):
    """A LeRobot v3 dataset that a run writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path | None = Field(None, description="folder to record into; default: where LeRobot keeps repo_id")
    repo_id: str | None = Field(None, description=f"USER/{NAME_PREFIX}NAME on the hub; needed to push")
    single_task: str = Field("", description="task of frames that were driven without one")
    resume: bool = Field(False, description="append to a recording that is there already")
    writer: Literal["auto", "lerobot", "own"] = Field(
        "auto", description="who lays out the files: lerobot where it is installed, else own; nothing is lost by either"
    )
    video: bool = Field(True, description="cameras as video; false: one PNG per frame inside the data files")
    codec: Literal["h264", "hevc", "av1", "mpeg4"] = Field("h264", description="of the videos")
    gop: int = Field(2, ge=1, le=600, description="frames from keyframe to keyframe; 2 is best for training")
    queue_mib: int = Field(256, ge=16, le=65_536, description="pictures that may wait for the encoder, MiB")
    video_files_size_in_mb: float = Field(200, gt=0, le=100_000, description="files are closed when about this large")
    sync_s: float = Field(2.0, gt=0, le=3600, description="a power cut costs at most this much")
    disk_reserve_mib: int = Field(256, ge=0, le=1_048_576, description="recording ends before less is free, MiB")
    push_to_hub: bool = Field(False, description="upload it after the run, and where the strategy says so")
    private: bool = Field(False, description="make the hub dataset private")
    tags: list[str] = Field(default_factory=list, description="tags of the hub dataset")

    @model_validator(mode="after")
    def _check(self) -> DatasetSettings:
        if self.root is None and self.repo_id is None:
            raise refusal(
                "root", "want a place to record into", "neither root nor repo_id", "say --dataset.root=FOLDER"
            )
        if self.repo_id is not None:
            self._check_repo_id(self.repo_id)
        if self.push_to_hub and (self.repo_id is None or "/" not in self.repo_id):
            wanted = "want repo_id as USER/NAME to push to"
            raise refusal("repo_id", wanted, repr(self.repo_id), f"say --dataset.repo_id=USER/{NAME_PREFIX}NAME")
        return self

    @staticmethod
    def _check_repo_id(repo_id: str) -> None:
        if not REPO_ID.fullmatch(repo_id) or ".." in repo_id:
            raise refusal("repo_id", "want USER/NAME", repr(repo_id), "use letters, digits, - and _")
        user, _, name = repo_id.rpartition("/")
        if not name.startswith(NAME_PREFIX):
            wanted = f"want a name that starts with {NAME_PREFIX}, so that nobody takes it for demonstrations"
            remedy = f"say --dataset.repo_id={user + '/' if user else ''}{NAME_PREFIX}{name}"
            raise refusal("repo_id", wanted, name, remedy)

    def folder(self) -> Path:
        """The dataset's folder, absolute."""
        if self.root is not None:
            return self.root.expanduser().absolute()
        hub = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
        home = Path(os.environ.get(LEROBOT_HOME_ENV) or hub / "lerobot")
        return home.expanduser().absolute() / str(self.repo_id)
