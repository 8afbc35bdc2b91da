"""Any Gymnasium environment as a robot, by a map of what it observes.

An environment has a time of its own: each command is one step of it, and where nothing is sent, nothing happens.
"""

from __future__ import annotations

import importlib
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from configuration.flags import nearest
from configuration.refusal import refusal
from edge.errors import RobotError
from edge.robots.base import Reading, RobotFeatures
from edge.robots.factory import check_action
from edge.robots.gym_spaces import ActionSpace, flat_spaces, numbered, picture_keys, size_of, value_at, vector_keys
from edge.robots.options import Options
from edge.robots.watch import camera_gone

EXTRA = "pip install 'cuebook[gym]', and the package of the environment"
RENDER = "render"  # a camera that is what the environment draws for people
EPISODES_KEPT = 1000  # in the report
Numbers = float | list[float]


class GymOptions(Options):
    """--robot.… of an environment."""

    env: str = Field(description="id of the environment, such as gym_pusht/PushT-v0, or module:id")
    env_kwargs: dict[str, Any] = Field(default_factory=dict, description="how it is made: {obs_type: pixels_agent_pos}")
    seed: int | None = Field(None, ge=0, description="of the first episode, one more for each after it; null: any")
    state: list[str] | None = Field(
        None, description="observed values that make the state, in order; null: all numbers"
    )
    cameras: dict[str, str] | None = Field(
        None, description="camera name: observed picture, or render; null: every observed picture"
    )
    state_names: list[str] | None = Field(None, description="names of the state's numbers, as the policy has them")
    action_names: list[str] | None = Field(None, description="names of the action's numbers, as the policy has them")
    state_scale: Numbers = Field(1.0, description="state = observed * scale + offset; one number, or one each")
    state_offset: Numbers = Field(0.0, description="see state_scale")
    action_scale: Numbers = Field(1.0, description="environment's action = action * scale + offset")
    action_offset: Numbers = Field(0.0, description="see action_scale")
    fps: float | None = Field(None, gt=0, description="control steps a second; null: as the environment says")

    @model_validator(mode="after")
    def _check(self) -> GymOptions:
        if not np.all(np.asarray(self.action_scale)):
            raise refusal("action_scale", "want no 0", repr(self.action_scale), "leave it out for 1")
        return self


@dataclass
class EpisodeReport:
    """How one episode went."""

    steps: int = 0
    reward: float = 0.0
    success: bool | None = None  # None: the environment does not say
    ended: str = ""  # terminated, truncated, or "" while it runs


class GymRobot:
    """One environment."""

    def __init__(self, options: GymOptions) -> None:
        """Make the environment. Raises RobotError where it cannot be made, or its spaces cannot be mapped."""
        self.options = options
        self._env = _make(options)
        try:
            self._map()
        except BaseException:
            self._env.close()
            raise
        self._observation: Any = None
        self._reading: tuple[np.ndarray, dict[str, np.ndarray]] | None = None
        self._begun = 0
        self._connected = self._closed = self._done = False
        self._episodes: deque[EpisodeReport] = deque(maxlen=EPISODES_KEPT)

    def _map(self) -> None:
        """Which observed value is what, and the features that follow."""
        options = self.options
        self._spaces = flat_spaces(self._env.observation_space)
        self._state_keys = vector_keys(self._spaces, options.state)
        self._cameras = picture_keys(self._spaces, options.cameras, RENDER)
        self._actions = ActionSpace.of(self._env.action_space)
        sizes = {key: size_of(self._spaces[key]) for key in self._state_keys}
        states = [name for key, size in sizes.items() for name in numbered(key, size)]
        self._state_scale = _each(options.state_scale, len(states), "state_scale")
        self._state_offset = _each(options.state_offset, len(states), "state_offset")
        self._scale = _each(options.action_scale, self._actions.size, "action_scale")
        self._offset = _each(options.action_offset, self._actions.size, "action_offset")
        ends = np.sort(np.stack([self._ours(self._actions.low), self._ours(self._actions.high)]), axis=0)
        self.features = RobotFeatures(
            robot_type=options.env.rpartition(":")[2],
            state_names=_names(options.state_names, states, "state_names"),
            action_names=_names(options.action_names, numbered("action", self._actions.size), "action_names"),
            cameras={name: self._size(key) for name, key in self._cameras.items()},
            fps=options.fps or self._env.metadata.get("render_fps"),
            action_min=ends[0].astype(np.float32),
            action_max=ends[1].astype(np.float32),
        )

    def connect(self) -> None:
        """Begin the first episode. Raises RobotError."""
        if self._closed:
            raise RobotError("want an environment that is open", "it was closed", "make the robot anew")
        self._connected = True
        self._reset()

    def begin_episode(self) -> None:
        """Reset the environment, unless it has just been."""
        self._check_connected()
        if self._episodes[-1].steps:
            self._reset()

    def read(self) -> Reading:
        """What it observes now. Raises RobotError."""
        self._check_connected()
        captured_s = time.monotonic()
        if self._reading is None:
            values = [np.asarray(self._value(key), np.float64).reshape(-1) for key in self._state_keys]
            state = np.concatenate([*values, np.zeros(0)]) * self._state_scale + self._state_offset
            images = {name: self._picture(name, key) for name, key in self._cameras.items()}
            self._reading = state.astype(np.float32), images
        return Reading(*self._reading, captured_s)

    def send(self, action: np.ndarray) -> np.ndarray:
        """One step of the environment. Returns the action within the environment's limits. RobotError.

        After the end of an episode nothing moves until the next one begins.
        """
        self._check_connected()
        check_action(action, self.features)
        inside = self._actions.inside(action.astype(np.float64) * self._scale + self._offset)
        if not self._done:
            self._step(inside)
        return self._ours(inside).astype(np.float32)

    @property
    def done(self) -> bool:
        """Whether the environment ended the episode."""
        return self._done

    def stop(self) -> None:
        """It stands still already: nothing happens in it between two commands."""

    def disconnect(self) -> None:
        """Close the environment."""
        self._connected = False
        if not self._closed:
            self._closed = True
            self._env.close()

    def report(self) -> dict[str, Any]:
        """Episodes and how they went, for the summary of a run."""
        driven = [e for e in self._episodes if e.steps]
        told = [e.success for e in driven if e.success is not None]
        return {
            "env": self.options.env,
            "episodes": [
                {"steps": e.steps, "reward": e.reward, "success": e.success, "ended": e.ended} for e in driven
            ],
            "successes": sum(told) if told else None,
        }

    def _check_connected(self) -> None:
        if not self._connected:
            raise RobotError("want a robot that is connected", "it is not", "call connect first")

    def _ours(self, action: np.ndarray) -> np.ndarray:
        """The environment's action in the policy's units."""
        return (action - self._offset) / self._scale

    def _reset(self) -> None:
        seed = None if self.options.seed is None else self.options.seed + self._begun
        try:
            self._observation, _ = self._env.reset(seed=seed)
        except Exception as err:
            raise _failed("begin an episode", err) from err
        self._begun += 1
        self._reading, self._done = None, False
        self._episodes.append(EpisodeReport())

    def _step(self, action: np.ndarray) -> None:
        try:
            self._observation, reward, terminated, truncated, info = self._env.step(self._actions.value(action))
        except Exception as err:
            raise _failed("take a step", err) from err
        self._reading, self._done = None, bool(terminated or truncated)
        episode = self._episodes[-1]
        episode.steps += 1
        episode.reward += float(reward)
        episode.ended = "terminated" if terminated else "truncated" if truncated else ""
        if "is_success" in info:
            episode.success = bool(info["is_success"])

    def _value(self, key: str) -> Any:
        return value_at(self._observation, key)

    def _picture(self, name: str, key: str) -> np.ndarray:
        """A picture of its own: environments may draw into one buffer again and again."""
        if key != RENDER:
            return np.array(self._value(key), np.uint8)
        try:
            drawn = self._env.render()
        except Exception as err:
            raise _failed("draw itself", err) from err
        if not isinstance(drawn, np.ndarray) or drawn.ndim != 3 or drawn.shape[2] != 3:
            raise camera_gone(name, f"{type(drawn).__name__} in place of an RGB array from render()")
        return np.array(drawn, np.uint8)

    def _size(self, key: str) -> tuple[int, int]:
        """(height, width) of a camera; what is drawn must be drawn once to know."""
        if key != RENDER:
            return tuple(self._spaces[key].shape[:2])
        try:
            self._env.reset()
        except Exception as err:
            raise _failed("begin an episode", err) from err
        return self._picture(RENDER, RENDER).shape[:2]


