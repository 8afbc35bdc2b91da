"""Subtasks from motion: each time a gripper closes or opens, one subtask comes to its end.

Where the cuts lie: a pick ends when the object is lifted, a put when the arm has drawn back, both a little after the
gripper's change. Objects and targets are named only as far as the task's words and the number of grasps agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.answers.task_text import Step, TaskText, imperative, is_many, parse_task
from tasks.dataset.episode import Episode
from tasks.dataset.signals import MotionEvent, Signals
from tasks.errors import EpisodeError

AFTER_S = 0.6  # a piece ends this long after its gripper's change when the arm's speed does not tell better,
AFTER_MAX_S = 6.0  # never later than this,
NEXT_SHARE = 0.5  # and never beyond this share of the way to the next change
LULL = 0.6  # speed below this share of the peak before it ends a stroke,
STROKE = 0.2  # if that peak reaches this share of the episode's fast speed (95th percentile)
JOINT_OVERLAP = 0.5  # two hands that hold for this share of their common time hold one thing
STRETCH_S = 0.5  # a short piece may take this much from a neighbour that can spare it
IDLE_S = 2.0  # rest before or after the work that is a piece of its own
TEXT_MAX = 400  # characters of a label, as the answer's model allows


@dataclass(frozen=True)
class Piece:
    """One subtask in episode time."""

    text: str
    start: float
    end: float
    grasp: int = -1  # pieces of one grasp share its number
    whole: str = ""  # what the pieces of this grasp are together

    @property
    def length_s(self) -> float:
        """Seconds."""
        return self.end - self.start


@dataclass(frozen=True)
class Grasp:
    """From closing to opening; `open_s` None when the episode ends before."""

    close_s: float
    open_s: float | None
    side: str  # "", "left", "right", "both"


def segment(signals: Signals, episode: Episode, task: str, min_s: float) -> list[Piece]:
    """Pieces that cover the episode without gaps, in order. Raises EpisodeError when nothing at all is known."""
    words = parse_task(task)
    grasps = find_grasps(signals, episode, _count_named(words))
    if grasps and (words is None or words.transports or len(grasps) > 1):
        pieces = _cut_at_changes(grasps, words, signals, episode)
    else:  # opening a drawer is one act, with or without a grasp in it
        pieces = _work_and_rest(signals, episode, task)
    return enforce_min(pieces, min_s)


def find_grasps(signals: Signals, episode: Episode, named: int = 0) -> list[Grasp]:
    """Grasps of all grippers in time order. An opening without a closing before it only makes ready."""
    grasps: list[Grasp] = []
    shut_at_rest = set()
    for gripper in signals.grippers:
        changes = [e for e in signals.gripper_events() if e.side == gripper.side]
        if changes and changes[0].kind == "open":
            shut_at_rest.add(gripper.side)
        grasps += _pair(changes)
    grasps = sorted(_join_hands(grasps, episode.end_s), key=lambda g: g.close_s)
    last = grasps[-1] if grasps else None
    if last and last.open_s is None and len(grasps) > 1 and (last.side in shut_at_rest or named == len(grasps) - 1):
        grasps.pop()  # closed to rest, as it was at the start, or with nothing left to take
    return grasps


def _pair(changes: Sequence[MotionEvent]) -> list[Grasp]:
    out = []
    for i, change in enumerate(changes):
        if change.kind == "close":
            opened = changes[i + 1].time_s if i + 1 < len(changes) else None
            out.append(Grasp(change.time_s, opened, change.side))
    return out


def _join_hands(grasps: list[Grasp], end_s: float) -> list[Grasp]:
    """A left and a right grasp of mostly the same time become one of both hands."""
    left = [g for g in grasps if g.side == "left"]
    out = [g for g in grasps if g.side != "left"]
    for mine in left:
        twin = next((g for g in out if g.side == "right" and _overlap(mine, g, end_s) >= JOINT_OVERLAP), None)
        if twin is None:
            out.append(mine)
            continue
        out.remove(twin)
        opened = [g.open_s for g in (mine, twin) if g.open_s is not None]
        out.append(Grasp(max(mine.close_s, twin.close_s), min(opened) if opened else None, "both"))
    return out


def _overlap(a: Grasp, b: Grasp, end_s: float) -> float:
    """Common time as a share of the time of either."""
    a_end, b_end = (end_s if g.open_s is None else g.open_s for g in (a, b))
    both = min(a_end, b_end) - max(a.close_s, b.close_s)
    either = max(a_end, b_end) - min(a.close_s, b.close_s)
    return both / either if either > 0 else 0.0


def _count_named(words: TaskText | None) -> int:
    """How many single things the task names; 0 when their number is open."""
    if words is None or any(is_many(o) for o in words.objects):
        return 0
    return len(words.objects)


# ------------------------------------------------------------------------------------------------ words for grasps


def _cut_at_changes(grasps: Sequence[Grasp], words: TaskText | None, signals: Signals, episode: Episode) -> list[Piece]:
    changes: list[tuple[float, str, int, str]] = []
    by_hand = len({g.side for g in grasps}) > 1 or grasps[0].side == "both"
    for i, grasp in enumerate(grasps):
        pick, put, whole = _labels(words, i, len(grasps))
        hand = _hand(grasp.side) if by_hand else ""
        changes.append((grasp.close_s, pick + hand, i, whole + hand))
        if grasp.open_s is not None:
            changes.append((grasp.open_s, put + hand, i, whole + hand))
    changes.sort()
    pieces = []
    start = episode.start_s
    for (time_s, text, i, whole), later in zip(changes, [*changes[1:], None], strict=True):
        end = episode.end_s if later is None else stroke_end(signals, episode, time_s, later[0])
        pieces.append(Piece(text, start, end, i, whole))
        start = end
    return pieces


def stroke_end(signals: Signals, episode: Episode, change_s: float, next_change_s: float) -> float:
    """When the lift or retreat that follows a gripper's change is over: the arm has sped up and slows down again."""
    latest_s = change_s + NEXT_SHARE * (next_change_s - change_s)
    usual = min(change_s + AFTER_S, latest_s)
    a, b = episode.nearest(change_s), episode.nearest(min(latest_s, change_s + AFTER_MAX_S))
    if signals.speed is None or b - a < 2:
        return usual
    speed = signals.speed[a : b + 1]
    begin = int(np.argmax(np.diff(speed) > 0))  # what is left of the stroke before does not count
    peak = np.maximum.accumulate(speed[begin:])
    least = STROKE * float(np.percentile(signals.speed, 95))
    for row in range(begin, len(speed) - 1):
        top = peak[row - begin]
        if top >= least and speed[row] <= LULL * top and speed[row] <= speed[row + 1]:
            return episode.times[a + row]
    return usual


