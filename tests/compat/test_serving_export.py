"""A LeRobot checkpoint exported to a program answers like lerobot itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.conftest import Script

pytestmark = [pytest.mark.compat, pytest.mark.slow]


def test_an_exported_act_answers_like_lerobot(script: Script, tmp_path: Path) -> None:
    done = script("check_export_act.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