def _make(options: GymOptions) -> Any:
    """The environment, with no window. Raises RobotError."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on stdout, where a summary may go
    try:
        import gymnasium
    except ImportError as err:
        raise RobotError("want gymnasium", f"no module {err.name}", EXTRA) from err
    _register(options.env)
    kwargs = dict(options.env_kwargs)
    if options.cameras and RENDER in options.cameras.values():
        kwargs.setdefault("render_mode", "rgb_array")
    try:
        return gymnasium.make(options.env, disable_env_checker=True, **kwargs)
    except gymnasium.error.UnregisteredEnv as err:
        near = nearest(
            options.env, [name for name in gymnasium.registry if _namespace(name) == _namespace(options.env)]
        )
        remedy = near or f"install its package, or say module:{options.env}"
        wanted = "want an environment that is registered in --robot.env"
        raise RobotError(wanted, f"{options.env}: {err}", remedy) from err
    except Exception as err:
        remedy = "look at --robot.env and --robot.env_kwargs"
        raise RobotError(f"want to make {options.env}", f"{type(err).__name__}: {err}", remedy) from err


def _register(env: str) -> None:
    """Import the package that an id is named after, as in gym_pusht/PushT-v0: that registers it."""
    package = _namespace(env)
    if not package.isidentifier():
        return
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as err:
        if err.name != package:
            raise RobotError(f"want {package} to import", f"no module {err.name}", "install it") from err


def _namespace(env: str) -> str:
    """What stands before the slash; "" for an id without one."""
    return env.rpartition("/")[0]


def _failed(what: str, err: Exception) -> RobotError:
    return RobotError(f"want the environment to {what}", f"{type(err).__name__}: {err}", "look at the environment")


def _each(numbers: Numbers, count: int, option: str) -> np.ndarray:
    """One number for each value, float64. Raises RobotError when there are more or fewer."""
    values = np.asarray(numbers, np.float64)
    if values.ndim and len(values) not in (1, count):  # a flag's one number comes as a list of one
        raise RobotError(f"want one number, or {count}, in --robot.{option}", str(len(values)), "give one each")
    return np.broadcast_to(values, (count,))


def _names(asked: list[str] | None, plain: list[str], option: str) -> tuple[str, ...]:
    if asked is None:
        return tuple(plain)
    if len(asked) != len(plain) or len(set(asked)) != len(asked):
        got = f"{len(asked)}: {', '.join(asked)}"
        raise RobotError(f"want {len(plain)} different names in --robot.{option}", got, f"name {', '.join(plain)}")
    return tuple(asked)
