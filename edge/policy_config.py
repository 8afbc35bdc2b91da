"""What a policy wants and gives, read from its config alone: no weights, no code of its own.

Four places are understood: a LeRobot checkpoint, an exported policy, a recorded dataset that is replayed, and a hub id,
of which one small file is fetched. What cannot be had here is asked of the server, which knows it anyway.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configuration.yaml_source import read_yaml
from edge.errors import SettingsError

log = logging.getLogger(__name__)

CHECKPOINT, EXPORTED, DATASET = "config.json", "policy.yaml", "meta/info.json"
CHECKPOINT_FOLDER = "pretrained_model"  # where training leaves a checkpoint inside each step's folder
STATE, ACTION = "observation.state", "action"
EMPTY_CAMERA = "observation.images.empty_camera_"  # that a checkpoint only fills up with
ROWS = ("chunk_size", "n_action_steps", "action_chunk_size", "horizon")  # fields that may say the rows of a chunk
CHANNELS = 3
CONFIG_BYTES_MAX = 16 << 20
HUB_S = 3.0  # to find out whether a config changed; a robot does not wait longer for a hub
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class PolicyConfig:
    """What is known of a policy before any server was asked. Zeros and () where its config does not say."""

    kind: str  # in words
    policy_type: str = ""
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # canonical key -> (height, width)
    state_dim: int = 0
    action_dim: int = 0
    action_names: tuple[str, ...] = ()  # in the order of a chunk's columns
    chunk_size: int = 0
    fps: float = 0.0


def read_policy_config(path: str, revision: str = "main") -> PolicyConfig | None:
    """The config of a policy; None where it lies only with the server. Raises SettingsError for one that is broken."""
    place = Path(path).expanduser()
    if place.is_file():
        raise SettingsError("want a folder or a hub id in policy.path", f"a file: {path}", f"give {place.parent}")
    if place.is_dir():
        return _of_folder(place)
    if _HUB_ID.fullmatch(path):
        file = _from_hub(path, revision)
        return None if file is None else _of_checkpoint(_json(file))
    if path:
        log.info("no folder %s here: what the policy wants is asked of the server", path)
    return None


def _of_folder(folder: Path) -> PolicyConfig:
    if (folder / EXPORTED).is_file():
        return _of_exported(folder / EXPORTED)
    if (folder / DATASET).is_file() and "codebase_version" in (info := _json(folder / DATASET)):
        return _of_dataset(info)
    if (folder / CHECKPOINT).is_file():
        return _of_checkpoint(_json(folder / CHECKPOINT))
    inner = next((p.parent for p in sorted(folder.glob(f"**/{CHECKPOINT_FOLDER}/{CHECKPOINT}"))[-1:]), None)
    wanted = f"want {CHECKPOINT} (LeRobot), {EXPORTED} (exported) or {DATASET} (a dataset) in {folder}"
    got = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder"
    raise SettingsError(wanted, got, f"did you mean {inner}?" if inner else "check policy.path")


# --- each kind's own form ------------------------------------------------------------------------------------------


def _of_checkpoint(config: Mapping[str, Any]) -> PolicyConfig:
    kind = config.get("type")
    if not isinstance(kind, str) or not kind:
        raise SettingsError(f"want a LeRobot checkpoint with its type in {CHECKPOINT}", f"type {kind!r}", "check it")
    inputs, outputs = _features(config, "input_features"), _features(config, "output_features")
    empty = {f"{EMPTY_CAMERA}{i}" for i in range(int(config.get("empty_cameras") or 0))}
    cameras = {
        name: (shape[1], shape[2]) for name, (what, shape) in inputs.items()
        if what == "VISUAL" and len(shape) == CHANNELS and name not in empty
    }  # fmt: skip
    action = outputs.get(ACTION, ("", []))[1]
    names = config.get("action_feature_names")
    return PolicyConfig(
        "LeRobot checkpoint",
        kind,
        cameras,
        state_dim=_first(inputs.get(STATE, ("", []))[1]),
        action_dim=_first(action),
        action_names=tuple(map(str, names)) if isinstance(names, list) else (),
        chunk_size=next((int(config[name]) for name in ROWS if isinstance(config.get(name), int)), 0),
    )


def _features(config: Mapping[str, Any], which: str) -> dict[str, tuple[str, list[int]]]:
    """Name to (type, shape). Raises SettingsError."""
    found = config.get(which) or {}
    try:
        return {name: (str(f["type"]), [int(n) for n in f["shape"]]) for name, f in found.items()}
    except (TypeError, KeyError, ValueError, AttributeError) as err:
        raise SettingsError(
            f"want name: {{type, shape}} in {which} of {CHECKPOINT}", repr(err), "save it again"
        ) from err


def _first(shape: list[int]) -> int:
    return shape[0] if shape else 0


def _of_exported(file: Path) -> PolicyConfig:
    policy = read_yaml(file, SettingsError, EXPORTED, "export the policy again").data
    try:
        action, state = policy["action"], policy.get("state") or {}
        return PolicyConfig(
            "exported policy",
            str(policy.get("policy_type", "exported")),
            {c["name"]: (int(c["height"]), int(c["width"])) for c in policy.get("cameras") or ()},
            state_dim=int(state.get("dim", 0)),
            action_dim=int(action["dim"]),
            action_names=tuple(map(str, action.get("names") or ())),
            chunk_size=int(policy["chunk_size"]),
            fps=float(policy["fps"]),
        )
    except (TypeError, KeyError, ValueError, AttributeError) as err:
        got = f"{type(err).__name__}: {err}"
        raise SettingsError(f"want action, chunk_size and fps in {file}", got, "export the policy again") from err


def _of_dataset(info: Mapping[str, Any]) -> PolicyConfig:
    """A dataset that a server replays: its columns stand for the policy's."""
    features = info.get("features") or {}
    action, state = features.get(ACTION) or {}, features.get(STATE) or {}
    cameras = {n: tuple(f["shape"][:2]) for n, f in features.items() if f.get("dtype") in ("video", "image")}
    dims = [_first(list(f.get("shape") or ())) for f in (state, action)]
    names = _flat(action.get("names"))
    return PolicyConfig(
        "recorded dataset", "replay", cameras, *dims, names if len(names) == dims[1] else (),
        fps=float(info.get("fps") or 0),
    )  # fmt: skip


