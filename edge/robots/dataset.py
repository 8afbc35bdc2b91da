"""A recorded episode plays the robot: real pictures and states, and what is sent is held against what was recorded.

Time is counted in control steps, as the engine counts them. A step begins when the robot is read and ends when it is
read again after something was sent; then the recording moves on by one frame. So a robot to which nothing is sent
stands still, pictures and all, and the rate of the control loop is the rate at which the recording plays.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from configuration.flags import nearest
from configuration.refusal import refusal
from edge.contract import CAMERA_PREFIX
from edge.errors import RobotError
from edge.robots.base import Reading, RobotFeatures
from edge.robots.comparison import Comparer, Comparison
from edge.robots.factory import check_action
from edge.robots.options import Options
from edge.robots.recorded_episode import download, frames_of, open_recording, rows_of, size_of, value_names
from edge.robots.reel import Reel

if TYPE_CHECKING:
    from tasks.dataset.episode import Episode
    from tasks.dataset.layout import Dataset

log = logging.getLogger(__name__)


class DatasetOptions(Options):
    """--robot.… of a recorded robot."""

    root: Path | None = Field(None, description="folder of a LeRobot v3 dataset")
    repo_id: str | None = Field(None, description="or its hub id, downloaded once")
    revision: str | None = Field(None, description="revision on the hub; null: the newest")
    episode: int = Field(0, ge=0, description="which episode plays the robot")
    loop: bool = Field(False, description="begin again at its end, in place of ending the episode")
    cameras: Literal["all", "none"] | list[str] = Field("all", description="which cameras it has")
    state_key: str = Field("observation.state", description="column of what it measures")
    action_key: str = Field("action", description="column of what it was sent")
    tolerance: float | None = Field(
        None,
        ge=0,
        description="end the run when an action is further off the recorded one, robot units; null: only count",
    )

    @field_validator("cameras", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return value[0] if value in (["all"], ["none"]) else value  # a flag's one word comes as a list of one

    @model_validator(mode="after")
    def _check(self) -> DatasetOptions:
        if (self.root is None) == (self.repo_id is None):
            got = "neither" if self.root is None else "both"
            raise refusal("root", "want a folder or a hub id", got, "give --robot.root or --robot.repo_id")
        if self.revision is not None and self.repo_id is None:
            raise refusal("revision", "want it with repo_id only", repr(self.revision), "take it away")
        if self.loop and self.tolerance is not None:
            wanted = "want no tolerance on a loop, whose queued actions do not begin again with it"
            raise refusal("tolerance", wanted, f"{self.tolerance:g}", "take --robot.loop away")
        return self


class DatasetRobot:
    """One episode as a robot. Features are known at once; rows and pictures are read when it is connected."""

    def __init__(self, options: DatasetOptions) -> None:
        """Raises RobotError on what cannot be played."""
        self.options = options
        root = options.root
        if root is None:
            assert options.repo_id is not None  # checked with the options
            root = download(options.repo_id, options.revision)
        self._dataset, self._episode = open_recording(root, options.episode)
        self._keys = _cameras(self._dataset, options)
        self.features = _features(self._dataset, self._episode, options, self._keys)
        self._reels: dict[str, Reel] = {}
        self._states = self._actions = np.zeros((0, 0), np.float32)
        self._comparer: Comparer | None = None
        self._images: dict[str, np.ndarray] = {}
        self._sent: np.ndarray | None = None  # in the step that has not ended
        self._frame = 0
        self._done = False
        self._open = False

    @property
    def episode_index(self) -> int:
        """Which recorded episode this is."""
        return self._episode.episode_index

    @property
    def task(self) -> str:
        """What was being done when it was recorded."""
        return self._episode.task

    @property
    def frame(self) -> int:
        """The recorded frame that the robot stands at."""
        return self._frame

    def connect(self) -> None:
        """Read the episode's rows and decode its first pictures. Raises RobotError."""
        self._states, self._actions = (
            rows_of(self._dataset, self._episode, key) for key in (self.options.state_key, self.options.action_key)
        )
        self._comparer = Comparer(self.features.action_names, self._actions, self.options.tolerance)
        self._reels = {
            name: Reel(name, frames_of(self._dataset, self._episode, key), loop=self.options.loop)
            for name, key in self._keys.items()
        }
        self._open = True
        try:
            self._rewind()
        except RobotError:
            self.disconnect()
            raise

    def begin_episode(self) -> None:
        """Back to the first frame, where it is not there already."""
        self._connected()
        if self._frame or self._sent is not None or self._done:
            self._rewind()

    def read(self) -> Reading:
        """State and pictures of the frame that the recording stands at.

        Ends the step when something was sent in it. Raises RobotError when a picture cannot be decoded, or when an
        action was further off than the tolerance.
        """
        self._end_step()
        captured_s = time.monotonic()
        return Reading(self._states[self._frame], self._images, captured_s)

    def send(self, action: np.ndarray) -> np.ndarray:
        """Take an action; the last one of a step is compared when the step ends. Returns it as it is."""
        self._connected()
        check_action(action, self.features)
        self._sent = np.array(action, np.float32)
        return self._sent

    @property
    def done(self) -> bool:
        """Whether the step at the last frame has ended; never on a loop."""
        return self._done

    def stop(self) -> None:
        """It stands still already: it only moves on when it is read after something was sent."""

    def disconnect(self) -> None:
        """End the decoding. What was compared stays."""
        self._open = False
        for reel in self._reels.values():
            reel.close()

    def comparison(self) -> Comparison:
        """What was sent beside what was recorded, for all steps that ended. Raises RobotError before connect."""
        if self._comparer is None:
            raise RobotError("want something to compare", "the robot was never connected", "call connect first")
        return self._comparer.result()

    def report(self) -> dict[str, Any]:
        """The comparison for the summary of a run."""
        return {"episode": self.episode_index, **self.comparison().as_dict()}

    def _connected(self) -> Comparer:
        if not self._open or self._comparer is None:
            raise RobotError("want a robot that is connected", "it is not", "call connect first")
        return self._comparer

    def _rewind(self) -> None:
        self._frame, self._sent, self._done = 0, None, False
        self._connected().begin()
        for reel in self._reels.values():
            reel.open()
        self._images = {name: reel.next() for name, reel in self._reels.items()}

    def _end_step(self) -> None:
        comparer, sent = self._connected(), self._sent
        if sent is None or self._done:
            return
        frame, self._sent = self._frame, None
        last = frame + 1 == len(self._states)
        self._done = last and not self.options.loop
        if not self._done:
            self._frame = 0 if last else frame + 1
            self._images = {name: reel.next() for name, reel in self._reels.items()}
        comparer.add(frame, sent)
        if last and self.options.loop:
            comparer.begin()


