"""LeRobot's robots and teleoperators behind this project's protocol, in LeRobot's own environment."""

from __future__ import annotations

import json

import pytest

from tests.compat.conftest import Script

pytestmark = [pytest.mark.compat, pytest.mark.slow]

CHECKS = ("driven", "unmoved", "unplugged", "absent", "wrong", "teleoperated")


@pytest.fixture(scope="module")
def found(script: Script, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What all checks found, in one process: importing lerobot takes longer than they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        done = script("check_robots_lerobot.py", *CHECKS)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {name: value for line in lines for name, value in line.items()}


def test_a_robot_is_driven_by_vectors_and_nobody_is_prompted(found: dict[str, dict]) -> None:
    assert found["driven"] == {"prompted": 0}


def test_a_stop_before_anything_was_sent_holds_joints_where_they_are(found: dict[str, dict]) -> None:
    assert found["unmoved"]["sent"] == {"grip.pos": 2.0, "lift.pos": 1.0, "x.vel": 0.0, "turn.vel": 0.0}


def test_an_unplugged_camera_is_named_the_base_stops_and_motors_are_let_go(found: dict[str, dict]) -> None:
    seen = found["unplugged"]
    assert "camera b" in seen["frozen"] and "too old" in seen["frozen"]
    assert "camera b" in seen["gone"]
    assert seen["base_stopped"] == 1
    assert (seen["bus"], seen["other"]) == (False, False)


def test_what_is_not_there_or_not_calibrated_is_told_and_nothing_stays_energised(found: dict[str, dict]) -> None:
    seen = found["absent"]
    assert "camera b of base_with_arm" in seen["camera"]
    assert "camera" not in seen["bus"] and "no such device" in seen["bus"]
    assert "lerobot-calibrate --robot.type=base_with_arm --robot.id=blue" in seen["calibration"]
    assert seen["prompted"] == 0


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("ours", "did you mean dataset"),
        ("theirs", "did you mean so101_follower"),
        ("prefixed", "did you mean koch_follower"),
        ("option", "did you mean --robot.port"),
        ("missing", "give --robot.port"),
        ("value", "perhaps"),
        ("camera", "none_at_al"),
        ("unsized", "width"),
        ("driver", "install the drivers"),
        ("teleop", "did you mean so101_leader"),
    ],
)
def test_mistakes_are_named_with_the_nearest(found: dict[str, dict], mistake: str, said: str) -> None:
    assert said in found["wrong"][mistake]


def test_a_leader_is_read_led_and_let_go(found: dict[str, dict]) -> None:
    assert found["teleoperated"]["led"] == {"lift.pos": 10.0, "grip.pos": 20.0, "x.vel": 0.0, "turn.vel": 0.0}
    assert found["teleoperated"]["events"] == [True, True, False]
