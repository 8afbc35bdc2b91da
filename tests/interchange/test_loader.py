"""Exported datasets are read by lerobot's own loader, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tasks.dataset.layout import open_dataset
from tasks.interchange import ExportOptions, export_labels, import_labels
from tests.conftest import REPO
from tests.interchange.forms import DESCRIPTION, add_column, rows, write_texts

PYTHON_ENV = "CUEBOOK_COMPAT_PYTHON"  # a Python 3.12 with tests/compat/requirements.txt
# What a reader of each form sees on a frame: the text, by the tables as lerobot and its SARM model look them up.
LOOK_UP = """
import json, sys
import pandas as pd
from lerobot.datasets.io_utils import load_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.rewards.sarm.sarm_utils import find_stage_and_tau

root, form, column = sys.argv[1:]
dataset = LeRobotDataset("local/check", root=root, video_backend="pyav")
episodes = load_episodes(dataset.root).to_pandas()
table = pd.read_parquet(f"{root}/meta/{'subtasks' if form == 'subtask_index' else 'tasks'}.parquet") if column else None
out = []
for i in range(len(dataset)):
    item = dataset.hf_dataset[i]
    if column:
        out.append(table.iloc[int(item[column])].name)
        continue
    e, frame = int(item["episode_index"]), int(item["frame_index"])
    fields = ("names", "start_frames", "end_frames")
    names, starts, ends = (list(episodes.loc[e, f"sparse_subtask_{k}"]) for k in fields)
    stage, _ = find_stage_and_tau(frame, ends[-1] + 1, names, starts, ends, names, {n: 1 for n in names})
    out.append(names[stage])
print(json.dumps(out))
"""

pytestmark = pytest.mark.compat


@pytest.mark.parametrize(("form", "column"), [("subtask_index", "subtask_index"), ("gr00t", DESCRIPTION), ("sarm", "")])
def test_every_frame_reads_its_subtask(dataset_copy: Path, tmp_path: Path, form: str, column: str) -> None:
    python = os.environ.get(PYTHON_ENV)
    if not python:
        pytest.skip(f"set {PYTHON_ENV} to a Python that has tests/compat/requirements.txt")
    episodes = open_dataset(dataset_copy).episodes()
    add_column(dataset_copy, "subtask_index", [[e.episode_index] * 15 + [3] * (e.frames - 15) for e in episodes])
    write_texts(dataset_copy, "subtask", ["reach", "grasp it", "push", "let go"])
    import_labels(dataset_copy, output=tmp_path / "imported")
    (tmp_path / "imported/meta/subtasks.parquet").unlink()
    out = tmp_path / "out"
    export_labels(tmp_path / "imported", form, out, ExportOptions(replace=True))
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    walk = [python, str(REPO / "tests/compat/check_loader.py"), str(out)]
    for command in (walk, [python, "-c", LOOK_UP, str(out), form, column]):
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
    expected = [
        next(text for start, text in reversed(spans) if start <= frame)
        for e, spans in zip(episodes, rows(out), strict=True)
        for frame in range(e.frames)
    ]
    assert json.loads(done.stdout.splitlines()[-1]) == expected
