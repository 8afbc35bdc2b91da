"""Which recorded columns are grippers, of which side, and which way they close: read from feature names alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SIDES = ("", "left", "right")

_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_GRIPPER = re.compile(r"gripper|claw|jaw|pincer|clamp")
_FINGER = re.compile(r"finger|thumb|pinky|pinkie")
_HAND = re.compile(r"^(left|right)?hands?$")
_PLAIN_FINGERS = frozenset({"index", "middle", "ring", "little"})  # finger names only beside a thumb, finger or hand
_RATE = frozenset(
    {
        "vel",
        "velocity",
        "speed",
        "acc",
        "accel",
        "effort",
        "torque",
        "current",
        "force",
        "load",
        "temp",
        "temperature",
        "tactile",
    }
)
_POSE = frozenset({"x", "y", "z", "w", "qx", "qy", "qz", "qw", "rx", "ry", "rz", "quat", "rot", "rot6d", "axisangle"})
_ANGLE = frozenset({"roll", "pitch", "yaw"})
_NO_HAND = frozenset({"arm", "wrist", "elbow", "shoulder", "pos", "pose", "position", "orientation"})
_OPENS = frozenset({"open", "opened", "opening", "width", "aperture"})
_CLOSES = frozenset({"close", "closed", "closing", "closure"})
_LEFT = frozenset({"left", "l", "lh"})
_RIGHT = frozenset({"right", "r", "rh"})


@dataclass(frozen=True)
class GripperColumns:
    """The columns that make one gripper or hand."""

    side: str  # one of SIDES
    columns: tuple[int, ...]
    hand: bool  # fingers rather than a jaw
    opens_upward: bool | None  # larger values mean open; None: the names do not tell

    @property
    def name(self) -> str:
        """In words: "gripper", "left gripper", "right hand"."""
        return f"{self.side} {'hand' if self.hand else 'gripper'}".strip()


def find_grippers(names: Sequence[str]) -> tuple[GripperColumns, ...]:
    """Grippers by side, in the order of SIDES; all columns of one side are one gripper."""
    tokens = [_tokens(n) for n in names]
    kinds = [_kind(t) for t in tokens]
    if any(kinds):
        kinds = [
            k or ("finger" if t & _PLAIN_FINGERS and not t & _RATE else "") for k, t in zip(kinds, tokens, strict=True)
        ]
    found = []
    for side in SIDES:
        mine = [i for i, k in enumerate(kinds) if k and _side(tokens[i]) == side]
        jaws = [i for i in mine if kinds[i] == "gripper"]
        if columns := tuple(jaws or mine):
            upward = _opens_upward([names[i] for i in columns], tokens)
            found.append(GripperColumns(side, columns, hand=not jaws, opens_upward=upward))
    return tuple(found)


def _tokens(name: str) -> frozenset[str]:
    return frozenset(t.lower() for t in _TOKEN.findall(name))


def _kind(tokens: frozenset[str]) -> str:
    """ "gripper", "finger" or ""; poses, speeds and forces of a gripper are none of them."""
    if tokens & (_RATE | _POSE):
        return ""
    if any(_GRIPPER.search(t) for t in tokens):
        return "" if tokens & _ANGLE else "gripper"
    if any(_FINGER.search(t) for t in tokens):
        return "finger"
    if any(_HAND.match(t) for t in tokens):
        return "" if tokens & (_ANGLE | _NO_HAND) and not tokens & _PLAIN_FINGERS else "finger"
    return ""


def _side(tokens: frozenset[str]) -> str:
    if tokens & _LEFT or any(t.startswith("left") for t in tokens):
        return "left"
    if tokens & _RIGHT or any(t.startswith("right") for t in tokens):
        return "right"
    return ""


def _opens_upward(names: Sequence[str], everything: Sequence[frozenset[str]]) -> bool | None:
    """Direction by words in the names, else by the conventions of common recorders, else unknown."""
    tokens = frozenset().union(*(_tokens(n) for n in names))
    if bool(tokens & _OPENS) != bool(tokens & _CLOSES):
        return bool(tokens & _OPENS)
    lerobot_motor = any(n.endswith("gripper.pos") or n.endswith("main_gripper") for n in names)  # 0 closed, 100 open
    inspire_hand = "thumb" in tokens and "bend" in tokens  # 0 fist, 1 flat
    aloha = "gripper" in tokens and any({"forearm", "roll"} <= t for t in everything)  # 0 closed, 1 open
    return True if lerobot_motor or inspire_hand or aloha else None
