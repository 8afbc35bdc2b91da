"""A recording goes to the hub in the form that LeRobot's loader looks for, and nothing is lost when it cannot."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import RecordingError
from edge.recording import Recorder
from edge.recording.push import check_push
from edge.recording.settings import DatasetSettings
from tests.edge.recording.drives import begin, check_whole, drive
from tests.hub_double import TOKEN, HubDouble, running_hub

NAME = "ann/rollout_pick"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The server; this process is logged in there and nowhere else."""
    from huggingface_hub import constants

    for name in ("HF_HUB_CACHE", "HF_XET_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the double stores by the plain LFS protocol
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub() as double:
        monkeypatch.setenv("HF_ENDPOINT", double.url)
        yield double


def recorder_at(root: Path) -> Recorder:
    return begin(root, repo_id=NAME, push_to_hub=True, private=True, tags=["arm"])


def test_pushed_while_it_grows_and_at_the_end(tmp_path: Path, hub: HubDouble) -> None:
    root = tmp_path / "data/d"
    recorder = recorder_at(root)
    with pytest.raises(RecordingError, match="no saved episode"):
        recorder.push()
    drive(recorder, 0, 4)
    recorder.save_episode("pick")
    assert recorder.push() == f"{hub.url}/datasets/{NAME}"
    repo = hub.repos[NAME]
    assert repo.private and repo.tags["v3.0"] == repo.head, "LeRobot's loader asks for this tag"
    assert json.loads(repo.files["meta/info.json"])["total_episodes"] == 1
    drive(recorder, 4, 4)
    recorder.save_episode("pick")
    recorder.finalize()
    recorder.push()
    assert repo.tags["v3.0"] == repo.head and json.loads(repo.files["meta/info.json"])["total_episodes"] == 2
    local = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert {name: data for name, data in repo.files.items() if name in local} == local
    card = repo.files["README.md"].decode()
    assert "- LeRobot\n- arm\n" in card and "data/*/*.parquet" in card
    assert check_whole(root) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_hub_that_refuses_changes_nothing_here(tmp_path: Path, hub: HubDouble) -> None:
    hub.refuse = lambda call: (403, "no write access") if call.writes else None
    root = tmp_path / "data/d"
    with recorder_at(root) as recorder:
        drive(recorder, 0, 4)
        recorder.save_episode("pick")
        with pytest.raises(RecordingError, match=r"no write access[\s\S]*write access"):
            recorder.push()
        drive(recorder, 4, 1)
    assert check_whole(root) == [[0, 1, 2, 3], [4]]


def test_a_missing_package_is_found_out_before_the_robot_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DatasetSettings(repo_id=NAME, push_to_hub=True)
    check_push(settings)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecordingError, match="pip install huggingface_hub"):
        check_push(settings)
    check_push(DatasetSettings(repo_id=NAME))
