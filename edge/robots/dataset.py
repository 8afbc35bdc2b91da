"""A recorded episode plays the robot: real pictures and states, and what is sent is held against what was recorded.

Time is counted in control steps, as the engine counts them. A step begins when the robot is read and ends when it is
read again after something was sent; then the recording moves on by one frame. So a robot to which nothing is sent
stands still, pictures and all, and the rate of the control loop is the rate at which the recording plays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from configuration.flags import nearest
from configuration.refusal import refusal
from edge.contract import CAMERA_PREFIX
from edge.errors import RobotError
from edge.robots.base import Reading, RobotFeatures
from edge.robots.comparison import Comparer, Comparison
from edge.robots.factory import check_action
from edge.robots.options import Options
from edge.robots.reel import Reel, told

if TYPE_CHECKING:
    from tasks.dataset.episode import Episode
    from tasks.dataset.layout import Dataset

log = logging.getLogger(__name__)

EXTRA = "pip install 'cuebook[replay]'"


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
        self._dataset, self._episode = _open(options)
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
            _rows(self._dataset, self._episode, key) for key in (self.options.state_key, self.options.action_key)
        )
        self._comparer = Comparer(self.features.action_names, self._actions, self.options.tolerance)
        self._reels = {
            name: Reel(name, _frames(self._dataset, self._episode, key), loop=self.options.loop)
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


def _open(options: DatasetOptions) -> tuple[Dataset, Episode]:
    try:
        from tasks.dataset.layout import open_dataset
        from tasks.errors import AnnotateError

        try:
            dataset = open_dataset(_root(options))
            (episode,) = dataset.episodes([options.episode])
            return dataset, episode
        except AnnotateError as err:
            raise RobotError(*told(err, "want a recording that can be played")) from err
    except ImportError as err:
        raise RobotError("want what reads datasets", f"no module {err.name}", EXTRA) from err


def _root(options: DatasetOptions) -> Path:
    if options.root is not None:
        return options.root
    from tasks.dataset.hub import download

    assert options.repo_id is not None  # checked with the options
    return download(options.repo_id, options.revision)


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
        state_names=_names(dataset, options.state_key, "state_key"),
        action_names=_names(dataset, options.action_key, "action_key"),
        cameras={name: _size(dataset, episode, key) for name, key in cameras.items()},
        fps=info.fps,
    )


def _names(dataset: Dataset, key: str, option: str) -> tuple[str, ...]:
    """Names of a column's values; numbered ones where the dataset has none. Raises RobotError for a missing column."""
    feature = dataset.info.features.get(key)
    if feature is None:
        have = ", ".join(dataset.info.features)
        remedy = nearest(key, list(dataset.info.features)) or f"it has {have}"
        raise RobotError(f"want column {key} in the recording", "none", f"set --robot.{option}: {remedy}")
    names = tuple(dataset.feature_names(key))
    return names or tuple(f"{key.rpartition('.')[2]}_{i}" for i in range(int(np.prod(feature.get("shape") or [1]))))


def _size(dataset: Dataset, episode: Episode, key: str) -> tuple[int, int]:
    """(height, width) of a camera, from the recording's own description, else from its first picture."""
    from tasks.dataset.info import camera_size

    width, height = camera_size(dataset.info.features[key])
    if width > 0 and height > 0:
        return height, width
    try:
        return next(_frames(dataset, episode, key)()).shape[:2]
    except Exception as err:
        raise RobotError(*told(err, f"want a picture of camera {key}")) from err


def _rows(dataset: Dataset, episode: Episode, key: str) -> np.ndarray:
    """A column of the episode, float32 (frames, values): as the replay policy has it. Raises RobotError."""
    from tasks.errors import AnnotateError

    try:
        rows = np.array(dataset.columns(episode, [key])[key], np.float32).reshape(episode.frames, -1)
    except AnnotateError as err:
        raise RobotError(*told(err, f"want column {key}")) from err
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        got = f"NaN or infinity in frame {bad[0]} of episode {episode.episode_index}"
        raise RobotError(f"want finite numbers in {key}", got, "choose another with --robot.episode")
    rows.flags.writeable = False
    return rows


def _frames(dataset: Dataset, episode: Episode, key: str) -> Any:
    """What decodes one pass of a camera."""
    return partial(_stored_frames if key in dataset.image_cameras else _video_frames, episode, key)


def _video_frames(episode: Episode, key: str) -> Iterator[np.ndarray]:
    from tasks.dataset.clip import in_order
    from tasks.dataset.video import Clip, Scaler

    ref = episode.videos[key]
    clip = Clip(ref.path, ref.from_s + episode.start_s, ref.from_s + episode.end_s, episode.fps)
    scaler = Scaler()
    for _, frame in in_order(clip.read([ref.from_s + time_s for time_s in episode.times])):
        yield scaler.rgb(frame, frame.width, frame.height)


def _stored_frames(episode: Episode, key: str) -> Iterator[np.ndarray]:
    """Pictures that lie inside the data shard, as LeRobot stores cameras without video."""
    import io

    from PIL import Image

    from tasks.dataset.shards import episode_column

    column = episode_column(episode, key)
    if column is None:
        raise RobotError(f"want column {key} in {episode.data_path}", "none", "download the whole dataset")
    for row in column:
        yield np.array(Image.open(io.BytesIO(row["bytes"].as_py())).convert("RGB"))
