"""Which family a policy is of, from what lies at its place; then that family's loader."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serving.errors import PolicyError
from serving.manifest import ModelSettings, RtcSettings, is_factory
from serving.policies.base import Policy
from serving.policies.policy_yaml import FILE_NAME

DATASET_FILE = "meta/info.json"
CHECKPOINT_FILE = "config.json"
CHECKPOINT_FOLDER = "pretrained_model"  # where training leaves a checkpoint inside each step's folder
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def load_policy(model: ModelSettings, rtc: RtcSettings | None = None) -> Policy:
    """The policy that the settings name, on its device, not yet warm. Raises PolicyError."""
    family = family_of(model)
    if family == "replay":
        from serving.policies import replay

        return replay.load(model)
    if family == "exported":
        from serving.policies import exported

        return exported.load(model)
    if family == "factory":
        from serving.policies import factory

        return factory.load(model, rtc)
    from serving.policies import lerobot

    return lerobot.load(model, rtc or RtcSettings())


def family_of(model: ModelSettings) -> str:
    """replay, exported, factory or lerobot; nothing but file names is looked at. Raises PolicyError."""
    if is_factory(model.family):
        return "factory"
    if model.family != "auto":
        return _checked(model.family, model)
    place = Path(model.repo_or_path).expanduser()
    if not place.exists() and is_factory(model.repo_or_path):
        return "factory"
    if place.is_dir():
        return _family_of_folder(place)
    if place.exists():
        remedy = f"give the folder {place.parent}"
        raise PolicyError(
            "want a folder, a hub id or module:function in model.repo_or_path", f"a file: {place}", remedy
        )
    return _family_of_hub_id(model.repo_or_path)


def _family_of_folder(folder: Path) -> str:
    if (folder / FILE_NAME).is_file():
        return "exported"
    if _is_dataset(folder / DATASET_FILE):
        return "replay"
    if (folder / CHECKPOINT_FILE).is_file():
        return "lerobot"
    inner = next((p.parent for p in sorted(folder.glob(f"**/{CHECKPOINT_FOLDER}/{CHECKPOINT_FILE}"))[-1:]), None)
    remedy = f"did you mean {inner}?" if inner else "check the path, or set model.family to see what is missing"
    wanted = f"want {FILE_NAME} (exported), {DATASET_FILE} (replay) or {CHECKPOINT_FILE} (lerobot) in {folder}"
    raise PolicyError(wanted, ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder", remedy)


def _is_dataset(info: Path) -> bool:
    """Whether a folder is a LeRobot dataset, of any version: its reader says what to do with old ones."""
    try:
        return info.is_file() and "codebase_version" in json.loads(info.read_bytes())
    except (OSError, ValueError):
        return False


def _family_of_hub_id(name: str) -> str:
    if name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        raise PolicyError(f"want a folder {name}", "no such folder", "check model.repo_or_path")
    return "lerobot"


def _checked(family: str, model: ModelSettings) -> str:
    """A family that was asked for by name, once what it needs is there."""
    folder = Path(model.repo_or_path).expanduser()
    needs = {"exported": FILE_NAME, "replay": DATASET_FILE}.get(family)
    if needs and not (folder / needs).is_file():
        got = "no such folder" if not folder.is_dir() else f"no {needs} in it"
        raise PolicyError(f"want a folder with {needs} for model.family {family}", f"{folder}: {got}", "check the path")
    return family
