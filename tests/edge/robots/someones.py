"""Robots and teleoperators that somebody else might write, good ones and bad ones, for `module:function`."""

from __future__ import annotations

import time

import numpy as np

from edge.errors import RobotError
from edge.robots.base import Reading, RobotFeatures
from edge.teleoperators.base import NO_EVENTS


class Cart:
    """Moves by what it is told."""

    def __init__(self, speed: float = 1.0, names: tuple[str, ...] = ("x.vel",)) -> None:
        self.speed = speed
        self.features = RobotFeatures("cart", ("x.pos",), names)
        self.x, self.v = 0.0, 0.0
        self.done = False

    def connect(self) -> None: ...

    def read(self) -> Reading:
        return Reading(np.array([self.x], np.float32), {}, time.monotonic())

    def send(self, action: np.ndarray) -> np.ndarray:
        self.v = float(action[0]) * self.speed
        return action

    def begin_episode(self) -> None: ...

    def stop(self) -> None:
        self.v = 0.0

    def disconnect(self) -> None: ...


def cart(speed: float = 1.0) -> Cart:
    return Cart(speed)


def broken() -> Cart:
    raise ValueError("no such port")


def unplugged() -> Cart:
    raise RobotError("want a cart", "no answer", "plug it in")


def headless() -> object:
    return object()


def mute() -> object:
    made = Cart()
    made.stop = None  # type: ignore[assignment,method-assign]
    return made


def doubled() -> Cart:
    return Cart(names=("x.vel", "x.vel"))


class Stick:
    """A teleoperator of two joints, in an order of its own."""

    action_names = ("b", "a")

    def __init__(self, follows: bool = True) -> None:
        self.can_follow = follows
        self.led: list[np.ndarray] = []

    def connect(self) -> None: ...

    def read(self) -> np.ndarray | None:
        return np.array([2, 1], np.float32)

    def events(self):
        return NO_EVENTS

    def follow(self, action: np.ndarray) -> bool:
        self.led.append(action)
        return self.can_follow

    def release(self) -> None: ...

    def disconnect(self) -> None: ...


def stick(follows: bool = True) -> Stick:
    return Stick(follows)
