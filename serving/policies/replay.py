"""A recorded dataset answers: the frame whose state is nearest, and the actions recorded from there on.

No weights, no GPU. A robot can be commissioned with it, and everything between robot and policy tested on what really
happened. Actions leave as they were recorded, bit by bit (float64 ones rounded to float32).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from serving.errors import PolicyError, PredictError
from serving.manifest import ModelSettings
from serving.policies.base import Camera, Chunk, PolicySpec, Request, SessionInfo
from serving.policies.options import Options, checked
from serving.wire.errors import MessageError

if TYPE_CHECKING:
    from tasks.dataset.episode import Episode
    from tasks.dataset.layout import Dataset

log = logging.getLogger(__name__)

EPISODE_TAG = "replay_episode"  # tag of a session that asks for one episode
LOOK_AHEAD_S = 3.0  # how far on from the last frame the next one is expected
JUMP_FACTOR = 0.5  # a frame elsewhere must be this much nearer than the best one just ahead
SPREAD_MIN = 1e-6  # a value that hardly varies is compared as it is
BATCH_MAX = 256  # an answer is a slice of an array: nothing is gained by splitting batches
BYTES_PER_VALUE = 4


class ReplayOptions(Options):
    """model.options of a replayed dataset."""

    chunk_size: int = Field(50, ge=1, description="actions of an answer")
    episodes: list[int] | None = Field(None, min_length=1, description="episodes that may answer; null: all")
    cameras: Literal["all", "none"] | list[str] = Field(
        "all", description="which the robot must send: all of the dataset, none, or those named; nobody looks at them"
    )
    after_end: Literal["hold", "zeros"] = Field(
        "hold", description="rows behind an episode's end: its last action again, or zeros (for relative actions)"
    )
    state_key: str = Field("observation.state", description="column that is compared with the robot's state")
    action_key: str = Field("action", description="column that answers")
    memory_mib_max: int = Field(1024, ge=1, description="refuse datasets whose states and actions need more")


@dataclass(frozen=True)
class Recording:
    """One episode in memory."""

    episode_index: int
    task: str
    states: np.ndarray  # float32 (frames, state_dim)
    actions: np.ndarray  # float32 (frames, action_dim)


@dataclass(frozen=True)
class Place:
    """A frame of a recording: where an answer begins."""

    recording: int  # position in ReplayPolicy.recordings
    frame: int


class ReplayPolicy:
    """Answers from recordings; shared, because a place in an episode is a session's own."""

    def __init__(self, recordings: Sequence[Recording], spec: PolicySpec, after_end: str = "hold") -> None:
        self.spec = spec
        self.recordings = list(recordings)
        self._hold = after_end == "hold"
        self._scale = _scale(recordings)

    def open_session(self, info: SessionInfo) -> ReplaySession:
        """A robot that has not been placed yet. Its tag `replay_episode` binds it to one episode."""
        return ReplaySession(self, self._asked_for(info.tags.get(EPISODE_TAG)))

    def predict(self, batch: Sequence[Place]) -> list[np.ndarray]:
        """The actions recorded from each place on, float32 (chunk_size, action_dim)."""
        return [self._chunk(place) for place in batch]

    def reset(self) -> None:
        """Nothing to forget: places are kept by the sessions."""

    def close(self) -> None:
        """Let the recordings go."""
        self.recordings = []

    def distances(self, recording: int, state: np.ndarray) -> np.ndarray:
        """How far a state is from each frame of a recording; float64 (frames,)."""
        return np.linalg.norm((self.recordings[recording].states - state.astype(np.float64)) * self._scale, axis=1)

    def _chunk(self, place: Place) -> np.ndarray:
        actions = self.recordings[place.recording].actions
        chunk = actions[place.frame : place.frame + self.spec.chunk_size]
        missing = self.spec.chunk_size - len(chunk)
        last = actions[-1:] if self._hold else np.zeros_like(actions[-1:])
        return np.concatenate([chunk, np.repeat(last, missing, axis=0)])

    def _asked_for(self, tag: str | None) -> tuple[int, ...]:
        if tag is None:
            return tuple(range(len(self.recordings)))
        found = tuple(i for i, r in enumerate(self.recordings) if str(r.episode_index) == tag)
        if not found:
            known = ", ".join(str(r.episode_index) for r in self.recordings[:8])
            raise MessageError(f"want an episode that is served in tag {EPISODE_TAG}", repr(tag), f"say one of {known}")
        return found


