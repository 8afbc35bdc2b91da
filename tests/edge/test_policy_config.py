"""What a policy wants, from its config alone."""

from __future__ import annotations

import json
import logging

import pytest
import yaml

from edge.errors import SettingsError
from edge.policy_config import read_policy_config

LEROBOT = {
    "type": "act",
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [6]},
        "observation.images.front": {"type": "VISUAL", "shape": [3, 480, 640]},
        "observation.images.empty_camera_0": {"type": "VISUAL", "shape": [3, 480, 640]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [6]}},
    "empty_cameras": 1,
    "chunk_size": 100,
    "n_action_steps": 50,
}
EXPORTED = {
    "format": 1, "policy_type": "tiny", "program": "p.pt2", "fps": 20, "chunk_size": 16,
    "action": {"dim": 2, "names": ["x.vel", "y.vel"]}, "state": {"dim": 3},
    "cameras": [{"name": "observation.images.top", "height": 96, "width": 128}],
}  # fmt: skip


def checkpoint(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LEROBOT, **changes}))
    return str(folder)


def test_a_lerobot_checkpoint(tmp_path):
    config = read_policy_config(checkpoint(tmp_path, action_feature_names=list("abcdef")))
    assert (config.policy_type, config.chunk_size, config.state_dim, config.action_dim) == ("act", 100, 6, 6)
    assert config.cameras == {"observation.images.front": (480, 640)}  # what is only filled up is not wanted
    assert config.action_names == tuple("abcdef")
    assert read_policy_config(checkpoint(tmp_path)).action_names == ()


def test_an_exported_policy(tmp_path):
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(EXPORTED))
    config = read_policy_config(str(tmp_path))
    assert (config.policy_type, config.fps, config.chunk_size) == ("tiny", 20.0, 16)
    assert config.action_names == ("x.vel", "y.vel") and config.state_dim == 3
    assert config.cameras == {"observation.images.top": (96, 128)}


def test_a_dataset_that_is_replayed(generated_dataset):
    from tasks.dataset.layout import open_dataset

    config, dataset = read_policy_config(str(generated_dataset)), open_dataset(generated_dataset)
    assert config.policy_type == "replay" and config.fps == dataset.info.fps
    assert list(config.action_names) == dataset.feature_names("action")
    assert set(config.cameras) == set(dataset.cameras)


def test_names_of_a_real_recording():
    from tests.conftest import real_dataset

    config = read_policy_config(str(real_dataset("g1-bottle-v3")))
    assert config.action_dim == 26 == len(config.action_names) and config.action_names[0] == "kLeftShoulderPitch"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"type": ""}'),
        ("config.json", '{"type": "act", "input_features": {"a": 1}}'),
        ("policy.yaml", "chunk_size: 3"),
        ("policy.yaml", "- 1"),
        ("policy.yaml", "{"),
    ],
)
def test_a_broken_config_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match="want") as caught:
        read_policy_config(str(tmp_path))
    assert caught.value.remedy


def test_a_folder_without_a_policy_says_where_one_is(tmp_path):
    inner = checkpoint(tmp_path / "checkpoints" / "000100" / "pretrained_model")
    with pytest.raises(SettingsError, match="did you mean") as caught:
        read_policy_config(str(tmp_path))
    assert inner in str(caught.value)
    with pytest.raises(SettingsError, match="a file"):
        read_policy_config(f"{inner}/config.json")


def test_what_lies_with_the_server_alone_is_asked_there(caplog):
    with caplog.at_level(logging.INFO, logger="edge"):
        assert read_policy_config("/only/on/the/server") is None
    assert "asked of the server" in caplog.text


def test_a_hub_id_is_read_from_the_cache_when_offline(tmp_path, monkeypatch, caplog):
    constants = pytest.importorskip("huggingface_hub.constants")
    commit, repo = "a" * 40, tmp_path / "models--me--act_towels"
    checkpoint(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = read_policy_config("me/act_towels")
    assert config is not None and config.policy_type == "act"
    with caplog.at_level(logging.INFO, logger="edge"):
        assert read_policy_config("me/another") is None
    assert "no config of me/another" in caplog.text
