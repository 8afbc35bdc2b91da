"""What all tests share: where real recordings lie, and a generated dataset made once per session."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells start background jobs so; tests interrupt their children
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).resolve().parents[1]
REAL_DATA = REPO.parent / "shared" / "data"


def real_dataset(name: str) -> Path:
    """A real recording, or skip the test where there is none."""
    path = REAL_DATA / name
    if not path.is_dir():
        pytest.skip(f"no real recording {name} beside the repository")
    return path


@pytest.fixture(scope="session")
def generated_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of 4 s at 10 fps, two cameras, H.264. Shared by all tests: copy it before changing it."""
    from tasks.dataset.generate import generate

    return generate(tmp_path_factory.mktemp("generated") / "tabletop", episodes=3, seconds=4.0, fps=10, size=(160, 120))


@pytest.fixture
def dataset_copy(generated_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the generated dataset (and of its truth) that a test may change."""
    truth = generated_dataset.with_name(f"{generated_dataset.name}.truth.json")
    shutil.copy2(truth, tmp_path / truth.name)
    return Path(shutil.copytree(generated_dataset, tmp_path / generated_dataset.name))


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random-weight vision-language model, or skip where the libraries to build it are missing."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.tiny_vlm import build

    return build(tmp_path_factory.mktemp("models") / "tiny-vlm")
