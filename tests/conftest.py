"""What all tests share: where real recordings lie, and a generated dataset made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
REAL_DATA = REPO.parent / "shared" / "data"


def real_dataset(name: str) -> Path:
    """A real recording, or skip the test where there is none."""
    path = REAL_DATA / name
    if not path.is_dir():
        pytest.skip(f"no real recording {name} beside the repository")
    return path
