"""Draws the tabletop world for a camera: convex solids by the painter's algorithm, twice as large, then reduced."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from tasks.dataset.scene import FLOOR_M, Story, Thing

SCALE = 2  # supersampling: what makes edges smooth
LIGHT = np.array([-0.45, -0.35, 0.82])  # towards the lamp, unit length
AMBIENT = 0.52
ROUND_SIDES = 20  # facets of a round solid
WALL_M = 0.008
FINGER_M = (0.012, 0.02, 0.062)
PALM_M = (0.10, 0.034, 0.03)
SPREAD_M = (0.031, 0.052)  # finger distance from the middle, closed and open
SHOULDER, LINK_M, WRIST_M = np.array([0.0, 0.42, 0.13]), 0.40, 0.15
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
WOOD, WALL, FLOOR = np.array([176, 146, 112.0]), np.array([204, 208, 210.0]), np.array([120, 122, 126.0])
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
    """A convex solid: vertices, and faces as vertex numbers, counter-clockwise from outside."""

    vertices: np.ndarray
    faces: tuple[tuple[int, ...], ...]
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Sprite:
    """A solid as one camera sees it: filled outlines in hi-res pixels, and how far away it is."""

    depth: float
    outlines: tuple[tuple[list[tuple[float, float]], tuple[int, int, int]], ...]
    discs: tuple[tuple[tuple[float, float, float, float], tuple[int, int, int]], ...] = ()


def block(size: tuple[float, float, float], centre: np.ndarray, yaw: float, colour: str) -> Solid:
    """A box around `centre`, turned by `yaw`."""
    corners = np.array([[x, y, z] for z in (-1, 1) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]) * size / 2
    sides = tuple((i, (i + 1) % 4, (i + 1) % 4 + 4, i + 4) for i in range(4))
    return Solid(_turned(corners, yaw) + centre, (*sides, (4, 5, 6, 7)), COLOURS[colour])


def drum(radius: float, height: float, base: np.ndarray, colour: str) -> Solid:
    """An upright cylinder on `base`."""
    ring = _ring(radius)
    n = len(ring)
    vertices = np.concatenate([ring, ring + _up(height)]) + base
    sides = tuple((i, (i + 1) % n, (i + 1) % n + n, i + n) for i in range(n))
    return Solid(vertices, (*sides, tuple(range(n, 2 * n))), COLOURS[colour])


def outline_points(thing: Thing) -> np.ndarray:
    """Points around the origin of an unmoved thing whose projections bound its picture, (points, 3)."""
    width, _, height = thing.size
    if thing.kind == "ball":
        theta, phi = np.meshgrid(np.linspace(0, np.pi, 17), np.linspace(0, 2 * np.pi, 33))
        unit = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
        return unit.reshape(-1, 3) * width / 2 + _up(height / 2)
    if thing.kind == "can":
        return np.concatenate([_ring(width / 2), _ring(width / 2) + _up(height)])
    return block(thing.size, np.array([0, 0, height / 2]), 0.0, thing.colour).vertices


def thing_boxes(camera: Camera, size: tuple[int, int], thing: Thing, poses: np.ndarray) -> np.ndarray:
    """Pixel boxes (poses, 4) of a thing at each pose: x0, y0, x1, y1 with x1, y1 excluded, cut at the picture's edge."""
    points = outline_points(thing)
    cos, sin = np.cos(poses[:, 3:4]), np.sin(poses[:, 3:4])
    turned = np.stack(
        [points[:, 0] * cos - points[:, 1] * sin, points[:, 0] * sin + points[:, 1] * cos, points[:, 2] + 0 * cos],
        axis=-1,
    )
    pixels, _ = camera.project(turned + poses[:, None, :3], size)
    low, high = np.floor(pixels.min(axis=1)), np.ceil(pixels.max(axis=1))
    return np.clip(np.concatenate([low, high], axis=1), 0, [*size, *size]).astype(int)


