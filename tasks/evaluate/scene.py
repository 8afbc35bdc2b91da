"""Visual answers checked against what is known of the scene: names, colours, boxes and what the gripper holds.

A label names things by colour and kind ("the red cube", "cubes", "objects in the box"). What it asks must be understood
word for word: an answer about anything else, or about a moment at which the truth changes, is not scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluate.labels import tokens
from tasks.evaluate.score import Score
from tasks.evaluate.truth import TruthEpisode
from tasks.evaluate.visual import MALFORMED, Box, Size, box_scores, boxes_of, point_of, point_scores

CHANGE_S = 0.4  # so long before and after an event nobody can be sure how things stand
SAME_KIND = {
    "block": "cube", "can": "can", "tin": "can", "cylinder": "can", "sphere": "ball", "container": "box", "bin": "box",
    "plate": "tray", "violet": "purple", "cubic": "cube", "spherical": "ball", "round": "ball", "cylindrical": "can",
}  # fmt: skip
CONTAINERS = frozenset({"box", "tray"})
SHAPES = frozenset({"cube", "ball", "can"}) | CONTAINERS
OBJECTS = frozenset({"object", "item", "thing", "toy"})  # anything that can be moved
FILLER = frozenset({"visible", "of", "one", "all", "number", "center", "centre", "middle"})
SITES = ("inside of", "inside", "in", "on top of", "on", "onto", "into")
GRIPPER = ({"gripper"}, {"robot", "gripper"}, {"gripper", "fingers"}, {"robotic", "gripper"})
STATES = {"open": "open", "opened": "open", "closed": "closed", "close": "closed", "shut": "closed"}
HELD = {
    "held": True, "grasped": True, "gripped": True, "in gripper": True, "lifted": True, "not held": False,
    "free": False, "released": False, "resting": False,
}  # fmt: skip
PROPERTIES = {"color": "colour", "colour": "colour", "shape": "shape", "state": "state", "status": "state"}


@dataclass(frozen=True)
class Moment:
    """One frame of one camera, with what is true there."""

    episode: TruthEpisode
    camera: str
    frame: int
    time_s: float
    size: Size

    def score(self, answer: Mapping[str, Any]) -> dict[str, Score] | None:
        """Scores of a stored answer; None when the truth does not tell."""
        check = _CHECKS.get(str(answer.get("type")))
        if check is None:
            return None
        try:
            return check(self, answer)
        except MALFORMED:
            return None

    # -------------------------------------------------------------------------------- what is where

    def things(self, label: str) -> list[str] | None:
        """The things a label means; None when it is not understood word for word."""
        for site in SITES:
            what, found, where = f" {label.casefold()} ".partition(f" {site} ")
            if found:
                return self._things_at(what, where)
        return self._named(label)

    def _things_at(self, what: str, where: str) -> list[str] | None:
        places, candidates = self._named(where), self._named(what)
        if tokens(where) == ("table",):  # what is in a box is on the table too, or is it?
            return None if self.delivered or self.held or self.changing else candidates
        if candidates is None or places is None or places != [self.episode.target] or self.changing:
            return None
        return [thing for thing in candidates if thing in self.delivered]

    def _named(self, label: str) -> list[str] | None:
        words = [SAME_KIND.get(_singular(w), _singular(w)) for w in tokens(label)]
        words = [w for w in words if w not in FILLER]
        if not words:
            return None
        kinds = {thing.split()[-1] for thing in self.episode.things}
        colours = {thing.split()[0] for thing in self.episode.things}
        if not all(w in kinds or w in colours or w in OBJECTS for w in words):
            return None
        found = [thing for thing in self.episode.things if all(self._fits(thing, w) for w in words)]
        return found or None

    def _fits(self, thing: str, word: str) -> bool:
        return thing.split()[-1] not in CONTAINERS if word in OBJECTS else word in thing.split()

    def box(self, thing: str) -> Box | None:
        """Where it is on this frame."""
        return self.episode.box(self.camera, thing, self.frame)

    @property
    def changing(self) -> bool:
        """Whether something is just being taken or let go."""
        return any(abs(event.time_s - self.time_s) < CHANGE_S for event in self.episode.events)

    @property
    def held(self) -> str | None:
        """The thing in the gripper."""
        last = [event for event in self.episode.events if event.time_s <= self.time_s]
        return last[-1].thing if last and last[-1].kind == "close" else None

    @property
    def delivered(self) -> set[str]:
        """Things that have been put into or onto the target."""
        return {e.thing for e in self.episode.events if e.kind == "open" and e.time_s <= self.time_s}


def _singular(word: str) -> str:
    return word[:-2] if word.endswith("xes") else word[:-1] if len(word) > 3 and word.endswith("s") else word


# ------------------------------------------------------------------------------------------------ by type


def _check_boxes(moment: Moment, answer: Mapping[str, Any]) -> dict[str, Score] | None:
    """Each detection may match what its own label means; all that the labels mean is wanted."""
    meant = [moment.things(str(d["label"])) for d in answer["detections"]]
    if any(names is None for names in meant):
        return None
    wanted = sorted({thing for names in meant for thing in names or []})
    boxes = {thing: box for thing in wanted if (box := moment.box(thing)) is not None}
    if not boxes:
        return None
    alike = np.array([[thing in (names or []) for thing in boxes] for names in meant], bool)
    return box_scores(boxes_of(answer, moment.size), list(boxes.values()), alike)


def _check_point(moment: Moment, answer: Mapping[str, Any]) -> dict[str, Score] | None:
    """Distance from the middle of the thing, and whether the point lies in its box."""
    box = _only(moment, str(answer["label"]))
    if box is None:
        return None
    x, y = point_of(answer, moment.size)
    centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = box[0] <= x <= box[2] and box[1] <= y <= box[3]
    return {**point_scores(float(np.hypot(x - centre[0], y - centre[1])), moment.size), "inside": Score(inside, 1)}


def _check_count(moment: Moment, answer: Mapping[str, Any]) -> dict[str, Score] | None:
    meant = moment.things(str(answer["label"]))
    if meant is None:
        return None
    seen = sum(moment.box(thing) is not None for thing in meant)
    return {"exact": Score(int(answer["count"]) == seen, 1)}


def _check_attribute(moment: Moment, answer: Mapping[str, Any]) -> dict[str, Score] | None:
    kind = PROPERTIES.get(" ".join(tokens(str(answer["attribute"]))))
    words = tokens(str(answer["value"]))
    value = " ".join(words)
    if set(tokens(str(answer["label"]))) in GRIPPER:
        if kind != "state" or value not in STATES or moment.changing:
            return None
        return {"exact": Score(STATES[value] == ("closed" if moment.held else "open"), 1)}
    meant = moment.things(str(answer["label"]))
    if meant is None or len(meant) != 1 or kind is None:
        return None
    colour, shape = meant[0].split()
    if kind == "state":
        if value not in HELD or moment.changing:
            return None
        return {"exact": Score(HELD[value] == (moment.held == meant[0]), 1)}
    if kind == "colour":
        return {"exact": Score(colour in [SAME_KIND.get(w, w) for w in words], 1)}
    named = SAME_KIND.get(value, value)
    return {"exact": Score(named == shape, 1)} if named in SHAPES else None


def _check_relation(moment: Moment, answer: Mapping[str, Any]) -> dict[str, Score] | None:
    """Sides by the middles of the boxes; on and in by what has been put there. Nobody knows how near is near."""
    subject, other = _only(moment, str(answer["subject"])), _only(moment, str(answer["object"]))
    if subject is None or other is None or subject == other:
        return None
    right = subject[0] + subject[2] - other[0] - other[2]
    down = subject[1] + subject[3] - other[1] - other[3]
    sides = {"left_of": right < 0, "right_of": right > 0, "above": down < 0, "below": down > 0}
    relation = answer["relation"]
    if relation in sides:
        return {"exact": Score(sides[relation], 1)}
    if relation in ("on", "in") and not moment.changing:
        names = (moment.things(str(answer["subject"])) or [])[:1], (moment.things(str(answer["object"])) or [])[:1]
        there = names[1] == [moment.episode.target] and names[0][0] in moment.delivered
        fits = relation == ("in" if str(moment.episode.target).endswith("box") else "on")
        return {"exact": Score(there and fits, 1)}
    return None


def _only(moment: Moment, label: str) -> Box | None:
    """The box of the single thing that a label means."""
    meant = moment.things(label)
    return moment.box(meant[0]) if meant is not None and len(meant) == 1 else None


_CHECKS: dict[str, Callable[[Moment, Mapping[str, Any]], dict[str, Score] | None]] = {
    "bbox": _check_boxes,
    "keypoint": _check_point,
    "count": _check_count,
    "attribute": _check_attribute,
    "spatial": _check_relation,
}