def _hand(side: str) -> str:
    return {"both": " with both hands", "": ""}.get(side, f" with the {side} hand")


def _labels(words: TaskText | None, index: int, count: int) -> tuple[str, str, str]:
    """Labels of one grasp: taking, letting go, and both together."""
    if words is None:
        return _spell("the object", "put down the object")
    if not words.transports:
        return "grasp the object", "release the object", "grasp and release the object"
    named = [(step, thing) for step in words.steps for thing in step.objects]
    if len(named) == count:
        step, thing = named[index]
        return _spell(thing, _letting_go(step, thing))
    final = index == count - 1 or _count_named(words) == 0  # a single thing taken twice reaches its target at the end
    if final and words.target:
        return _spell("the object", f"put the object {words.preposition} {words.target}")
    return _spell("the object", "put down the object")


def _spell(thing: str, letting_go: str) -> tuple[str, str, str]:
    pick = f"pick up {thing}"
    return pick, letting_go, f"{pick} and put it down" if letting_go.startswith("put down") else letting_go


def _letting_go(step: Step, thing: str) -> str:
    if step.target:
        return f"{step.verb.name} {thing} {step.preposition} {step.target}"
    return f"{step.verb.name if step.verb.kind == 'place' else 'put down'} {thing}"


# ------------------------------------------------------------------------------------------------ without grasps


def task_label(task: str) -> str:
    """The task as a label; "" when it says nothing: it is empty or a single word such as "test"."""
    text = imperative(task) or " ".join(task.split()).strip(" .!")
    if len(text.split()) < 2 and text.isascii():
        return ""
    if text[:1].isupper() and text[1:2].islower():
        text = text[0].lower() + text[1:]
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX].rsplit(" ", 1)[0]