class View:
    """One camera's pictures of one episode. Things at rest are projected once and kept."""

    def __init__(self, camera: Camera, size: tuple[int, int], story: Story, rng: np.random.Generator) -> None:
        self._camera, self._size, self._story = camera, size, story
        self._hires = (size[0] * SCALE, size[1] * SCALE)
        self._axes, self._eye = camera.axes(), np.array(camera.position)
        self._focal, self._centre = camera.focal(self._hires), np.array(self._hires) / 2
        self._empty = Image.fromarray(_background(camera, self._hires, rng))
        self._base = self._sprite(drum(0.055, 0.13, SHOULDER * [1, 1, 0], "metal"))
        self._still_key: bytes = b""
        self._still_ground = self._empty
        self._still: list[Sprite] = []

    def picture(self, state: np.ndarray, poses: np.ndarray, held: int | None) -> np.ndarray:
        """The picture, uint8 (height, width, 3), for a gripper state and the pose (4,) of every thing."""
        resting = [i for i in range(len(poses)) if i != held]
        key = poses[resting].tobytes() + bytes(resting)
        if key != self._still_key:
            self._still_key = key
            self._still = [s for i in resting for s in self._thing(self._story.things[i], poses[i])] + [self._base]
            self._still_ground = self._shaded(self._empty, [(self._story.things[i], poses[i]) for i in resting])
        moving = self._arm(state)
        shadows = [] if held is None else [(self._story.things[held], poses[held])]
        image = self._shaded(self._still_ground, shadows)
        if held is not None:
            moving += self._thing(self._story.things[held], poses[held])
        pen = ImageDraw.Draw(image)
        self._arm_shadow(image, state)
        for sprite in sorted(self._still + moving, key=lambda s: -s.depth):
            for outline, colour in sprite.outlines:
                pen.polygon(outline, fill=colour)
            for disc, colour in sprite.discs:
                pen.ellipse(disc, fill=colour)
        return np.asarray(image.reduce(SCALE))

    def _project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = (points - self._eye) @ self._axes.T
        return seen[:, :2] / seen[:, 2:] * self._focal + self._centre, seen[:, 2]

    def _sprite(self, solid: Solid, depth_offset: float = 0.0) -> Sprite:
        """The faces that look towards the camera, shaded by the lamp."""
        pixels, depths = self._project(solid.vertices)
        points = [(float(x), float(y)) for x, y in pixels]
        corners = solid.vertices[[face[:3] for face in solid.faces]]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
        seen = np.einsum("fi,fi->f", normals, self._eye - corners[:, 0]) > 0
        light = AMBIENT + (1 - AMBIENT) * np.maximum(normals @ LIGHT / np.linalg.norm(normals, axis=1), 0.0)
        outlines = tuple(
            ([points[i] for i in face], _tinted(solid.colour, share))
            for face, visible, share in zip(solid.faces, seen, light, strict=True)
            if visible
        )
        return Sprite(float(depths.mean()) + depth_offset, outlines)

    def _thing(self, thing: Thing, pose: np.ndarray) -> list[Sprite]:
        at, yaw, (width, depth, height) = pose[:3], float(pose[3]), thing.size
        if thing.kind == "ball":
            return [self._ball(at + _up(height / 2), width / 2, thing.colour)]
        if thing.kind == "can":
            lid = drum(width / 2 * 0.8, 0.001, at + _up(height), "arm")
            return [self._sprite(drum(width / 2, height, at, thing.colour)), self._sprite(lid)]
        if thing.kind == "cube":
            return [self._sprite(block(thing.size, at + _up(height / 2), yaw, thing.colour))]
        floor = block((width, depth, FLOOR_M), at + _up(FLOOR_M / 2), yaw, thing.colour)
        sprites = [self._sprite(floor, depth_offset=0.2)]  # always behind what lies on it
        for x, y, w, d in (
            (0, depth / 2, width, WALL_M),
            (0, -depth / 2, width, WALL_M),
            (width / 2, 0, WALL_M, depth),
            (-width / 2, 0, WALL_M, depth),
        ):
            sprites.append(self._sprite(block((w, d, height), at + np.array([x, y, height / 2]), yaw, thing.colour)))
        return sprites

    def _ball(self, centre: np.ndarray, radius: float, colour: str) -> Sprite:
        pixels, depths = self._project(centre[None])
        (x, y), size = pixels[0], radius / depths[0] * self._focal
        toward = self._axes[:2] @ LIGHT * size * 0.42
        discs = []
        for step in np.linspace(0.0, 1.0, 9):
            r, cx, cy = size * (1 - 0.92 * step), x + toward[0] * step, y + toward[1] * step
            shade = AMBIENT + (1 - AMBIENT) * float(step) ** 0.7
            discs.append(((cx - r, cy - r, cx + r, cy + r), _tinted(COLOURS[colour], shade, shine=float(step) ** 6)))
        return Sprite(float(depths[0]), (), tuple(discs))

    def _arm(self, state: np.ndarray) -> list[Sprite]:
        tip, yaw, opening = state[:3].astype(float), float(state[5]), float(state[6])
        spread = SPREAD_M[0] + (SPREAD_M[1] - SPREAD_M[0]) * opening
        along = _turned(np.array([[1.0, 0.0, 0.0]]), yaw)[0]
        finger_at = tip + _up(FINGER_M[2] / 2 - 0.016)
        palm_at = finger_at + _up(FINGER_M[2] / 2 + PALM_M[2] / 2)
        sprites = [self._sprite(block(FINGER_M, finger_at + s * spread * along, yaw, "rubber")) for s in (-1, 1)]
        sprites.append(self._sprite(block(PALM_M, palm_at, yaw, "metal")))
        shoulder, elbow, wrist = _joints(tip)
        stem = (wrist[2] - palm_at[2]) / 2
        sprites.append(self._sprite(drum(0.019, 2 * stem, palm_at + _up(PALM_M[2] / 2), "arm")))
        sprites += self._link(wrist, elbow, 0.024, 0.029) + self._link(elbow, shoulder, 0.029, 0.036)
        return [*sprites, self._ball(wrist, 0.03, "joint"), self._ball(elbow, 0.036, "joint")]

    def _link(self, a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float) -> list[Sprite]:
        """A tapered tube, drawn as stripes that grow lighter towards the lamp."""
        pixels, depths = self._project(np.stack([a, b]))
        direction = pixels[1] - pixels[0]
        across = np.array([-direction[1], direction[0]]) / max(float(np.linalg.norm(direction)), 1e-6)
        lit = 1.0 if across @ (self._axes[:2] @ LIGHT) > 0 else -1.0
        widths = np.array([radius_a, radius_b]) / depths * self._focal
        outlines = []
        for low, high in pairwise(np.linspace(-1.0, 1.0, 8)):
            shade = AMBIENT + (1 - AMBIENT) * float(np.sqrt(max(0.0, 1 - ((low + high) / 2 - 0.45) ** 2)))
            edge = [pixels[0] + across * lit * widths[0] * k for k in (low, high)]
            edge += [pixels[1] + across * lit * widths[1] * k for k in (high, low)]
            outlines.append(([(float(x), float(y)) for x, y in edge], _tinted(COLOURS["arm"], shade)))
        return [Sprite(float(depths.mean()), tuple(outlines))]

    def _shaded(self, ground: Image.Image, things: list[tuple[Thing, np.ndarray]]) -> Image.Image:
        """A copy of the ground with the things' soft shadows."""
        image = ground.copy()
        pen = ImageDraw.Draw(image, "RGBA")
        for thing, pose in things:
            width, depth, height = thing.size
            base = _ring(width / 2) if thing.kind in ("ball", "can") else _corners(width, depth)
            lift = np.array([pose[2], pose[2] + height * 0.8])
            foot = _turned(base, float(pose[3]))[:, :2] + pose[:2]
            drift = -LIGHT[:2] / LIGHT[2]
            middle = pose[:2] + drift * lift.mean()
            for grow, opacity in SHADOW_LAYERS:
                spots = np.concatenate([foot + drift * z for z in lift])
                hull = _hull((spots - middle) * grow + middle)
                pixels, _ = self._project(np.column_stack([hull, np.zeros(len(hull))]))
                pen.polygon([(float(x), float(y)) for x, y in pixels], fill=(24, 18, 14, opacity))
        return image

    def _arm_shadow(self, image: Image.Image, state: np.ndarray) -> None:
        pen = ImageDraw.Draw(image, "RGBA")
        shoulder, elbow, wrist = _joints(state[:3].astype(float))
        line = np.stack([shoulder, elbow, wrist, state[:3].astype(float)])
        flat = np.column_stack([line[:, :2] - LIGHT[:2] / LIGHT[2] * line[:, 2:], np.zeros(len(line))])
        pixels, depths = self._project(flat)
        width = round(0.05 / float(depths.mean()) * self._focal)
        points = [(float(x), float(y)) for x, y in pixels]
        for extra, opacity in ((6, 12), (0, 16)):
            pen.line(points, fill=(24, 18, 14, opacity), width=width + extra, joint="curve")


