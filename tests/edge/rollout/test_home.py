"""Where the robot stood at the start, and the way back to it."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edge.robots.base import Reading, RobotFeatures
from edge.rollout.home import HOME_S, RATE_HZ, follow, pose_of, way
from tests.edge.fakes import features


def reading(*state: float) -> Reading:
    return Reading(np.array(state, np.float32), {}, 0.0)


MIXED = features(actions=("a.pos", "wheel.vel", "gripper", "b.pos"), states=("b.pos", "a.pos", "wheel.vel"))


def test_only_positions_that_are_measured_and_moved_are_known():
    pose = pose_of(MIXED, reading(7.0, 3.0, 1.0))
    assert pose.known.tolist() == [True, False, False, True]
    assert pose.action.tolist() == [3.0, 0.0, 0.0, 7.0]


@pytest.mark.parametrize("names", [("wheel.vel",), ("q0", "q1"), ()])
def test_a_robot_without_positions_has_no_home(names):
    assert pose_of(RobotFeatures("r", names, names), reading(*[0.0] * len(names))) is None


def test_a_joint_that_tells_nonsense_is_no_home():
    assert pose_of(features(), reading(1.0, float("nan"))) is None


def test_the_way_is_smooth_and_ends_there():
    there, here = pose_of(features(), reading(0.0, 0.0)), pose_of(features(), reading(10.0, -4.0))
    commands = way(features(), here, there, None)
    assert len(commands) == HOME_S * RATE_HZ and commands.dtype == np.float32
    assert np.allclose(commands[-1], 0, atol=1e-6)
    path = np.vstack([here.action, commands])
    speed = np.abs(np.diff(path, axis=0)[:, 0])
    assert speed[0] < 0.01 * speed.max() and speed[-1] < 0.01 * speed.max()
    assert (np.diff(path[:, 0]) <= 1e-6).all()  # never back and forth


def test_velocities_are_zero_and_other_joints_keep_what_they_were_sent():
    there, here = pose_of(MIXED, reading(0, 0, 0)), pose_of(MIXED, reading(1, 1, 5))
    commands = way(MIXED, here, there, np.array([9, 9, 0.7, 9], np.float32))
    assert (commands[:, 1] == 0).all() and np.allclose(commands[:, 2], 0.7)


def test_without_a_safe_value_for_every_joint_there_is_no_way():
    there, here = pose_of(MIXED, reading(0, 0, 0)), pose_of(MIXED, reading(1, 1, 5))
    assert way(MIXED, here, there, None) is None


def test_it_is_told_to_stop_on_the_way():
    stop, sent = threading.Event(), []

    def send(command: np.ndarray) -> None:
        sent.append(command)
        if len(sent) == 3:
            stop.set()

    assert not follow(np.zeros((100, 2), np.float32), send, stop)
    assert len(sent) == 3


def test_it_takes_its_time():
    began_s = time.monotonic()
    assert follow(np.zeros((11, 2), np.float32), lambda command: None, threading.Event())
    assert time.monotonic() - began_s >= 10 / RATE_HZ
