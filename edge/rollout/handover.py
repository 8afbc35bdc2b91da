"""Without a jerk: robot and person, or robot and pose, are brought together before one follows the other."""

from __future__ import annotations

import numpy as np

from edge.rollout.control import Control
from edge.rollout.home import BETWEEN_S, Pose, follow, way

LEADER_S = 2.0  # a leader arm is led as slowly as a hand that holds it can go along


def meet(control: Control) -> None:
    """The leader goes to the robot where it has motors; else the robot goes to the leader. Raises RobotError."""
    if control.teleop.can_follow:
        lead(control)
        return
    wanted = control.teleop.read()
    if wanted is not None:
        move_between(control, Pose(wanted, np.ones(len(wanted), bool)))


def lead(control: Control) -> None:
    """Move the leader to where the robot is. Raises RobotError."""
    here, leader = control.stand(), control.teleop.read()
    if here is None or leader is None or control.settings.dry_run:
        return
    known = Pose(np.asarray(leader, np.float32), here.known)
    commands = way(control.features, known, here, leader, LEADER_S)
    follow(commands, control.teleop.follow, control.stop)


def move_between(control: Control, there: Pose | None) -> str:
    """The robot goes to a pose, where there is one. Says how that ended. Raises RobotError."""
    return "unknown where to" if there is None else control.go(there, BETWEEN_S, control.stop)
