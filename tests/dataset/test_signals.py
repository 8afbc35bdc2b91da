"""Gripper and motion events: right on clean signals, quiet on noise, honest where nothing is known."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dataset.joints import find_grippers
from tasks.dataset.layout import open_dataset
from tasks.dataset.signals import read_signals
from tests.conftest import real_dataset
from tests.dataset.arms import ArrayDataset, an_episode, arm, steps, strokes

INSPIRE = ["Pinky", "Ring", "Middle", "Index", "ThumbBend", "ThumbRotation"]


def gripper_events(signals):
    return [(e.kind, round(e.time_s, 2), e.side) for e in signals.gripper_events()]


def test_a_grasp_is_a_close_and_an_open_at_frame_times(tmp_path):
    episode = an_episode(100)
    signals = read_signals(arm(tmp_path, steps(100, (30, 0.0), (70, 1.0), start=1.0)), episode)
    (close, opened) = signals.gripper_events()
    assert (close.kind, opened.kind) == ("close", "open")
    assert abs(close.time_s - 3.0) <= 0.2 and abs(opened.time_s - 7.0) <= 0.2
    assert {close.time_s, opened.time_s} <= set(episode.times)
    (gripper,) = signals.grippers
    assert (gripper.name, gripper.side) == ("gripper", "")
    assert gripper.closed_at(0.0) == 0.0 and gripper.closed_at(5.0) == 1.0 and gripper.closed_at(9.9) == 0.0


@pytest.mark.parametrize("opens, shuts", [(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (100.0, 3.0), (0.04, 0.0), (0.0, 800.0)])
def test_direction_and_units_do_not_matter(tmp_path, opens, shuts):
    signals = read_signals(arm(tmp_path, steps(100, (30, shuts), (70, opens), start=opens)), an_episode(100))
    assert [e.kind for e in signals.gripper_events()] == ["close", "open"]
    assert signals.grippers[0].closed_at(5.0) == 1.0


def test_a_known_name_tells_the_direction_where_the_start_would_mislead(tmp_path):
    """A LeRobot arm rests with its gripper shut: it opens to reach, closes on the object, opens, and shuts to rest."""
    wave = steps(140, (20, 60.0), (50, 4.0), (90, 60.0), (120, 2.0), start=2.0)
    signals = read_signals(arm(tmp_path, {"gripper.pos": wave}), an_episode(140))
    assert [e.kind for e in signals.gripper_events()] == ["open", "close", "open", "close"]
    assert signals.grippers[0].closed_at(0.0) == 1.0 and signals.grippers[0].closed_at(3.5) == 0.0


def test_words_in_the_name_tell_the_direction():
    assert find_grippers(["gripper_width"])[0].opens_upward is True
    assert find_grippers(["gripper_closed"])[0].opens_upward is False
    assert find_grippers(["gripper"])[0].opens_upward is None


def test_noise_makes_no_events(tmp_path):
    rng = np.random.default_rng(0)
    wave = steps(300, (90, 0.0), (210, 1.0), start=1.0, ramp=12) + rng.normal(0, 0.06, 300)
    wave[[40, 150, 250]] = [0.0, 1.0, 0.0]  # single wrong samples
    joint = strokes(300, (20, 80), (100, 200)) + rng.normal(0, 0.002, 300)
    signals = read_signals(arm(tmp_path, wave, joint), an_episode(300, fps=30))
    assert [e.kind for e in signals.gripper_events()] == ["close", "open"]
    assert [e.kind for e in signals.events if e.kind in ("move", "rest")] == ["move", "rest", "move", "rest"]


def test_a_gripper_that_hardly_moves_is_unknown(tmp_path):
    rng = np.random.default_rng(1)
    for wave in (np.full(60, 0.3), 0.5 + rng.normal(0, 0.01, 60), 0.5 + 0.02 * np.sin(np.arange(60) / 9)):
        signals = read_signals(arm(tmp_path, wave), an_episode(60))
        assert signals.gripper_events() == []
        assert np.isnan(signals.grippers[0].closed).all() and np.isnan(signals.grippers[0].closed_at(1.0))


def test_the_range_of_the_dataset_tells_a_twitch_from_a_grasp(tmp_path):
    dataset = arm(tmp_path, {"gripper.pos": steps(60, (20, 1.5), (40, 2.0), start=2.0)})
    assert read_signals(dataset, an_episode(60)).gripper_events()  # alone, 0.5 could be a whole stroke
    (tmp_path / "meta").mkdir()
    stats = {"observation.state": {"min": [0.0, 0.0], "max": [1.0, 95.0]}}
    (tmp_path / "meta" / "stats.json").write_text(json.dumps(stats))
    assert read_signals(dataset, an_episode(60)).gripper_events() == []


def test_gaps_are_bridged_and_dead_columns_ignored(tmp_path):
    wave = steps(100, (30, 0.0), (70, 1.0), start=1.0)
    wave[[5, 6, 50, 99]] = [np.nan, np.inf, np.nan, np.nan]
    signals = read_signals(arm(tmp_path, wave, np.full(100, np.nan)), an_episode(100))
    assert [e.kind for e in signals.gripper_events()] == ["close", "open"]
    assert not signals.moving.any()
    assert np.isnan(read_signals(arm(tmp_path, np.full(50, np.nan)), an_episode(50)).grippers[0].closed).all()


def test_action_stands_in_for_a_missing_or_mute_state(tmp_path):
    wave = steps(100, (30, 0.0), (70, 1.0), start=1.0)[:, None]
    only_action = ArrayDataset(tmp_path, {"action": ["gripper"]}, {"action": wave})
    assert len(read_signals(only_action, an_episode(100)).gripper_events()) == 2
    mute = np.zeros_like(wave)
    both = ArrayDataset(
        tmp_path, {"action": ["gripper"], "observation.state": ["gripper"]}, {"observation.state": mute, "action": wave}
    )
    signals = read_signals(both, an_episode(100))
    assert len(signals.gripper_events()) == 2 and len(signals.grippers) == 1


def test_without_names_or_joints_only_what_is_known(tmp_path):
    unnamed = ArrayDataset(tmp_path, {}, {"observation.state": np.stack([strokes(80, (20, 60))] * 3, axis=1)})
    signals = read_signals(unnamed, an_episode(80))
    assert signals.grippers == () and [e.kind for e in signals.events] == ["move", "rest"]
    nothing = read_signals(ArrayDataset(tmp_path, {}, {}), an_episode(80))
    assert nothing.grippers == () and nothing.events == () and nothing.speed is None and len(nothing.moving) == 80


def test_an_arm_that_never_rests_has_no_events(tmp_path):
    signals = read_signals(arm(tmp_path, np.ones(60), np.linspace(0, 3, 60)), an_episode(60))
    assert signals.moving.all() and signals.events == ()


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_tiny_episodes(tmp_path, frames):
    signals = read_signals(arm(tmp_path, np.linspace(0, 1, frames)), an_episode(frames))
    assert len(signals.moving) == frames and signals.gripper_events() == []


VALUES = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e30]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=60))
def test_any_recording_is_read(rows):
    joint, gripper = np.array(rows).T
    signals = read_signals(arm(Path("."), gripper, joint), an_episode(len(rows)))
    assert len(signals.moving) == len(rows)
    times = [e.time_s for e in signals.events]
    assert times == sorted(times)
    kinds = [e.kind for e in signals.gripper_events()]
    assert all(a != b for a, b in pairwise(kinds))
    closed = signals.grippers[0].closed
    assert np.isnan(closed).all() or (closed.min() >= 0 and closed.max() <= 1)


def test_two_hands_have_sides(tmp_path):
    hands = {
        "left_gripper": steps(100, (20, 0.0), (60, 1.0), start=1.0),
        "right_gripper": steps(100, (40, 0.0), (80, 1.0), start=1.0),
    }
    signals = read_signals(arm(tmp_path, hands), an_episode(100))
    assert [(k, s) for k, _, s in gripper_events(signals)] == [
        ("close", "left"),
        ("close", "right"),
        ("open", "left"),
        ("open", "right"),
    ]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["shoulder_pan.pos", "gripper.pos"], {"": (1,)}),
        (["l_claw", "r_claw", "waist"], {"left": (0,), "right": (1,)}),
        (["left_arm_0", "leftGripper", "rightGripper"], {"left": (1,), "right": (2,)}),
        (["panda_joint1", "panda_finger_joint1", "panda_finger_joint2"], {"": (1, 2)}),
        (["LH_thumb", "LH_index", "L_elbow"], {"left": (0, 1)}),
        ([f"kRightHand{f}" for f in INSPIRE], {"right": (0, 1, 2, 3, 4, 5)}),
        (["hand_x", "hand_y", "right_hand_wrist_pitch", "gripper_x", "gripper_velocity", "handle_angle"], {}),
        (["x", "y", "z", "roll", "pitch", "yaw", "gripper"], {"": (6,)}),
        (["motor_0", "index_0", "ring_light"], {}),
        ([], {}),
    ],
)
def test_grippers_are_found_by_name(names, found):
    assert {g.side: g.columns for g in find_grippers(names)} == found


def test_mirrored_fingers_add_up(tmp_path):
    wave = steps(100, (30, 0.0), (70, 0.04), start=0.04)
    fingers = {"finger_joint1": wave, "finger_joint2": -wave}
    signals = read_signals(arm(tmp_path, fingers), an_episode(100))
    assert [e.kind for e in signals.gripper_events()] == ["close", "open"]


def test_a_slow_hand_lets_go_when_it_begins_to_open(tmp_path):
    wave = np.interp(np.arange(200), [0, 40, 50, 100, 180, 199], [1, 1, 0, 0, 1, 1])
    close, opened = read_signals(arm(tmp_path, wave), an_episode(200)).gripper_events()
    assert 4.0 <= close.time_s <= 5.0
    assert 10.0 < opened.time_s < 14.0  # it is wide open only at 18 s


def test_generated_events_are_true(generated_dataset):
    dataset = open_dataset(generated_dataset)
    truth = json.loads(generated_dataset.with_name(f"{generated_dataset.name}.truth.json").read_text())["episodes"]
    for episode, true in zip(dataset.episodes(), truth, strict=True):
        found = read_signals(dataset, episode).gripper_events()
        assert [e.kind for e in found] == [e["kind"] for e in true["events"]]
        assert max(abs(a.time_s - b["time_s"]) for a, b in zip(found, true["events"], strict=True)) <= 0.2


def test_real_hands_grasp_and_let_go():
    """Five recordings of a humanoid: the right hand takes a bottle and puts it down, the left one never acts."""
    dataset = open_dataset(real_dataset("g1-bottle-v3"))
    for episode in dataset.episodes():
        signals = read_signals(dataset, episode)
        left, right = signals.grippers
        assert (left.name, right.name) == ("left hand", "right hand")
        assert np.isnan(left.closed).all()
        kinds = [e.kind for e in signals.gripper_events() if e.side == "right"]
        assert kinds[-2:] == ["close", "open"] and kinds.count("close") == 1
        close, opened = signals.gripper_events()[-2:]
        assert 2.5 < close.time_s < 6.5 and 6.5 < opened.time_s < 11.0  # as seen in the pictures
