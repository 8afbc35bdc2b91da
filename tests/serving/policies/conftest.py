"""Tiny exported policies, traced once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

CAMERAS = {"observation.images.front": (48, 64), "observation.images.wrist": (32, 32)}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One camera, any batch up to 8, no prefix. Read only."""
    pytest.importorskip("torch")
    from serving.policies.tiny import make_tiny

    cameras = {"observation.images.front": (48, 64)}
    return make_tiny(
        tmp_path_factory.mktemp("tiny") / "plain",
        cameras=cameras,
        state_dim=5,
        action_dim=4,
        chunk_size=12,
        batch_max=8,
    )


@pytest.fixture(scope="session")
def tiny_rtc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras, two moments of history, a prefix of four rows in robot units. Read only."""
    pytest.importorskip("torch")
    from serving.policies.tiny import make_tiny

    return make_tiny(
        tmp_path_factory.mktemp("tiny") / "rtc", cameras=CAMERAS, state_dim=5, action_dim=4, chunk_size=12,
        batch_max=4, prefix_rows=4, prefix_form="robot", history_frames=2, history_step=3, seed=1,
    )  # fmt: skip
