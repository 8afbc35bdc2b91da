"""A hub of our own for every test, a logged-in user, and an annotated dataset."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_double import TOKEN, HubDouble, running_hub


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a rented machine would get this package; nothing is installed from there."""
    monkeypatch.setenv("CUEBOOK_JOB_PACKAGE", "cuebook[annotate]")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The server; this process is logged in there and nowhere else."""
    from huggingface_hub import constants

    for name in ("HF_HUB_CACHE", "HF_XET_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the double stores by the plain LFS protocol
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("CUEBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "lerobot"))
    with running_hub() as double:
        monkeypatch.setenv("HF_ENDPOINT", double.url)
        yield double


@pytest.fixture(scope="session")
def annotated_once(generated_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated dataset, annotated without a model; its staging folder still inside. Copy it before changing it."""
    from flows.inline import annotate_inline
    from tasks.settings import AnnotateSettings

    root = tmp_path_factory.mktemp("annotated") / "tabletop"
    shutil.copytree(generated_dataset, root)
    assert annotate_inline(AnnotateSettings(root=root)).complete
    return root


@pytest.fixture
def annotated(annotated_once: Path, tmp_path: Path) -> Path:
    """An annotated dataset that a test may change."""
    return Path(shutil.copytree(annotated_once, tmp_path / "tabletop"))
