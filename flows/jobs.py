"""An annotation run on a rented machine: checked here, sent there, followed until it ends."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flows.console import DONE, INTERRUPTED
from flows.job_command import check_replayable, replay, script, take_secrets
from flows.launchers import COMPLETED, LAUNCHERS, UNFINISHED, JobSpec, Launcher, split_target
from tasks.errors import JobError, SettingsError
from tasks.settings import AnnotateSettings

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PROJECT_TAG = "cuebook"
LABEL = re.compile(r"[A-Za-z0-9_-]{1,100}")  # what the hub takes
TIMEOUT = re.compile(r"\d+(\.\d+)?[smhd]?")
LINES_SHOWN = 20  # of the log of a job that failed
LINE_CHARS_MAX = 4000
LEROBOT_HOME_ENV, LEROBOT_HOME = "HF_LEROBOT_HOME", "~/.cache/huggingface/lerobot"
UPLOAD_MESSAGE = "Upload a dataset to annotate"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def submit(settings: AnnotateSettings, arguments: Sequence[str], console: Console) -> int:
    """Run the same command on a rented machine; the exit code. `arguments` are all words after `annotate run`.

    Raises SettingsError before anything is rented, PublishError when the hub refuses, JobError when the job fails.
    """
    name, flavor = split_target(settings.job.target)
    words = replay(arguments, settings.repo_id or "")
    check_replayable(settings)
    labels = to_labels(settings.job.tags)
    if not TIMEOUT.fullmatch(settings.job.timeout):
        raise SettingsError("want --job.timeout like 90m or 2h", repr(settings.job.timeout))
    assert settings.repo_id is not None

    from tasks.publish.target import log_in

    api, me = log_in("to rent a machine")
    secrets, flags = take_secrets(settings, str(api.token))
    command = script([*words[:-1], *flags, words[-1]], settings.job.ref, settings.vlm.backend)
    _check_target(settings, console)
    _check_dataset(api, settings, console)
    launcher = LAUNCHERS[name](api, me["name"])
    job = JobSpec(settings.job.image, flavor, settings.job.timeout, command, secrets, labels)
    job_id = launcher.submit(job)
    _say(console, f"job {job_id} runs on {flavor}, for {settings.job.timeout} at most")
    _say(console, launcher.advice(job_id))
    return DONE if settings.job.detach else _follow(launcher, job_id, console)


def to_labels(tags: Sequence[str]) -> dict[str, str]:
    """Tags as labels, the project's first, none twice. A tag may be key=value."""
    labels = {PROJECT_TAG: ""}
    for tag in tags:
        key, _, value = tag.partition("=")
        if not LABEL.fullmatch(key) or (value and not LABEL.fullmatch(value)):
            raise SettingsError(
                "want --job.tags of letters, digits, - and _, or key=value", repr(tag), "change the tag"
            )
        labels[key] = value or labels.get(key, "")
    return labels


def _check_target(settings: AnnotateSettings, console: Console) -> None:
    if settings.push_to_hub:
        from flows.publish_cli import check_before_run

        check_before_run(settings)
        return
    _warn(console, "push_to_hub is off: the result is lost when the machine is given back; add --push_to_hub=true")


def _check_dataset(api: HfApi, settings: AnnotateSettings, console: Console) -> None:
    """The dataset must be on the hub; one that only lies here is uploaded first, as private."""
    from tasks.publish.target import check_target, dataset_info

    assert settings.repo_id is not None
    if dataset_info(api, settings.repo_id, settings.revision) is not None:
        if settings.root is not None:
            _warn(console, f"--root is not used: the machine takes {settings.repo_id} as it is on the hub")
        return
    root = next((p for p in _places(settings) if (p / "meta" / "info.json").is_file()), None)
    if root is None:
        raise SettingsError(
            f"want the dataset {settings.repo_id} on the hub",
            "it is not there, and no copy lies on this machine",
            "check the name, or say with --root=FOLDER where it lies: it is uploaded first",
        )
    from tasks.publish import plan_as_it_is, publish

    plan = plan_as_it_is(root, check_target(settings.repo_id, private=True), UPLOAD_MESSAGE)
    _say(console, f"{settings.repo_id} is not on the hub: uploading {root} as a private dataset")
    for warning in publish(plan, lambda line: _say(console, line)).warnings:
        _warn(console, warning)


def _places(settings: AnnotateSettings) -> list[Path]:
    """Where a copy of the dataset may lie."""
    from tasks.dataset.hub import work_folder

    assert settings.repo_id is not None
    home = Path(os.environ.get(LEROBOT_HOME_ENV) or LEROBOT_HOME).expanduser()
    return [*([settings.root] if settings.root else []), work_folder(settings.repo_id, None), home / settings.repo_id]


def _follow(launcher: Launcher, job_id: str, console: Console) -> int:
    last: deque[str] = deque(maxlen=LINES_SHOWN)
    try:
        for line in launcher.follow(job_id):
            last.append(CONTROL.sub("", line)[:LINE_CHARS_MAX])
            console.print(last[-1], markup=False, highlight=False, soft_wrap=True)
        stage = launcher.stage(job_id)
    except KeyboardInterrupt:
        stage = "RUNNING"
    if stage in UNFINISHED:  # some hub libraries end the log at Ctrl-C without a word
        _say(console, f"no longer followed, but job {job_id} goes on and costs money; {launcher.advice(job_id)}")
        return INTERRUPTED
    if stage != COMPLETED:
        raise JobError(
            f"want job {job_id} to complete",
            "\n    ".join([f"{stage}; its last lines:", *last]),
            f"mend the cause and submit again; {launcher.advice(job_id)}",
        )
    _say(console, f"job {job_id} is complete")
    return DONE


def _say(console: Console, line: str) -> None:
    console.print(f"[annotate] {line}", markup=False, highlight=False, soft_wrap=True)


def _warn(console: Console, line: str) -> None:
    console.print("[bold yellow]warning[/]", end=" ")
    console.print(line, markup=False, highlight=False, soft_wrap=True)
