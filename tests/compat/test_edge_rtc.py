"""The engine held against lerobot's own RTC engine, and both queues against each other, in lerobot's environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.conftest import Script
from tests.compat.test_serving_lerobot import proved

pytestmark = [pytest.mark.compat, pytest.mark.slow]


def test_a_remote_policy_drives_as_lerobots_own_engine_does(script: Script, tmp_path: Path) -> None:
    checks = ("plain", "relative")
    assert proved(script, "check_edge_rtc.py", tmp_path, checks) == {name: {"equal": 32} for name in checks}


def test_differences_from_lerobots_queue_are_the_intended_ones(script: Script) -> None:
    done = script("edge_differences.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" | ") >= 20, done.stdout