def _flat(names: Any) -> tuple[str, ...]:
    """A dataset has its action names as a list, as a list of lists, or as lists by group."""
    if isinstance(names, Mapping):
        return tuple(name for group in names.values() for name in _flat(group))
    if isinstance(names, list | tuple):
        return tuple(
            inner for name in names for inner in (_flat(name) if isinstance(name, list | Mapping) else (name,))
        )
    return ()


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > CONFIG_BYTES_MAX:
            raise SettingsError(f"want {file} of at most {CONFIG_BYTES_MAX >> 20} MiB", "more", "check policy.path")
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as err:
        raise SettingsError(f"want JSON in {file}", str(err), "save the policy again") from err
    if not isinstance(values, dict):
        raise SettingsError(f"want an object in {file}", type(values).__name__, "save the policy again")
    return values


# --- hub -----------------------------------------------------------------------------------------------------------


def _from_hub(repo: str, revision: str) -> Path | None:
    """config.json of a hub repository: from the hub, else from its cache, else None and a line in the log."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        log.info("huggingface_hub is not installed: %s is asked of the server", repo)
        return None
    try:
        # one try: the library's own download asks six times, and a robot waits
        get_hf_file_metadata(hf_hub_url(repo, CHECKPOINT, revision=revision), timeout=HUB_S)
        return Path(hf_hub_download(repo, CHECKPOINT, revision=revision))
    except HFValidationError:
        return None
    except Exception as err:  # noqa: BLE001  # the network's errors are of any kind, by release of the library
        why = (str(err).strip().splitlines() or [type(err).__name__])[0]
    try:
        return Path(hf_hub_download(repo, CHECKPOINT, revision=revision, local_files_only=True))
    except OSError:
        log.info("no config of %s at %s (%s): what it wants is asked of the server", repo, revision, why)
    return None
