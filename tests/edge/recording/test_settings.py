"""What `--dataset.…` takes, and how it refuses the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge.recording.settings import DatasetSettings


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "neither root nor repo_id"),
        ({"repo_id": "ann/pick"}, "--dataset.repo_id=ann/rollout_pick"),
        ({"repo_id": "pick"}, "--dataset.repo_id=rollout_pick"),
        ({"repo_id": "ann/rollout_a/b"}, "USER/NAME"),
        ({"repo_id": "../rollout_a"}, "USER/NAME"),
        ({"root": "d", "push_to_hub": True}, "USER/NAME to push to"),
        ({"root": "d", "repo_id": "rollout_a", "push_to_hub": True}, "USER/NAME to push to"),
        ({"root": "d", "codec": "vp9"}, "h264"),
        ({"root": "d", "queue_mib": 1}, "16"),
        ({"root": "d", "vcodec": "h264"}, "vcodec"),
    ],
)
def test_refused(given: dict[str, object], match: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DatasetSettings(**given)
    assert match in str(caught.value)


def test_without_a_root_it_lies_where_lerobot_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = DatasetSettings(repo_id="ann/rollout_pick")
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    assert settings.folder() == tmp_path / "ann/rollout_pick"
    monkeypatch.delenv("HF_LEROBOT_HOME")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert settings.folder() == tmp_path / "hf/lerobot/ann/rollout_pick"
    assert DatasetSettings(root=Path("~/x"), repo_id="ann/rollout_pick").folder() == Path.home() / "x"


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, edge.recording; print([m for m in ('av', 'pyarrow', 'PIL', 'zenoh', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
