"""Where the dataset lies: a local folder, or a hub dataset downloaded into a work folder, never into the hub cache."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

from tasks.dataset.files import write_atomic
from tasks.dataset.hub_api import hub_errors, hub_reason
from tasks.errors import DatasetError, SettingsError
from tasks.settings import AnnotateSettings

log = logging.getLogger(__name__)

HOME_ENV = "CUEBOOK_HOME"
HOME_DEFAULT = "~/.cache/cuebook"
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def resolve_root(settings: AnnotateSettings) -> Path:
    """The dataset folder: settings.root if given, else a download of settings.repo_id; SettingsError without either."""
    if settings.root is not None:
        root = settings.root.expanduser().absolute()
        if not root.is_dir():
            raise DatasetError("want an existing dataset folder as root", str(root), "check the path, or give repo_id")
        return root
    if settings.repo_id is None:
        raise SettingsError("want root or repo_id", "neither", "say --root=FOLDER, or --repo_id=USER/NAME to download")
    return download(settings.repo_id, settings.revision)


def work_folder(repo_id: str, revision: str | None) -> Path:
    """Where a hub dataset is kept; other revisions lie beside it."""
    if not REPO_ID.fullmatch(repo_id) or ".." in repo_id:
        raise SettingsError("want a hub dataset USER/NAME as repo_id", repr(repo_id), "check the name")
    home = Path(os.environ.get(HOME_ENV) or HOME_DEFAULT).expanduser().absolute()
    suffix = "" if revision is None else "@" + re.sub(r"[^\w.-]", "_", revision)
    return home / "datasets" / (repo_id + suffix)


def download(repo_id: str, revision: str | None) -> Path:
    """Download a dataset once. A finished download is used as it is: fetching again would undo its annotations."""
    folder = work_folder(repo_id, revision)
    if in_hub_cache(folder):
        want = f"want a work folder outside the hub cache ({HOME_ENV})"
        raise SettingsError(want, str(folder), f"set {HOME_ENV} to another folder")
    done = folder.with_name(folder.name + ".download.json")  # beside the folder: the dataset itself stays as published
    if done.is_file() and folder.is_dir():
        log.info("using %s, downloaded before; delete it to download again", folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _snapshot(repo_id, revision, folder)
    write_atomic(done, json.dumps({"repo_id": repo_id, "revision": revision}).encode())
    return folder


def _snapshot(repo_id: str, revision: str | None, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    where = f"{repo_id}{'' if revision is None else f' at {revision}'}"
    try:
        snapshot_download(repo_id=repo_id, repo_type="dataset", revision=revision, local_dir=folder)
    except hub_errors() as err:
        remedy = "check the name and the network, log in when it is private, or download it yourself and give root"
        raise DatasetError(f"want to download the hub dataset {where}", hub_reason(err), remedy) from err


def in_hub_cache(path: Path) -> bool:
    """Whether a folder lies in a hub cache, where files are links to blobs that other snapshots share."""
    from huggingface_hub.constants import HF_HUB_CACHE

    path = Path(path).expanduser().absolute()
    places = {path, path.resolve()}
    cache = Path(HF_HUB_CACHE).expanduser()
    if any(place.is_relative_to(c) for place in places for c in (cache.absolute(), cache.resolve())):
        return True
    if any(_is_snapshot(folder) for place in places for folder in (place, *place.parents)):
        return True
    info = path / "meta" / "info.json"
    return info.is_symlink() and "blobs" in info.resolve().parts


def _is_snapshot(folder: Path) -> bool:
    """`<repository>/snapshots/<commit>` with `blobs` beside `snapshots`."""
    return folder.parent.name == "snapshots" and (folder.parent.parent / "blobs").is_dir()
