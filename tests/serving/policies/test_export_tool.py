"""The export tool: what `serving export` does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from serving.errors import PolicyError
from serving.manifest import ModelSettings
from serving.policies.export_tool import export
from serving.policies.registry import load_policy

pytest.importorskip("torch")


def test_a_tiny_policy_is_made_and_served(tmp_path: Path) -> None:
    options = {"chunk_size": 6, "cameras": {"eye": [16, 24]}, "state_dim": 3}
    folder = export(None, tmp_path / "a/tiny", tiny=True, fps=12, action_names=["x", "y"], options=options)
    assert sorted(p.name for p in folder.iterdir()) == ["normalisation.safetensors", "policy.pt2", "policy.yaml"]
    spec = load_policy(ModelSettings(repo_or_path=str(folder), device="cpu")).spec
    assert (spec.action_names, spec.fps, spec.chunk_size, spec.state_dim) == (("x", "y"), 12.0, 6, 3)
    assert [(c.name, c.height, c.width) for c in spec.cameras] == [("eye", 16, 24)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"checkpoint": None}, "want a checkpoint"),
        ({"checkpoint": "me/act", "tiny": True}, "random weights"),
        ({"checkpoint": None, "tiny": True, "options": {"chunksize": 3}}, "did you mean chunk_size"),
        ({"checkpoint": None, "tiny": True, "options": {"chunk_size": 0}}, "chunk_size"),
        ({"checkpoint": "/no/such/folder"}, "no such folder"),
    ],
)
def test_what_cannot_be_exported_is_named_and_leaves_nothing(tmp_path: Path, arguments: dict, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        export(output=tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_policy_is_no_checkpoint(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="of family exported"):
        export(str(tiny_folder), tmp_path / "out")


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is not None, reason="lerobot is installed")
def test_without_lerobot_a_checkpoint_cannot_be_exported(tmp_path: Path) -> None:
    (tmp_path / "act").mkdir()
    (tmp_path / "act/config.json").write_text('{"type": "act"}')
    with pytest.raises(PolicyError, match="want lerobot"):
        export(str(tmp_path / "act"), tmp_path / "out")


def test_a_network_that_cannot_be_traced_leaves_no_folder(tmp_path: Path) -> None:
    import torch

    from serving.policies.policy_yaml import PolicyFile, Vector
    from serving.policies.write_exported import write_exported

    class Branching(torch.nn.Module):
        def forward(self, state: torch.Tensor) -> torch.Tensor:
            return state[:, None] if float(state.sum()) > 0 else -state[:, None]

    vector = Vector(dim=2)
    file = PolicyFile(program="policy.pt2", fps=10, chunk_size=1, action=vector, state=vector, batch_max=4)
    with pytest.raises(PolicyError, match="can trace"):
        write_exported(tmp_path / "out", file, Branching(), {})
    assert list(tmp_path.iterdir()) == []
