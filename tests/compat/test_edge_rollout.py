"""LeRobot's rollout strategies on a daemon of ours, over real Zenoh, with a robot of LeRobot's kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat.conftest import Script
from tests.edge.nodes import ServerProcess

pytestmark = [pytest.mark.compat, pytest.mark.slow]

GROUPS = {
    "commands": ("base",),
    "the command itself, with a plugin": ("plugin",),
    "strategies that record": ("episodic", "dagger", "highlight"),
    "parts and refusals": ("refused", "parts", "interpolated"),
    "the end of a server": ("dead",),
}
FINDINGS = {
    "base": {"rows": True},
    "plugin": {"frames": True},
    "episodic": {"episodes": 2},
    "dagger": {"corrections": True},
    "highlight": {"saved": True},
    "refused": {"refusals": True},
    "parts": {"parts": True},
    "interpolated": {"doubled": True},
    "dead": {"ended": True},
}


@pytest.mark.parametrize("group", GROUPS)
def test_lerobots_strategies_run_on_a_remote_policy(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "checks").mkdir()
    options = {"wait_ms": 60, "continues": True, "cameras": 1}
    with ServerProcess(tmp_path, options=options) as server:
        assert server.process is not None
        pid = str(server.process.pid)
        done = script("check_edge_rollout.py", tmp_path / "checks", server.endpoint, pid, *GROUPS[group])
    assert done.returncode == 0, done.stderr[-8000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # lerobot prints, too
    found = {name: value for line in lines for name, value in line.items()}
    assert found == {name: FINDINGS[name] for name in GROUPS[group]}, done.stdout
