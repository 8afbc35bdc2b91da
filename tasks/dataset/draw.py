"""Draws the tabletop world for a camera: convex solids by the painter's algorithm, twice as large, then reduced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tasks.dataset.scene import FLOOR_M, Story, Thing

SCALE = 2  # supersampling: what makes edges smooth
LIGHT = np.array([-0.45, -0.35, 0.82])  # towards the lamp, unit length
AMBIENT = 0.52
BATCH_FRAMES = 64  # frames whose arm is projected in one go
BALL_STEPS, LINK_STRIPES = 9, 7
ROUND_SIDES = 20  # facets of a round solid
WALL_M = 0.008
SHADOW_DRIFT = -LIGHT[:2] / LIGHT[2]  # how far a shadow moves per metre of height
FINGER_BELOW_M = 0.016  # of the finger, below the grip point
FINGER_M = (0.012, 0.02, 0.062)
PALM_M = (0.10, 0.034, 0.03)
SPREAD_M = (0.031, 0.052)  # finger distance from the middle, closed and open
SHOULDER, LINK_M, WRIST_M = np.array([0.0, 0.42, 0.13]), 0.40, 0.15
SHADOW = (24, 18, 14)
SHADOW_LAYERS = ((1.25, 20), (1.1, 24), (0.95, 30))  # (size, opacity): a soft edge of three steps
COLOURS = {
    "red": (206, 52, 46),
    "green": (58, 152, 76),
    "yellow": (232, 190, 58),
    "purple": (126, 74, 168),
    "orange": (232, 126, 44),
    "blue": (52, 98, 184),
    "white": (232, 232, 226),
    "metal": (92, 96, 104),
    "rubber": (44, 46, 50),
    "arm": (216, 218, 222),
    "joint": (74, 120, 170),
}
WOOD, WALL, FLOOR = np.float32([176, 146, 112]), np.float32([204, 208, 210]), np.float32([120, 122, 126])
GRAIN_WAVES = 5
RGB = tuple[int, int, int]
TABLE_X_M, TABLE_Y_M = 0.55, (-0.34, 0.52)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at a point."""

    key: str
    position: tuple[float, float, float]
    target: tuple[float, float, float]
    view_degrees: float  # horizontal field of view

    def axes(self) -> np.ndarray:
        """Rows: right, down, forward."""
        forward = np.subtract(self.target, self.position)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    def project(self, points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (…, 2) and distances along the view (…) of world points (…, 3)."""
        seen = (points - np.array(self.position)) @ self.axes().T
        depth = seen[..., 2]
        return seen[..., :2] / depth[..., None] * self.focal(size) + np.array(size) / 2, depth

    def focal(self, size: tuple[int, int]) -> float:
        """Focal length in pixels."""
        return size[0] / 2 / float(np.tan(np.radians(self.view_degrees / 2)))


FRONT = Camera("observation.images.front", (0.0, -0.72, 0.66), (0.0, 0.02, 0.02), 47.0)
SIDE = Camera("observation.images.side", (-0.86, -0.30, 0.44), (0.0, 0.03, 0.06), 45.0)
CAMERAS = (FRONT, SIDE)


@dataclass(frozen=True)
class Solid:
    """A convex solid at n poses: vertices (n, points, 3); faces as vertex numbers, counter-clockwise from outside."""

    vertices: np.ndarray
    faces: tuple[tuple[int, ...], ...]
    colour: str


@dataclass(frozen=True)
class Sprite:
    """A solid as one camera sees it: filled outlines (x, y, x, y, …) in hi-res pixels, and how far away it is."""

    depth: float
    outlines: list[tuple[list[float], RGB]]
    discs: list[tuple[list[float], RGB]] = field(default_factory=list)


def block(size: tuple[float, float, float], centres: np.ndarray, yaws: np.ndarray, colour: str) -> Solid:
    """A box around each centre (n, 3), turned by each yaw (n,)."""
    corners = np.concatenate([_corners(*size[:2]) - _up(size[2] / 2), _corners(*size[:2]) + _up(size[2] / 2)])
    sides = tuple((i, (i + 1) % 4, (i + 1) % 4 + 4, i + 4) for i in range(4))
    return Solid(_turned(corners, yaws) + centres[:, None], (*sides, (4, 5, 6, 7)), colour)


def drum(radius: float, height: float, bases: np.ndarray, colour: str) -> Solid:
    """An upright cylinder on each base (n, 3)."""
    ring = _ring(radius)
    n = len(ring)
    points = np.concatenate([ring, ring + _up(height)])
    sides = tuple((i, (i + 1) % n, (i + 1) % n + n, i + n) for i in range(n))
    return Solid(points + bases[:, None], (*sides, tuple(range(n, 2 * n))), colour)


def thing_boxes(camera: Camera, size: tuple[int, int], thing: Thing, poses: np.ndarray) -> np.ndarray:
    """Pixel boxes (poses, 4) of a thing at each pose: x0, y0, x1, y1, the last two excluded, cut at the edge."""
    pixels, _ = camera.project(_turned(_bounds(thing), poses[:, 3]) + poses[:, None, :3], size)
    low, high = np.floor(pixels.min(axis=1)), np.ceil(pixels.max(axis=1))
    return np.clip(np.concatenate([low, high], axis=1), 0, [*size, *size]).astype(int)


class View:
    """One camera's pictures of one episode. Things at rest are projected once and kept."""

    def __init__(self, camera: Camera, size: tuple[int, int], story: Story, rng: np.random.Generator) -> None:
        self._story = story
        self._hires = (size[0] * SCALE, size[1] * SCALE)
        self._axes, self._eye = camera.axes(), np.array(camera.position)
        self._focal, self._centre = camera.focal(self._hires), np.array(self._hires) / 2
        self._empty = Image.fromarray(_background(camera, self._hires, rng))
        self._base = self._sprites(drum(0.055, 0.13, (SHOULDER * [1, 1, 0])[None], "metal"))
        self._still_key: bytes = b""
        self._still_ground = self._empty
        self._still: list[Sprite] = []

    def pictures(self, states: np.ndarray, poses: np.ndarray, held: Sequence[int | None]) -> Iterator[np.ndarray]:
        """Pictures, uint8 (height, width, 3), for gripper states (n, 7) and the poses (things, n, 4) of every thing."""
        for a in range(0, len(states), BATCH_FRAMES):
            tips, yaws = states[a : a + BATCH_FRAMES, :3].astype(float), states[a : a + BATCH_FRAMES, 5].astype(float)
            arms = self._arm(tips, yaws, states[a : a + BATCH_FRAMES, 6].astype(float))
            shadows = self._arm_shadows(tips)
            for i in range(len(tips)):
                yield self._picture(arms[i], shadows[i], poses[:, a + i], held[a + i])

    def _picture(self, moving: list[Sprite], shadow: list[float], poses: np.ndarray, held: int | None) -> np.ndarray:
        resting = [i for i in range(len(poses)) if i != held]
        key = poses[resting].tobytes() + bytes(resting)
        if key != self._still_key:
            self._still_key = key
            self._still = [s for i in resting for s in self._thing(self._story.things[i], poses[i])] + self._base
            self._still_ground = self._empty.copy()
            for i in resting:
                self._shade(self._still_ground, self._story.things[i], poses[i])
        image = self._still_ground.copy()
        if held is not None:
            self._shade(image, self._story.things[held], poses[held])
            moving = moving + self._thing(self._story.things[held], poses[held])
        self._shade_arm(image, shadow)
        pen = ImageDraw.Draw(image)
        for sprite in sorted(self._still + moving, key=lambda s: -s.depth):
            for outline, colour in sprite.outlines:
                pen.polygon(outline, fill=colour)
            for disc, colour in sprite.discs:
                pen.ellipse(disc, fill=colour)
        return np.asarray(image.reduce(SCALE))

    def _project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hi-res pixels (…, 2) and distances (…)."""
        seen = (points - self._eye) @ self._axes.T
        return seen[..., :2] / seen[..., 2:] * self._focal + self._centre, seen[..., 2]

    def _sprites(self, solid: Solid, depth_offset: float = 0.0) -> list[Sprite]:
        """The faces that look towards the camera, shaded by the lamp; one sprite a pose."""
        pixels, depths = self._project(solid.vertices)
        corners = solid.vertices[:, [face[:3] for face in solid.faces]]
        normals = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 1])
        seen = (np.einsum("nfi,nfi->nf", normals, self._eye - corners[:, :, 0]) > 0).tolist()
        light = AMBIENT + (1 - AMBIENT) * np.maximum(normals @ LIGHT / np.linalg.norm(normals, axis=2), 0.0)
        tints = _tints(solid.colour, light)
        flat = [pixels[:, face].reshape(len(pixels), -1).tolist() for face in solid.faces]
        return [
            Sprite(depth, [(flat[f][i], tints[i][f]) for f in range(len(flat)) if seen[i][f]])
            for i, depth in enumerate((depths.mean(axis=1) + depth_offset).tolist())
        ]

    def _thing(self, thing: Thing, pose: np.ndarray) -> list[Sprite]:
        at, yaw, (width, depth, height) = pose[None, :3], pose[3:4], thing.size
        if thing.kind == "ball":
            return self._balls(at + _up(height / 2), width / 2, thing.colour)
        if thing.kind == "can":
            lid = drum(width / 2 * 0.8, 0.001, at + _up(height), "arm")
            return self._sprites(drum(width / 2, height, at, thing.colour)) + self._sprites(lid)
        if thing.kind == "cube":
            return self._sprites(block(thing.size, at + _up(height / 2), yaw, thing.colour))
        floor = block((width, depth, FLOOR_M), at + _up(FLOOR_M / 2), yaw, thing.colour)
        sprites = self._sprites(floor, depth_offset=0.2)  # always behind what lies on it
        for x, y, w, d in ((0, depth, width, WALL_M), (0, -depth, width, WALL_M)):
            sprites += self._sprites(block((w, d, height), at + np.array([x, y, height]) / 2, yaw, thing.colour))
        for x, y, w, d in ((width, 0, WALL_M, depth), (-width, 0, WALL_M, depth)):
            sprites += self._sprites(block((w, d, height), at + np.array([x, y, height]) / 2, yaw, thing.colour))
        return sprites

    def _balls(self, centres: np.ndarray, radius: float, colour: str) -> list[Sprite]:
        """Discs that shrink and brighten towards the lamp; one sprite a centre."""
        pixels, depths = self._project(centres)
        steps = np.linspace(0.0, 1.0, BALL_STEPS)
        size = radius / depths * self._focal
        toward = self._axes[:2] @ LIGHT * 0.42
        middles = pixels[:, None] + size[:, None, None] * toward * steps[:, None]
        radii = (size[:, None] * (1 - 0.92 * steps))[..., None]
        discs = np.concatenate([middles - radii, middles + radii], axis=2).tolist()
        tints = _tints(colour, AMBIENT + (1 - AMBIENT) * steps**0.7, shine=steps**6)
        return [Sprite(depth, [], list(zip(discs[i], tints, strict=True))) for i, depth in enumerate(depths.tolist())]

    def _arm(self, tips: np.ndarray, yaws: np.ndarray, openings: np.ndarray) -> list[list[Sprite]]:
        """Fingers, palm, wrist and links at each frame."""
        spreads = SPREAD_M[0] + (SPREAD_M[1] - SPREAD_M[0]) * openings
        across = spreads[:, None] * np.stack([np.cos(yaws), np.sin(yaws), 0 * yaws], axis=1)
        fingers = tips + _up(FINGER_M[2] / 2 - FINGER_BELOW_M)
        palms = fingers + _up(FINGER_M[2] / 2 + PALM_M[2] / 2)
        stem_m = WRIST_M - FINGER_M[2] + FINGER_BELOW_M - PALM_M[2]
        shoulders, elbows, wrists = _joints(tips)
        parts = [self._sprites(block(FINGER_M, fingers + sign * across, yaws, "rubber")) for sign in (-1, 1)]
        parts.append(self._sprites(block(PALM_M, palms, yaws, "metal")))
        parts.append(self._sprites(drum(0.019, stem_m, palms + _up(PALM_M[2] / 2), "arm")))
        parts += [self._links(wrists, elbows, 0.024, 0.029), self._links(elbows, shoulders, 0.029, 0.036)]
        parts += [self._balls(wrists, 0.03, "joint"), self._balls(elbows, 0.036, "joint")]
        return [list(sprites) for sprites in zip(*parts, strict=True)]

    def _links(self, a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float) -> list[Sprite]:
        """Tapered tubes between points (n, 3), drawn as stripes that are brightest where they face the lamp."""
        ends, depths = self._project(np.stack([a, b], axis=1))
        direction = ends[:, 1] - ends[:, 0]
        across = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
        across *= np.where(across @ (self._axes[:2] @ LIGHT) > 0, 1.0, -1.0)[:, None]
        reach = (np.array([radius_a, radius_b]) / depths * self._focal)[..., None] * across[:, None]
        edges = np.linspace(-1.0, 1.0, LINK_STRIPES + 1)
        tints = _tints("arm", AMBIENT + (1 - AMBIENT) * np.sqrt(1 - ((edges[1:] + edges[:-1]) / 2 - 0.45) ** 2 / 2))
        stripes = [
            np.concatenate(
                [ends[:, 0] + reach[:, 0] * k for k in (low, high)]
                + [ends[:, 1] + reach[:, 1] * k for k in (high, low)],
                axis=1,
            ).tolist()
            for low, high in pairwise(edges)
        ]
        return [
            Sprite(depth, [(stripe[i], tint) for stripe, tint in zip(stripes, tints, strict=True)])
            for i, depth in enumerate(depths.mean(axis=1).tolist())
        ]

    def _shade(self, image: Image.Image, thing: Thing, pose: np.ndarray) -> None:
        """Draw a thing's soft shadow on the table."""
        pen = ImageDraw.Draw(image, "RGBA")
        width, depth, height = thing.size
        base = _ring(width / 2) if thing.kind in ("ball", "can") else _corners(width, depth)
        foot = _turned(base, pose[3:4])[0, :, :2] + pose[:2]
        shifts = [SHADOW_DRIFT * z for z in (pose[2], pose[2] + height * 0.8)]
        hull = _hull(np.concatenate([foot + shift for shift in shifts]))
        middle = pose[:2] + (shifts[0] + shifts[1]) / 2
        for grow, opacity in SHADOW_LAYERS:
            pixels, _ = self._project(np.column_stack([(hull - middle) * grow + middle, np.zeros(len(hull))]))
            pen.polygon(pixels.reshape(-1).tolist(), fill=(*SHADOW, opacity))

    def _arm_shadows(self, tips: np.ndarray) -> list[list[float]]:
        line = np.stack([*_joints(tips), tips], axis=1)
        flat = line[..., :2] + SHADOW_DRIFT * line[..., 2:]
        pixels, _ = self._project(np.concatenate([flat, 0 * flat[..., :1]], axis=2))
        return pixels.reshape(len(tips), -1).tolist()

    def _shade_arm(self, image: Image.Image, shadow: list[float]) -> None:
        pen = ImageDraw.Draw(image, "RGBA")
        width = round(0.05 * self._focal)  # of an arm about a metre away
        for extra, opacity in ((width // 6, 12), (0, 16)):
            pen.line(shadow, fill=(*SHADOW, opacity), width=width + extra, joint="curve")


def _joints(tips: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shoulders, elbows and wrists of a two-link arm whose hand hangs straight down; the elbow points up."""
    wrists = tips + _up(WRIST_M)
    reach = wrists - SHOULDER
    distance = np.linalg.norm(reach, axis=1, keepdims=True)
    along = reach / distance
    up = _up(1.0) - along * along[:, 2:]
    up /= np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-6)
    elbows = SHOULDER + reach / 2 + up * np.sqrt(np.maximum(LINK_M**2 - (distance / 2) ** 2, 0.0))
    return np.broadcast_to(SHOULDER, wrists.shape), elbows, wrists


def _background(camera: Camera, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """An empty wooden table in a plain room, uint8 (height, width, 3)."""
    x, y, table, room = _view_of_room(camera, size)
    waves, phases = rng.uniform(36, 140, GRAIN_WAVES), rng.uniform(0, 2 * np.pi, GRAIN_WAVES)
    along = y + 0.02 * np.sin(5 * x + phases[0])
    grain = sum(np.sin(w * along + p + 1.5 * np.sin(3 * x + p)) for w, p in zip(waves, phases, strict=True))
    planks = np.abs(((y + 0.5) / 0.17) % 1.0 - 0.5) > 0.487
    tone = 1.0 + 0.025 * grain - 0.10 * planks - 0.18 * (x**2 + (y - 0.05) ** 2)
    speckle = rng.normal(0.0, 2.0, (*x.shape, 1)).astype(np.float32)
    picture = np.where(table[..., None], WOOD * tone[..., None], room) + speckle
    return np.clip(picture, 0, 255).astype(np.uint8)


@cache
def _view_of_room(camera: Camera, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where each pixel's ray meets the plane of the table (x, y), whether on the table, and the colour of the room."""
    width, height = size
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([xs - width / 2, ys - height / 2, np.full_like(xs, camera.focal(size))], axis=-1) @ camera.axes()
    down = rays[..., 2] < -1e-6
    reach = np.where(down, -camera.position[2] / np.where(down, rays[..., 2], -1.0), 0.0)
    x = (camera.position[0] + rays[..., 0] * reach).astype(np.float32)
    y = (camera.position[1] + rays[..., 1] * reach).astype(np.float32)
    table = down & (np.abs(x) < TABLE_X_M) & (y > TABLE_Y_M[0]) & (y < TABLE_Y_M[1])
    fade = np.linspace(1.0, 0.86, height, dtype=np.float32)[:, None, None]
    return x, y, table, np.where(down[..., None], FLOOR, WALL) * fade


def _bounds(thing: Thing) -> np.ndarray:
    """Points (n, 3) of a thing at the origin whose projections bound its picture."""
    width, depth, height = thing.size
    if thing.kind == "ball":
        theta, phi = np.meshgrid(np.linspace(0, np.pi, 17), np.linspace(0, 2 * np.pi, 33))
        unit = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
        return unit.reshape(-1, 3) * width / 2 + _up(height / 2)
    base = _ring(width / 2) if thing.kind == "can" else _corners(width, depth)
    return np.concatenate([base, base + _up(height)])


def _up(z: float) -> np.ndarray:
    return np.array([0.0, 0.0, z])


def _tints(colour: str, share: np.ndarray, shine: np.ndarray | float = 0.0) -> list[Any]:
    """The colour at each brightness, nested like `share`, as (r, g, b)."""
    plain = np.array(COLOURS[colour])
    tints = plain * share[..., None] + (255 - plain) * 0.75 * np.asarray(shine)[..., None]
    whole = np.clip(tints, 0, 255).astype(int).reshape(-1, 3).tolist()
    tuples = [tuple(tint) for tint in whole]
    if share.ndim == 1:
        return tuples
    return [tuples[i : i + share.shape[1]] for i in range(0, len(tuples), share.shape[1])]


def _ring(radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, ROUND_SIDES, endpoint=False)
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius, np.zeros(ROUND_SIDES)], axis=1)


def _corners(width: float, depth: float) -> np.ndarray:
    return np.array([[-width, -depth, 0], [width, -depth, 0], [width, depth, 0], [-width, depth, 0]]) / 2


def _turned(points: np.ndarray, yaws: np.ndarray) -> np.ndarray:
    """Points (p, 3) turned around z by each yaw (n,): (n, p, 3)."""
    cos, sin = np.cos(yaws)[:, None], np.sin(yaws)[:, None]
    x, y = points[:, 0] * cos - points[:, 1] * sin, points[:, 0] * sin + points[:, 1] * cos
    return np.stack([x, y, np.broadcast_to(points[:, 2], x.shape)], axis=2)


def _hull(points: np.ndarray) -> np.ndarray:
    """Convex hull of points in the plane, in order around it (monotone chain)."""
    ordered = sorted(map(tuple, points))
    halves = []
    for run in (ordered, ordered[::-1]):
        half: list[tuple[float, float]] = []
        for p in run:
            while len(half) > 1 and _cross(half[-2], half[-1], p) <= 0:
                half.pop()
            half.append(p)
        halves.append(half[:-1])
    return np.array(halves[0] + halves[1])


def _cross(o: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])
