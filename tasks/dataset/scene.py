"""A small tabletop world: objects, a gripper that moves them, and the truth about what happens when.

Metres; x to the right, y away from the front camera, z up, the table top at z = 0. Positions are of the underside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")  # gripper: 1 open, 0 closed
Kind = Literal["cube", "ball", "can", "box", "tray"]
TaskKind = Literal["box", "stack", "tray"]
TASK_KINDS: tuple[TaskKind, ...] = ("box", "stack", "tray")
COLOURS = ("red", "green", "yellow", "purple", "orange")
OBJECT_KINDS: tuple[Kind, ...] = ("cube", "ball", "can")
SIZES: dict[Kind, tuple[float, float, float]] = {
    "cube": (0.05, 0.05, 0.05),
    "ball": (0.052, 0.052, 0.052),
    "can": (0.046, 0.046, 0.066),
    "box": (0.19, 0.15, 0.055),
    "tray": (0.22, 0.15, 0.012),
}
FLOOR_M = 0.006  # thickness of the bottom of boxes and trays
CRUISE_M = 0.17  # height of the gripper between two grips
HOME = np.array([0.0, 0.06, 0.26, 0.0])
GAP_M = 0.085  # least distance between the centres of two objects
REACH_X_M, REACH_Y_M = (-0.29, 0.04), (-0.14, 0.15)  # where objects stand; containers stand beyond in x
CONTAINER_X_M, CONTAINER_Y_M = (0.18, 0.24), (-0.07, 0.08)
RAMP_S = 0.3  # how long the fingers take to open or close
IDLE_SHARE = 0.03  # of the episode, at rest before the first and after the last motion
# reach, descend, close, lift, carry, lower, open, retreat
STEP_SHARES = np.array([0.20, 0.09, 0.08, 0.09, 0.25, 0.09, 0.08, 0.12])
LAYOUT_TRIES_MAX = 10_000


@dataclass(frozen=True)
class Thing:
    """An object or container at rest."""

    name: str
    kind: Kind
    colour: str
    position: np.ndarray  # (3,)
    yaw: float = 0.0

    @property
    def size(self) -> tuple[float, float, float]:
        """Extent along its own x, y and z."""
        return SIZES[self.kind]


@dataclass(frozen=True)
class Job:
    """What a task asks for: which objects go where. Episodes of one task share it."""

    kind: TaskKind
    moved: tuple[tuple[str, Kind], ...]  # (colour, kind), in the order in which they are moved
    others: tuple[tuple[str, Kind], ...]  # distractors; of a stack, the first is the one below

    @property
    def target(self) -> str:
        """Name of the thing that the moved objects are put into or onto."""
        if self.kind == "stack":
            return _name(*self.others[0])
        return "blue box" if self.kind == "box" else "white tray"

    @property
    def text(self) -> str:
        """The task in words."""
        names = [f"the {_name(*thing)}" for thing in self.moved]
        listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        return f"{'Stack' if self.kind == 'stack' else 'Put'} {listed} {self._where}."

    @property
    def _where(self) -> str:
        return f"{'in' if self.kind == 'box' else 'on'} the {self.target}"

    def subtasks(self, thing: tuple[str, Kind]) -> tuple[str, str]:
        """The two subtasks of one moved object, in words."""
        verb = "stack" if self.kind == "stack" else "put"
        return f"pick up the {_name(*thing)}", f"{verb} the {_name(*thing)} {self._where}"


@dataclass(frozen=True)
class Grip:
    """One object held from `close_s` until `open_s`."""

    thing: int
    close_s: float
    open_s: float


@dataclass(frozen=True)
class Story:
    """One episode: what stands where, how the gripper moves, and the truth for annotations."""

    job: Job
    things: tuple[Thing, ...]  # as they stand at the start
    seconds: float
    times: np.ndarray  # (points,) of the gripper's way points
    points: np.ndarray  # (points, 4) x, y, z, yaw
    grips: tuple[Grip, ...]
    subtasks: tuple[dict[str, object], ...]  # {"text", "start", "end"}, seconds; without gaps

    def gripper(self, t: np.ndarray) -> np.ndarray:
        """States at the given times, (times, 7)."""
        i = np.clip(np.searchsorted(self.times, t, side="right") - 1, 0, len(self.times) - 2)
        share = np.clip((t - self.times[i]) / np.maximum(self.times[i + 1] - self.times[i], 1e-9), 0.0, 1.0)
        eased = (share * share * (3 - 2 * share))[:, None]
        x, y, z, yaw = (self.points[i] * (1 - eased) + self.points[i + 1] * eased).T
        level = np.zeros_like(t)
        return np.stack([x, y, z, level, level, yaw, self._opening(t)], axis=1)

    def _opening(self, t: np.ndarray) -> np.ndarray:
        times, values = [0.0], [1.0]
        for grip in self.grips:
            times += [grip.close_s - RAMP_S / 2, grip.close_s + RAMP_S / 2]
            times += [grip.open_s - RAMP_S / 2, grip.open_s + RAMP_S / 2]
            values += [1.0, 0.0, 0.0, 1.0]
        return np.interp(t, times, values)

    def held(self, t: float) -> int | None:
        """Index of the thing in the gripper."""
        return next((g.thing for g in self.grips if g.close_s <= t < g.open_s), None)

    def poses(self, t: np.ndarray) -> np.ndarray:
        """Where each thing is at the given times, (things, times, 4) x, y, z, yaw. Things move only while gripped."""
        poses = np.stack([np.tile([*thing.position, thing.yaw], (len(t), 1)) for thing in self.things])
        for grip in self.grips:
            at = self.gripper(np.clip(t, grip.close_s, grip.open_s))[:, [0, 1, 2, 5]]
            at[:, 2] = np.maximum(at[:, 2] - self.things[grip.thing].size[2] / 2, 0.0)
            poses[grip.thing] = np.where((t >= grip.close_s)[:, None], at, poses[grip.thing])
        return poses


def draw_job(rng: np.random.Generator, kind: TaskKind, moved: int) -> Job:
    """A task of the given kind, with random objects and one to three distractors."""
    colours = [str(c) for c in rng.permutation(COLOURS)]
    count = 1 if kind == "stack" else moved
    things: list[tuple[str, Kind]] = [(c, OBJECT_KINDS[int(rng.integers(len(OBJECT_KINDS)))]) for c in colours]
    if kind == "stack":  # only a cube stands safely on a cube
        things[:2] = [(things[0][0], "cube"), (things[1][0], "cube")]
    others = things[count : count + max(1, min(len(things) - count, int(rng.integers(1, 4))))]
    return Job(kind, tuple(things[:count]), tuple(others))


def draw_story(rng: np.random.Generator, job: Job, seconds: float) -> Story:
    """An episode of a task: a random layout and a demonstration that fills the time."""
    things = _layout(rng, job)
    idle = IDLE_SHARE * seconds
    slot = (seconds - 2 * idle) / len(job.moved)
    times, points = [0.0, idle], [HOME, HOME]
    grips: list[Grip] = []
    subtasks: list[dict[str, object]] = []
    begin = 0.0
    for k, (thing, name) in enumerate(zip(things, job.moved, strict=False)):
        steps = np.cumsum(STEP_SHARES * rng.uniform(0.88, 1.12, len(STEP_SHARES)))
        ends = idle + slot * (k + steps / steps[-1])
        half = thing.size[2] / 2
        source = np.array([*thing.position[:2], thing.position[2] + half, thing.yaw])
        goal = _goal(job, things, k)
        goal[2] += half
        up = np.array([1.0, 1.0, 0.0, 1.0])
        above = [p * up + [0, 0, CRUISE_M, 0] for p in (source, goal)]
        times += ends.tolist()
        points += [above[0], source, source, above[0], above[1], goal, goal, above[1]]
        grips.append(Grip(k, float(ends[1] + ends[2]) / 2, float(ends[5] + ends[6]) / 2))
        pick, put = job.subtasks(name)
        subtasks.append({"text": pick, "start": begin, "end": float(ends[3])})
        subtasks.append({"text": put, "start": float(ends[3]), "end": float(ends[7])})
        begin = float(ends[7])
    subtasks[-1]["end"] = float(seconds)
    times += [seconds - idle / 2, seconds]
    points += [points[-1], points[-1]]
    return Story(job, things, seconds, np.array(times), np.array(points), tuple(grips), tuple(subtasks))


def _name(colour: str, kind: Kind) -> str:
    return f"{colour} {kind}"


def _goal(job: Job, things: tuple[Thing, ...], k: int) -> np.ndarray:
    """Where the k-th moved object ends: x, y, z of its underside, yaw."""
    target = next(thing for thing in things if thing.name == job.target)
    if job.kind == "stack":
        return np.array([*target.position[:2], target.size[2], target.yaw])
    beside = (k - (len(job.moved) - 1) / 2) * 0.058  # objects lie side by side
    return np.array([target.position[0] + beside, target.position[1], FLOOR_M, 0.0])


def _layout(rng: np.random.Generator, job: Job) -> tuple[Thing, ...]:
    """Things without overlap; moved ones first, the container last. The sides of the table are swapped at random."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    spots: list[np.ndarray] = []
    things: list[Thing] = []
    for colour, kind in job.moved + job.others:
        spot = _free_spot(rng, spots)
        spots.append(spot)
        yaw = float(rng.uniform(-0.5, 0.5)) if kind == "cube" else 0.0
        things.append(Thing(_name(colour, kind), kind, colour, np.array([side * spot[0], spot[1], 0.0]), yaw))
    container = Thing("white tray", "tray", "white", np.zeros(3))
    if job.kind == "box" or (job.kind == "stack" and rng.random() < 0.5):
        container = Thing("blue box", "box", "blue", np.zeros(3))
    x, y = side * rng.uniform(*CONTAINER_X_M), rng.uniform(*CONTAINER_Y_M)
    return (*things, replace(container, position=np.array([x, y, 0.0])))


def _free_spot(rng: np.random.Generator, taken: list[np.ndarray]) -> np.ndarray:
    for _ in range(LAYOUT_TRIES_MAX):
        spot = np.array([rng.uniform(*REACH_X_M), rng.uniform(*REACH_Y_M)])
        if all(np.hypot(*(spot - other)) >= GAP_M for other in taken):
            return spot
    raise ValueError(f"no room for {len(taken) + 1} objects")
