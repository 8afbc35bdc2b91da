"""LeRobot checkpoints served by the whole daemon, against lerobot's own inference, in its own environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat.conftest import Script

pytestmark = [pytest.mark.compat, pytest.mark.slow]

GROUPS = {
    "two robots get what lerobot alone would tell each": ("act", "smolvla", "pi0"),
    "policies that look back": ("history", "remembered", "exclusive"),
    "many in one call": ("batches", "sizes", "noise"),
    "how it computes": ("guidance", "precision", "adapters"),
    "what is loaded": ("revisions", "damage", "names"),
    "compiled": ("compiled",),
}


def proved(script: Script, name: str, folder: Path, checks: tuple[str, ...]) -> dict[str, object]:
    """Run checks in one process of the other interpreter; what each of them found."""
    done = script(name, folder, *checks)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # lerobot prints, too
    found = {name: value for line in lines for name, value in line.items()}
    assert set(found) == set(checks), done.stdout
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_served_answers_are_lerobots_own(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "checks").mkdir()
    proved(script, "check_serving_lerobot.py", tmp_path / "checks", GROUPS[group])


def test_chunks_continue_as_lerobots_engine_continues_them(script: Script, tmp_path: Path) -> None:
    checks = ("plain", "relative", "pi0")
    assert proved(script, "check_serving_rtc.py", tmp_path, checks) == {name: {"guided": 5} for name in checks}