def _work_and_rest(signals: Signals, episode: Episode, task: str) -> list[Piece]:
    """The task between long rests at both ends; the arm's moves and rests themselves when the task says nothing."""
    label = task_label(task)
    runs = _runs(signals, episode)
    if not any(moving for moving, _, _ in runs):  # nothing moves, or nothing was recorded
        if not label and signals.speed is None:
            raise EpisodeError("want a task text or recorded joints to tell subtasks from", "neither", "name the task")
        return [Piece(label or "hold still", episode.start_s, episode.end_s)]
    if not label:
        return [Piece("move the arm" if moving else "hold still", a, b) for moving, a, b in runs]
    rest_before = runs[0][2] if not runs[0][0] else episode.start_s
    rest_after = runs[-1][1] if not runs[-1][0] else episode.end_s
    spans = (("hold still", episode.start_s, rest_before), (label, rest_before, rest_after))
    pieces = [Piece(*span) for span in (*spans, ("hold still", rest_after, episode.end_s))]
    return [p for p in pieces if p.length_s > 0]


def _runs(signals: Signals, episode: Episode) -> list[tuple[bool, float, float]]:
    """(moving, start, end) in turn; rests shorter than IDLE_S belong to the movement around them."""
    edges = [0, *(np.flatnonzero(np.diff(signals.moving.astype(np.int8))) + 1).tolist()]
    times = episode.times
    ends = [*(times[e] for e in edges[1:]), episode.end_s]
    out: list[tuple[bool, float, float]] = []
    for row, end in zip(edges, ends, strict=True):
        moving = bool(signals.moving[row]) or (len(edges) > 1 and end - times[row] < IDLE_S)
        if out and out[-1][0] == moving:
            out[-1] = (moving, out[-1][1], end)
        else:
            out.append((moving, times[row], end))
    return out


# ------------------------------------------------------------------------------------------------ lengths and windows


def enforce_min(pieces: Sequence[Piece], min_s: float) -> list[Piece]:
    """No piece shorter than `min_s`, where the episode allows: cuts move a little, else pieces join."""
    out = _stretch(list(pieces), min_s)
    while len(out) > 1:
        i = min(range(len(out)), key=lambda k: out[k].length_s)
        if out[i].length_s >= min_s - 1e-6:
            break
        out = _join_at(out, i)
    return out


def enforce_max(pieces: Sequence[Piece], count_max: int) -> list[Piece]:
    """At most `count_max` pieces: the shortest grasps become one piece each, then the shortest pieces join."""
    out = list(pieces)
    while len(out) > max(1, count_max):
        pairs = [k for k in range(len(out) - 1) if 0 <= out[k].grasp == out[k + 1].grasp]
        if pairs:
            k = min(pairs, key=lambda k: out[k].length_s + out[k + 1].length_s)
            out[k : k + 2] = [_joined(out[k], out[k + 1])]
        else:
            out = _join_at(out, min(range(len(out)), key=lambda k: out[k].length_s))
    return out


def cut_window(pieces: Sequence[Piece], start_s: float, end_s: float) -> list[Piece]:
    """The part of each piece inside a window, in seconds from its start; slivers of rounding are left out."""
    out = []
    for p in pieces:
        a, b = max(p.start, start_s), min(p.end, end_s)
        if b - a > 1e-3 or (p.start <= start_s and end_s - start_s <= 1e-3 and not out):
            out.append(replace(p, start=a - start_s, end=max(a, b) - start_s))
    return out


def _stretch(pieces: list[Piece], min_s: float) -> list[Piece]:
    for i, piece in enumerate(pieces):
        lack = min_s - piece.length_s
        if not 1e-6 < lack <= STRETCH_S:
            continue
        if i + 1 < len(pieces) and pieces[i + 1].length_s - lack >= min_s:
            pieces[i] = replace(piece, end=piece.end + lack)
            pieces[i + 1] = replace(pieces[i + 1], start=piece.end + lack)
        elif i > 0 and pieces[i - 1].length_s - lack >= min_s:
            pieces[i] = replace(piece, start=piece.start - lack)
            pieces[i - 1] = replace(pieces[i - 1], end=piece.start - lack)
    return pieces


def _join_at(pieces: list[Piece], i: int) -> list[Piece]:
    """Join piece `i` to the neighbour of the same grasp, else to the shorter neighbour."""
    sides = [k for k in (i - 1, i + 1) if 0 <= k < len(pieces)]
    other = min(sides, key=lambda k: (pieces[k].grasp != pieces[i].grasp or pieces[i].grasp < 0, pieces[k].length_s))
    a = min(i, other)
    return [*pieces[:a], _joined(pieces[a], pieces[a + 1]), *pieces[a + 2 :]]


def _joined(a: Piece, b: Piece) -> Piece:
    if 0 <= a.grasp == b.grasp:
        return replace(a, text=a.whole, end=b.end)
    longer = a if a.length_s >= b.length_s else b
    return replace(longer, start=a.start, end=b.end)
