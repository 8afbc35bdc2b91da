"""A robot beside a policy, before anything is dialled."""

from __future__ import annotations

import pytest

from edge.errors import ContractError
from edge.policy_config import PolicyConfig
from edge.preflight import check_fallback, check_limits, compare, config_of, control_fps, refuse, side_by_side
from edge.robots.base import RobotFeatures
from edge.run_settings import load
from serving.wire.messages import Status

NAMES = ("pan.pos", "lift.pos", "grip.pos")
FEATURES = RobotFeatures("arm", NAMES, NAMES, {"front": (480, 640), "wrist": (480, 640)})
POLICY = PolicyConfig(
    "LeRobot checkpoint", "act", {"observation.images.front": (480, 640)}, 3, 3, NAMES, chunk_size=50, fps=30.0
)


def settings(*words):
    return load(["--policy.path=me/towels", "--robot.type=some:robot", *words])


def outcomes(features=FEATURES, policy=POLICY, *words, served=False):
    found = compare(settings(*words), features, policy, served=served)
    return {finding.what.split(" (")[0]: finding.outcome for finding in found}, found


def changed(**fields):
    return PolicyConfig(**{**vars(POLICY), **fields})


def test_what_fits_is_ok():
    seen, found = outcomes()
    assert set(seen.values()) == {"ok"} and "not looked at: observation.images.wrist" in found[0].said
    refuse(found)


@pytest.mark.parametrize(
    ("cameras", "words", "served", "outcome"),
    [
        (["top"], [], False, "error"),  # neither within the other
        (["front", "wrist", "top"], [], False, "warning"),  # the robot's within the policy's: the server decides
        (["front", "wrist", "top"], [], True, "error"),
        ([], [], True, "ok"),
        (["top"], ["--inference.rename_map={front: top}"], True, "ok"),
        (["top"], ["--inference.rename_map={front: observation.images.top}"], True, "ok"),
        (["front"], ["--inference.rename_map={nose: top}"], True, "error"),  # no such camera
    ],
)
def test_cameras_of_one_lie_within_those_of_the_other(cameras, words, served, outcome):
    policy = changed(cameras={f"observation.images.{name}": (480, 640) for name in cameras})
    found = compare(settings(*words), FEATURES, policy, served=served)
    assert found[0].outcome == outcome
    assert outcome == "ok" or found[0].remedy


def test_a_picture_of_another_shape_is_distorted():
    _, found = outcomes(policy=changed(cameras={"observation.images.front": (224, 224)}))
    assert [f.outcome for f in found if f.what.startswith("cameras")] == ["ok", "warning"]
    _, found = outcomes(policy=changed(cameras={"observation.images.front": (240, 320)}))
    assert [f.outcome for f in found if f.what.startswith("cameras")] == ["ok"]


def test_another_order_is_refused_and_shown_side_by_side():
    _, found = outcomes(policy=changed(action_names=(NAMES[1], NAMES[0], NAMES[2])))
    with pytest.raises(ContractError, match="same names in another order") as caught:
        refuse(found)
    lines = str(caught.value).splitlines()
    assert [line.split() for line in lines if line.split()[:1] in (["0"], ["2"])] == [
        ["0", "pan.pos", "lift.pos", "<-", "differs"],
        ["2", "grip.pos", "grip.pos"],
    ]


def test_lists_of_different_length_are_shown_whole():
    shown = side_by_side(NAMES, NAMES[:2])
    assert "other names" in shown and shown.splitlines()[-1].split() == ["2", "grip.pos", "-", "<-", "differs"]


@pytest.mark.parametrize(
    ("changes", "what", "outcome"),
    [
        ({"action_names": (), "action_dim": 3}, "actions", "unchecked"),
        ({"action_names": (), "action_dim": 7}, "actions", "error"),
        ({"state_dim": 7}, "state", "error"),
        ({"state_dim": 0}, "state", "ok"),
        ({"fps": 15.0}, "fps", "warning"),
        ({"fps": 0.0}, "fps", "ok"),
    ],
)
def test_dimensions_and_rate(changes, what, outcome):
    seen, _ = outcomes(FEATURES, changed(**changes), "--fps=30")
    assert seen[what] == outcome


def test_the_rate_is_as_asked_else_the_robots_else_the_policys_else_the_default():
    recorded = RobotFeatures("recorded", NAMES, NAMES, fps=10.0)
    assert control_fps(settings("--fps=20"), recorded, POLICY) == 20.0
    assert control_fps(settings(), recorded, POLICY) == 10.0
    assert control_fps(settings(), FEATURES, changed(fps=15.0)) == 15.0
    assert control_fps(settings(), FEATURES, None) == 30.0
    seen, _ = outcomes(recorded, POLICY, "--fps=20")
    assert seen["fps"] == "error"


def test_a_server_says_the_same_as_a_config():
    status = Status(
        policy_type="act", action_names=list(NAMES), expected_cameras=["observation.images.front"], state_dim=3,
        chunk_size=50, trained_fps=30.0, image_sizes={"observation.images.front": [480, 640]}, server_id="a",
    )  # fmt: skip
    assert vars(config_of(status)) == {**vars(POLICY), "kind": "server a"}


@pytest.mark.parametrize(
    ("names", "fallback", "outcome", "said"),
    [
        (NAMES, "hold", "ok", "nothing is sent"),
        (NAMES, "repeat_last", "ok", "0.5 s, then positions are held"),
        (NAMES, "zero", "error", "pan.pos"),
        (("base.vel",), "zero", "ok", "velocities go to zero"),
        (("base.vel", "lift.pos"), "hold", "ok", "velocities go to zero, positions are sent again"),
        (("base.vel", "lift.pos"), "zero", "error", "lift.pos"),
    ],
)
def test_what_joints_do_without_actions(names, fallback, outcome, said):
    found = check_fallback(settings(f"--inference.fallback={fallback}"), RobotFeatures("r", names, names))
    assert (found.outcome, said in found.said) == (outcome, True), found.said


def test_limits_of_joints_that_the_robot_has_not_are_refused():
    assert check_limits(
        settings("--safety.range={pan: [-1, 1]}", "--safety.step_max={lift.pos: 0.1}"), FEATURES
    ).said == ("limited: range of 1 joints, step of 1 joints")
    found = check_limits(settings("--safety.step_max={pam: 0.1}"), FEATURES)
    assert found.outcome == "error" and "pan" in found.remedy
