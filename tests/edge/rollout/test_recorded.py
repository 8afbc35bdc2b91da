"""Runs with a real recording for a robot and with the real recorder: what was driven is on disk, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from edge.recording import DatasetSettings, open_recorder
from edge.robots.registry import make_robot
from edge.rollout.control import Ending
from edge.rollout.loop import Rollout
from edge.rollout.settings import RolloutSettings
from edge.rollout.strategies import make_strategy
from tests.conftest import real_dataset
from tests.edge.fakes import FakeEngine, FakeKeys, FakeRobot, FakeTeleop, Log, features
from tests.edge.recording.drives import episodes_of, rows_of

CAMERA = {"front": (32, 48)}


def recorder(root: Path, of: Any, fps: float = 30.0):
    return open_recorder(DatasetSettings(root=root, writer="own", disk_reserve_mib=0), of, fps)


def recorded(root: Path, episode: int, column: str) -> np.ndarray:
    """A column of one episode of any dataset."""
    tables = [pq.read_table(path, columns=[column, "episode_index"]) for path in sorted((root / "data").rglob("*.pa*"))]
    rows = [r for t in tables for r, e in zip(*(t[c].to_pylist() for c in t.column_names), strict=True) if e == episode]
    return np.array(rows, np.float32)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_a_real_recording_driven_by_its_own_actions_is_recorded_again(tmp_path, multiplier):
    source = real_dataset("g1-bottle-v3")
    robot = make_robot("dataset", {"root": source, "cameras": "none"})
    actions, states = (recorded(source, 0, column) for column in ("action", "observation.state"))
    log, root = Log(), tmp_path / "rollout_again"
    summary = Rollout(
        robot, FakeEngine(log, actions), recorder(root, robot.features),
        RolloutSettings(fps=400, interpolation_multiplier=multiplier), strategy=make_strategy("sentry", {}),
    ).run()  # fmt: skip
    assert not summary.failed and summary.ending is Ending.ROBOT_DONE and summary.dataset == root
    rows = rows_of(root)
    assert np.array_equal(np.array(rows["action"], np.float32), actions)  # the policy's own, not those in between
    assert np.array_equal(np.array(rows["observation.state"], np.float32), states)
    assert summary.counts.sent == (len(actions) - 1) * multiplier + 1
    assert robot.comparison().as_dict()["steps"] == len(actions)
    assert set(rows["provenance.source"]) == {"policy"}


def test_a_highlight_reaches_the_disk_frame_by_frame(tmp_path):
    log, root = Log(), tmp_path / "rollout_highlight"
    robot = FakeRobot(log, features(cameras=CAMERA))
    strategy = make_strategy("highlight", {"ring_buffer_seconds": 0.5})
    summary = Rollout(
        robot, FakeEngine(log, [(i, 0) for i in range(1000)]), recorder(root, robot.features, 60.0),
        RolloutSettings(fps=60), strategy=strategy, keys=FakeKeys({40: "s", 60: "s", 70: "s", 75: "esc"}),
    ).run()  # fmt: skip
    assert not summary.failed and summary.counts.frames == 30 + 20 + 15 and summary.counts.episodes == 2
    driven = [int(action[0]) for action in rows_of(root)["action"]]
    assert driven == [*range(11, 61), *range(61, 76)]
    assert [row["length"] for row in episodes_of(root)] == [50, 15]


def test_corrections_are_told_apart_in_the_dataset(tmp_path):
    log, root = Log(), tmp_path / "rollout_dagger"
    robot = FakeRobot(log, features(cameras=CAMERA))
    keys = FakeKeys({9: "space", 11: "tab", 21: "tab", 23: "space", 33: "esc"})
    summary = Rollout(
        robot, FakeEngine(log), recorder(root, robot.features, 100.0), RolloutSettings(fps=100),
        strategy=make_strategy("dagger", {"record_autonomous": True, "smooth_handover": False}), keys=keys,
        teleop=FakeTeleop(log),
    ).run()  # fmt: skip
    assert not summary.failed
    rows = rows_of(root)
    assert rows["intervention"] == [False] * 10 + [True] * 10 + [False] * 10
    assert rows["provenance.source"] == ["policy"] * 10 + ["teleop"] * 10 + ["policy"] * 10


@pytest.mark.parametrize("call", ["read", "send"])
def test_a_robot_that_breaks_loses_nothing_that_was_driven(tmp_path, call):
    log, root = Log(), tmp_path / "rollout_broken"
    robot = FakeRobot(log, features(cameras=CAMERA), faults={call: dict.fromkeys(range(20, 9999), OSError("bus"))})
    summary = Rollout(
        robot, FakeEngine(log, [(i, 0) for i in range(1000)]), recorder(root, robot.features, 100.0),
        RolloutSettings(fps=100), strategy=make_strategy("sentry", {}),
    ).run()  # fmt: skip
    assert summary.failed and robot.safe
    driven = [int(action[0]) for action in rows_of(root)["action"]]
    assert driven == list(range(20 if call == "send" else 19))  # one reading was of where it stood
