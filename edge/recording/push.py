"""A finished recording to the hub, as LeRobot's loader looks for it there: a dataset repository, tagged v3.0."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from pathlib import Path

from edge.errors import RecordingError
from edge.recording.settings import DatasetSettings
from tasks.dataset.info import INFO_PATH

PACKAGE = "huggingface_hub"
CARD_NAME = "README.md"


def check_push(settings: DatasetSettings) -> None:
    """Raise RecordingError before the robot moves when pushing could not work at the end."""
    if settings.push_to_hub and importlib.util.find_spec(PACKAGE) is None:
        wanted = f"want {PACKAGE} for --dataset.push_to_hub"
        raise RecordingError(wanted, "not installed", f"pip install {PACKAGE}, or push the folder later")


def push(settings: DatasetSettings, root: Path) -> str:
    """Upload the dataset; returns its address. RecordingError: it is on disk as it was, and may be pushed again."""
    from huggingface_hub.errors import RevisionNotFoundError

    from tasks.dataset.hub_api import hub_api, hub_errors, hub_problem
    from tasks.dataset.record import CODEBASE_VERSION

    repo_id = str(settings.repo_id)
    if not (root / INFO_PATH).is_file():
        raise RecordingError(f"want a dataset at {root} to push", "no saved episode", "save one first")
    api = hub_api()
    try:
        api.create_repo(repo_id, repo_type="dataset", private=settings.private or None, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo_id, repo_type="dataset", folder_path=root, ignore_patterns=[".*"],
            commit_message="Add what was driven",
        )  # fmt: skip
        if not (root / CARD_NAME).exists():
            done = api.upload_file(
                path_or_fileobj=_card(settings), path_in_repo=CARD_NAME, repo_id=repo_id, repo_type="dataset"
            )
        with suppress(RevisionNotFoundError):  # the tag of an earlier push: it must not stay where it is
            api.delete_tag(repo_id, tag=CODEBASE_VERSION, repo_type="dataset")
        api.create_tag(repo_id, tag=CODEBASE_VERSION, revision=done.oid, repo_type="dataset")
    except (*hub_errors(), RuntimeError) as err:
        problem = hub_problem(f"want to push {root} to {repo_id}", err)
        raise RecordingError(problem.wanted, problem.got, problem.remedy) from err
    return f"{api.endpoint}/datasets/{repo_id}"


def _card(settings: DatasetSettings) -> bytes:
    """A card that the hub files under LeRobot and that its viewer reads the data files by."""
    tags = "".join(f"- {tag}\n" for tag in dict.fromkeys(["LeRobot", *settings.tags]))
    files = "configs:\n- config_name: default\n  data_files: data/*/*.parquet\n"
    return f"---\ntask_categories:\n- robotics\ntags:\n{tags}{files}---\n".encode()
