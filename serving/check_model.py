"""What can be said of a policy without loading its weights."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from configuration.findings import Finding
from serving.errors import ServingError
from serving.manifest import Manifest, ModelSettings, is_factory

COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG_BYTES_MAX = 16 << 20
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
AT_START = "only known when it starts"


def check_model(manifest: Manifest) -> Iterator[Finding]:
    """Which kind of policy it is, whether its files are there, and what they say of chunks, cameras and rate."""
    from serving.policies.registry import family_of

    model = manifest.model
    try:
        family = family_of(model)
        yield Finding("model.family", "ok", family)
        if family == "exported":
            yield from _exported(manifest)
        elif family == "replay":
            yield from _recording(model)
        elif family == "factory":
            yield _factory(model)
        else:
            yield from _checkpoint(manifest)
    except ServingError as err:
        yield Finding("model.repo_or_path", "error", f"{err.wanted}: {err.got}" if err.got else err.wanted, err.remedy)
    if model.adapter.repo_or_path:
        yield from _place("model.adapter", model.adapter.repo_or_path, model.adapter.revision, "adapter_config.json")
    yield _device(model)


def _exported(manifest: Manifest) -> Iterator[Finding]:
    from serving.policies.policy_yaml import read_normalisers, read_policy_file

    folder = Path(manifest.model.repo_or_path).expanduser()
    file = read_policy_file(folder)
    read_normalisers(file, folder)
    cameras = ", ".join(camera.name for camera in file.cameras) or "none"
    said = f"{file.policy_type}: chunks of {file.chunk_size}x{file.action.dim}, {file.fps:g} Hz, cameras {cameras}"
    yield Finding("policy.yaml", "ok", said)
    programs = [file.program] if isinstance(file.program, str) else list(file.program.values())
    for program in programs:
        there = (folder / program).is_file()
        yield Finding("program", "ok" if there else "error", f"{program}" if there else f"no {program} in {folder}")
    if file.prefix and manifest.rtc.enabled and manifest.rtc.execution_horizon > file.chunk_size:
        got = f"{manifest.rtc.execution_horizon}, but a chunk has {file.chunk_size} rows"
        yield Finding("rtc.execution_horizon", "error", got, "lower it")


def _recording(model: ModelSettings) -> Iterator[Finding]:
    try:
        from tasks.dataset.layout import open_dataset
        from tasks.errors import AnnotateError
    except ImportError as err:
        yield Finding("model.repo_or_path", "error", f"no module {err.name}", "pip install 'cuebook[replay]'")
        return
    try:
        info = open_dataset(Path(model.repo_or_path).expanduser()).info
    except AnnotateError as err:
        yield Finding("model.repo_or_path", "error", str(err), "name a LeRobot v3 dataset")
        return
    said = f"{info.total_episodes} episodes, {info.total_frames} frames at {info.fps:g} Hz"
    yield Finding("model.repo_or_path", "ok", said)


def _factory(model: ModelSettings) -> Finding:
    """Whether the module is there; it is not run."""
    name = model.family if is_factory(model.family) else model.repo_or_path
    module, _, function = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:  # where the loader looks too
        sys.path.insert(0, folder)
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError) as err:
        return Finding("model.repo_or_path", "error", f"{module} cannot be found: {err}", "install it")
    if found is None:
        return Finding(
            "model.repo_or_path", "error", f"no module {module}", f"start in its folder ({folder}), or install it"
        )
    return Finding("model.repo_or_path", "unchecked", f"{module} is there; what {function} returns is {AT_START}")


# --- LeRobot checkpoints -------------------------------------------------------------------------


def _checkpoint(manifest: Manifest) -> Iterator[Finding]:
    model = manifest.model
    if importlib.util.find_spec("lerobot") is None:
        remedy = "pip install 'cuebook[lerobot]' (Python 3.12)"
        yield Finding("model.family", "error", "lerobot is not installed here", remedy)
    yield from _place("model.repo_or_path", model.repo_or_path, model.revision, "config.json")
    folder = _folder(model.repo_or_path, model.revision)
    if folder is not None and (folder / "config.json").is_file():
        yield _config(folder / "config.json", manifest)


def _place(what: str, name: str, revision: str, wanted: str) -> Iterator[Finding]:
    """A folder with its files, or a revision of the hub that is here already."""
    folder = _folder(name, revision)
    local = Path(name).expanduser().is_dir()
    if folder is None:
        pinned = "a commit" if COMMIT.fullmatch(revision) else f"{revision}, resolved at start"
        yield Finding(what, "unchecked", f"{name} ({pinned}) is not on this machine: downloaded at start")
        return
    missing = [] if (folder / wanted).is_file() else [wanted]
    if not any((folder / weights).is_file() for weights in WEIGHTS):
        missing.append(WEIGHTS[0])
    if missing:
        yield Finding(what, "error", f"no {', '.join(missing)} in {folder}", "name a folder with a whole checkpoint")
    else:
        where = "a folder" if local else f"commit {folder.name[:12]}, on this machine"
        yield Finding(what, "ok", f"{name}: {where}")


def _folder(name: str, revision: str) -> Path | None:
    """Where the files lie: the folder itself, or the snapshot of a hub revision that was downloaded before."""
    place = Path(name).expanduser()
    if place.is_dir():
        return place
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}"
    commit = revision
    try:
        if not COMMIT.fullmatch(revision):
            commit = (cache / "refs" / revision).read_text().strip()
    except OSError:
        return None
    folder = cache / "snapshots" / commit
    return folder if folder.is_dir() else None


def _config(path: Path, manifest: Manifest) -> Finding:
    """What a checkpoint's config.json says of itself."""
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            return Finding("config.json", "error", f"more than {CONFIG_BYTES_MAX >> 20} MiB", "check the checkpoint")
        config = json.loads(path.read_text())
        kind, inputs = config["type"], config.get("input_features") or {}
    except (OSError, ValueError, KeyError, TypeError) as err:
        return Finding("config.json", "error", f"{path}: {type(err).__name__}: {err}", "name a LeRobot checkpoint")
    chunk = next((config[k] for k in ("chunk_size", "n_action_steps", "horizon") if config.get(k)), 0)
    cameras = ", ".join(name for name in inputs if "image" in name) or "none"
    if chunk and manifest.rtc.enabled and config.get("rtc_config") and manifest.rtc.execution_horizon > chunk:
        got = f"{manifest.rtc.execution_horizon}, but a chunk has {chunk} rows"
        return Finding("rtc.execution_horizon", "error", got, "lower it")
    return Finding("config.json", "ok", f"{kind}: chunks of {chunk or '?'}, cameras {cameras}")


def _device(model: ModelSettings) -> Finding:
    if model.device == "cpu":
        return Finding("model.device", "ok", "cpu")
    return Finding("model.device", "unchecked", f"{model.device} is {AT_START}")
