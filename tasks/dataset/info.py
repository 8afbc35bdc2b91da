"""`meta/info.json`: what a LeRobot v3 dataset says of itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import DatasetError, DatasetVersionError

INFO_PATH = "meta/info.json"
DATA_PATH_DEFAULT = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH_DEFAULT = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CONVERTER = (
    "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=USER/NAME "
    "(in lerobot 0.6 and newer: python -m lerobot.scripts.convert_dataset_v21_to_v30)"
)
CONVERTER_V20 = "python -m lerobot.datasets.v21.convert_dataset_v20_to_v21 --repo-id=USER/NAME (lerobot 0.3)"
WANT_DATASET = "want a LeRobot v3 dataset folder, with meta/info.json, meta/episodes and data inside"


@dataclass(frozen=True)
class DatasetInfo:
    """The fields of info.json that are used here; `raw` keeps all of them."""

    raw: dict[str, Any]
    version: str
    fps: float
    features: dict[str, dict[str, Any]]
    total_episodes: int
    total_frames: int
    data_path: str
    video_path: str
    tools: list[dict[str, Any]] | None


def read_info(root: Path) -> DatasetInfo:
    """Read and check info.json; DatasetVersionError names the converter for older layouts."""
    path = root / INFO_PATH
    if not root.is_dir():
        got = f"{root} is a file" if root.exists() else f"{root} does not exist"
        raise DatasetError(WANT_DATASET, got, "check the path")
    if not path.is_file():
        raise DatasetError(
            WANT_DATASET, f"{root} has no {INFO_PATH}", "give the folder that holds data/, meta/, videos/"
        )
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError) as err:
        raise DatasetError(f"want JSON in {path}", str(err), "restore the file, or download the dataset again") from err
    if not isinstance(raw, dict):
        raise DatasetError(f"want a JSON object in {path}", type(raw).__name__, "restore the file")
    version = str(raw.get("codebase_version", ""))
    check_version(version, root)
    return DatasetInfo(
        raw=raw,
        version=version,
        fps=_fps(raw, path),
        features=_features(raw, path),
        total_episodes=_count(raw, "total_episodes"),
        total_frames=_count(raw, "total_frames"),
        data_path=str(raw.get("data_path") or DATA_PATH_DEFAULT),
        video_path=str(raw.get("video_path") or VIDEO_PATH_DEFAULT),
        tools=raw.get("tools"),
    )


def check_version(version: str, root: Path) -> None:
    """Accept any v3 label."""
    want = "want codebase_version v3.x in meta/info.json"
    if version.startswith("v3."):
        return
    if version == "v2.1":
        raise DatasetVersionError(want, f"v2.1 ({root})", f"convert it first: {CONVERTER}")
    if version.startswith(("v1.", "v2.")):
        remedy = f"convert it to v2.1 first: {CONVERTER_V20}; then to v3.0: {CONVERTER}"
        raise DatasetVersionError(want, f"{version} ({root})", remedy)
    raise DatasetError(want, f"{version or 'no version'} ({root})", "use a dataset of LeRobot 0.4 or newer")


def _fps(raw: Mapping[str, Any], path: Path) -> float:
    fps = raw.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise DatasetError(f"want fps > 0 in {path}", repr(fps), "write the frame rate of the recording there")
    return float(fps)


def _features(raw: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    features = raw.get("features")
    if not isinstance(features, dict) or not features or not all(isinstance(f, dict) for f in features.values()):
        got = "none" if not features else f"{type(features).__name__} with entries that are not objects"
        raise DatasetError(f"want features (name -> dtype, shape, names) in {path}", got, "restore the file")
    return features


def _count(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    return value if isinstance(value, int) else 0


def is_depth_map(feature: Mapping[str, Any]) -> bool:
    """Whether a video feature holds depth (12 bits, one channel) instead of colour."""
    details = [feature, *(d for d in (feature.get("info"), feature.get("video_info")) if isinstance(d, dict))]
    return any(d.get(name) for d in details for name in ("is_depth_map", "video.is_depth_map"))


def camera_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """(width, height) in pixels; 0 where info.json does not say."""
    shape = list(feature.get("shape") or [])
    names = feature.get("names")
    if isinstance(names, list) and "height" in names and "width" in names and len(names) == len(shape):
        return int(shape[names.index("width")]), int(shape[names.index("height")])
    if len(shape) != 3:
        return 0, 0
    channels_first = shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
    height, width = shape[1:] if channels_first else shape[:2]
    return int(width), int(height)


def flat_names(names: Any) -> list[str]:
    """Names of a feature's values: lists may be nested, dicts map a group to names or a name to its position."""
    if isinstance(names, str):
        return [names]
    if isinstance(names, dict):
        if names and all(isinstance(v, int) for v in names.values()):
            return sorted(names, key=names.__getitem__)
        return [n for group in names.values() for n in flat_names(group)]
    if isinstance(names, list):
        return [n for group in names for n in flat_names(group)]
    return []
