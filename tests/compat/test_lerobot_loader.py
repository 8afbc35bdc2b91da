"""What the generator records and the annotator writes is read back by lerobot's own loader, in its own environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dataset.generate import generate
from tests.conftest import REPO, real_dataset

EPISODES = "meta/episodes/chunk-000/file-000.parquet"

pytestmark = pytest.mark.compat


def load(python: str, dataset: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Walk a dataset with lerobot's loader, without network or accelerator."""
    script = Path(__file__).with_name("check_loader.py")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, str(script), str(dataset), *flags]
    return subprocess.run(
        command, env=env, cwd=dataset.parent, capture_output=True, text=True, check=False, timeout=240
    )


def annotate(dataset: Path) -> None:
    """Annotate in place with the embedded default, by the real command."""
    command = [sys.executable, "-m", "flows.cli", "run", f"--root={dataset}", "--engine=inline"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_recorded_dataset_loads(lerobot_python: str, tmp_path: Path, codec: str) -> None:
    limits = {"video_files_size_in_mb": 0.1, "data_files_size_in_mb": 0.005}  # several files of each kind
    dataset = generate(tmp_path / "d", episodes=4, seconds=3.0, size=(160, 120), codec=codec, **limits)
    assert len(list(dataset.rglob("*.mp4"))) > 2 and len(list((dataset / "data").rglob("*.parquet"))) > 1
    done = load(lerobot_python, dataset)
    assert done.returncode == 0, done.stderr


def test_image_stored_cameras_load(lerobot_python: str, tmp_path: Path) -> None:
    dataset = generate(tmp_path / "d", episodes=2, seconds=1.0, size=(64, 48), stored="image")
    done = load(lerobot_python, dataset)
    assert done.returncode == 0, done.stderr


def test_the_annotated_generated_dataset_loads(lerobot_python: str, dataset_copy: Path) -> None:
    annotate(dataset_copy)
    done = load(lerobot_python, dataset_copy, "--language")
    assert done.returncode == 0, done.stderr


def test_the_annotated_real_dataset_loads(lerobot_python: str, tmp_path: Path) -> None:
    dataset = tmp_path / "g1"
    shutil.copytree(real_dataset("g1-bottle-v3"), dataset, copy_function=shutil.copyfile)
    for path in (dataset, *dataset.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the original is read-only
    annotate(dataset)
    done = load(lerobot_python, dataset, "--language")
    assert done.returncode == 0, done.stderr


def test_the_walk_notices_pictures_of_another_time(lerobot_python: str, dataset_copy: Path) -> None:
    table = pq.read_table(dataset_copy / EPISODES)
    column = "videos/observation.images.front/from_timestamp"
    late = pa.array([t + 0.04 for t in table[column].to_pylist()])  # less than a frame: no length changes
    pq.write_table(table.set_column(table.column_names.index(column), column, late), dataset_copy / EPISODES)
    done = load(lerobot_python, dataset_copy)
    assert done.returncode != 0 and "tolerance" in done.stderr


def test_the_walk_notices_missing_language(lerobot_python: str, generated_dataset: Path) -> None:
    done = load(lerobot_python, generated_dataset, "--language")
    assert done.returncode == 1 and "language" in done.stderr