class ReplaySession:
    """One robot's place in a recording."""

    def __init__(self, policy: ReplayPolicy, candidates: tuple[int, ...]) -> None:
        self._policy, self._candidates = policy, candidates
        self._places: list[Place] = []  # where the robot may be: one, unless episodes have been alike so far

    def prepare(self, request: Request) -> Place:
        """The place nearest to the robot's state; from the first match on within one episode."""
        state = request.moment.state
        if state is None:
            raise PredictError("want the robot's state", "none", "send it")
        if self._places:
            found = [self._next(state, place) for place in self._places]
        else:
            found = [self._first(state, recording) for recording in self._recordings(request.task)]
        nearest = min(distance for distance, _ in found)
        self._places = [place for distance, place in found if distance == nearest]
        return self._places[0]

    def finish(self, raw: np.ndarray) -> Chunk:
        """Both spaces are the recorded one."""
        return Chunk(model=raw, robot=raw)

    def reset(self) -> None:
        """The next observation may match any episode again."""
        self._places = []

    def close(self) -> None:
        """Nothing to free."""

    def _recordings(self, task: str) -> tuple[int, ...]:
        """Episodes of the task asked for; all where there is none of it."""
        of_task = [i for i in self._candidates if task and self._policy.recordings[i].task == task]
        return tuple(of_task) or self._candidates

    def _first(self, state: np.ndarray, recording: int) -> tuple[float, Place]:
        """The nearest frame of a recording, the earliest of equal ones, and how far it is."""
        distances = self._policy.distances(recording, state)
        frame = int(np.argmin(distances))
        return float(distances[frame]), Place(recording, frame)

    def _next(self, state: np.ndarray, last: Place) -> tuple[float, Place]:
        """A frame soon after the last one, where a robot that follows the recording is, and how far it is.

        Many states come back: at rest, or on the way home. So a frame elsewhere, the last one included, must be clearly
        nearer than the best of those ahead.
        """
        distances = self._policy.distances(last.recording, state)
        end = last.frame + 1 + max(1, round(LOOK_AHEAD_S * self._policy.spec.fps))
        ahead = distances[last.frame + 1 : end]
        frame = int(np.argmin(distances))
        if len(ahead) and distances[frame] >= JUMP_FACTOR * ahead.min():
            frame = last.frame + 1 + int(np.argmin(ahead))
        return float(distances[frame]), Place(last.recording, frame)


def _scale(recordings: Sequence[Recording]) -> np.ndarray:
    """What one step of each state value counts, so that values of all units weigh alike; float64 (state_dim,)."""
    frames = sum(len(r.states) for r in recordings)
    mean = sum(r.states.sum(axis=0, dtype=np.float64) for r in recordings) / frames
    variance = sum(np.square(r.states - mean).sum(axis=0) for r in recordings) / frames
    spread = np.sqrt(variance)
    return 1.0 / np.where(spread > SPREAD_MIN, spread, 1.0)


