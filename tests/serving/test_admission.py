"""Every check of an open, in its order, with its code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.admission import Rules, Verdict, judge
from serving.policies.base import Camera
from serving.wire import features
from serving.wire.errors import RETRYABLE_REJECTS, RejectCode
from serving.wire.messages import BOTH, LABEL_MAX, ROBOT, TEXT_MAX, SessionAck, SessionOpen, decode, encode
from tests.serving.mock_policy import CAMERA, SPEC

NAMES = list(SPEC.action_names)
RULES = Rules(SPEC, trained_fps=30.0, pinned_task="stack", sessions_max=5)
WRIST = "observation.images.wrist"


def ask(**changes: Any) -> SessionOpen:
    fits = dict(
        client_uuid="ann", action_names=NAMES, camera_names=[CAMERA], state_dim=3, fps=30.0, policy_type="mock",
        features=list(features.ALL),
    )  # fmt: skip
    return SessionOpen(**{**fits, **changes})  # type: ignore[arg-type]


def verdict(rules: Rules = RULES, room: bool = True, **changes: Any) -> Verdict:
    return judge(ask(**changes), rules, active=5, room=room)


# what is wrong, in the order of the checks; the whole list is wrong from some row on to the end
ROWS: list[tuple[RejectCode, dict[str, Any]]] = [
    (RejectCode.SCHEMA, {"schema_version": 2}),
    (RejectCode.FULL, {"room": False}),
    (RejectCode.ACTION_NAMES, {"action_names": ["x", "z", "y"]}),
    (RejectCode.STATE_DIM, {"state_dim": 4}),
    (RejectCode.CAMERAS, {"camera_names": [WRIST]}),
    (RejectCode.TASK, {"task": "fold"}),
    (RejectCode.FEATURES, {"features": []}),
    (RejectCode.FPS, {"fps": 15.0}),
]
STRICT = replace(RULES, strict_fps=True, spec=replace(SPEC, history_frames=2))


@pytest.mark.parametrize("row", range(len(ROWS)), ids=[code.name for code, _ in ROWS])
def test_the_first_wrong_row_refuses_and_those_behind_it_do_not_matter(row: int):
    code, _ = ROWS[row]
    wrong = {name: value for _, changes in ROWS[row:] for name, value in changes.items()}
    found = verdict(STRICT, **wrong)
    assert (found.agreement, found.code) == (None, code) and found.error
    assert found.retryable == (code in RETRYABLE_REJECTS)
    alone = verdict(STRICT, **ROWS[row][1])
    assert alone.code == code


def test_what_fits_is_accepted_without_a_warning():
    found = verdict(STRICT)
    assert found.agreement is not None and found.code == RejectCode.NONE and not found.error and not found.warnings
    assert found.agreement.features == frozenset(features.ALL)
    assert found.agreement.action_names == SPEC.action_names and found.agreement.fps == 30.0


@pytest.mark.parametrize("version", [0, 2, -1, 2**40])
def test_versions_outside_the_range_are_told_the_range(version: int):
    assert "1 to 1" in verdict(schema_version=version).error


def test_a_full_server_says_how_full_it_is():
    found = verdict(room=False)
    assert found.error == "server full: 5/5 sessions active" and found.retryable


@pytest.mark.parametrize("names", [[], ["x", "y"], ["x", "y", "z", "w"], ["X", "y", "z"]])
def test_action_names_must_be_the_same_in_the_same_order(names: list[str]):
    assert verdict(action_names=names).code == RejectCode.ACTION_NAMES


def test_the_column_where_the_order_parts_is_named():
    assert "they part at column 1" in verdict(action_names=["x", "z", "y"]).error


def test_a_policy_without_action_names_takes_any():
    assert verdict(replace(RULES, spec=replace(SPEC, action_names=())), action_names=["a"]).agreement is not None


@pytest.mark.parametrize(("ours", "theirs"), [(0, 7), (3, 0), (0, 0)])
def test_state_dimensions_are_compared_where_both_are_known(ours: int, theirs: int):
    assert verdict(replace(RULES, spec=replace(SPEC, state_dim=ours)), state_dim=theirs).agreement is not None


def test_more_cameras_than_needed_are_fine_and_missing_ones_are_named():
    rules = replace(RULES, spec=replace(SPEC, cameras=(Camera(CAMERA), Camera(WRIST))))
    assert verdict(rules, camera_names=[WRIST, "extra", CAMERA]).agreement is not None
    assert WRIST in verdict(rules, camera_names=[CAMERA]).error


@pytest.mark.parametrize("task", ["", "stack"])
def test_a_pinned_task_may_be_left_out(task: str):
    assert verdict(task=task).agreement is not None


def test_a_task_that_is_not_pinned_is_free():
    found = verdict(replace(RULES, pinned_task=None), task="fold")
    assert found.agreement is not None and found.agreement.task == "fold"


def test_another_rate_is_a_warning_unless_strict():
    found = verdict(fps=15.0)
    assert found.agreement is not None and "30 Hz" in found.warnings[0] and "15 Hz" in found.warnings[0]
    assert not verdict(fps=30.0 + 5e-7).warnings
    for fps, trained in ((0.0, 30.0), (15.0, 0.0)):
        known = replace(RULES, strict_fps=True, trained_fps=trained)
        assert verdict(known, fps=fps).agreement is not None


@pytest.mark.parametrize("fps", [float("nan"), float("inf"), -30.0])
def test_a_rate_that_is_no_rate_differs_too(fps: float):
    assert verdict(replace(RULES, strict_fps=True), fps=fps).code == RejectCode.FPS


def test_another_policy_type_is_a_warning():
    assert "act" in verdict(policy_type="act").warnings[0]
    assert not verdict(policy_type="").warnings


def test_rtc_where_there_is_none_is_a_downgrade_with_a_warning():
    found = verdict(rtc_enabled=True)
    assert found.agreement is not None and not found.agreement.rtc and "RTC" in found.warnings[0]
    found = verdict(replace(RULES, rtc=True), rtc_enabled=True)
    assert found.agreement is not None and found.agreement.rtc and not found.warnings
    assert not verdict(replace(RULES, rtc=True)).agreement.rtc  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "rtc_form", "form", "f16"),
    [
        ({}, "", BOTH, False),
        ({"chunk_form": ROBOT}, "", ROBOT, False),
        ({"chunk_form": ROBOT, "features": []}, "", BOTH, False),  # not agreed on
        ({"chunk_form": "weird"}, "", BOTH, False),
        ({"accept_f16": True}, "", BOTH, True),
        ({"accept_f16": True, "features": []}, "", BOTH, False),
        ({"chunk_form": ROBOT, "rtc_enabled": True}, "model", BOTH, False),  # its next prefix is in model space
        ({"chunk_form": ROBOT, "rtc_enabled": True}, "robot", ROBOT, False),
    ],
)
def test_the_form_of_chunks_is_agreed(changes: dict[str, Any], rtc_form: str, form: str, f16: bool):
    rules = replace(RULES, rtc=bool(rtc_form), spec=replace(SPEC, prefix_form=rtc_form))  # type: ignore[arg-type]
    agreed = verdict(rules, **changes).agreement
    assert agreed is not None and (agreed.chunk_form, agreed.f16) == (form, f16)


def test_features_that_only_one_side_knows_are_not_agreed_on():
    agreed = verdict(features=[features.TAG, "teleport"]).agreement
    assert agreed is not None and agreed.features == {features.TAG}
    old = verdict(features=[]).agreement
    assert old is not None and not old.features


def test_a_policy_that_looks_back_needs_a_client_that_sends_what_was():
    rules = replace(RULES, spec=replace(SPEC, history_frames=3))
    assert "3 moments" in verdict(rules, features=[features.TAG]).error
    assert verdict(rules).agreement is not None


LONG = "n" * LABEL_MAX


@pytest.mark.parametrize(
    "changes",
    [
        {"action_names": [LONG] * 40},
        {"camera_names": [LONG] * 40},
        {"task": "t" * TEXT_MAX},
        {"task": "\n" * TEXT_MAX},
        {"policy_type": "p" * TEXT_MAX},
    ],
)
def test_whatever_a_client_says_it_can_read_the_answer(changes: dict[str, Any]):
    rules = replace(RULES, spec=replace(SPEC, action_names=tuple([LONG] * 39 + ["z"])))
    if "action_names" not in changes:
        changes = {**changes, "action_names": list(rules.spec.action_names)}
    found = verdict(rules, **changes)
    ack = SessionAck(error=found.error, warnings=found.warnings)
    assert decode(encode(ack), SessionAck) == ack