def _joints(tip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shoulder, elbow and wrist of a two-link arm whose hand hangs straight down; the elbow points up."""
    wrist = tip + _up(WRIST_M)
    reach = wrist - SHOULDER
    distance = min(float(np.linalg.norm(reach)), 2 * LINK_M - 1e-6)
    along = reach / np.linalg.norm(reach)
    up = np.array([0.0, 0.0, 1.0]) - along * along[2]
    up /= max(float(np.linalg.norm(up)), 1e-6)
    elbow = SHOULDER + along * distance / 2 + up * float(np.sqrt(LINK_M**2 - (distance / 2) ** 2))
    return SHOULDER, elbow, wrist


def _background(camera: Camera, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """An empty wooden table in a plain room, uint8 (height, width, 3): each pixel's ray meets table or room."""
    width, height = size
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = (
        np.stack([(xs - width / 2), (ys - height / 2), np.full_like(xs, camera.focal(size))], axis=-1) @ camera.axes()
    )
    reach = np.where(rays[..., 2] < -1e-6, -camera.position[2] / np.minimum(rays[..., 2], -1e-6), np.inf)
    x = camera.position[0] + rays[..., 0] * np.minimum(reach, 1e3)
    y = camera.position[1] + rays[..., 1] * np.minimum(reach, 1e3)
    table = (np.abs(x) < TABLE_X_M) & (y > TABLE_Y_M[0]) & (y < TABLE_Y_M[1]) & np.isfinite(reach)
    waves, phases = rng.uniform(18, 70, 6), rng.uniform(0, 6.28, 6)
    bend = 0.02 * np.sin(5 * x + phases[0])
    grain = sum(np.sin(w * (y + bend) * 2 + p + 1.5 * np.sin(3 * x + p)) for w, p in zip(waves, phases, strict=True))
    planks = np.abs(((y + 0.5) / 0.17) % 1.0 - 0.5) > 0.487
    tone = 1.0 + 0.02 * grain - 0.10 * planks - 0.18 * (x**2 + (y - 0.05) ** 2)
    wood = WOOD * tone[..., None]
    fade = np.linspace(1.0, 0.86, height)[:, None, None]
    room = np.where((np.isfinite(reach) & (reach < 1e3))[..., None], FLOOR, WALL) * fade
    picture = np.where(table[..., None], wood, room) + rng.normal(0.0, 2.0, (height, width, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _up(z: float) -> np.ndarray:
    return np.array([0.0, 0.0, z])


def _tinted(colour: tuple[int, int, int], share: float, shine: float = 0.0) -> tuple[int, int, int]:
    r, g, b = (min(255, int(c * share + (255 - c) * 0.75 * shine)) for c in colour)
    return r, g, b


def _ring(radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, ROUND_SIDES, endpoint=False)
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius, np.zeros(ROUND_SIDES)], axis=1)


def _corners(width: float, depth: float) -> np.ndarray:
    return np.array([[-width, -depth, 0], [width, -depth, 0], [width, depth, 0], [-width, depth, 0]]) / 2


def _turned(points: np.ndarray, yaw: float) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return points @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


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