def _cameras(dataset: Dataset, options: DatasetOptions) -> dict[str, str]:
    """Robot's own camera name -> column. Raises RobotError for a camera that the dataset lacks."""
    known = {key.removeprefix(CAMERA_PREFIX): key for key in (*dataset.cameras, *dataset.image_cameras)}
    if options.cameras == "none":
        return {}
    if options.cameras == "all":
        if dataset.depth_cameras:
            log.info("depth cameras are not played: %s", ", ".join(dataset.depth_cameras))
        return known
    found = {}
    for asked in options.cameras:
        name = asked.removeprefix(CAMERA_PREFIX)
        if name not in known:
            remedy = nearest(name, list(known)) or f"it has {', '.join(known) or 'none'}"
            raise RobotError("want cameras of the recording in --robot.cameras", repr(asked), remedy)
        found[name] = known[name]
    return found


def _features(dataset: Dataset, episode: Episode, options: DatasetOptions, cameras: dict[str, str]) -> RobotFeatures:
    info = dataset.info
    return RobotFeatures(
        robot_type=str(info.raw.get("robot_type") or "recording"),
        state_names=value_names(dataset, options.state_key, "--robot.state_key"),
        action_names=value_names(dataset, options.action_key, "--robot.action_key"),
        cameras={name: size_of(dataset, episode, key) for name, key in cameras.items()},
        fps=info.fps,
    )
