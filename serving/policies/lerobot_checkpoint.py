"""A checkpoint's files: found, held to one commit, and hashed, before any of it is loaded.

A branch may move between two downloads, and a folder may be written to: what is served is what one commit or one
content hash names, and that is what robots are told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import PolicyError
from serving.policies.program import file_hash

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # what a checkpoint may consist of
COMMIT_DIGITS = 40  # of a revision, as a git commit has them
INSTALL = "pip install 'cuebook[serving,lerobot]' with Python 3.12 or newer"


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a checkpoint, all of one revision."""

    folder: Path
    revision: str  # the commit, or the first digits of the content's hash
    weights_hash: str  # SHA-256 of the weight file, as sha256sum and the hub have it

    def config(self) -> dict[str, Any]:
        """Its config.json. Raises PolicyError."""
        return read_json(self.folder / CONFIG)


def find(repo_or_path: str, revision: str) -> Checkpoint:
    """A folder as it is, or a hub repository at one commit. Raises PolicyError when it cannot be had."""
    place = Path(repo_or_path).expanduser()
    folder = place.absolute() if place.is_dir() else _download(repo_or_path, revision)
    hashes = {name: file_hash([folder / name]) for name in (WEIGHTS, ADAPTER_WEIGHTS) if (folder / name).is_file()}
    if not hashes:
        got = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder"
        raise PolicyError(f"want {WEIGHTS} in {folder}", got, "give a checkpoint's own folder (pretrained_model)")
    return Checkpoint(folder, _content(folder, hashes) if place.is_dir() else folder.name, joined(hashes.values()))


def joined(hashes: Iterable[str]) -> str:
    """One hash for several; the hash itself of one alone."""
    known = list(hashes)
    return known[0] if len(known) == 1 else hashlib.sha256("\0".join(known).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises PolicyError."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as err:
        raise PolicyError(f"want {path.name} in {path.parent}", err.strerror or "none", "check the checkpoint") from err
    except ValueError as err:
        raise PolicyError(f"want JSON in {path}", str(err), "save the checkpoint again") from err
    if not isinstance(values, dict):
        raise PolicyError(f"want an object in {path}", type(values).__name__, "save the checkpoint again")
    return values


def step_names(folder: Path, name: str) -> list[str]:
    """Names of the steps of a saved processor, in order. Raises PolicyError where there is none."""
    path = folder / name
    if not path.is_file():
        remedy = "migrate it with lerobot's processor/migrate_policy_normalization.py"
        raise PolicyError(f"want {name} in {folder}", "a checkpoint from before lerobot had processors", remedy)
    steps = read_json(path).get("steps") or []
    return [str(s.get("registry_name") or s.get("class")) for s in steps if isinstance(s, Mapping)]


def _content(folder: Path, weights: Mapping[str, str]) -> str:
    """A hash over every file's name and content: another one as soon as anything is changed."""
    content = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors") and p.is_file()):
        content.update(f"{path.name}\0{weights.get(path.name) or file_hash([path])}\0".encode())
    return content.hexdigest()[:COMMIT_DIGITS]


def _download(repo: str, revision: str) -> Path:
    """The snapshot folder of one commit, from the cache where the hub cannot be reached."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as err:
        raise PolicyError(f"want huggingface_hub to load {repo}", "it is not installed", INSTALL) from err
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(WANTED)))
    except LocalEntryNotFoundError as err:
        remedy = "download it while online, or give a local folder"
        raise PolicyError(
            f"want {repo} at {revision}", "the hub cannot be reached, and the cache lacks it", remedy
        ) from err
    except (HfHubHTTPError, HFValidationError, OSError) as err:
        got = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise PolicyError(
            f"want {repo} at {revision} from the hub", got, "check the name, the revision, and access"
        ) from err
