"""Where a dataset is taken from, and that the hub cache is recognised."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError

from tasks.dataset.hub import in_hub_cache, resolve_root
from tasks.errors import DatasetError, SettingsError
from tasks.settings import AnnotateSettings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUEBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path / "home"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A hub that holds one dataset; records how it was asked."""
    calls: list[dict] = []

    def snapshot_download(**asked: object) -> str:
        calls.append(asked)
        folder = Path(str(asked["local_dir"]))
        (folder / "meta").mkdir(parents=True, exist_ok=True)
        (folder / "meta/info.json").write_text("as published")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve_root(AnnotateSettings(root=tmp_path, repo_id="user/name")) == tmp_path


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        resolve_root(AnnotateSettings(root=tmp_path / "nowhere"))


def test_neither_root_nor_repo_id() -> None:
    with pytest.raises(SettingsError, match="want root or repo_id"):
        resolve_root(AnnotateSettings())


def test_a_hub_dataset_is_downloaded_into_the_work_folder(home: Path, downloads: list[dict]) -> None:
    root = resolve_root(AnnotateSettings(repo_id="user/name"))
    assert root == home / "datasets/user/name"
    assert downloads == [{"repo_id": "user/name", "repo_type": "dataset", "revision": None, "local_dir": root}]
    assert not in_hub_cache(root)


def test_a_finished_download_is_not_fetched_again_over_its_annotations(home: Path, downloads: list[dict]) -> None:
    root = resolve_root(AnnotateSettings(repo_id="user/name"))
    (root / "meta/info.json").write_text("annotated")
    assert resolve_root(AnnotateSettings(repo_id="user/name")) == root
    assert (root / "meta/info.json").read_text() == "annotated"
    assert len(downloads) == 1


def test_revisions_lie_beside_each_other(home: Path, downloads: list[dict]) -> None:
    plain = resolve_root(AnnotateSettings(repo_id="user/name"))
    other = resolve_root(AnnotateSettings(repo_id="user/name", revision="refs/pr/3"))
    assert other != plain and other.parent == plain.parent
    assert [c["revision"] for c in downloads] == [None, "refs/pr/3"]


def test_a_broken_download_is_started_again(home: Path, downloads: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        library = sys.modules[type(huggingface_hub.get_session()).__module__.partition(".")[0]]
        raise library.ConnectError("no route to the hub")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(DatasetError, match=r"user/name[\s\S]*no route[\s\S]*network"):
            resolve_root(AnnotateSettings(repo_id="user/name"))
    resolve_root(AnnotateSettings(repo_id="user/name"))
    assert len(downloads) == 1


def test_an_unknown_dataset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        request = httpx.Request("GET", "http://hub.invalid/api/datasets/user/nome")
        raise RepositoryNotFoundError("404 no such dataset", response=httpx.Response(404, request=request))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    with pytest.raises(DatasetError, match="user/nome"):
        resolve_root(AnnotateSettings(repo_id="user/nome"))


@pytest.mark.parametrize("repo_id", ["../../etc", "a/b/c", "", "user name/x"])
def test_names_that_are_no_hub_ids(home: Path, downloads: list[dict], repo_id: str) -> None:
    with pytest.raises(SettingsError):
        resolve_root(AnnotateSettings(repo_id=repo_id))
    assert downloads == []


def test_a_work_folder_inside_the_hub_cache_is_refused(
    tmp_path: Path, home: Path, downloads: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUEBOOK_HOME", str(tmp_path / "hf/hub/cuebook"))
    with pytest.raises(SettingsError, match="outside the hub cache"):
        resolve_root(AnnotateSettings(repo_id="user/name"))
    assert downloads == []


def test_snapshots_are_recognised_wherever_the_cache_lies(tmp_path: Path, home: Path) -> None:
    repo = tmp_path / "elsewhere/datasets--user--name"
    snapshot = repo / "snapshots/abc123"
    (snapshot / "meta").mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs/0f").write_text("{}")
    (snapshot / "meta/info.json").symlink_to("../../../blobs/0f")
    assert in_hub_cache(snapshot)
    link = tmp_path / "link"
    link.symlink_to(snapshot)
    assert in_hub_cache(link)
    assert in_hub_cache(tmp_path / "hf/hub/datasets--a--b/snapshots/1")
    assert not in_hub_cache(tmp_path / "elsewhere")
