"""One episode of a LeRobot v3 dataset: its rows and its pictures, whatever is wrong told as a RobotError."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configuration.flags import nearest
from edge.errors import RobotError

if TYPE_CHECKING:
    from tasks.dataset.episode import Episode
    from tasks.dataset.layout import Dataset

EXTRA = "pip install 'cuebook[record]'"
HUB_EXTRA = "pip install 'cuebook[annotate]', or download it and give its folder"


def open_recording(root: Path, episode: int) -> tuple[Dataset, Episode]:
    """A dataset folder and one episode of it. Raises RobotError."""
    try:
        from tasks.dataset.layout import open_dataset
        from tasks.errors import AnnotateError
    except ImportError as err:
        raise RobotError("want what reads datasets", f"no module {err.name}", EXTRA) from err
    try:
        dataset = open_dataset(root)
        (found,) = dataset.episodes([episode])
    except AnnotateError as err:
        raise RobotError(*told(err, "want a recording that can be played")) from err
    return dataset, found


def download(repo_id: str, revision: str | None) -> Path:
    """The folder of a hub dataset, downloaded where it is not yet. Raises RobotError."""
    try:
        from tasks.dataset import hub
        from tasks.errors import AnnotateError
    except ImportError as err:
        raise RobotError("want what downloads datasets", f"no module {err.name}", HUB_EXTRA) from err
    try:
        return hub.download(repo_id, revision)
    except AnnotateError as err:
        raise RobotError(*told(err, f"want to download {repo_id}")) from err
    except ImportError as err:
        raise RobotError("want what downloads datasets", f"no module {err.name}", HUB_EXTRA) from err


def told(err: BaseException, wanted: str) -> tuple[str, str, str]:
    """Wanted, got and remedy of an error, whichever package it is of."""
    said = [str(part) for part in err.args[:3]]
    if hasattr(err, "remedy") and len(said) == 3:
        return said[0], said[1], said[2]
    return wanted, f"{type(err).__name__}: {err}", "look at the recording"


def value_names(dataset: Dataset, key: str, flag: str) -> tuple[str, ...]:
    """Names of a column's values; numbered ones where the dataset has none. Raises RobotError for a missing column."""
    feature = dataset.info.features.get(key)
    if feature is None:
        have = ", ".join(dataset.info.features)
        remedy = nearest(key, list(dataset.info.features)) or f"it has {have}"
        raise RobotError(f"want column {key} in the recording", "none", f"set {flag}: {remedy}")
    names = tuple(dataset.feature_names(key))
    return names or tuple(f"{key.rpartition('.')[2]}_{i}" for i in range(int(np.prod(feature.get("shape") or [1]))))


def size_of(dataset: Dataset, episode: Episode, key: str) -> tuple[int, int]:
    """(height, width) of a camera, from the recording's own description, else from its first picture."""
    from tasks.dataset.info import camera_size

    width, height = camera_size(dataset.info.features[key])
    if width > 0 and height > 0:
        return height, width
    try:
        return next(frames_of(dataset, episode, key)()).shape[:2]
    except Exception as err:
        raise RobotError(*told(err, f"want a picture of camera {key}")) from err


def rows_of(dataset: Dataset, episode: Episode, key: str) -> np.ndarray:
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


def frames_of(dataset: Dataset, episode: Episode, key: str) -> Callable[[], Iterator[np.ndarray]]:
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