def load(model: ModelSettings) -> ReplayPolicy:
    """The dataset folder `model.repo_or_path` as a policy. Raises PolicyError on what cannot be replayed."""
    try:
        from tasks.dataset.layout import open_dataset
        from tasks.errors import AnnotateError
    except ImportError as err:
        remedy = "pip install 'cuebook[replay]'"
        raise PolicyError("want pyarrow and av to read a dataset", f"no module {err.name}", remedy) from err
    options = checked(ReplayOptions, model.options, "model.options of a replayed dataset")
    try:
        dataset = open_dataset(Path(model.repo_or_path))
        episodes = dataset.episodes(options.episodes)
        _check_columns(dataset, options)
        _check_memory(dataset, episodes, options)
        recordings = [_recording(dataset, episode, options) for episode in episodes]
    except AnnotateError as err:
        wanted, got, remedy = (*map(str, err.args), "", "", "")[:3]
        raise PolicyError(wanted, got, remedy) from err
    policy = ReplayPolicy(recordings, _spec(dataset, recordings, model, options), options.after_end)
    frames = sum(len(r.states) for r in recordings)
    log.info("replaying %d episodes, %d frames of %s", len(recordings), frames, dataset.root)
    return policy


def _check_columns(dataset: Dataset, options: ReplayOptions) -> None:
    for name, key in (("state", options.state_key), ("action", options.action_key)):
        if key not in dataset.info.features:
            have = ", ".join(dataset.info.features)
            raise PolicyError(f"want column {key} in the dataset", have, f"set model.options.{name}_key")


def _check_memory(dataset: Dataset, episodes: Sequence[Episode], options: ReplayOptions) -> None:
    """Refuse before anything is read."""
    shapes = (dataset.info.features[key].get("shape") or [1] for key in (options.state_key, options.action_key))
    values = sum(int(np.prod(shape)) for shape in shapes)
    mib = sum(e.frames for e in episodes) * values * BYTES_PER_VALUE / (1 << 20)
    if mib > options.memory_mib_max:
        remedy = "name fewer in model.options.episodes, or raise model.options.memory_mib_max"
        wanted = f"want states and actions of at most {options.memory_mib_max} MiB"
        raise PolicyError(wanted, f"{mib:.0f} MiB in {len(episodes)} episodes", remedy)


def _recording(dataset: Dataset, episode: Episode, options: ReplayOptions) -> Recording:
    columns = dataset.columns(episode, [options.state_key, options.action_key])
    arrays = []
    for key in (options.state_key, options.action_key):
        values = np.array(columns[key], dtype=np.float32).reshape(episode.frames, -1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            got = f"NaN or infinity in frame {bad[0]} of episode {episode.episode_index}"
            remedy = "name the other episodes in model.options.episodes"
            raise PolicyError(f"want finite numbers in {key}", got, remedy)
        arrays.append(values)
    return Recording(episode.episode_index, episode.task, *arrays)


def _spec(
    dataset: Dataset, recordings: Sequence[Recording], model: ModelSettings, options: ReplayOptions
) -> PolicySpec:
    content = hashlib.sha256()
    for recording in recordings:
        content.update(recording.states.tobytes())
        content.update(recording.actions.tobytes())
    return PolicySpec(
        policy_type="replay",
        model_repo=model.repo_or_path,
        model_revision=model.revision,
        action_names=tuple(dataset.feature_names(options.action_key)),
        action_dim=recordings[0].actions.shape[1],
        state_dim=recordings[0].states.shape[1],
        cameras=_cameras(dataset, options.cameras),
        chunk_size=options.chunk_size,
        fps=dataset.info.fps,
        shared=True,
        batch_max=BATCH_MAX,
        mixed_delays=True,
        checkpoint_hash=content.hexdigest(),
    )


def _cameras(dataset: Dataset, asked: str | list[str]) -> tuple[Camera, ...]:
    from tasks.dataset.info import camera_size

    known = (*dataset.cameras, *dataset.image_cameras)
    names = {"all": list(known), "none": []}[asked] if isinstance(asked, str) else asked
    if unknown := [name for name in names if name not in known]:
        have = ", ".join(known) or "none"
        raise PolicyError("want cameras of the dataset in model.options.cameras", ", ".join(unknown), f"it has {have}")
    sizes = {name: camera_size(dataset.info.features[name]) for name in names}
    return tuple(Camera(name, height=sizes[name][1], width=sizes[name][0]) for name in names)
